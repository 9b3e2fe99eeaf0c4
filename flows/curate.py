"""Measure clips, one task per shard, and keep those that pass the rules."""

from __future__ import annotations

from prefect import flow, task

from flows._policies import TASK_OPTIONS
from vlmvid.artifacts import ArtifactRef
from vlmvid.pipeline import SHARDED_STAGES, RunRequest, ShardJob, ShardReport, make_request, stage_run

STAGE = SHARDED_STAGES["curate"]


@task(name="curate shard", task_run_name="curate shard {number}", **TASK_OPTIONS)
def curate_shard(request: RunRequest, job: ShardJob, number: int) -> ShardReport:
    """Measure one shard of clips; `number` counts from 1 and names the task run."""
    return STAGE.run_shard(request, job)


@task(name="curate decision", task_run_name="curate decision", **TASK_OPTIONS)
def curate_decision(request: RunRequest) -> ArtifactRef:
    """The rules on all clips, and the stage's artifact."""
    return STAGE.finish(request)


@flow(name="curate")
def curate(
    recipe: str,
    overrides: list[str] | None = None,
    home: str | None = None,
    retry_failed: bool = False,
    verify: bool = False,
) -> ArtifactRef:
    """Measure clips, one task per shard, and keep those that pass the rules."""
    request = make_request(recipe, overrides or (), home=home, retry_failed=retry_failed, verify=verify)
    with stage_run(request, "curate") as cached:
        if cached is not None:
            return cached
        for job in STAGE.plan_shards(request):
            curate_shard(request, job, job.index + 1)
        return curate_decision(request)
