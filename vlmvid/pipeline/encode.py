"""The encode stage: frames to features (S, D) per clip, texts to features (D), both frozen.

S are the backbone's time steps: the frames, for one that looks at each alone, or the views that tiling makes of each
of them. Where tokens are kept,
another feature of the same backbone needs neither the videos nor the backbone's forward pass.

Frames come from the store where they are kept, else straight from the decoder: one clip's frames
are encoded while the next ones are decoded, and no more than a few batches are in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts import ArtifactRef
from vlmvid.artifacts.arrays import BFLOAT16, as_float32
from vlmvid.artifacts.columns import StoredColumn
from vlmvid.config.encoders import VisionConfig
from vlmvid.errors import ArtifactError, ConfigError
from vlmvid.evaluation.base import choice_texts
from vlmvid.pipeline import decode
from vlmvid.pipeline.context import RunContext, open_context
from vlmvid.pipeline.encode_shard import FEATURES, NOT_FINITE, PATCHES, STAGE, TIMES, TOKENS, EncodeShard
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
from vlmvid.pipeline.request import RunRequest, ShardJob, ShardReport
from vlmvid.pipeline.sharding import chunk, complete_ledger, known_failures
from vlmvid.pipeline.sources import SourceRow
from vlmvid.pipeline.texts import text_features
from vlmvid.training.prefetch import Prefetch
from vlmvid.types import Clip

if TYPE_CHECKING:
    from vlmvid.models.backbones.base import FrozenBackbone


def plan_shards(request: RunRequest) -> list[ShardJob]:
    """The shards still to encode: clips without features that have frames, or may have them."""
    context = open_context(request)
    if not context.recipe.decode.keep_frames:
        context.store.verify_clips(decode.STAGE)  # frames that an earlier run has kept
    if context.recipe.encode.keep_tokens:
        context.store.verify_clips(TOKENS)
    decoded = {row.video_id: row.key for row in _decoded(context) if row.status == "ok"}
    keys = {video_id: context.keys.encode_key(key) for video_id, key in decoded.items()}
    done = context.store.clips(STAGE).rows(keys.values()).keys()
    refused = known_failures(context, STAGE, keys.values())
    tokenless = without_tokens(context, decoded.values())
    todo = decode.first_of_each(
        {
            video_id: key
            for video_id, key in keys.items()
            if key not in refused and (key not in done or decoded[video_id] in tokenless)
        }
    )
    context.progress.begin(STAGE, len(todo), "clip")
    return chunk(STAGE, todo, context.recipe.options.shard_size)


def run_shard(request: RunRequest, job: ShardJob) -> ShardReport:
    """Encode the clips of one shard and store their features (N, T, D).

    Clips without stored frames are decoded ahead of the backbone by at most a batch; one that
    cannot be decoded is a row in decode's ledger. The batches follow the job, not who is ready
    first, so features do not depend on timing.
    """
    context = open_context(request)
    by_id = {row.clip.video_id: row for row in read_rows(context)}
    shard = encode_rows(context, [by_id[video_id] for video_id in job.video_ids])
    return shard.finish(job.index)


def encode_rows(context: RunContext, rows: Sequence[SourceRow]) -> EncodeShard:
    """Encode clips that have no stored features; the shard that is returned is still to be finished."""
    shard = EncodeShard(context, rows)
    decoded = decode.unchecked_outcomes(context, shard.to_decode)
    checked = decode.checked_outcomes(context, shard.to_decode, decoded)
    # A file that hangs in a worker holds up neither an error here nor an interrupt.
    with Prefetch(checked, depth=shard.batch, abort=decoded.close) as outcomes:
        backbone = vision_backbone(context)  # loaded while the first clips are decoded
        waiting = iter(outcomes)
        for some in shard.batches():
            shard.encode(backbone, some, waiting)
            if shard.to_decode:  # nothing waiting: decoding is the slower part
                context.progress.note(STAGE, waiting=outcomes.num_ready, failed=len(shard.failed))
            context.progress.advance(STAGE, len(some))
    return shard


def finish(request: RunRequest) -> ArtifactRef:
    """Encode the texts, then write the index: what could not be decoded stays in it as a failure."""
    context = open_context(request)
    texts = list(dict.fromkeys(all_texts(read_clips(context)))) if context.recipe.encode.text is not None else []
    if texts:
        text_features(context, texts)
    decoded = _decoded(context)
    # Features stand, whatever decoding has said of the clip since they were made.
    keys = {row.video_id: context.keys.encode_key(row.key) for row in decoded}
    rows = context.store.clips(STAGE).rows(keys.values())
    made = make_index([(video_id, key) for video_id, key in keys.items() if key in rows], rows, {})
    rest = [row for row in decoded if row.status == "ok" and keys[row.video_id] not in rows]
    ledger = context.store.ledger(STAGE).rows() if rest else {}
    refused = {key for key, row in ledger.items() if row.status.startswith("failed")}
    # What was decoded and refused, because its features are not finite; then what could not be decoded.
    not_finite = [(row.video_id, keys[row.video_id]) for row in rest if keys[row.video_id] in refused]
    undecoded = [(row.video_id, row.key) for row in rest if keys[row.video_id] not in refused]
    failed = make_index(not_finite, {}, ledger)
    failed += make_index(undecoded, {}, context.store.ledger(decode.STAGE).rows()) if undecoded else []
    known = {row.video_id: row for row in [*made, *failed]}
    index = [known.get(row.video_id, row) for row in decoded]
    if context.recipe.encode.keep_tokens:
        index = [
            _with_tokens_key(context, row, decoded_row.key) for row, decoded_row in zip(index, decoded, strict=True)
        ]
    complete_ledger(context, STAGE, made)
    require_enough(STAGE, index, context.recipe.options.max_failed_fraction)
    decode.warn_of_failures([row for row in index if row.reason_code == NOT_FINITE], STAGE)
    if not context.recipe.decode.keep_frames:
        decode.warn_of_failures([row for row in index if row.reason_code != NOT_FINITE])
    columns = context.store.clips(STAGE).columns(row.shard for row in index if row.status == "ok")
    return context.publish(
        "encode",
        "embeddings",
        lambda folder: write_index(index, folder, columns),
        counts={**status_counts(index), "texts": len(texts)},
        failed=failed_ids(index),
    )


def _with_tokens_key(context: RunContext, row: IndexRow, decode_key: str) -> IndexRow:
    return row.model_copy(update={"tokens_key": context.keys.tokens_key(decode_key)}) if row.status == "ok" else row


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


def without_tokens(context: RunContext, decode_keys: Iterable[str]) -> set[str]:
    """Those of the decode keys whose tokens should be in the store, and are not."""
    if not context.recipe.encode.keep_tokens:
        return set()
    keys = {key: context.keys.tokens_key(key) for key in decode_keys}
    known = context.store.clips(TOKENS).rows(keys.values())
    return {key for key, tokens_key in keys.items() if tokens_key not in known}


def read_features(context: RunContext, rows: Iterable[IndexRow]) -> NDArray[np.float32]:
    """The features of ok index rows, (N, T, D) float32."""
    return as_float32(feature_column(context, rows).read())


def feature_column(context: RunContext, rows: Iterable[IndexRow]) -> StoredColumn:
    """The features of ok index rows, (N, T, D) as stored, left on disk."""
    return context.store.clips(STAGE).column(FEATURES, [row.location for row in rows])


def read_times(context: RunContext, rows: Iterable[IndexRow]) -> NDArray[np.float32]:
    """When each feature of ok index rows was shown, (N, S) float32 in seconds from the clip's start.

    On the file's own clock, less the clip's ``start_seconds``: where a stream starts late (MPEG-TS), that delay is in
    every time. Raises ConfigError when the recipe does not keep times.
    """
    if not context.recipe.encode.keep_times:
        raise ConfigError(
            f"recipe {context.recipe.name!r} stores no times of frames, and they were asked for; set "
            "encode.keep_times: true"
        )
    return as_float32(context.store.clips(STAGE).column(TIMES, [row.location for row in rows]).read())


def read_patches(context: RunContext, rows: Iterable[IndexRow]) -> NDArray[np.floating]:
    """The patch tokens of ok index rows, (N, S, P, D) float16 or float32, without prefix tokens.

    Raises ConfigError when the recipe does not keep tokens.
    """
    found = patch_column(context, rows).read()
    return as_float32(found) if found.dtype == BFLOAT16 else found  # float16 stays: tokens are large


def patch_column(context: RunContext, rows: Iterable[IndexRow]) -> StoredColumn:
    """The patch tokens of ok index rows, (N, S, P, D) as stored, left on disk; raises as `read_patches`."""
    if not context.recipe.encode.keep_tokens:
        raise ConfigError(
            f"recipe {context.recipe.name!r} stores no tokens, and a pooling over patches was asked for; "
            "set encode.keep_tokens: true, or choose a pooling over frames"
        )
    keys = [row.tokens_key for row in rows]
    store = context.store.clips(TOKENS)
    known = store.rows(keys)
    if len(known) < len(set(keys)):
        raise ArtifactError(
            f"the tokens of {len(set(keys)) - len(known)} clips are gone from the store, though their features are "
            "there; run the encode stage again"
        )
    return store.column(PATCHES, [known[key] for key in keys])


def all_texts(clips: Iterable[Clip]) -> Iterable[str]:
    """Every caption and every question statement, in manifest order."""
    for clip in clips:
        yield from clip.captions
        for question in clip.questions:
            yield from choice_texts(question)


def vision_backbone(context: RunContext) -> FrozenBackbone:
    """The recipe's vision backbone, loaded once per process and weights."""
    compiled = context.recipe.options.compile_backbone
    with _loading:  # shards that begin at once in several threads share one model
        return _load_vision(context.recipe.encode.vision, context.keys.vision_digest, context.device, compiled)


_loading = Lock()


@lru_cache(maxsize=2)
def _load_vision(config: VisionConfig, digest: str, device: str, compiled: bool) -> FrozenBackbone:
    from vlmvid.models.backbones import load_vision_backbone

    backbone = load_vision_backbone(config, device=device)
    return backbone.compile() if compiled else backbone
