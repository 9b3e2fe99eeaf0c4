"""What alignment reads: features of clips and of texts, and which belong together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlmvid.artifacts.arrays import BFLOAT16, as_float32, finite_rows
from vlmvid.artifacts.columns import StoredColumn
from vlmvid.errors import DatasetError

Features = NDArray[Any] | StoredColumn
NUM_EXAMPLES = 3
# An array of at most so many bytes is held on a GPU; a larger one is read batch by batch.
HELD_BYTES = 2 * 1024**3
_ROWS_PER_LOOK = 4096


@dataclass(frozen=True)
class AlignmentData:
    """Features of clips and of texts.

    Features are an array, which may be a memory map, or a column of the store, which stays on disk.

    Attributes:
        video_features: float16, bfloat16 (as stored) or float32 (N, T, D), or patch tokens (N, T, P, D) without
            prefix tokens for a pooling that reads tokens.
        text_features: of the same dtypes (M, Dt).
        captions_of: per clip row, the rows of its captions in `text_features`.
        counterfactuals_of: per clip row, the rows of texts that say something false of it; empty = no clip has any.
        video_ids: the name of every clip row, for messages; empty = their numbers are used.
        caption_ids: int64 (M, L), the words of the texts for objectives that predict them
            (`vlmvid.models.caption_ids.CaptionVocabulary`), and how many ids there are; None where none does.
        encoders: what made the features, by a name of your own, for the message when a checkpoint has others.

    Raises DatasetError when they do not fit together or a clip has no caption.
    """

    video_features: Features
    text_features: Features
    captions_of: tuple[tuple[int, ...], ...]
    counterfactuals_of: tuple[tuple[int, ...], ...] = ()
    video_ids: tuple[str, ...] = ()
    caption_ids: tuple[NDArray[np.int64], int] | None = None
    encoders: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        video_shape, text_shape = self.video_features.shape, self.text_features.shape
        if len(video_shape) not in (3, 4) or len(text_shape) != 2:
            raise DatasetError(
                f"expected video features (N, T, D) or (N, T, P, D) and text features (M, D); "
                f"got {video_shape} and {text_shape}"
            )
        num_clips = video_shape[0]
        if not num_clips or len(self.captions_of) != num_clips:
            raise DatasetError(f"{len(self.captions_of)} caption lists for {num_clips} clips; expected one each")
        for name, values in (("counterfactual lists", self.counterfactuals_of), ("video_ids", self.video_ids)):
            if len(values) not in (0, num_clips):
                raise DatasetError(f"{len(values)} {name} for {num_clips} clips; expected one each, or none at all")
        silent = [row for row, captions in enumerate(self.captions_of) if not captions]
        if silent:
            raise DatasetError(
                f"{len(silent)} clips have no caption, the first in row {silent[0]}; leave such clips out"
            )
        for name, lists in (("caption", self.captions_of), ("counterfactual", self.counterfactuals_of)):
            used = [index for rows in lists for index in rows]
            if used and (min(used) < 0 or max(used) >= text_shape[0]):
                raise DatasetError(f"{name} rows {min(used)}..{max(used)} are outside of {text_shape[0]} text features")
        if self.caption_ids is not None and len(self.caption_ids[0]) != text_shape[0]:
            raise DatasetError(f"{len(self.caption_ids[0])} rows of caption_ids for {text_shape[0]} text features")

    def __len__(self) -> int:
        return len(self.captions_of)

    def names(self, rows: Sequence[int]) -> str:
        """The first few clips of these rows, for a message."""
        some = [repr(self.video_ids[row]) if self.video_ids else f"row {row}" for row in rows[:NUM_EXAMPLES]]
        return ", ".join(some) + (f" and {len(rows) - len(some)} more" if len(rows) > len(some) else "")

    @cached_property
    def constant_columns(self) -> dict[str, int]:
        """How many channels hold one and the same value in all clips (all frames), and in all texts.

        Reads no further than it takes to see every channel change.
        """
        return {
            "video": _constant_channels(self.video_features),
            "text": _constant_channels(self.text_features),
        }


def refuse_constant_features(data: AlignmentData) -> None:
    """Raise DatasetError where every channel of one side is constant: nothing could be learnt from it."""
    for side, count in data.constant_columns.items():
        features = data.video_features if side == "video" else data.text_features
        if count == features.shape[-1] and features.shape[0] > 1:
            raise DatasetError(
                f"all {count} channels of the {side} features hold the same values in all {features.shape[0]} rows: "
                f"the encoder gave one answer to everything; check its weights and its input, and encode again"
            )


def refuse_not_finite(data: AlignmentData, clips: NDArray[np.int64], texts: NDArray[np.int64]) -> None:
    """Raise DatasetError, naming the first, where one of these clips or texts has a feature that is not finite."""
    for name, features, rows in (
        ("video features", data.video_features, clips),
        ("text features", data.text_features, texts),
    ):
        finite = finite_rows(take_rows(features, rows))
        if not finite.all():
            row = int(rows[int(np.argmin(finite))])
            of = f" (clip {data.video_ids[row]!r})" if features is data.video_features and data.video_ids else ""
            raise DatasetError(f"{name}: row {row}{of} holds NaN or infinity; encode it again")


def _constant_channels(features: Features) -> int:
    first: NDArray[np.float32] | None = None
    constant = np.ones(features.shape[-1], dtype=np.bool_)
    for start in range(0, features.shape[0], _ROWS_PER_LOOK):
        rows = np.arange(start, min(features.shape[0], start + _ROWS_PER_LOOK))
        values = as_float32(take_rows(features, rows)).reshape(-1, len(constant))
        first = values[0].copy() if first is None else first
        constant &= (values == first).all(axis=0)
        if not constant.any():
            break
    return int(constant.sum())


def take_rows(features: Features, rows: NDArray[np.int64], out: NDArray[Any] | None = None) -> NDArray[Any]:
    """The rows of an array or a stored column, in that order, into `out` if given (C-contiguous, same dtype)."""
    if isinstance(features, StoredColumn):
        return features.take(rows, out=out)
    # With mode="clip" numpy writes to `out` itself; without it to a copy. The rows have been checked.
    return features.take(rows, axis=0, out=out, mode="clip")


def as_tensor(array: NDArray[Any]) -> Tensor:
    """A stored array as a tensor on the same memory; bfloat16 as torch's own."""
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


