"""The reference definitions written out in full, against the ones from counts; and the vectors of the issue."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vlmvid.errors import EvaluationError
from vlmvid.metrics import retrieval_reference as reference
from vlmvid.metrics.retrieval import geometric_mean, hit_at_k, rank_of
from vlmvid.metrics.retrieval_counts import RankCounts, Relevance
from vlmvid.metrics.retrieval_extras import dual_softmax, qb_norm
from vlmvid.metrics.retrieval_reference import RECALL_AT, ReferenceMetrics
from vlmvid.metrics.retrieval_scores import EmbeddingScores, MatrixScores
from vlmvid.metrics.retrieval_tiles import count_both, count_rows

Matrix = NDArray[Any]


def rows_of(scores: Any, relevant: Any = None) -> RankCounts:
    matrix = np.asarray(scores, dtype=np.float64)
    own = np.arange(len(matrix)) if relevant is None else relevant
    return count_rows(MatrixScores(matrix), Relevance.of(np.arange(len(matrix)), own, *matrix.shape), tile=2)


def clip4clip_places(x: Matrix) -> list[int]:
    ordered = np.sort(-x, axis=1)
    return [int(place) for place in np.where(ordered - np.diag(-x)[:, None] == 0)[1]]


def from_places(places: Any) -> list[float]:
    places = np.asarray(places)
    return [*((places < k).mean() for k in RECALL_AT), np.median(places) + 1, places.mean() + 1]


def shown(found: ReferenceMetrics) -> list[float]:
    return [*found.recall.values(), found.median_rank, found.mean_rank]


@pytest.mark.parametrize(
    ("x", "r1", "median", "mean"),
    [
        ([[1, 2, 3], [4, 5, 6]], 0.0, 2.5, 2.5),
        ([[1, 2, 3], [5, 5, 4]], 1 / 3, 2.0, 2.0),
        ([[1, 2, 3], [5, 5, 5]], 0.25, 2.5, 2.25),
        (np.zeros((4, 4)), 0.25, 2.5, 2.5),
        ([[0.9, 0.9, 0.1], [0.2, 0.8, 0.8], [0.3, 0.2, 0.7]], 0.6, 1.0, 1.4),
    ],
)
def test_the_maintainers_vectors(x: Any, r1: float, median: float, mean: float) -> None:
    found = reference.clip4clip(rows_of(x))
    assert found.recall[1] == pytest.approx(r1)
    assert found.median_rank == median and found.mean_rank == pytest.approx(mean)
    assert found.num_entries == len(clip4clip_places(np.asarray(x, dtype=np.float64)))


def test_three_rules_on_the_same_ties() -> None:
    tied = rows_of([[0.9, 0.9, 0.1], [0.2, 0.8, 0.8], [0.3, 0.2, 0.7]])
    assert reference.optimistic(tied).recall[1] == 1
    averaged = reference.averaging(tied)
    assert averaged.recall[1] == pytest.approx(1 / 3) and averaged.median_rank == 1.5
    assert averaged.mean_rank == pytest.approx(4 / 3)
    constant = rows_of(np.zeros((4, 4)))
    assert reference.optimistic(constant).recall[1] == 1
    assert reference.averaging(constant).recall[1] == 0 and reference.averaging(constant).median_rank == 2.5


def test_one_rank_among_captions_another_among_groups() -> None:
    # The best own caption has rank 3 among all captions, and 1 among the videos' best captions.
    scores = MatrixScores(np.array([[0.5, 0.6], [0.4, 0.59], [0.3, 0.58], [0.2, 0.5]]))
    found = count_both(scores, Relevance.of(np.arange(4), [0, 0, 0, 1], 4, 2))
    assert (rank_of(found.v2t) - 1).tolist() == [0, 3]
    assert found.v2t_groups is not None
    assert (rank_of(found.v2t_groups) - 1).tolist() == [0, 1]


def test_the_median_of_an_even_number() -> None:
    counts = rows_of([[4, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1]])
    assert rank_of(counts).tolist() == [1, 2, 3, 4]
    assert reference.averaging(counts).median_rank == 2.5  # numpy
    assert reference.clip4clip_multi_caption(counts).median_rank == 2.0  # torch


SQUARES = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).integers(0, 5, (9, 9)) * 0.5)


@given(SQUARES)
def test_counts_give_what_the_scripts_definitions_give(x: Matrix) -> None:
    counts, own = rows_of(x), np.diag(x)[:, None]
    assert shown(reference.clip4clip(counts)) == pytest.approx(from_places(clip4clip_places(x)))
    ordered = -np.sort(-x, axis=1)
    averaged = [np.flatnonzero(row == value).mean() for row, value in zip(ordered, own, strict=True)]
    expected = from_places(averaged)
    expected[0] = np.mean(np.array(averaged) == 0)
    assert shown(reference.averaging(counts)) == pytest.approx(expected)
    first = [np.flatnonzero(row == value)[0] for row, value in zip(ordered, own, strict=True)]
    assert shown(reference.optimistic(counts)) == pytest.approx(from_places(first))
    descending = np.argsort(-x, axis=1, kind="stable")
    places = [int(np.flatnonzero(row == number)[0]) for number, row in enumerate(descending)]
    found = reference.clip4clip_multi_caption(counts)
    expected = from_places(places)
    expected[3] = sorted(places)[4] + 1
    assert shown(found) == pytest.approx(expected)
    for k in RECALL_AT[:2]:
        value, num_open = reference.earlier_first(counts, k)
        assert value == pytest.approx(np.mean(np.array(places) < k))
        assert num_open == int((hit_at_k(counts, k, "optimistic") != hit_at_k(counts, k)).sum())
    later = np.argsort(x, axis=1, kind="stable")[:, ::-1]
    places = [int(np.flatnonzero(row == number)[0]) for number, row in enumerate(later)]
    assert shown(reference.later_first(counts)[0]) == pytest.approx(from_places(places))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_several_relevant_items_as_singularity_ranks_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, (4, 6)).astype(np.float64)
    own = [rng.choice(6, rng.integers(1, 4), replace=False) for _ in range(4)]
    relevance = Relevance.of(np.repeat(np.arange(4), [len(some) for some in own]), np.concatenate(own), 4, 6)
    found, _ = reference.later_first(count_rows(MatrixScores(x), relevance))
    order = np.argsort(x, axis=1, kind="stable")[:, ::-1]
    places = [min(np.flatnonzero(row == item)[0] for item in some) for row, some in zip(order, own, strict=True)]
    assert shown(found) == pytest.approx(from_places(places))


def test_an_infinite_similarity_of_its_own_has_no_entry() -> None:
    x = np.array([[np.inf, 0.0], [1.0, 0.5]])
    with np.errstate(invalid="ignore"):
        places = clip4clip_places(x)
    found = reference.clip4clip(rows_of(x))
    assert found.num_entries == len(places) == 1 and found.mean_rank == places[0] + 1
    nothing = rows_of(np.array([[np.inf, 0.0], [1.0, np.inf]]))
    for script in (reference.clip4clip, reference.clip4clip_multi_caption):
        with pytest.raises(EvaluationError, match="divides by zero"):
            script(nothing)


def test_geometric_mean() -> None:
    assert geometric_mean([0.1, 0.2, 0.4]) == pytest.approx(0.2)
    assert geometric_mean([0.0, 0.2, 0.4]) == 0
    with pytest.raises(EvaluationError, match="at least one rate"):
        geometric_mean([])


def softmax(x: Matrix) -> Matrix:
    powers = np.exp(x - x.max(axis=0))
    return np.asarray(powers / powers.sum(axis=0))


def test_dual_softmax_changes_the_best_item() -> None:
    x = np.array([[0.30, 0.29, 0.10], [0.31, 0.20, 0.10], [0.32, 0.28, 0.11]])
    scaled = dual_softmax(MatrixScores(x), 0.01)
    whole = scaled.tile(slice(0, 3), slice(0, 3))
    assert whole == pytest.approx(x * softmax(100 * x) * 3)
    assert x.argmax(axis=1).tolist() == [0, 0, 0] and whole.argmax(axis=1).tolist() == [1, 0, 0]
    own = Relevance.of([0, 1, 2], [1, 0, 0], 3, 3)
    assert hit_at_k(count_rows(scaled, own, tile=2), 1).tolist() == [1, 1, 1]
    flipped = scaled.transposed().taken(np.array([2, 0]))
    assert flipped.tile(slice(0, 2), slice(1, 3)) == pytest.approx(whole.T[[2, 0], 1:])
    assert flipped.pairs(np.array([1]), np.array([2])) == pytest.approx([whole[2, 0]])


def test_dual_softmax_of_embeddings_equals_that_of_their_similarities() -> None:
    rng = np.random.default_rng(0)
    texts, videos = (rng.normal(size=(size, 12)).astype(np.float32) for size in (30, 20))
    both = [
        dual_softmax(source, 0.5)
        for source in (EmbeddingScores(texts, videos), MatrixScores((texts @ videos.T).astype(np.float32)))
    ]
    pairs = Relevance.of(np.arange(30), np.arange(30) % 20, 30, 20)
    first, second = (rank_of(count_rows(some, pairs, tile=7)) for some in both)
    assert first.tolist() == second.tolist()


def test_qb_norm_normalises_the_queries_that_meet_a_hub() -> None:
    rng = np.random.default_rng(1)
    x, bank = rng.normal(size=(12, 6)), rng.normal(size=(9, 6))
    bank[:, 2] += 1  # a hub
    top, k, beta = x.argmax(axis=1), 1, 20.0
    active = np.isin(top, np.unique(np.argsort(-bank, axis=1)[:, :k]))
    expected = np.where(active[:, None], np.exp(beta * x) / np.exp(beta * bank).sum(axis=0), x)
    found = qb_norm(MatrixScores(x), MatrixScores(bank), top, beta=beta, k=k).tile(slice(0, 12), slice(0, 6))
    assert 0 < active.sum() < 12
    assert np.argsort(found, axis=1).tolist() == np.argsort(expected, axis=1).tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: dual_softmax(x, 0.0), "temperature"),
        (lambda x: qb_norm(x, MatrixScores(np.ones((2, 3))), np.zeros(2, np.intp), beta=20, k=1), "gallery items"),
        (lambda x: qb_norm(x, x, np.zeros(2, np.intp), beta=0, k=1), "beta"),
        (lambda x: qb_norm(x, x, np.zeros(2, np.intp), beta=1, k=3), "k in"),
        (lambda x: dual_softmax(MatrixScores(np.array([[np.inf, 1.0]])), 1.0), "cannot be normalised"),
    ],
)
def test_wrong_parameters_are_refused(call: Any, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        call(MatrixScores(np.ones((2, 2))))
