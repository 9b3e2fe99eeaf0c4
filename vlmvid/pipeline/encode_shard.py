"""One shard of clips on its way from videos, frames or tokens to features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
NOT_FINITE = "not_finite"  # docs/decode.md explains it
# Columns of the store of tokens.
PREFIX, PATCHES = "prefix", "patches"

Arrays = dict[str, NDArray[Any]]


class EncodeShard:
    """Some clips whose features are to be stored.

    A clip whose tokens are stored gets its features from them; any other has its frames read from the
    store, or decoded. The store's column ``features`` is the feature of `vision.feature`; those of `also`
    lie beside it under their own names.
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
        self.batch = max(1, context.recipe.options.encode_batch_size // context.recipe.decode.sampling.num_frames)
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
        rows, frames = self._frames_of(fresh, decoded)
        dtype = self._context.recipe.encode.dtype
        if frames and not self._context.recipe.encode.keep_tokens:
            self._keep(rows, encode_clips(backbone, np.stack(frames), features=self._names))
        elif frames:
            tokens = as_stored(encode_clips(backbone, np.stack(frames), keep_tokens=True)[TOKENS], dtype)
            # From the tokens as they are stored, so that they are the same when the tokens are reused.
            features = features_of_tokens(backbone, as_float32(tokens), self._names)
            good = self._keep(rows, features, finite_rows(tokens))
            some_good = [row for row, is_good in zip(rows, good, strict=True) if is_good]
            self._write_tokens(some_good, tokens[good], backbone.num_prefix_tokens)
        if known:
            places = [self._tokens[row.clip.video_id] for row in known]
            store = self._context.store.clips(TOKENS)
            tokens = np.concatenate([store.gather(name, places) for name in (PREFIX, PATCHES)], axis=2)
            self._keep(known, features_of_tokens(backbone, as_float32(tokens), self._names))

    def finish(self, number: int) -> ShardReport:
        """Store the features and write both ledgers."""
        context = self._context
        ledger = context.store.ledger(STAGE)
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
        decoded = {row.clip.video_id for row in self.to_decode}
        newly = [row for row in [*self._good, *self._refused] if row.clip.video_id in decoded]
        decode.record_outcomes(context, newly, self.failed)
        counts = {"ok": len(self._good), "failed": len(self.failed) + len(self._refused)}
        context.store.events.emit("shard.written", stage=STAGE, shard=number, decoded=len(newly), **counts)
        return ShardReport(**counts)

    def _is_stored(self, row: SourceRow) -> bool:
        return row.clip.video_id in self._tokens or self.keys[row.clip.video_id] in self._frames

    def _encode_key(self, row: SourceRow) -> str:
        return self._context.keys.encode_key(self.keys[row.clip.video_id])

    def _frames_of(
        self, rows: Sequence[SourceRow], decoded: Iterator[FrameBatch | DecodeError]
    ) -> tuple[list[SourceRow], list[NDArray[np.generic]]]:
        stored = iter(self._gather_frames(rows))
        good, frames = [], []
        for row in rows:
            outcome: NDArray[np.generic] | FrameBatch | DecodeError
            outcome = next(stored) if self._is_stored(row) else next(decoded)
            if isinstance(outcome, DecodeError):
                self.failed.append((row, outcome))
            else:
                good.append(row)
                frames.append(outcome.frames if isinstance(outcome, FrameBatch) else outcome)
        return good, frames

    def _gather_frames(self, rows: Sequence[SourceRow]) -> Iterable[NDArray[np.generic]]:
        keys = (self.keys[row.clip.video_id] for row in rows)
        places = [self._frames[key] for key in keys if key in self._frames]
        return self._context.store.clips(decode.STAGE).gather("frames", places) if places else ()

    def _write_tokens(self, rows: Sequence[SourceRow], tokens: NDArray[Any], num_prefix: int) -> None:
        # One shard per batch: tokens of a whole shard of clips may not fit into memory.
        if rows:
            keys = [self._token_keys[row.clip.video_id] for row in rows]
            self._context.store.clips(TOKENS).write(
                keys, {PREFIX: tokens[:, :, :num_prefix], PATCHES: tokens[:, :, num_prefix:]}
            )

    def _keep(
        self, rows: Sequence[SourceRow], found: Mapping[str, NDArray[np.float32]], tokens_are_finite: Any = True
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
