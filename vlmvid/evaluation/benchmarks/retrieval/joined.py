"""Items and matrices put side by side: who is in the gallery, what is missing, and the counts of both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.benchmarks.retrieval.matrices import BANK, EMBEDS, IDS, SIMILARITY, check_matrices
from vlmvid.evaluation.scoring.base import Item, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import choose
from vlmvid.metrics.retrieval_counts import BothCounts, RankCounts, Relevance
from vlmvid.metrics.retrieval_scores import EmbeddingScores, Index, MatrixScores, Scores

GALLERIES = ("references", "predictions")
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Joined:
    """A benchmark's texts and videos, and where they are in the predictions.

    Attributes:
        text_ids: of the queries first, then of further texts of the gallery.
        video_ids: videos of the references first, then distractors.
        relevance: pairs among them, whatever is missing.
        text_rows: row of each text in the predictions, -1 = missing.
        video_columns: column of each video, -1 = missing.
        extra_texts: ids of the predictions that nothing refers to and that are left out.
        extra_videos: the same for videos.
        scores: similarities of the texts and videos that are there, in their order.
        bank: similarities of a bank of training captions with the same videos, if given.
    """

    text_ids: list[str]
    video_ids: list[str]
    relevance: Relevance
    text_rows: Index
    video_columns: Index
    extra_texts: list[str]
    extra_videos: list[str]
    scores: Scores
    bank: Scores | None

    @property
    def missing_texts(self) -> list[str]:
        """Ids of the references without a row, in their order."""
        return [name for name, row in zip(self.text_ids, self.text_rows, strict=True) if row < 0]

    @property
    def missing_videos(self) -> list[str]:
        """Ids of the references without a column, in their order."""
        return [name for name, column in zip(self.video_ids, self.video_columns, strict=True) if column < 0]

    def found(self) -> Relevance:
        """The pairs of which both sides are there, by their places in `scores`."""
        text_place, video_place = (np.cumsum(index >= 0) - 1 for index in (self.text_rows, self.video_columns))
        pairs = self.relevance
        there = (self.text_rows[pairs.queries] >= 0) & (self.video_columns[pairs.items] >= 0)
        if not there.any():
            raise EvaluationError("the predictions have no text together with one of its videos; are the ids the same?")
        return Relevance.of(text_place[pairs.queries[there]], video_place[pairs.items[there]], *self.scores.shape)

    def full(self, counts: BothCounts) -> BothCounts:
        """Counts for all texts and videos of the references: what is missing ranks last."""
        groups = counts.v2t_groups
        num_groups = len(np.unique(self.relevance.items)) + int((self.relevance.per_query == 0).sum())
        relevant_texts = self.relevance.transposed().per_query
        return BothCounts(
            _filled(counts.t2v, self.text_rows, self.relevance.per_query, len(self.video_ids)),
            _filled(counts.v2t, self.video_columns, relevant_texts, len(self.text_ids)),
            None if groups is None else _filled(groups, self.video_columns, np.minimum(relevant_texts, 1), num_groups),
            counts.num_infinite,
        )

    def words(self, rule: str) -> list[str]:
        """What could not be used, in words."""
        parts = []
        for name, missing, extra in (
            ("texts", self.missing_texts, self.extra_texts),
            ("videos", self.missing_videos, self.extra_videos),
        ):
            if missing:
                parts.append(f"{len(missing)} {name} without a prediction ({_some(missing)}), {rule}")
            if extra:
                parts.append(f"{len(extra)} {name} of the predictions that nothing refers to ({_some(extra)}) ignored")
        return parts


def has_distractors(settings: ScoreSettings, default: str) -> bool:
    """Whether the galleries hold what only the predictions have: by the option `gallery`, else the benchmark's own."""
    return (
        choose(settings.options, "gallery", (default, *(name for name in GALLERIES if name != default))) == GALLERIES[1]
    )


def join(items: Sequence[Item], predictions: Predictions, *, distractors: bool) -> Joined:
    """The texts and videos of `items` beside those of `predictions`.

    Args:
        items: texts; `answer` holds the ids of the relevant videos.
        predictions: what `read_matrices` gives.
        distractors: texts and videos of the predictions that no item knows stay in the galleries.

    Raises:
        EvaluationError: as `check_matrices`.
    """
    values = check_matrices(predictions.values, predictions.source)
    text_ids = [item.item_id for item in items]
    video_ids = list(dict.fromkeys(name for item in items for name in item.answer))
    known = set(text_ids), set(video_ids)
    extra_texts, extra_videos = (
        [name for name in values[key] if name not in some] for key, some in zip(IDS, known, strict=True)
    )
    if distractors:
        text_ids, video_ids, extra_texts, extra_videos = text_ids + extra_texts, video_ids + extra_videos, [], []
    column = {name: number for number, name in enumerate(video_ids)}
    pairs = [(row, column[name]) for row, item in enumerate(items) for name in item.answer]
    queries, relevant = np.array(pairs, dtype=np.intp).T
    rows, columns = _places(text_ids, values[IDS[0]]), _places(video_ids, values[IDS[1]])
    if (rows[: len(known[0])] < 0).all() or (columns[: len(known[1])] < 0).all():
        raise EvaluationError(
            f"{predictions.source} has none of the {len(known[0])} texts or none of the {len(known[1])} videos of the "
            f"references; its ids look like {values[IDS[0]][:1]} and {values[IDS[1]][:1]}, those of the references "
            f"like {text_ids[:1]} and {video_ids[:1]}"
        )
    return Joined(
        text_ids,
        video_ids,
        Relevance.of(queries, relevant, len(text_ids), len(video_ids)),
        rows,
        columns,
        extra_texts,
        extra_videos,
        _scores(values, rows[rows >= 0], columns[columns >= 0]),
        _bank(values, columns[columns >= 0]),
    )


def _scores(values: Mapping[str, Any], rows: Index, columns: Index) -> Scores:
    if SIMILARITY in values:
        return MatrixScores(values[SIMILARITY], rows, columns)
    whole = EmbeddingScores(values[EMBEDS[0]], values[EMBEDS[1]])
    return whole.taken(rows).transposed().taken(columns).transposed()


def _bank(values: Mapping[str, Any], columns: Index) -> Scores | None:
    if BANK[0] in values:
        return MatrixScores(values[BANK[0]], None, columns)
    if BANK[1] in values and EMBEDS[1] in values:
        whole = EmbeddingScores(values[BANK[1]], values[EMBEDS[1]])
        return whole.transposed().taken(columns).transposed()
    return None


def _places(wanted: Sequence[str], there: Sequence[str]) -> Index:
    place = {name: number for number, name in enumerate(there)}
    return np.array([place.get(name, -1) for name in wanted], dtype=np.intp)


def _filled(counts: RankCounts, place: Index, num_relevant: NDArray[np.int64], num_items: int) -> RankCounts:
    """The counts of all queries; one that is missing, or all of whose relevant items are, ranks last."""
    found = counts.taken(np.cumsum(place >= 0) - 1)
    lost = (num_relevant > 0) & ((place < 0) | (found.num_relevant == 0))
    arrays = {
        "better": np.where(lost, num_items - 1, found.better),
        "tied_irrelevant": np.where(lost, 0, found.tied_irrelevant),
        "tied_relevant": np.where(lost, 1, found.tied_relevant),
        "tied_before": np.where(lost, 0, found.tied_before),
        "tied_after": np.where(lost, 0, found.tied_after),
        "best": np.where(lost, np.nan, found.best),
    }
    return replace(found, **arrays, num_relevant=num_relevant, num_items=num_items, top=None)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
