"""Which clips, captions and hard negatives make an update: pure functions of (seed, step), read ahead of the loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlmvid.config.alignment import AlignConfig
from vlmvid.errors import ConfigError
from vlmvid.models.pooling import POOLINGS
from vlmvid.training.data import AlignmentData, FeatureRows, RowBuffer

# First word of a generator's seed, so that the streams never meet.
_EPOCH_STREAM, _CAPTION_STREAM, DROPOUT_STREAM = 0, 1, 2
# 3 and 4 are those of vlmvid.training.video_encoder.
_NEGATIVE_CAPTION_STREAM, _REVERSED_STREAM, _SHUFFLED_STREAM, OBJECTIVE_STREAM = 5, 6, 7, 8
# One batch is trained on, one waits, and one is kept free for copies to a GPU.
_NUM_BUFFERS = 3
_FEW_PAIRS = 256  # clips that are compared in full at a time


@dataclass(frozen=True)
class Ragged:
    """Lists of numbers, one list per clip, side by side.

    Attributes:
        starts: int64 (N + 1,); list i is ``numbers[starts[i] : starts[i + 1]]``.
        numbers: int64, no number twice within a list.
    """

    starts: NDArray[np.int64]
    numbers: NDArray[np.int64]

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> Ragged:
        """From one sequence of numbers per clip; of repeats within one, the first counts."""
        distinct = [tuple(dict.fromkeys(numbers)) for numbers in lists]
        starts = np.concatenate([[0], np.cumsum([len(numbers) for numbers in distinct], dtype=np.int64)])
        return cls(starts.astype(np.int64), np.array([n for numbers in distinct for n in numbers], dtype=np.int64))

    def of_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of these lists, one list after the other."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        places = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        found: NDArray[np.int64] = self.numbers[np.repeat(self.starts[rows], lengths) + places]
        return found

    def draw(
        self, rows: NDArray[np.int64], most: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Up to `most` distinct numbers from each row's list, drawn evenly: the numbers and whose they are.

        Both int64 (M,); the second counts in `rows` and does not fall. A shorter list gives all it has.
        """
        starts = self.starts[rows]
        lengths = self.starts[rows + 1] - starts
        if most == 1:
            owners = np.flatnonzero(lengths)
            draws = rng.random(len(rows))[owners]
            return self.numbers[starts[owners] + (draws * lengths[owners]).astype(np.int64)], owners
        owners = np.repeat(np.arange(len(rows)), lengths)
        places = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        # A random order within every list, of which the first places are kept.
        order = np.lexsort((rng.random(len(owners)), owners))[places < most]
        return self.numbers[starts[owners[order]] + places[order]], owners[order]


@lru_cache(maxsize=1)
def _epoch_order(num_clips: int, epoch: int, seed: int) -> NDArray[np.int64]:
    order = np.random.default_rng([_EPOCH_STREAM, seed, epoch]).permutation(num_clips).astype(np.int64)
    order.setflags(write=False)
    return order


