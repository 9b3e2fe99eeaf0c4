"""The encode stage: frames to features (T, D) per clip, texts to features (D), both frozen."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts import ArtifactRef, LedgerRow
from vlmvid.config.schema import VisionConfig
from vlmvid.evaluation.base import choice_texts
from vlmvid.pipeline.context import RunContext, open_context
from vlmvid.pipeline.index import (
    IndexRow,
    failed_ids,
    make_index,
    read_index,
    require_enough,
    status_counts,
    write_index,
)
from vlmvid.pipeline.ingest import read_clips
from vlmvid.pipeline.request import RunRequest, ShardJob, ShardReport
from vlmvid.pipeline.sharding import chunk
from vlmvid.pipeline.texts import text_features
from vlmvid.types import Clip

if TYPE_CHECKING:
    from vlmvid.models.backbones.base import FrozenBackbone

STAGE = "encode"


def plan_shards(request: RunRequest) -> list[ShardJob]:
    """The shards still to encode: decoded clips without features."""
    context = open_context(request)
    decoded = [row for row in read_index(context.folder("decode")) if row.status == "ok"]
    keys = {row.video_id: context.keys.encode_key(row.key) for row in decoded}
    done = context.store.clips(STAGE).rows(keys.values())
    first_of = {key: video_id for video_id, key in reversed(keys.items())}
    todo = [video_id for video_id, key in keys.items() if key not in done and first_of[key] == video_id]
    context.progress.begin(STAGE, len(todo), "clip")
    return chunk(STAGE, todo, context.recipe.options.shard_size)


def run_shard(request: RunRequest, job: ShardJob) -> ShardReport:
    """Encode the frames of one shard's clips and store their features (N, T, D)."""
    from vlmvid.models.clip_encoder import encode_clips

    context = open_context(request)
    wanted = set(job.video_ids)
    rows = [row for row in read_index(context.folder("decode")) if row.video_id in wanted]
    backbone = vision_backbone(context)
    batch = max(1, context.recipe.options.encode_batch_size // context.recipe.decode.sampling.num_frames)
    parts = []
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        frames = context.store.clips("decode").gather("frames", [row.location for row in some])
        parts.append(encode_clips(backbone, frames, dtype=context.recipe.encode.dtype))
        context.progress.advance(STAGE, len(some))
    keys = [context.keys.encode_key(row.key) for row in rows]
    shard = context.store.clips(STAGE).write(keys, {"features": np.concatenate(parts)})
    context.store.ledger(STAGE).record(
        LedgerRow(key=key, video_id=row.video_id, stage=STAGE, status="ok", shard=shard)
        for key, row in zip(keys, rows, strict=True)
    )
    context.store.events.emit("shard.written", stage=STAGE, shard=job.index, ok=len(rows), failed=0)
    return ShardReport(ok=len(rows), failed=0)


def finish(request: RunRequest) -> ArtifactRef:
    """Encode the texts, then write the index: decode's failures stay in it as failures."""
    context = open_context(request)
    texts = list(dict.fromkeys(all_texts(read_clips(context))))
    if texts:
        text_features(context, texts)
    decoded = read_index(context.folder("decode"))
    keys = [(row.video_id, context.keys.encode_key(row.key)) for row in decoded if row.status == "ok"]
    rows = context.store.clips(STAGE).rows(key for _, key in keys)
    encoded = {row.video_id: row for row in make_index(keys, rows, {})}
    index = [encoded.get(row.video_id, row) for row in decoded]
    require_enough(STAGE, index, context.recipe.options.max_failed_fraction)
    return context.publish(
        "encode",
        "embeddings",
        lambda folder: write_index(index, folder),
        counts={**status_counts(index), "texts": len(texts)},
        failed=failed_ids(index),
    )


def read_features(context: RunContext, rows: Iterable[IndexRow]) -> NDArray[np.float32]:
    """The features of ok index rows, (N, T, D) float32."""
    features = context.store.clips(STAGE).gather("features", [row.location for row in rows])
    return features.astype(np.float32)


def all_texts(clips: Iterable[Clip]) -> Iterable[str]:
    """Every caption and every question statement, in manifest order."""
    for clip in clips:
        yield from clip.captions
        for question in clip.questions:
            yield from choice_texts(question)


def vision_backbone(context: RunContext) -> FrozenBackbone:
    """The recipe's vision backbone, loaded once per process and weights."""
    return _load_vision(context.recipe.encode.vision, context.keys.vision_digest, context.device)


@lru_cache(maxsize=2)
def _load_vision(config: VisionConfig, digest: str, device: str) -> FrozenBackbone:
    from vlmvid.models.backbones import load_vision_backbone

    return load_vision_backbone(config, device=device)
