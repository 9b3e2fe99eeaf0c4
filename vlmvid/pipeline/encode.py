"""The encode stage: frames to features (T, D) per clip, texts to features (D), both frozen.

Frames come from the store where they are kept, else straight from the decoder: one clip's frames
are encoded while the next ones are decoded, and no more than a few batches are in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts import ArtifactRef, LedgerRow, Row
from vlmvid.config.encoders import VisionConfig
from vlmvid.errors import DecodeError
from vlmvid.evaluation.base import choice_texts
from vlmvid.pipeline import decode
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
from vlmvid.pipeline.ingest import read_clips, read_rows
from vlmvid.pipeline.prefetch import Prefetch
from vlmvid.pipeline.request import RunRequest, ShardJob, ShardReport
from vlmvid.pipeline.sharding import chunk, known_failures
from vlmvid.pipeline.sources import SourceRow
from vlmvid.pipeline.texts import text_features
from vlmvid.types import Clip, FrameBatch

if TYPE_CHECKING:
    from vlmvid.models.backbones.base import FrozenBackbone

STAGE = "encode"


def plan_shards(request: RunRequest) -> list[ShardJob]:
    """The shards still to encode: clips without features that have frames, or may have them."""
    context = open_context(request)
    if not context.recipe.decode.keep_frames:
        context.store.verify_clips(decode.STAGE)  # frames that an earlier run has kept
    keys = {row.video_id: context.keys.encode_key(row.key) for row in _decoded(context) if row.status == "ok"}
    done = context.store.clips(STAGE).rows(keys.values())
    todo = decode.first_of_each({video_id: key for video_id, key in keys.items() if key not in done})
    context.progress.begin(STAGE, len(todo), "clip")
    return chunk(STAGE, todo, context.recipe.options.shard_size)


def run_shard(request: RunRequest, job: ShardJob) -> ShardReport:
    """Encode the clips of one shard and store their features (N, T, D).

    Clips without stored frames are decoded ahead of the backbone by at most a batch; one that
    cannot be decoded is a row in decode's ledger. The batches follow the job, not who is ready
    first, so features do not depend on timing.
    """
    context = open_context(request)
    shard = _Shard(context, job)
    decoded = decode.unchecked_outcomes(context, shard.to_decode)
    checked = decode.checked_outcomes(context, shard.to_decode, decoded)
    # A file that hangs in a worker holds up neither an error here nor an interrupt.
    with Prefetch(checked, depth=shard.batch, abort=decoded.close) as outcomes:
        backbone = vision_backbone(context)  # loaded while the first clips are decoded
        waiting = iter(outcomes)
        for some in shard.batches():
            shard.encode(backbone, some, waiting)
            if shard.to_decode:  # nothing waiting: decoding is the slower part
                context.progress.note(STAGE, waiting=outcomes.num_ready, failed=len(shard.bad))
            context.progress.advance(STAGE, len(some))
    return shard.finish(job.index)


class _Shard:
    """The clips of one job on their way from frames to features."""

    def __init__(self, context: RunContext, job: ShardJob) -> None:
        by_id = {row.clip.video_id: row for row in read_rows(context)}
        self.rows = [by_id[video_id] for video_id in job.video_ids]
        self.keys = {row.clip.video_id: decode.clip_key(context, row) for row in self.rows}
        self.stored: dict[str, Row] = context.store.clips("decode").rows(self.keys.values())
        self.to_decode = [row for row in self.rows if self.keys[row.clip.video_id] not in self.stored]
        self.batch = max(1, context.recipe.options.encode_batch_size // context.recipe.decode.sampling.num_frames)
        self.bad: list[tuple[SourceRow, DecodeError]] = []
        self._context = context
        self._good: list[SourceRow] = []
        self._features: list[NDArray[np.generic]] = []

    def batches(self) -> Iterator[list[SourceRow]]:
        """The clips in groups that go through the backbone together."""
        for start in range(0, len(self.rows), self.batch):
            yield self.rows[start : start + self.batch]

    def encode(
        self, backbone: FrozenBackbone, some: Sequence[SourceRow], decoded: Iterator[FrameBatch | DecodeError]
    ) -> None:
        """Features of one batch, in its order; `decoded` gives the clips that are not stored."""
        from vlmvid.models.clip_encoder import encode_clips

        stored = iter(self._gather(some))
        frames = []
        for row in some:
            outcome: NDArray[np.generic] | FrameBatch | DecodeError
            outcome = next(stored) if self.keys[row.clip.video_id] in self.stored else next(decoded)
            if isinstance(outcome, DecodeError):
                self.bad.append((row, outcome))
            else:
                self._good.append(row)
                frames.append(outcome.frames if isinstance(outcome, FrameBatch) else outcome)
        if frames:
            self._features.append(encode_clips(backbone, np.stack(frames), dtype=self._context.recipe.encode.dtype))

    def finish(self, number: int) -> ShardReport:
        """Store the features and write both ledgers."""
        context = self._context
        if self._good:
            keys = [context.keys.encode_key(self.keys[row.clip.video_id]) for row in self._good]
            name = context.store.clips(STAGE).write(keys, {"features": np.concatenate(self._features)})
            context.store.ledger(STAGE).record(
                LedgerRow(key=key, video_id=row.clip.video_id, stage=STAGE, status="ok", shard=name)
                for key, row in zip(keys, self._good, strict=True)
            )
        decoded = [row for row in self._good if self.keys[row.clip.video_id] not in self.stored]
        decode.record_outcomes(context, decoded, self.bad)
        counts = {"ok": len(self._good), "failed": len(self.bad)}
        context.store.events.emit("shard.written", stage=STAGE, shard=number, decoded=len(decoded), **counts)
        return ShardReport(**counts)

    def _gather(self, some: Sequence[SourceRow]) -> Iterable[NDArray[np.generic]]:
        keys = (self.keys[row.clip.video_id] for row in some)
        locations = [self.stored[key] for key in keys if key in self.stored]
        return self._context.store.clips("decode").gather("frames", locations) if locations else ()


def finish(request: RunRequest) -> ArtifactRef:
    """Encode the texts, then write the index: what could not be decoded stays in it as a failure."""
    context = open_context(request)
    texts = list(dict.fromkeys(all_texts(read_clips(context))))
    if texts:
        text_features(context, texts)
    decoded = _decoded(context)
    # Features stand, whatever decoding has said of the clip since they were made.
    keys = {row.video_id: context.keys.encode_key(row.key) for row in decoded}
    rows = context.store.clips(STAGE).rows(keys.values())
    made = make_index([(video_id, key) for video_id, key in keys.items() if key in rows], rows, {})
    rest = [(row.video_id, row.key) for row in decoded if row.status == "ok" and keys[row.video_id] not in rows]
    failed = make_index(rest, {}, context.store.ledger(decode.STAGE).rows()) if rest else []
    known = {row.video_id: row for row in [*made, *failed]}
    index = [known.get(row.video_id, row) for row in decoded]
    require_enough(STAGE, index, context.recipe.options.max_failed_fraction)
    if not context.recipe.decode.keep_frames:
        decode.warn_of_failures(index)
    return context.publish(
        "encode",
        "embeddings",
        lambda folder: write_index(index, folder),
        counts={**status_counts(index), "texts": len(texts)},
        failed=failed_ids(index),
    )


def _decoded(context: RunContext) -> list[IndexRow]:
    """What decoding has to say of every clip, in manifest order; a clip that is ``ok`` can be encoded.

    Where frames are kept this is the index of the decode stage. Else ``ok`` is every clip but those
    that are known to fail.
    """
    if context.recipe.decode.keep_frames:
        return read_index(context.folder("decode"))
    keys = [(row.clip.video_id, decode.clip_key(context, row)) for row in read_rows(context)]
    failed = known_failures(context, decode.STAGE, [key for _, key in keys])
    stored = context.store.clips(decode.STAGE).rows(failed)
    broken = make_index([pair for pair in keys if pair[1] in failed and pair[1] not in stored], {}, failed)
    known = {row.video_id: row for row in broken}
    return [known.get(video_id) or IndexRow(video_id=video_id, key=key, status="ok") for video_id, key in keys]


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
