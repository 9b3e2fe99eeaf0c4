"""Frames, or videos where frames are not kept, and texts to features, one task per shard."""

from __future__ import annotations

from prefect import flow, task

from flows._policies import TASK_OPTIONS
from vlmvid.artifacts import ArtifactRef
from vlmvid.pipeline import SHARDED_STAGES, RunRequest, ShardJob, ShardReport, make_request, stage_run

STAGE = SHARDED_STAGES["encode"]


@task(name="encode shard", task_run_name="encode shard {number}", **TASK_OPTIONS)
def encode_shard(request: RunRequest, job: ShardJob, number: int) -> ShardReport:
    """One shard of clips; `number` counts from 1 and names the task run."""
    return STAGE.run_shard(request, job)


@task(name="encode index", task_run_name="encode index", **TASK_OPTIONS)
def encode_index(request: RunRequest) -> ArtifactRef:
    """The stage's artifact over all shards."""
    return STAGE.finish(request)


@flow(name="encode")
def encode(
    recipe: str,
    overrides: list[str] | None = None,
    home: str | None = None,
    retry_failed: bool = False,
    verify: bool = False,
) -> ArtifactRef:
    """Frames, or videos where frames are not kept, and texts to features, one task per shard."""
    request = make_request(recipe, overrides or (), home=home, retry_failed=retry_failed, verify=verify)
    with stage_run(request, "encode") as cached:
        if cached is not None:
            return cached
        for job in STAGE.plan_shards(request):
            encode_shard(request, job, job.index + 1)
        return encode_index(request)
