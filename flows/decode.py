"""Videos to frames that are kept, one task per shard."""

from __future__ import annotations

from prefect import flow, task

from flows._policies import TASK_OPTIONS
from vlmvid.artifacts import ArtifactRef
from vlmvid.pipeline import SHARDED_STAGES, RunRequest, ShardJob, ShardReport, make_request, stage_run

STAGE = SHARDED_STAGES["decode"]


@task(name="decode shard", task_run_name="decode shard {number}", **TASK_OPTIONS)
def decode_shard(request: RunRequest, job: ShardJob, number: int) -> ShardReport:
    """One shard of clips; `number` counts from 1 and names the task run."""
    return STAGE.run_shard(request, job)


@task(name="decode index", task_run_name="decode index", **TASK_OPTIONS)
def decode_index(request: RunRequest) -> ArtifactRef:
    """The stage's artifact over all shards."""
    return STAGE.finish(request)


@flow(name="decode")
def decode(
    recipe: str,
    overrides: list[str] | None = None,
    home: str | None = None,
    retry_failed: bool = False,
    verify: bool = False,
) -> ArtifactRef:
    """Videos to frames that are kept, one task per shard."""
    request = make_request(recipe, overrides or (), home=home, retry_failed=retry_failed, verify=verify)
    with stage_run(request, "decode") as cached:
        if cached is not None:
            return cached
        for job in STAGE.plan_shards(request):
            decode_shard(request, job, job.index + 1)
        return decode_index(request)
