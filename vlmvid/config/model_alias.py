"""The aliases of registered models: which are given by a recipe, and which only by passing gates."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

CHAMPION, PREVIOUS = "champion", "previous"


def _given_by_registering(alias: str) -> str:
    if alias in (CHAMPION, PREVIOUS, "latest") or alias.isdecimal():
        raise ValueError(
            f"alias={alias!r} is not a recipe's to give: 'champion' and 'previous' are set by `vlmvid promote`, "
            "'latest' and numbers are MLflow's; leave the key out, which gives 'candidate', or take another name"
        )
    return alias


NewVersionAlias = Annotated[str, AfterValidator(_given_by_registering)]
