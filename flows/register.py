"""Build the model folder and register it."""

from __future__ import annotations

from prefect import flow, task

from flows._policies import TASK_OPTIONS
from vlmvid.artifacts import ArtifactRef
from vlmvid.pipeline import STAGES, RunRequest, make_request


@task(name="register", task_run_name="register", **TASK_OPTIONS)
def register_task(request: RunRequest) -> ArtifactRef:
    """The stage as one task."""
    return STAGES["register"].run(request)


@flow(name="register")
def register(
    recipe: str,
    overrides: list[str] | None = None,
    home: str | None = None,
    retry_failed: bool = False,
    verify: bool = False,
) -> ArtifactRef:
    """Build the model folder and register it."""
    return register_task(make_request(recipe, overrides or (), home=home, retry_failed=retry_failed, verify=verify))
