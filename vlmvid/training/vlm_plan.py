"""Which rows of samples each update of a stage sees, and how an update is cut into micro-batches and processes.

All of it is known before the first update, so the schedule of learning rates is too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vlmvid.config.vlm import VlmStageConfig
from vlmvid.errors import ConfigError
from vlmvid.models.vlm.layout import TokenSequence
from vlmvid.training.packing import plan_rows
from vlmvid.training.vlm_objectives import StageObjective, Unit, num_labels

# First words of generators' seeds, others than those of the other trainings.
_ROW_STREAM, _DROPOUT_STREAM = 30, 31
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Update:
    """One update over all processes.

    Attributes:
        rows: units that pass the model together, each merged from the samples with these numbers.
        weight: what they count in the mean, as the objective says.
        tokens_seen: tokens, padding not counted, from the first update to the end of this one.
        num_tokens: tokens of this update alone.
    """

    rows: tuple[tuple[int, ...], ...]
    weight: int
    tokens_seen: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Units that pass the model at once; `counts` is False for those that only keep a process in step with others."""

    units: tuple[Unit, ...]
    counts: bool = True


class StagePlan:
    """The updates of a stage.

    An epoch shows every sample once, packed and shuffled anew for each; epochs follow each other without a smaller
    update between them, so that only the last one may be smaller. A token budget that the epochs do not reach is told
    as a warning.

    Attributes:
        updates: in order; at least one.
        name: of the stage, for what is told of it.

    Raises ConfigError where there are no samples, and for samples that are longer than `stage.max_length` or whose
    labels are all masked, with their number and the first names.
    """

    def __init__(
        self, stage: VlmStageConfig, samples: Sequence[Unit], objective: StageObjective, *, name: str = "the stage"
    ) -> None:
        if not len(samples):
            raise ConfigError("the stage has no samples to learn from; look at its 'data' and the split 'train'")
        self.stage = stage
        self.name = name
        self.samples = samples
        self.merges = stage.objective == "next_token"
        _check_samples(samples, stage.max_length)
        sizes = [[len(sample) for sample in unit] for unit in samples]
        # Only samples of one next_token row follow each other in it; the answers of a preference are rows of their own.
        self._lengths = np.array([sum(of_one) if self.merges else max(of_one) for of_one in sizes], np.int64)
        self._tokens = np.array([sum(of_one) for of_one in sizes], np.int64)
        self._weights = np.array([objective.weight(unit) for unit in samples], np.int64)
        self.updates = tuple(self._updates())

    def unit(self, row: Sequence[int]) -> Unit:
        """The samples of a row, one after the other."""
        return tuple(sample for number in row for sample in self.samples[number])

    def chunks(self, update: Update, rank: int, num_ranks: int) -> Iterator[Chunk]:
        """The micro-batches of one process; every process has as many."""
        own = [self.unit(row) for row in update.rows[rank::num_ranks]]
        size = self._chunk_size(update, num_ranks)
        for number in range(self.num_chunks(update, num_ranks)):
            units = tuple(own[number * size : (number + 1) * size])
            yield Chunk(units) if units else Chunk((self.unit(update.rows[0]),), counts=False)

    def padding_fraction(self, update: Update, num_ranks: int) -> float:
        """The share of padding among the places of an update's micro-batches, over all processes."""
        places = 0
        for rank in range(num_ranks):
            lengths = [self._row_lengths(row) for row in update.rows[rank::num_ranks]]
            size = self._chunk_size(update, num_ranks)
            for start in range(0, len(lengths), size):
                together = [length for row in lengths[start : start + size] for length in row]
                places += len(together) * max(together)
        return 1 - update.num_tokens / places

    def names(self, update: Update, most: int = 12) -> str:
        """Which samples an update holds, for a message."""
        names = [self.samples[number][0].sample_id for row in update.rows for number in row]
        more = f" and {len(names) - most} more" if len(names) > most else ""
        return ", ".join(map(repr, names[:most])) + more

    def dropout_seed(self, step: int, chunk: int, rank: int) -> int:
        """The seed of a micro-batch's dropout."""
        return _seed_of(_DROPOUT_STREAM, self.stage.seed, step, chunk, rank)

    def _row_lengths(self, row: Sequence[int]) -> list[int]:
        if self.merges:
            return [int(self._lengths[list(row)].sum())]
        return [len(sample) for sample in self.unit(row)]

    def _chunk_size(self, update: Update, num_ranks: int) -> int:
        return self.stage.optim.micro_batch_size or -(-len(update.rows) // num_ranks)

    def num_chunks(self, update: Update, num_ranks: int) -> int:
        """The micro-batches of each process."""
        largest_share = -(-len(update.rows) // num_ranks)
        return -(-largest_share // self._chunk_size(update, num_ranks))

    def _updates(self) -> Iterator[Update]:
        stage, budget = self.stage, self.stage.token_budget
        rows = [
            row
            for epoch in range(stage.num_epochs)
            for row in plan_rows(
                self._lengths.tolist(),
                stage.max_length,
                packing=self.merges and stage.packing,
                seed=_seed_of(_ROW_STREAM, stage.seed, epoch),
            )
        ]
        seen, size = 0, stage.optim.global_batch_size
        for start in range(0, len(rows), size):
            chosen = tuple(rows[start : start + size])
            numbers = [number for row in chosen for number in row]
            num_tokens = int(self._tokens[numbers].sum())
            seen += num_tokens
            yield Update(chosen, int(self._weights[numbers].sum()), seen, num_tokens)
            if budget is not None and seen >= budget:
                return
        if budget is not None:
            _log.warning(
                "%s: token_budget=%d is not reached: the samples of num_epochs=%d have %d tokens; raise num_epochs to "
                "go on to the budget",
                self.name,
                budget,
                stage.num_epochs,
                seen,
            )


def _check_samples(samples: Sequence[Unit], max_length: int) -> None:
    every = [sample for unit in samples for sample in unit]
    too_long = [sample for sample in every if len(sample) > max_length]
    if too_long:
        longest = max(map(len, too_long))
        raise ConfigError(
            f"{_named(too_long)} of {len(every)} has more tokens than max_length={max_length}, the longest one "
            f"{longest}; set max_length to at least {longest}, give clips fewer visual tokens, or leave such out"
        )
    mute = [sample for sample in every if not num_labels(sample)]
    if mute:
        raise ConfigError(
            f"{_named(mute)} of {len(every)} has nothing to learn, all labels are masked: no token is an answer's; "
            "give it an answer or leave it out"
        )


def _named(samples: Sequence[TokenSequence], most: int = 3) -> str:
    names = ", ".join(dict.fromkeys(repr(sample.sample_id) for sample in samples[:most]))
    return f"sample {names}" + (f" and {len(samples) - most} more" if len(samples) > most else "")


def _seed_of(*words: int) -> int:
    return int(np.random.default_rng(words).integers(2**63))
