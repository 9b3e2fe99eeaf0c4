"""What a run would do, and why, without doing it."""

from __future__ import annotations

from typing import Any, Literal

from vlmvid.config import Config
from vlmvid.config.schema import StageName
from vlmvid.errors import ArtifactError, ConfigError, TrackingError
from vlmvid.pipeline.context import open_context
from vlmvid.pipeline.curate import check_rules
from vlmvid.pipeline.keys import DECODE_SUFFIX, MEASURE_SUFFIX, TEXT_SUFFIX
from vlmvid.pipeline.request import RunRequest

_SUFFIXES = (DECODE_SUFFIX, MEASURE_SUFFIX, TEXT_SUFFIX)


class StagePlan(Config):
    """One line of the plan; `reason` is the first thing that differs, or why the stage is cached."""

    name: StageName
    status: Literal["cached", "run"]
    key: str
    reason: str


def plan(request: RunRequest) -> list[StagePlan]:
    """Every stage of the recipe with ``cached`` or ``run``, its key and the reason.

    Raises ConfigError for rules of curation that cannot be applied.
    """
    context = open_context(request)
    context.refresh()
    plans: list[StagePlan] = []
    changed: set[str] = set()
    for stage in context.recipe.stages():
        try:
            parts = context.keys.parts(stage)
        except (ArtifactError, TrackingError) as error:
            if stage != "search":
                raise
            # Its model may be registered by this very run.
            plans.append(StagePlan(name=stage, status="run", key="", reason=f"its model is not there yet: {error}"))
            continue
        stale = context.why_stale(stage)
        if stale is None:
            plans.append(StagePlan(name=stage, status="cached", key=parts.key, reason="same inputs, config and code"))
            continue
        reason = stale
        if reason.startswith("input "):
            name = reason.removeprefix("input ").partition(":")[0]
            if name in changed:
                reason = f"input {name} changes"
        changed.add(stage)
        if stage == "curate" and context.recipe.curate is not None:
            check_rules(context.recipe.curate)
        plans.append(StagePlan(name=stage, status="run", key=parts.key, reason=reason))
    return plans


def plan_json(plans: list[StagePlan]) -> dict[str, Any]:
    """The document of ``vlmvid plan --json``."""
    return {"stages": [p.model_dump(mode="json") for p in plans]}


def plan_table(plans: list[StagePlan]) -> str:
    """The plan for a terminal."""
    width = max(len(p.name) for p in plans)
    return "\n".join(f"{p.name:<{width}}  {p.status:<6}  {p.key}  {p.reason}" for p in plans)


def accept_code_change(request: RunRequest, stage: str) -> list[str]:
    """Adopt the results of the code that made the closest earlier artifact of `stage`.

    Returns the modules that differ. Raises ConfigError when there is no earlier artifact or no
    difference in code.
    """
    context = open_context(request)
    context.refresh()
    if stage not in context.recipe.stages():
        raise ConfigError(f"--accept-code-change {stage!r}: the recipe runs {', '.join(context.recipe.stages())}")
    parts = context.keys.parts(stage)
    old = context.store.previous(parts, context.recipe.name)
    if old is None:
        raise ConfigError(f"--accept-code-change {stage}: this store has no earlier result of the stage to adopt")
    pieces = _pieces(stage, context.recipe.decode.keep_frames)
    suffixes = tuple(pieces.values())
    before = _of_pieces({**old.parts.code, **old.parts.packages}, suffixes)
    now = _of_pieces({**parts.code, **parts.packages}, suffixes)
    changed = sorted(n for n in before.keys() | now.keys() if before.get(n) != now.get(n))
    if not changed:
        raise ConfigError(f"--accept-code-change {stage}: its code has not changed since the stored result")
    for piece, suffix in pieces.items():
        code, packages = context.keys.current_code(piece)
        adopted = old.parts.model_copy(
            update={"code": _of_piece(old.parts.code, suffix), "packages": _of_piece(old.parts.packages, suffix)}
        )
        context.store.accept_code(piece, code, packages, adopted)
    context.refresh()
    return changed


def _pieces(stage: str, keep_frames: bool) -> dict[str, str]:
    """The pieces of code that accepting a stage covers, with their suffixes; decoding counts where it happens."""
    if stage == "curate":
        return {"curate": "", "measure": MEASURE_SUFFIX}
    if stage != "encode":
        return {stage: ""}
    return {"encode": "", "text": TEXT_SUFFIX} | ({} if keep_frames else {"decode": DECODE_SUFFIX})


def _of_pieces(names: dict[str, str], suffixes: tuple[str, ...]) -> dict[str, str]:
    return {name + suffix: value for suffix in suffixes for name, value in _of_piece(names, suffix).items()}


def _of_piece(names: dict[str, str], suffix: str) -> dict[str, str]:
    if suffix:
        return {name.removesuffix(suffix): value for name, value in names.items() if name.endswith(suffix)}
    return {name: value for name, value in names.items() if not name.endswith(_SUFFIXES)}
