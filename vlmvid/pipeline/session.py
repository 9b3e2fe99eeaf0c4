"""A pipeline run and its stages as the tracker and the event log see them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

from vlmvid.artifacts import ArtifactRef, KeyParts
from vlmvid.config import Config
from vlmvid.config.schema import StageName
from vlmvid.errors import StageError
from vlmvid.pipeline.context import RunContext, open_context
from vlmvid.pipeline.costs import costed
from vlmvid.pipeline.progress import Watcher
from vlmvid.pipeline.request import RunRequest, recipe_json
from vlmvid.tracking.base import StageRun, status_of
from vlmvid.tracking.owner import PID_TAG, owner_tags

ORIGIN_TAG = "vlmvid.origin_pid"
logger = logging.getLogger(__name__)


@contextmanager
def pipeline_run(request: RunRequest) -> Iterator[RunContext]:
    """The parent run around stages; reopened when the same pipeline runs again, a no-op when nested.

    An exception marks the run FAILED; an interruption or a cancellation (Ctrl-C, SIGTERM) marks it KILLED.
    """
    context = open_context(request)
    if context.is_running:
        yield context
        return
    context.refresh()
    context.store.events.emit("pipeline.started", recipe=context.recipe.name)
    context.tracker.start_pipeline(
        pipeline_key=context.keys.pipeline_key,
        name=context.recipe.name,
        config=recipe_json(context.recipe),
        tags={"vlmvid.recipe": context.recipe.name},
    )
    context.is_running = True
    try:
        yield context
    except BaseException as error:
        context.tracker.finish(status_of(error))
        raise
    finally:
        context.is_running = False
    context.tracker.finish("FINISHED")
    context.store.events.emit("pipeline.finished", recipe=context.recipe.name)


@contextmanager
def stage_run(request: RunRequest, stage: StageName) -> Iterator[ArtifactRef | None]:
    """The child run around one stage; yields the stored result when the stage is cached.

    A cached stage costs one manifest read; the caller returns the reference it is given.
    """
    with pipeline_run(request) as context:
        yield from _stage(context, stage)


def note_origin(request: RunRequest, tags: Mapping[str, str]) -> None:
    """What an orchestrator calls its run, e.g. ``prefect.flow_run_id``, as tags in the tracking service.

    They are put on the pipeline's run, at once if it is open, and on every stage's run that this process opens until
    the pipeline ends. A stage that is only reused keeps the tags of the run that computed it.
    """
    open_context(request).tracker.note_origin({**tags, ORIGIN_TAG: owner_tags()[PID_TAG]})


def origin_stands(tags: Mapping[str, str]) -> bool:
    """Whether the tags of `note_origin` that a run has are of the process that had it open last.

    Later the same run may have been reopened without an orchestrator, which leaves the old tags on it.
    """
    return ORIGIN_TAG in tags and tags[ORIGIN_TAG] == tags.get(PID_TAG)


def run_links(request: RunRequest) -> dict[str, str]:
    """Where a browser finds the runs of this process: ``pipeline``, and each stage that was opened so far.

    Without those that the tracking service has not answered for; empty when it has no pages, as a database has none.
    """
    return open_context(request).tracker.links()


@contextmanager
def watched_progress(request: RunRequest, watcher: Watcher) -> Iterator[None]:
    """Tell `watcher` how far the stages of this request are that run in this process; see `StageProgress`."""
    progress = open_context(request).progress
    before, progress.watcher = progress.watcher, watcher
    try:
        yield
    finally:
        progress.watcher = before


class StageTicket(Config):
    """What the process that runs a stage tells those that help it: which run this is, and the stage's key."""

    stage: StageName
    key: str
    run: str


def stage_ticket(request: RunRequest, stage: StageName, *, run: str) -> StageTicket:
    """The ticket of a stage that runs in this process; `run` is new for each run."""
    return StageTicket(stage=stage, key=open_context(request).keys.key(stage), run=run)


def join_run(request: RunRequest, ticket: StageTicket) -> None:
    """Open the run that `ticket` is of, maybe in another process than the one that started it.

    A worker outlives runs: once per run it looks anew at the source files, the code and the store. Raises StageError
    when this process works out another stage key, because its results would be filed where nobody looks for them.
    """
    context = open_context(request)
    if context.is_running:
        return
    if context.joined != ticket.run:
        context.refresh()
        context.joined = ticket.run
    context.keys.forget_from(ticket.stage)
    key = context.keys.key(ticket.stage)
    if key != ticket.key:
        raise StageError(
            f"{ticket.stage}: this worker works out the stage key {key}, the run has {ticket.key}: its vlmvid, its "
            "packages, its weights or its source files are others, or were changed since the run began; install "
            "the same versions on every worker, mount the same files at the same place, and restart the workers"
        )


def _stage(context: RunContext, stage: StageName) -> Iterator[ArtifactRef | None]:
    # What comes before may have been finished by another process since the keys were worked out.
    context.keys.forget_from(stage)
    key = context.keys.key(stage)
    reason = context.why_stale(stage)
    if reason is None and stage != "register":  # which looks after its registry even when cached
        yield from _tracked(context, stage, None)
        return
    before = context.store.manifest(stage, key)
    with context.store.lock(stage, key):
        context.store.refresh()
        after = context.store.manifest(stage, key)
        if after is not None and (before is None or after.created_seconds != before.created_seconds):
            reason = context.why_stale(stage)  # another process published while we waited for it
        yield from _tracked(context, stage, reason)


def _tracked(context: RunContext, stage: StageName, reason: str | None) -> Iterator[ArtifactRef | None]:
    parts = context.keys.parts(stage)
    cached = None if reason else context.store.ref(stage, parts.key)
    logger.info("%s: %s (key %s)", stage, f"running, {reason}" if reason else "cached", parts.key)
    context.store.events.emit("stage.started", stage=stage, key=parts.key, cached=int(cached is not None))
    with context.tracker.stage(stage, parts.key, cached=cached is not None) as run:
        context.stage_runs[stage] = run
        with nullcontext() if cached is not None else costed(context, stage, parts.key, run):
            try:
                yield cached
            finally:
                context.progress.end(stage)
        if cached is None:
            _record(context, run, parts, reason)
    context.store.events.emit("stage.finished", stage=stage, key=parts.key)


def _record(context: RunContext, run: StageRun, parts: KeyParts, reason: str | None) -> None:
    run.set_tags({"vlmvid.reason": str(reason)})
    manifest = context.store.manifest(parts.stage, parts.key)
    if manifest is not None:
        run.log_metrics({f"num_{name}": float(count) for name, count in manifest.counts.items()})
        run.log_json("key_parts.json", parts.model_dump(mode="json"))