def batch_at(step: int, num_clips: int, batch_size: int, seed: int) -> NDArray[np.int64]:
    """The clip rows of update number `step`: int64 (batch_size,), no row twice.

    Each epoch is its own permutation; the rest of an epoch that fills no batch is dropped, so
    that a clip is never its own negative. Raises ConfigError when there are fewer clips than fill a batch.
    """
    if batch_size > num_clips:
        raise ConfigError(
            f"optim.global_batch_size={batch_size}, but there are {num_clips} clips to train on; lower it to at most "
            f"{num_clips} or add clips"
        )
    epoch, index = divmod(step, num_clips // batch_size)
    return _epoch_order(num_clips, epoch, seed)[index * batch_size : (index + 1) * batch_size].copy()


def captions_at(
    step: int, rows: NDArray[np.int64], captions_of: Sequence[Sequence[int]], seed: int
) -> NDArray[np.int64]:
    """One caption row per clip of the batch, drawn evenly from its distinct ones: int64 (len(rows),)."""
    own = Ragged.of([captions_of[row] for row in rows.tolist()])
    return own.draw(np.arange(len(rows)), 1, np.random.default_rng([_CAPTION_STREAM, seed, step]))[0]


@dataclass(frozen=True)
class BatchPlan:
    """The rows of one update, or of one process's share of it.

    N clips, M texts; positions count in the clips of this plan.

    Attributes:
        clips: int64 (N,), rows of the data, ascending.
        texts: int64 (M,), rows of the texts: the positives, clip by clip, then the negatives.
        owners: int64 (M,), the position of the clip that a text was drawn for.
        num_positives: so many of the texts are captions of their clip, the others are false of it.
        reversed_clips: int64 (R,), positions of the clips that are shown backwards too.
        shuffled_clips: int64 (S,), positions of the clips that are shown in another order too.
        orders: int64 (S, T), that order.
        num_global: clips of the whole update.
    """

    clips: NDArray[np.int64]
    texts: NDArray[np.int64]
    owners: NDArray[np.int64]
    num_positives: int
    reversed_clips: NDArray[np.int64]
    shuffled_clips: NDArray[np.int64]
    orders: NDArray[np.int64]
    num_global: int

    @property
    def video_of_text(self) -> NDArray[np.int64]:
        """Int64 (M,), as the losses take it: the position of the clip of a positive, -1 for a negative."""
        return np.where(np.arange(len(self.texts)) < self.num_positives, self.owners, -1)

    @property
    def first_texts(self) -> NDArray[np.int64]:
        """Int64 (N,), the place in `texts` of the first caption of every clip."""
        return np.searchsorted(self.owners[: self.num_positives], np.arange(len(self.clips)))

    def share(self, rank: int, num_ranks: int) -> BatchPlan:
        """The part of process `rank` of `num_ranks`: consecutive clips with all that is theirs; sizes differ by 1."""
        if num_ranks == 1:
            return self
        first, last = (len(self.clips) * number // num_ranks for number in (rank, rank + 1))
        texts = (self.owners >= first) & (self.owners < last)
        of_shuffled = (self.shuffled_clips >= first) & (self.shuffled_clips < last)
        of_reversed = (self.reversed_clips >= first) & (self.reversed_clips < last)
        return replace(
            self,
            clips=self.clips[first:last],
            texts=self.texts[texts],
            owners=self.owners[texts] - first,
            num_positives=int(texts[: self.num_positives].sum()),
            reversed_clips=self.reversed_clips[of_reversed] - first,
            shuffled_clips=self.shuffled_clips[of_shuffled] - first,
            orders=self.orders[of_shuffled],
        )


class BatchPlanner:
    """The plan of every update of a config on some data.

    Raises ConfigError for more clips per update than there are, for counterfactual captions that the data lacks, and
    for clips in another order where there is one frame or a pooling that does not see order: the clip would be its
    own negative.
    """

    def __init__(self, config: AlignConfig, data: AlignmentData) -> None:
        negatives = config.hard_negatives
        batch_at(0, len(data), config.optim.global_batch_size, config.seed)
        self._config = config
        self._num_clips, self._num_frames = len(data), int(data.video_features.shape[1])
        self._captions = Ragged.of(data.captions_of)
        self._counterfactuals = Ragged.of(data.counterfactuals_of or [()] * len(data))
        if negatives.captions and not len(self._counterfactuals.numbers):
            raise ConfigError(
                f"hard_negatives.captions={negatives.captions}, but no clip has a counterfactual caption; add "
                "counterfactual_captions to the dataset or set it to 0"
            )
        if negatives.reversed_clips or negatives.shuffled_clips:
            check_order_is_seen(config.pooling.kind, self._num_frames)

    def at(self, step: int) -> BatchPlan:
        """The plan of update number `step`, counted from 0."""
        config, seed = self._config, self._config.seed
        negatives = config.hard_negatives
        # Ascending rows are read faster; the order within a batch changes nothing but rounding.
        clips = np.sort(batch_at(step, self._num_clips, config.optim.global_batch_size, seed))
        captions = np.random.default_rng([_CAPTION_STREAM, seed, step])
        texts, owners = self._captions.draw(clips, config.captions_per_clip, captions)
        num_positives = len(texts)
        if negatives.captions:
            rng = np.random.default_rng([_NEGATIVE_CAPTION_STREAM, seed, step])
            false_texts, false_owners = self._counterfactuals.draw(clips, negatives.captions, rng)
            # What is false of one clip may be true of another in the batch, e.g. of the other of a temporal pair.
            is_false = ~np.isin(false_texts, self._captions.of_rows(clips))
            texts = np.concatenate([texts, false_texts[is_false]])
            owners = np.concatenate([owners, false_owners[is_false]])
        shuffled, orders = self._shuffled(len(clips), np.random.default_rng([_SHUFFLED_STREAM, seed, step]))
        return BatchPlan(
            clips=clips,
            texts=texts,
            owners=owners,
            num_positives=num_positives,
            reversed_clips=_some(
                len(clips), negatives.reversed_clips, np.random.default_rng([_REVERSED_STREAM, seed, step])
            ),
            shuffled_clips=shuffled,
            orders=orders,
            num_global=len(clips),
        )

    def _shuffled(self, num_clips: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        chosen = _some(num_clips, self._config.hard_negatives.shuffled_clips, rng)
        orders = rng.random((len(chosen), self._num_frames)).argsort(axis=1)
        unchanged = (orders == np.arange(self._num_frames)).all(axis=1)
        orders[unchanged] = np.roll(orders[unchanged], 1, axis=1)
        return chosen, orders


def check_order_is_seen(pooling: str, num_frames: int) -> None:
    """Raise ConfigError where a clip shown in another order would be its own negative."""
    if num_frames == 1:
        raise ConfigError(
            "hard_negatives.reversed_clips and shuffled_clips need clips of more than one frame; set them to 0"
        )
    if POOLINGS.get(pooling).is_order_blind:
        seeing = [name for name in POOLINGS if not POOLINGS.get(name).is_order_blind]
        raise ConfigError(
            f"hard_negatives.reversed_clips and shuffled_clips need a pooling that sees the order of frames, and "
            f"{pooling} does not: a clip would be its own negative; use one of {', '.join(seeing)}"
        )


def _some(num_clips: int, share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """A `share` of the positions 0 to num_clips - 1, rounded, ascending."""
    if not share:
        return np.empty(0, dtype=np.int64)
    return np.sort(rng.permutation(num_clips)[: round(share * num_clips)]).astype(np.int64)


@dataclass(frozen=True)
class Batch:
    """A plan and its features, in their own dtype on the device.

    Attributes:
        video: (N + R + S, T, ...), the clips, then those shown backwards, then those in another order. One that is
            then equal to a clip of the batch, itself or another, is left out: it would be a negative of the truth.
        text: (M, Dt).
        video_of_text: int64 (M,) as the losses take it; None where text i is that of clip i and nothing else is there.
        caption_ids: int64 (N, L), the words of the first caption of every clip; None where the data has none.
    """

    plan: BatchPlan
    video: Tensor
    text: Tensor
    video_of_text: Tensor | None
    caption_ids: Tensor | None


class BatchReader:
    """Plans to batches, in memory that is used again: a batch is valid until two more have been read."""

    def __init__(self, data: AlignmentData, device: torch.device) -> None:
        self._video = FeatureRows(data.video_features, device, "video features")
        self._text = FeatureRows(data.text_features, device, "text features")
        self._caption_ids = None if data.caption_ids is None else torch.from_numpy(data.caption_ids[0])
        self._device = device
        pinned = device.type == "cuda"
        self._buffers = [(RowBuffer(pinned), RowBuffer(pinned)) for _ in range(_NUM_BUFFERS)]
        self._number = 0

    def read(self, plan: BatchPlan) -> Batch:
        """The features that a plan names."""
        video_buffer, text_buffer = self._buffers[self._number % _NUM_BUFFERS]
        self._number += 1
        video = self._video.take(plan.clips, video_buffer)
        text = self._text.take(plan.texts, text_buffer)
        extra = self._in_other_orders(plan, video)
        if extra:
            video = torch.cat([video, *extra])
        plain = len(video) == plan.num_positives == len(plan.texts) and plan.num_positives == len(plan.clips)
        ids = None
        if self._caption_ids is not None:
            ids = self._caption_ids[torch.from_numpy(plan.texts[plan.first_texts])].to(self._device)
        video_of_text = None if plain else torch.from_numpy(plan.video_of_text).to(self._device)
        return Batch(plan, video, text, video_of_text, ids)

    def _in_other_orders(self, plan: BatchPlan, video: Tensor) -> list[Tensor]:
        extra = []
        for positions, orders in (
            (plan.reversed_clips, np.arange(video.shape[1])[None, ::-1]),
            (plan.shuffled_clips, plan.orders),
        ):
            if len(positions):
                rows = torch.from_numpy(positions).to(self._device)
                order = torch.from_numpy(np.ascontiguousarray(orders)).to(self._device)
                changed = video[rows[:, None], order]
                extra.append(changed[~_equals_any(changed, video)])
        return extra

    def batches(self, plans: Iterator[BatchPlan]) -> Iterator[Batch]:
        """The batch of every plan, in order."""
        for plan in plans:
            yield self.read(plan)


def _equals_any(changed: Tensor, clips: Tensor) -> Tensor:
    """Which rows of `changed` (R, ...) are equal to a row of `clips` (N, ...): bool (R,)."""
    changed, clips = changed.flatten(1), clips.flatten(1)
    found = torch.zeros(len(changed), dtype=torch.bool, device=clips.device)
    rows, others = (changed[:, :1] == clips[:, 0]).nonzero(as_tuple=True)
    # Column by column while many pairs are left, because the pairs in full would not fit into memory.
    for column in range(1, changed.shape[1]):
        if len(rows) <= _FEW_PAIRS:
            break
        same = changed[rows, column] == clips[others, column]
        rows, others = rows[same], others[same]
    for start in range(0, len(rows), _FEW_PAIRS):
        some, some_others = rows[start : start + _FEW_PAIRS], others[start : start + _FEW_PAIRS]
        found[some[(changed[some] == clips[some_others]).all(dim=1)]] = True
    return found
