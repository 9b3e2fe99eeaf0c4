"""What a flow run shows beside its states: logs, progress, a summary and a table of results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.context import FlowRunContext

from flows._logs import share_logs
from flows._progress import ProgressBoard
from vlmvid.config.schema import StageName
from vlmvid.pipeline import (
    SHARDED_STAGES,
    RunRequest,
    pipeline_run,
    results_rows,
    summarise,
    summary_markdown,
    watched_progress,
)

logger = logging.getLogger(__name__)
_board: ContextVar[ProgressBoard | None] = ContextVar("vlmvid_progress_board", default=None)


@contextmanager
def shown(request: RunRequest, stage: StageName | None = None) -> Iterator[tuple[StageName, ...]]:
    """Around the work of a flow run: the whole recipe, or its stages until `stage`; yields the recipe's stages.

    The summary of a flow below another one is that one's.
    """
    share_logs()
    if _is_below_another():
        with pipeline_run(request) as context:
            yield context.recipe.stages()
        return
    board = ProgressBoard()
    token = _board.set(board)
    try:
        with pipeline_run(request) as context, watched_progress(request, _parts_on(board)):
            yield context.recipe.stages()
    finally:
        _board.reset(token)
        board.close()
    show(lambda: _summary(request, stage))


def show_progress(stage: StageName, done: int, total: int) -> None:
    """Say that `done` of the `total` tasks of a stage are done."""
    board = _board.get()
    if board is not None:
        board.set(stage, done, total, at_once=True)


def show(create: Callable[[], object]) -> None:
    """Call what makes an artifact; when Prefect does not take it, the work of the run still stands."""
    try:
        create()
    except Exception as error:
        logger.warning("an artifact of this run is not shown in Prefect: %s: %s", type(error).__name__, error)


def _is_below_another() -> bool:
    context = FlowRunContext.get()
    return context is None or context.flow_run is None or context.flow_run.parent_task_run_id is not None


def _parts_on(board: ProgressBoard) -> Callable[[str, int, int], None]:
    """What shows the progress within tasks; a sharded stage is shown by the tasks that are done, wherever they run."""

    def watch(label: str, done: int, total: int) -> None:
        if label not in SHARDED_STAGES:
            board.set(label, done, total)

    return watch


def _summary(request: RunRequest, stage: StageName | None) -> None:
    document = summarise(request, stage)
    create_markdown_artifact(summary_markdown(document), key="vlmvid-summary", description="What was made, and where.")
    rows = results_rows(document)
    if rows:
        create_table_artifact(rows, key="vlmvid-results", description="Metrics with their 95 % intervals.")
