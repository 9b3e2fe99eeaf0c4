"""What a flow run shows beside its states: logs, progress, links to MLflow, a summary and a table of results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.context import FlowRunContext
from prefect.runtime import deployment, flow_run

from flows._logs import share_logs
from flows._progress import ProgressBoard, artifact_word
from vlmvid.config.schema import StageName
from vlmvid.pipeline import (
    SHARDED_STAGES,
    RunRequest,
    note_origin,
    pipeline_run,
    results_rows,
    run_links,
    summarise,
    summary_markdown,
    watched_progress,
)

logger = logging.getLogger(__name__)
_board: ContextVar[ProgressBoard | None] = ContextVar("vlmvid_progress_board", default=None)


@contextmanager
def shown(request: RunRequest, stage: StageName | None = None) -> Iterator[tuple[StageName, ...]]:
    """Around the work of a flow run: the whole recipe, or its stages until `stage`; yields the recipe's stages.

    In MLflow the runs name the flow run. Progress and summary of a flow below another one are that one's.
    """
    share_logs()
    try:
        if _is_below_another():
            with pipeline_run(request) as context:
                yield context.recipe.stages()
        else:
            note_origin(request, origin())
            with _board_of_run() as board, pipeline_run(request) as context:
                _show_link(request, "pipeline")
                with watched_progress(request, _parts_on(board)):
                    yield context.recipe.stages()
    finally:
        if stage is not None:
            _show_link(request, stage)
    if not _is_below_another():
        show(lambda: _summary(request, stage))


@contextmanager
def _board_of_run() -> Iterator[ProgressBoard]:
    board = ProgressBoard()
    token = _board.set(board)
    try:
        yield board
    finally:
        _board.reset(token)
        board.close()


def show_progress(stage: StageName, done: int, total: int) -> None:
    """Say that `done` of the `total` tasks of a stage are done."""
    board = _board.get()
    if board is not None:
        board.set(stage, done, total, at_once=True)


def show(create: Callable[[], object]) -> None:
    """Call what makes an artifact; when that fails, the work of the run still stands, and so does its own error."""
    try:
        create()
    except Exception as error:
        logger.warning("an artifact of this run is not shown in Prefect: %s: %s", type(error).__name__, error)


def origin() -> dict[str, str]:
    """The tags by which a run in MLflow names the flow run, and the deployment, that made it."""
    tags = {"prefect.flow_run_id": flow_run.id, "prefect.flow_run_url": flow_run.ui_url}
    if deployment.id is not None:
        tags["prefect.deployment"] = f"{flow_run.flow_name}/{deployment.name}"
    return {name: str(value) for name, value in tags.items() if value is not None}


def show_report(request: RunRequest, drawn: Mapping[str, str]) -> None:
    """Link to the report: in MLflow, where it has pages, else on the disk of the machine that has drawn it."""

    def create() -> None:
        if "html" in drawn:
            page = run_links(request).get("pipeline")
            address = f"{page}/artifacts/{Path(drawn['html']).name}" if page else Path(drawn["html"]).as_uri()
            create_link_artifact(address, link_text="Report", key="vlmvid-report")

    show(create)


def _show_link(request: RunRequest, name: str) -> None:
    def create() -> None:
        address = run_links(request).get(name)
        if address is not None:
            create_link_artifact(address, link_text=f"MLflow: {name}", key=f"vlmvid-mlflow-{artifact_word(name)}")

    show(create)


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
