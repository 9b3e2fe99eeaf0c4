"""Learn heads and the temporal module on stored features."""

from __future__ import annotations

from prefect import flow, task

from flows._policies import TASK_OPTIONS
from vlmvid.artifacts import ArtifactRef
from vlmvid.pipeline import STAGES, RunRequest, make_request


@task(name="align", task_run_name="align", **TASK_OPTIONS)
def align_task(request: RunRequest) -> ArtifactRef:
    """The stage as one task."""
    return STAGES["align"].run(request)


@flow(name="align")
def align(
    recipe: str,
    overrides: list[str] | None = None,
    home: str | None = None,
    retry_failed: bool = False,
    verify: bool = False,
) -> ArtifactRef:
    """Learn heads and the temporal module on stored features."""
    return align_task(make_request(recipe, overrides or (), home=home, retry_failed=retry_failed, verify=verify))
