"""What a schedule does for a store and its tracking: runs that nobody ends are closed, garbage is removed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import get_args

from vlmvid.artifacts import open_store
from vlmvid.artifacts.garbage import check_store
from vlmvid.config import Config, load_recipe
from vlmvid.config.addresses import without_secrets
from vlmvid.config.schema import TrackingConfig
from vlmvid.errors import TrackingError, VlmvidError
from vlmvid.pipeline.gc import DEFAULT_HOURS, GarbageReport, collect_garbage, size_text
from vlmvid.pipeline.gc_references import recipe_files
from vlmvid.pipeline.request import DEFAULT_HOME
from vlmvid.tracking import owner_ended, resolve_tracking_uri
from vlmvid.tracking.base import RunStatus

Ended = Callable[[Mapping[str, str]], str | None]
"""From a run's tags how it ended (``FAILED``, ``KILLED``), or None: it runs, or nothing is known of it."""

MOST_ROWS = 30
STRAGGLER_SECONDS = 60.0


class Straggler(Config):
    """A run of MLflow that was left RUNNING, and the status that it has now."""

    run_id: str
    name: str
    status: str
    owner: str


class MaintenanceReport(Config):
    """What `maintain` did; `problems` are tracking services that did not answer, in words."""

    stragglers: tuple[Straggler, ...]
    garbage: GarbageReport
    problems: tuple[str, ...]


def maintain(
    home: str | Path | None = None,
    *,
    ended: Ended | None = None,
    delete: bool = False,
    older_than_hours: float = DEFAULT_HOURS,
    straggler_seconds: float = STRAGGLER_SECONDS,
) -> MaintenanceReport:
    """Close the runs whose owner has ended, wherever the store's recipes are tracked, then `collect_garbage`.

    Args:
        home: the store; None means VLMVID_HOME, else ``./.vlmvid``.
        ended: what the orchestrator knows of a run's owner; asked first, then the processes of this machine.
        delete: remove what gc finds; else it is only told.
        older_than_hours: as for `collect_garbage`.
        straggler_seconds: runs that began less than so long ago are left alone.

    A tracking service that does not answer is a problem in the report, not an error. Raises as `collect_garbage`.
    """
    place = str(home or os.environ.get("VLMVID_HOME") or DEFAULT_HOME)
    check_store(place)
    stragglers: list[Straggler] = []
    problems = []
    for uri, experiment in sorted(_experiments(place)):
        try:
            stragglers += _close(uri, experiment, ended, straggler_seconds)
        except TrackingError as error:
            problems.append(f"{without_secrets(uri)}: runs of {experiment!r} not looked at: {error}")
    garbage = collect_garbage(place, dry_run=not delete, older_than_hours=older_than_hours)
    return MaintenanceReport(stragglers=tuple(stragglers), garbage=garbage, problems=tuple(problems))


def maintenance_markdown(report: MaintenanceReport) -> str:
    """The report as Markdown."""
    garbage = report.garbage
    lines = [f"## Maintenance of {garbage.home}", ""]
    lines.append(f"**Runs closed:** {len(report.stragglers)}")
    if report.stragglers:
        rows = [(one.name, one.status, one.owner, one.run_id) for one in report.stragglers]
        lines += ["", *_table(("run", "status", "owner", "id"), rows)]
    what = "would go" if garbage.dry_run else "removed"
    lines += ["", f"**Garbage:** {len(garbage.items)} things, {size_text(garbage.num_bytes)} {what}"]
    if garbage.num_young:
        lines[-1] += f"; {garbage.num_young} younger than {garbage.older_than_hours:g} hours stay"
    if garbage.items:
        items = [
            (item.kind, item.place.removeprefix(f"{garbage.home}/"), size_text(item.num_bytes), item.error or item.why)
            for item in garbage.items
        ]
        lines += ["", *_table(("kind", "place", "size", "why"), items)]
    notes = [*report.problems, *(f"running now: {stage}" for stage in garbage.busy), *garbage.notes]
    lines += ["", *(f"- {note}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


def _close(uri: str, experiment: str, ended: Ended | None, straggler_seconds: float) -> list[Straggler]:
    from vlmvid.tracking.mlflow_stragglers import close_stragglers

    if _is_absent(uri):
        return []  # nothing was tracked yet
    closed = close_stragglers(uri, experiment, lambda tags: _status(tags, ended), older_than_seconds=straggler_seconds)
    return [Straggler(run_id=one.run_id, name=one.name, status=one.status, owner=one.owner) for one in closed]


def _is_absent(uri: str) -> bool:
    return uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///").partition("?")[0]).is_file()


def _status(tags: Mapping[str, str], ended: Ended | None) -> RunStatus | None:
    told = ended(tags) if ended is not None else None
    return next((status for status in get_args(RunStatus) if status == told), None) or owner_ended(tags)


def _experiments(home: str) -> set[tuple[str, str]]:
    """Addresses and experiments of the store's recipes, and the defaults."""
    folder = open_store(home).home
    default = TrackingConfig()
    found = {(resolve_tracking_uri(None, folder), default.experiment)}
    for path in recipe_files(folder):
        try:
            tracking = load_recipe(path).tracking
            if tracking.enabled:
                found.add((resolve_tracking_uri(tracking.uri, folder), tracking.experiment))
        except (
            VlmvidError,
            OSError,
        ):  # of an older version: what it tracked is in the default's experiment or nobody's
            continue
    return found


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    lines += [f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in row)} |" for row in rows[:MOST_ROWS]]
    return [*lines, *([f"\n... and {len(rows) - MOST_ROWS} more"] if len(rows) > MOST_ROWS else [])]
