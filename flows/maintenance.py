"""What has to be done now and then: runs that nobody ends any more, files that nothing refers to."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from prefect import flow, get_client, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound

from flows._forms import Delete, Home, OlderThanHours
from flows._logs import share_logs
from flows._policies import TASK_OPTIONS
from flows._show import show
from vlmvid.pipeline import origin_stands
from vlmvid.pipeline.upkeep import MaintenanceReport, maintain, maintenance_markdown

# What the end of a flow run is to MLflow.
ENDS = {
    StateType.COMPLETED: "FINISHED",
    StateType.FAILED: "FAILED",
    StateType.CRASHED: "FAILED",
    StateType.CANCELLED: "KILLED",
}


def flow_run_ended(tags: Mapping[str, str]) -> str | None:
    """How the flow run ended that a run in MLflow names; None while it runs, and where this server knows of none.

    None too for a run that was reopened since, without Prefect.
    """
    if not origin_stands(tags):
        return None
    try:
        run_id = UUID(tags["prefect.flow_run_id"])
    except (KeyError, ValueError):
        return None
    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(run_id).state
        except ObjectNotFound:  # deleted, or of another server
            return None
    return None if state is None else ENDS.get(state.type)


@task(name="maintenance", task_run_name="maintenance", **TASK_OPTIONS)
def maintenance_task(home: str, delete: bool, older_than_hours: float) -> MaintenanceReport:
    """All of it."""
    return maintain(home, ended=flow_run_ended, delete=delete, older_than_hours=older_than_hours)


@flow(name="maintenance")
def maintenance(home: Home = "", delete: Delete = False, older_than_hours: OlderThanHours = 24.0) -> MaintenanceReport:
    """Close what killed runs left open in MLflow; list what nothing in the store refers to, and delete it if asked."""
    share_logs()
    report = maintenance_task(home, delete, older_than_hours)
    text = maintenance_markdown(report)
    show(lambda: create_markdown_artifact(text, key="vlmvid-maintenance", description="What was found, and done."))
    return report
