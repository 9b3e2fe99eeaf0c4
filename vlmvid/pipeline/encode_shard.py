"""One shard of clips on its way from videos, frames or tokens to features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts import LedgerRow, Row
from vlmvid.artifacts.arrays import as_float32, as_stored, finite_rows
from vlmvid.config.encoders import FrameFeature
from vlmvid.errors import DecodeError
from vlmvid.pipeline import decode
from vlmvid.pipeline.context import RunContext
from vlmvid.pipeline.request import ShardReport
from vlmvid.pipeline.sources import SourceRow
from vlmvid.types import FrameBatch

if TYPE_CHECKING:
    from vlmvid.models.backbones.base import FrozenBackbone

STAGE = "encode"
TOKENS = "tokens"
FEATURES = "features"
TIMES = "pts_seconds"
NOT_FINITE = "not_finite"  # docs/decode.md explains it
# Columns of the store of tokens.
PREFIX, PATCHES = "prefix", "patches"

Arrays = dict[str, NDArray[Any]]


class EncodeShard:
    """Some clips whose features are to be stored.

    A clip whose tokens are stored gets its features from them; any other has its frames read from the
    store, or decoded. The store's column ``features`` is the feature of `vision.feature`; those of `also`
    lie beside it under their own names, and with `keep_times` float32 ``pts_seconds``, one for each feature.
    """

    def __init__(self, context: RunContext, rows: Sequence[SourceRow]) -> None:
        self.rows = list(rows)
        self.keys = {row.clip.video_id: decode.clip_key(context, row) for row in self.rows}
        config = context.recipe.encode
        self._names: tuple[FrameFeature, ...] = tuple(dict.fromkeys((config.vision.feature, *config.also)))
        token_keys = {video_id: context.keys.tokens_key(key) for video_id, key in self.keys.items()}
        known = context.store.clips(TOKENS).rows(token_keys.values()) if config.keep_tokens else {}
        self._token_keys = token_keys
        self._tokens: dict[str, Row] = {video_id: known[key] for video_id, key in token_keys.items() if key in known}
        self._frames: dict[str, Row] = context.store.clips(decode.STAGE).rows(self.keys.values())
        self.to_decode = [row for row in self.rows if not self._is_stored(row)]
        num_views = context.recipe.decode.sampling.num_frames * config.views_per_frame
        self.batch = max(1, context.recipe.options.encode_batch_size // num_views)
        self.failed: list[tuple[SourceRow, DecodeError]] = []
        self._context = context
        self._good: list[SourceRow] = []
        self._refused: list[SourceRow] = []
        self._arrays: list[Arrays] = []

    def batches(self) -> Iterator[list[SourceRow]]:
        """The clips in groups that go through the backbone together."""
        for start in range(0, len(self.rows), self.batch):
            yield self.rows[start : start + self.batch]

    def encode(
        self, backbone: FrozenBackbone, some: Sequence[SourceRow], decoded: Iterator[FrameBatch | DecodeError]
    ) -> None:
        """Features of one batch; `decoded` gives, in its order, the clips that are not stored."""
        from vlmvid.models.clip_encoder import encode_clips, features_of_tokens

        known = [row for row in some if row.clip.video_id in self._tokens]
        fresh = [row for row in some if row.clip.video_id not in self._tokens]
        rows, frames, seconds = self._frames_of(fresh, decoded)
        config = self._context.recipe.encode
        times = self._times(rows, seconds, backbone.tubelet_size) if frames and config.keep_times else None
        if frames and not config.keep_tokens:
            found = encode_clips(backbone, np.stack(frames), features=self._names, tiling=config.tiling)
            self._keep(rows, found, times)
        elif frames:
            found = encode_clips(backbone, np.stack(frames), keep_tokens=True, tiling=config.tiling)
            tokens = as_stored(found[TOKENS], config.dtype)
            # From the tokens as they are stored, so that they are the same when the tokens are reused.
            features = features_of_tokens(backbone, as_float32(tokens), self._names)
            good = self._keep(rows, features, times, finite_rows(tokens))
            some_good = [row for row, is_good in zip(rows, good, strict=True) if is_good]
            num_prefix = backbone.num_prefix_tokens
            columns = {PREFIX: tokens[good, :, :num_prefix], PATCHES: tokens[good, :, num_prefix:]}
            self._write_tokens(some_good, columns if times is None else {**columns, TIMES: times[good]})
        if known:
            places = [self._tokens[row.clip.video_id] for row in known]
            store = self._context.store.clips(TOKENS)
            tokens = np.concatenate([store.gather(name, places) for name in (PREFIX, PATCHES)], axis=2)
            times = store.gather(TIMES, places) if config.keep_times else None
            self._keep(known, features_of_tokens(backbone, as_float32(tokens), self._names), times)

    def finish(self, number: int) -> ShardReport:
        """Store the features and write both ledgers."""
        context = self._context
        ledger = context.store.ledger(STAGE)
        decoded = {row.clip.video_id for row in self.to_decode}
        newly = [row for row in [*self._good, *self._refused] if row.clip.video_id in decoded]
        # Before the features: once these are stored, nobody decodes the clips again.
        decode.record_outcomes(context, newly, self.failed)
        if self._good:
            keys = [self._encode_key(row) for row in self._good]
            columns = {name: np.concatenate([arrays[name] for arrays in self._arrays]) for name in self._arrays[0]}
            name = context.store.clips(STAGE).write(keys, columns)
            ledger.record(
                LedgerRow(key=key, video_id=row.clip.video_id, stage=STAGE, status="ok", shard=name)
                for key, row in zip(keys, self._good, strict=True)
            )
        ledger.record_failures(
            [
                (self._encode_key(row), row.clip.video_id, DecodeError(self._why_refused(), reason_code="not_finite"))
                for row in self._refused
            ]
        )
        counts = {"ok": len(self._good), "failed": len(self.failed) + len(self._refused)}
        context.store.events.emit("shard.written", stage=STAGE, shard=number, decoded=len(newly), **counts)
        return ShardReport(**counts)

    def _is_stored(self, row: SourceRow) -> bool:
        return row.clip.video_id in self._tokens or self.keys[row.clip.video_id] in self._frames

    def _encode_key(self, row: SourceRow) -> str:
        return self._context.keys.encode_key(self.keys[row.clip.video_id])

    def _frames_of(
        self, rows: Sequence[SourceRow], decoded: Iterator[FrameBatch | DecodeError]
    ) -> tuple[list[SourceRow], list[NDArray[np.uint8]], list[NDArray[np.float64]]]:
        """The clips that have frames, these frames (T, 3, H, W), and their times (T,) from the file's first frame."""
        stored = iter(self._stored_frames(rows))
        good, frames, seconds = [], [], []
        for row in rows:
            outcome = next(stored) if self._is_stored(row) else next(decoded)
            if isinstance(outcome, DecodeError):
                self.failed.append((row, outcome))
            else:
                good.append(row)
                frames.append(outcome.frames)
                seconds.append(outcome.pts_seconds)
        return good, frames, seconds

    def _stored_frames(self, rows: Sequence[SourceRow]) -> Iterator[FrameBatch]:
        keys = (self.keys[row.clip.video_id] for row in rows)
        places = [self._frames[key] for key in keys if key in self._frames]
        if places:
            store = self._context.store.clips(decode.STAGE)
            columns = (store.gather("frames", places), store.gather("pts_seconds", places))
            yield from map(FrameBatch, *columns)

    def _times(
        self, rows: Sequence[SourceRow], seconds: Sequence[NDArray[np.float64]], tubelet_size: int
    ) -> NDArray[np.float32]:
        """When each feature was shown, in seconds from the clip's start: (len(rows), S), a tubelet's mean."""
        starts = np.array([[row.clip.start_seconds] for row in rows])
        steps: NDArray[np.float64] = (np.stack(seconds) - starts).reshape(len(rows), -1, tubelet_size).mean(axis=2)
        # The views of a frame were shown together.
        return steps.repeat(self._context.recipe.encode.views_per_frame, axis=1).astype(np.float32)

    def _write_tokens(self, rows: Sequence[SourceRow], columns: Arrays) -> None:
        # One shard per batch: tokens of a whole shard of clips may not fit into memory.
        if rows:
            keys = [self._token_keys[row.clip.video_id] for row in rows]
            self._context.store.clips(TOKENS).write(keys, columns)

    def _keep(
        self,
        rows: Sequence[SourceRow],
        found: Mapping[str, NDArray[np.float32]],
        times: NDArray[np.float32] | None,
        tokens_are_finite: Any = True,
    ) -> NDArray[np.bool_]:
        """Take the features of clips that are finite, note the others; returns which are, bool (len(rows),)."""
        config = self._context.recipe.encode
        columns = {
            FEATURES if name == config.vision.feature else name: as_stored(values, config.dtype)
            for name, values in found.items()
        }
        finite = [finite_rows(values) for values in columns.values()]
        good: NDArray[np.bool_] = np.logical_and.reduce(finite) & tokens_are_finite
        for row, is_good in zip(rows, good.tolist(), strict=True):
            if is_good:
                self._good.append(row)
            else:
                self._refused.append(row)
        if times is not None:
            columns[TIMES] = times
        if good.any():
            self._arrays.append({name: values[good] for name, values in columns.items()})
        return good

    def _why_refused(self) -> str:
        config = self._context.recipe.encode
        return (
            f"the features or tokens of {config.vision.backbone} hold NaN or infinity; with "
            f"vision.precision={config.vision.precision} and encode.dtype={config.dtype} values beyond their range "
            "are lost: use float32 or bfloat16; if both are, look at the weights"
        )
