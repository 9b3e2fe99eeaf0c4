"""Ranks against brute force, ties against the vectors of the reference study."""

from __future__ import annotations

import math
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vlmvid.errors import EvaluationError
from vlmvid.metrics import count_ties, mean_rank, median_rank, random_hit_probability, ranks, recall_at_k

TIED = np.array([[0.9, 0.9, 0.1], [0.2, 0.8, 0.8], [0.3, 0.2, 0.7]])


def test_constant_matrix() -> None:
    zeros = np.zeros((4, 4))
    optimistic, expected, pessimistic = (
        ranks(zeros, np.arange(4), ties=ties) for ties in ("optimistic", "expected", "pessimistic")
    )
    assert recall_at_k(optimistic, 1) == 1
    assert (recall_at_k(expected, 1), median_rank(expected), mean_rank(expected)) == (0, 2.5, 2.5)
    assert (recall_at_k(pessimistic, 1), median_rank(pessimistic)) == (0, 4)
    assert count_ties(zeros, np.arange(4)) == 4


def test_ties_at_the_top() -> None:
    optimistic, expected, pessimistic = (
        ranks(TIED, np.arange(3), ties=ties) for ties in ("optimistic", "expected", "pessimistic")
    )
    assert recall_at_k(optimistic, 1) == 1
    assert (recall_at_k(expected, 1), median_rank(expected)) == (pytest.approx(1 / 3), 1.5)
    assert mean_rank(expected) == pytest.approx(4 / 3)
    assert recall_at_k(pessimistic, 1) == pytest.approx(1 / 3)
    assert mean_rank(pessimistic) == pytest.approx(5 / 3)
    assert count_ties(TIED, np.arange(3)) == 2


def test_video_to_text_with_several_captions_ranks_among_all_captions() -> None:
    captions_by_videos = np.array([[0.5, 0.6], [0.4, 0.59], [0.3, 0.58], [0.2, 0.5]])
    rank = ranks(captions_by_videos.T, [[0, 1, 2], [3]])
    assert (rank - 1).tolist() == [0, 3]


def test_median_of_an_even_number_averages() -> None:
    assert median_rank([1, 2, 3, 4]) == 2.5


def _brute_force(row: NDArray[np.float64], relevant: set[int]) -> tuple[int, float, int]:
    """Best, mean and worst place of the first relevant item over all orders that sort `row`.

    The worst order puts every tied irrelevant item first.
    """
    places = []
    for order in permutations(range(len(row))):
        if all(row[a] >= row[b] for a, b in zip(order, order[1:], strict=False)):
            places.append(1 + min(order.index(item) for item in relevant))
    return min(places), float(np.mean(places)), max(places)


@given(st.data())
def test_ranks_equal_brute_force_over_all_sorted_orders(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 5))
    row = np.array(data.draw(st.lists(st.integers(0, 2), min_size=size, max_size=size)), dtype=np.float64)
    relevant = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
    best, mean, worst = _brute_force(row, relevant)
    assert ranks(row[None], [sorted(relevant)], ties="optimistic").tolist() == [best]
    assert ranks(row[None], [sorted(relevant)], ties="expected")[0] == pytest.approx(mean)
    assert ranks(row[None], [sorted(relevant)], ties="pessimistic").tolist() == [worst]
    assert count_ties(row[None], [sorted(relevant)]) == (worst != best)


@given(st.integers(0, 2**32 - 1))
def test_ranks_ignore_the_order_of_the_gallery(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, size=(6, 9)).astype(np.float32)
    target = rng.integers(0, 9, size=6)
    order = rng.permutation(9)
    moved = np.argsort(order)[target]
    for ties in ("pessimistic", "expected", "optimistic"):
        assert ranks(scores, target, ties=ties).tolist() == ranks(scores[:, order], moved, ties=ties).tolist()


def test_infinite_scores_are_ranked() -> None:
    assert ranks(np.array([[-np.inf, 0.0, np.inf]]), [0]).tolist() == [3]
    assert ranks(np.array([[-np.inf, -np.inf]]), [0]).tolist() == [2]


@pytest.mark.parametrize(("num_relevant", "num_items", "k"), [(1, 5, 1), (2, 6, 3), (3, 4, 2), (2, 3, 5), (6, 6, 1)])
def test_random_hit_probability_equals_enumeration(num_relevant: int, num_items: int, k: int) -> None:
    drawn = list(combinations(range(num_items), min(k, num_items)))
    share = sum(min(items) < num_relevant for items in drawn) / len(drawn)
    assert random_hit_probability(num_relevant, num_items, k) == pytest.approx(share)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranks(np.array([[0.1, math.nan]]), [0]), "NaN"),
        (lambda: ranks(np.zeros((2, 2)), [0]), "expected relevant items for 2 queries"),
        (lambda: ranks(np.zeros((2, 2)), [0, 2]), r"columns 0\.\.1"),
        (lambda: ranks(np.zeros((2, 2)), [-1, 0]), r"columns 0\.\.1"),
        (lambda: ranks(np.zeros((2, 2)), [[0], []]), "no relevant item"),
        (lambda: ranks(np.zeros(3), [0]), r"matrix \(Q, G\)"),
        (lambda: ranks(np.zeros((1, 1)), [0], ties="lucky"), "unknown tie rule"),  # type: ignore[arg-type]
        (lambda: recall_at_k([1, 2], 0), "k must be"),
        (lambda: recall_at_k([0, 1], 1), "1-based"),
        (lambda: random_hit_probability(0, 3, 1), "num_relevant"),
    ],
)
def test_wrong_input_raises(call: object, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        call()  # type: ignore[operator]
