"""Answer the recipe's queries."""

from __future__ import annotations

from prefect import flow, task

from flows._policies import TASK_OPTIONS
from vlmvid.artifacts import ArtifactRef
from vlmvid.pipeline import STAGES, RunRequest, make_request


@task(name="search", task_run_name="search", **TASK_OPTIONS)
def search_task(request: RunRequest) -> ArtifactRef:
    """The stage as one task."""
    return STAGES["search"].run(request)


@flow(name="search")
def search(
    recipe: str,
    overrides: list[str] | None = None,
    home: str | None = None,
    retry_failed: bool = False,
    verify: bool = False,
) -> ArtifactRef:
    """Answer the recipe's queries."""
    return search_task(make_request(recipe, overrides or (), home=home, retry_failed=retry_failed, verify=verify))