class RowBuffer:
    """Memory for rows that is filled again and again; grows to the largest batch. On a GPU's host it is pinned."""

    def __init__(self, pinned: bool) -> None:
        self._pinned = pinned
        self._memory: Tensor = torch.empty(0, dtype=torch.uint8)

    def view(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array on this memory, valid until the next call."""
        num_bytes = math.prod(shape) * dtype.itemsize
        if len(self._memory) < num_bytes:
            self._memory = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=self._pinned)
        return np.ndarray(shape, dtype=dtype, buffer=self._memory.numpy())


class FeatureRows:
    """Rows of features as tensors on a device.

    On a GPU an array of at most `HELD_BYTES` is held there in its own dtype; everything else is read where it lies.
    Raises DatasetError for a row that is not finite when it is asked for by a call; `take` leaves the look at the
    values to its caller.
    """

    def __init__(self, features: Features, device: torch.device, name: str) -> None:
        self._features = features
        self._device = device
        self._name = name
        self._held: Tensor | None = None
        self.shape = features.shape
        if device.type != "cpu" and math.prod(features.shape) * features.dtype.itemsize <= HELD_BYTES:
            self._held = as_tensor(take_rows(features, np.arange(features.shape[0]))).to(device)

    def __call__(self, rows: NDArray[np.int64]) -> Tensor:
        """The rows as float32 (len(rows), ...)."""
        values = take_rows(self._features, rows)
        finite = finite_rows(values)
        if not finite.all():
            raise DatasetError(
                f"{self._name}: row {rows[int(np.argmin(finite))]} holds NaN or infinity; encode it again"
            )
        return torch.from_numpy(as_float32(values)).to(self._device)

    def take(self, rows: NDArray[np.int64], buffer: RowBuffer) -> Tensor:
        """The rows in their own dtype, on `buffer` or copied from it to the device; valid until it is used again."""
        if self._held is not None:
            return self._held[torch.from_numpy(rows).to(self._device)]
        memory = buffer.view((len(rows), *self.shape[1:]), self._features.dtype)
        # Asynchronous from pinned memory; the buffer is used again only after an update that waits for the device.
        return as_tensor(take_rows(self._features, rows, memory)).to(self._device, non_blocking=True)
