"""Version numbers of what is written: damage is computed anew, a newer version is refused."""

from __future__ import annotations

from vlmvid.errors import ArtifactError


def require_known_format(value: object, known: int, what: object) -> None:
    """Raise ArtifactError when the JSON object `value` says that a newer vlmvid wrote it.

    Such a result is sound, only not readable here: to take it for missing would compute it again, and
    write beside it or over it. `known` is the newest format that the caller reads, `what` names the file.
    """
    number = value.get("format") if isinstance(value, dict) else None
    if isinstance(number, int) and number > known:
        raise ArtifactError(
            f"{what} was written by a newer vlmvid (format {number}, this one reads up to {known}); "
            "upgrade vlmvid, or use another home (VLMVID_HOME or --home)"
        )
