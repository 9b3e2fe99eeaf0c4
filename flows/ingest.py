"""Read the dataset and digest its files."""

from __future__ import annotations

from prefect import flow, task

from flows._policies import TASK_OPTIONS
from vlmvid.artifacts import ArtifactRef
from vlmvid.pipeline import STAGES, RunRequest, make_request


@task(name="ingest", task_run_name="ingest", **TASK_OPTIONS)
def ingest_task(request: RunRequest) -> ArtifactRef:
    """The stage as one task."""
    return STAGES["ingest"].run(request)


@flow(name="ingest")
def ingest(
    recipe: str,
    overrides: list[str] | None = None,
    home: str | None = None,
    retry_failed: bool = False,
    verify: bool = False,
) -> ArtifactRef:
    """Read the dataset and digest its files."""
    return ingest_task(make_request(recipe, overrides or (), home=home, retry_failed=retry_failed, verify=verify))
