"""What decode and encode share: cutting work into shards, and what not to try again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vlmvid.artifacts import ArtifactRef, LedgerRow
from vlmvid.config.schema import StageName
from vlmvid.pipeline.context import RunContext
from vlmvid.pipeline.index import IndexRow
from vlmvid.pipeline.request import RunRequest, ShardJob, ShardReport
from vlmvid.pipeline.session import stage_run


def chunk(stage: str, video_ids: Sequence[str], shard_size: int) -> list[ShardJob]:
    """Cut `video_ids` into jobs of at most `shard_size` clips."""
    count = -(-len(video_ids) // shard_size)
    return [
        ShardJob(stage=stage, index=i, count=count, video_ids=tuple(video_ids[i * shard_size : (i + 1) * shard_size]))
        for i in range(count)
    ]


def known_failures(context: RunContext, stage: str, keys: Iterable[str]) -> dict[str, LedgerRow]:
    """What failed for good earlier, by key; empty with ``--retry failed``.

    A transient failure is always tried again.
    """
    if context.request.retry_failed:
        return {}
    ledger = context.store.ledger(stage).rows()
    return {key: ledger[key] for key in keys if key in ledger and ledger[key].status == "failed_permanent"}


def complete_ledger(context: RunContext, stage: str, index: Iterable[IndexRow]) -> None:
    """Add the rows of stored results that the ledger lacks: a kill may fall between a shard and its rows."""
    ledger = context.store.ledger(stage)
    known = ledger.rows()
    lost = {row.key: row for row in index if row.status == "ok" and row.key not in known}
    ledger.record(
        LedgerRow(key=key, video_id=row.video_id, stage=stage, status="ok", shard=row.shard)
        for key, row in lost.items()
    )


@dataclass(frozen=True)
class ShardedStage:
    """A stage that is one task per shard: plan, shards, finish.

    Shards run in any order, and at once where the runner can; with `in_order` one after another. `confirm` is told of
    a cached result.
    """

    name: StageName
    plan_shards: Callable[[RunRequest], list[ShardJob]]
    run_shard: Callable[[RunRequest, ShardJob], ShardReport]
    finish: Callable[[RunRequest], ArtifactRef]
    in_order: bool = False
    confirm: Callable[[RunRequest, ArtifactRef], ArtifactRef] = lambda request, ref: ref

    def run(self, request: RunRequest) -> ArtifactRef:
        """The whole stage in this process, with no orchestrator."""
        with stage_run(request, self.name) as cached:
            if cached is not None:
                return self.confirm(request, cached)
            for job in self.plan_shards(request):
                self.run_shard(request, job)
            return self.finish(request)


@dataclass(frozen=True)
class WholeStage:
    """A stage that is one task; `confirm` looks after a cached result that lives elsewhere too."""

    name: StageName
    compute: Callable[[RunRequest], ArtifactRef]
    confirm: Callable[[RunRequest, ArtifactRef], ArtifactRef] = lambda request, ref: ref

    def run(self, request: RunRequest) -> ArtifactRef:
        """The whole stage in this process, with no orchestrator."""
        with stage_run(request, self.name) as cached:
            return self.compute(request) if cached is None else self.confirm(request, cached)
