"""Measure the aligned model."""

from __future__ import annotations

from prefect import flow, task

from flows._policies import TASK_OPTIONS
from vlmvid.artifacts import ArtifactRef
from vlmvid.pipeline import STAGES, RunRequest, make_request


@task(name="evaluate", task_run_name="evaluate", **TASK_OPTIONS)
def evaluate_task(request: RunRequest) -> ArtifactRef:
    """The stage as one task."""
    return STAGES["evaluate"].run(request)


@flow(name="evaluate")
def evaluate(
    recipe: str,
    overrides: list[str] | None = None,
    home: str | None = None,
    retry_failed: bool = False,
    verify: bool = False,
) -> ArtifactRef:
    """Measure the aligned model."""
    return evaluate_task(make_request(recipe, overrides or (), home=home, retry_failed=retry_failed, verify=verify))
