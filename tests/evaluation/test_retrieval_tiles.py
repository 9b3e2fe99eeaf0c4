from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.needs import ON_LINUX
from vlmvid.errors import EvaluationError
from vlmvid.evaluation.cosines import similarity
from vlmvid.metrics.retrieval import TIES, hit_at_k, rank_of
from vlmvid.metrics.retrieval_counts import BothCounts, RankCounts, Relevance
from vlmvid.metrics.retrieval_ndcg import ndcg_at_k
from vlmvid.metrics.retrieval_scores import EmbeddingScores, MatrixScores
from vlmvid.metrics.retrieval_tiles import _edges, count_both, count_rows

Matrix = NDArray[Any]
FIELDS = ("better", "tied_irrelevant", "tied_relevant", "tied_before", "tied_after", "num_relevant")


def slow_counts(scores: Matrix, relevant: list[set[int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {name: [] for name in FIELDS}
    for row, own in zip(scores, relevant, strict=True):
        best = max(row[item] for item in own) if own else np.nan
        first = min((item for item in own if row[item] == best), default=len(row))
        last = max((item for item in own if row[item] == best), default=-1)
        tied = [item for item in range(len(row)) if row[item] == best and item not in own]
        found["better"].append(sum(value > best for value in row))
        found["tied_irrelevant"].append(len(tied))
        found["tied_relevant"].append(sum(row[item] == best for item in own))
        found["tied_before"].append(sum(item < first for item in tied))
        found["tied_after"].append(sum(item > last for item in tied))
        found["num_relevant"].append(len(own))
    return found


def slow_groups(scores: Matrix, owners: list[int | None]) -> tuple[list[int], list[int]]:
    """Per video the number of other sets of texts whose best text is better, and equal."""
    sets: dict[Any, list[int]] = {}
    for text, owner in enumerate(owners):
        sets.setdefault(("alone", text) if owner is None else owner, []).append(text)
    better, tied = [], []
    for video in range(scores.shape[1]):
        own = max((scores[text, video] for text in sets.get(video, [])), default=np.nan)
        others = [max(scores[text, video] for text in texts) for name, texts in sets.items() if name != video]
        better.append(sum(value > own for value in others))
        tied.append(sum(value == own for value in others))
    return better, tied


def columns(counts: RankCounts) -> dict[str, list[int]]:
    return {name: getattr(counts, name).tolist() for name in FIELDS}


def relevant_sets(pairs: set[tuple[int, int]], size: int, axis: int) -> list[set[int]]:
    return [{pair[1 - axis] for pair in pairs if pair[axis] == query} for query in range(size)]


def relevance_of(pairs: set[tuple[int, int]], shape: tuple[int, ...]) -> Relevance:
    texts, videos = zip(*sorted(pairs, reverse=True), strict=True)
    return Relevance.of(texts, videos, shape[0], shape[1])


def assert_same(found: BothCounts, scores: Matrix, pairs: set[tuple[int, int]]) -> None:
    for axis, (counts, matrix) in enumerate(((found.t2v, scores), (found.v2t, scores.T))):
        assert columns(counts) == slow_counts(matrix, relevant_sets(pairs, len(matrix), axis))
        if counts.top is not None:
            assert (matrix[np.arange(len(matrix)), counts.top] == matrix.max(axis=1)).all()
    if len({text for text, _ in pairs}) < len(pairs):
        assert found.v2t_groups is None
        return
    owners = dict(pairs)
    better, tied = slow_groups(scores, [owners.get(text) for text in range(len(scores))])
    assert found.v2t_groups is not None
    assert (found.v2t_groups.better.tolist(), found.v2t_groups.tied_irrelevant.tolist()) == (better, tied)


def defined(queries: Matrix, gallery: Matrix) -> Matrix:
    """The similarity by its definition: products summed in float64, rounded to float32."""
    products = queries.astype(np.float64)[:, None] * gallery.astype(np.float64)[None]
    return np.asarray(products.sum(axis=2), dtype=np.float32)


PAIRS = st.sets(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=12)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), PAIRS, st.integers(1, 9), st.booleans())
def test_a_matrix_in_tiles_equals_the_whole(seed: int, pairs: set[tuple[int, int]], tile: int, top: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, size=(7, 5)).astype(str(rng.choice(["f2", "f4", "f8", "i4"])))
    found = count_both(MatrixScores(scores), relevance_of(pairs, scores.shape), tile=tile, top=top)
    assert_same(found, scores, pairs)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), PAIRS, st.integers(1, 9), st.booleans(), st.integers(1, 40))
def test_embeddings_in_tiles_equal_the_definition(
    seed: int, pairs: set[tuple[int, int]], tile: int, close: bool, dim: int
) -> None:
    rng = np.random.default_rng(seed)
    texts, videos = (rng.normal(size=(size, dim)).astype(np.float32) for size in (7, 5))
    if close:  # repeated rows, and rows a rounding away from another: ties and near ties everywhere
        texts = texts[rng.integers(0, 2, 7)]
        videos = videos[rng.integers(0, 2, 5)]
        videos[rng.integers(0, 5), rng.integers(0, dim)] *= np.float32(1 + 2.0**-23)
    found = count_both(EmbeddingScores(texts, videos), relevance_of(pairs, (7, 5)), tile=tile, top=True)
    assert_same(found, defined(texts, videos), pairs)


@pytest.mark.parametrize("tile", [1, 7, 64, 100, 1024])
def test_equal_rows_tie_whatever_the_tile(tile: int) -> None:
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(150, 96)).astype(np.float32)
    videos = np.concatenate([texts[:75] + rng.normal(size=(75, 96)).astype(np.float32)] * 2)  # each video twice
    pairs = {(row, row) for row in range(150)}
    found = count_both(EmbeddingScores(texts, videos), relevance_of(pairs, (150, 150)), tile=tile)
    assert (found.t2v.tied_irrelevant == 1).all()
    whole = defined(texts, videos)
    assert columns(found.t2v) == slow_counts(whole, [{row} for row in range(150)])
    assert columns(found.v2t) == slow_counts(whole.T, [{row} for row in range(150)])
    # The float64 product of vlmvid.evaluation.base, rounded, is the same numbers.
    assert (whole == similarity(texts, videos)).all()


def test_a_collapsed_model_is_compared_exactly() -> None:
    # All cosines lie within the slack of the float32 product: every tile is compared again, in float64.
    rng = np.random.default_rng(1)
    base = rng.normal(size=64)
    texts, videos = (
        (base + 1e-6 * rng.normal(size=(size, 64))).astype(np.float32) / np.float32(np.linalg.norm(base))
        for size in (130, 90)
    )
    pairs = {(row, row % 90) for row in range(130)}
    found = count_both(EmbeddingScores(texts, videos), relevance_of(pairs, (130, 90)), tile=50, top=True)
    assert_same(found, defined(texts, videos), pairs)


def test_constant_embeddings_tie_everywhere() -> None:
    texts, videos = np.full((40, 16), 0.25, np.float32), np.full((40, 16), 0.25, np.float32)
    pairs = {(row, row) for row in range(40)}
    found = count_both(EmbeddingScores(texts, videos), relevance_of(pairs, (40, 40)), tile=9)
    assert (found.t2v.tied_irrelevant == 39).all() and (found.t2v.better == 0).all()
    assert found.t2v.num_tied == found.v2t.num_tied == 40


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_mapped_files_give_the_same(kind: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    texts, videos = rng.normal(size=(30, 8)).astype(kind), rng.normal(size=(20, 8)).astype(kind)
    pairs = {(row, row % 20) for row in range(30)}
    relevance = relevance_of(pairs, (30, 20))
    for name, values in (("texts", texts), ("videos", videos), ("matrix", (texts @ videos.T).astype(kind))):
        np.save(tmp_path / f"{name}.npy", values)
    mapped = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("texts", "videos", "matrix")}
    found = count_both(EmbeddingScores(mapped["texts"], mapped["videos"]), relevance, tile=7)
    assert_same(found, defined(texts.astype(np.float32), videos.astype(np.float32)), pairs)
    assert_same(count_both(MatrixScores(mapped["matrix"]), relevance, tile=7), np.asarray(mapped["matrix"]), pairs)


def test_part_of_a_matrix_in_another_order() -> None:
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 5, size=(9, 8)).astype(np.float32)
    rows, taken = np.array([8, 0, 3]), np.array([1, 7, 2, 5])
    pairs = {(0, 1), (1, 0), (2, 3)}
    found = count_both(MatrixScores(scores, rows, taken), relevance_of(pairs, (3, 4)), tile=2)
    assert_same(found, scores[np.ix_(rows, taken)], pairs)


def slow_hit(counts: tuple[int, int, int], k: int) -> float:
    better, irrelevant, relevant = counts
    block = [False] * irrelevant + [True] * relevant
    orders = list(itertools.permutations(range(len(block))))
    hits = sum(any(block[i] for i in order[: max(0, k - better)]) for order in orders)
    return hits / len(orders)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_expected_recall_is_the_mean_over_the_orders_of_ties(k: int) -> None:
    cases = list(itertools.product(range(4), range(4), range(1, 3)))
    better, irrelevant, relevant = (np.array(column) for column in zip(*cases, strict=True))
    zeros, nan = np.zeros(len(cases), dtype=np.int64), np.full(len(cases), np.nan)
    counts = RankCounts(better, irrelevant, relevant, zeros, zeros, relevant, nan, 10)
    assert hit_at_k(counts, k, "expected") == pytest.approx([slow_hit(case, k) for case in cases])
    assert hit_at_k(counts, k, "optimistic").tolist() == [float(case[0] < k) for case in cases]
    assert hit_at_k(counts, k).tolist() == [float(case[0] + case[1] < k) for case in cases]


def slow_ndcg(row: Matrix, own: set[int], k: int) -> dict[str, float]:
    gain = [1 / np.log2(2 + place) for place in range(k)]
    best = sum(gain[: len(own)])
    found = []
    for order in itertools.permutations(range(len(row))):
        if all(row[a] >= row[b] for a, b in itertools.pairwise(order)):
            found.append(sum(gain[place] for place, item in enumerate(order[:k]) if item in own) / best)
    return {"pessimistic": min(found), "expected": float(np.mean(found)), "optimistic": max(found)}


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(2, 6))
def test_ndcg_equals_all_orders(seed: int, k: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, size=(3, size)).astype(np.float64)
    own = [set(rng.choice(size, rng.integers(0 if row else 1, size + 1), replace=False).tolist()) for row in range(3)]
    relevance = relevance_of({(row, item) for row, items in enumerate(own) for item in items}, scores.shape)
    source = MatrixScores(scores)
    counts = count_rows(source, relevance)
    for ties in TIES:
        found = ndcg_at_k(source, relevance, counts, k, ties)
        for row, items in enumerate(own):
            assert found[row] == pytest.approx(slow_ndcg(scores[row], items, k)[ties] if items else 0.0)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(1, 7))
def test_no_tile_cuts_the_texts_of_a_video(sizes: list[int], tile: int) -> None:
    owners = np.repeat(np.arange(len(sizes)), sizes)
    if len(owners) == 0:
        return
    edges = _edges(len(owners), tile, owners)
    assert [row for part in edges for row in range(part.start, part.stop)] == list(range(len(owners)))
    for part in edges:
        assert part.start == 0 or owners[part.start] != owners[part.start - 1]
        assert part.stop - part.start <= tile or len(set(owners[part])) == 1


@given(st.integers(0, 2**32 - 1))
def test_a_second_copy_of_the_gallery_never_raises_pessimistic_recall(seed: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 4, size=(5, 6)).astype(np.float32)
    relevance = relevance_of({(row, row) for row in range(5)}, scores.shape)
    doubled = Relevance.of(relevance.queries, relevance.items, 5, 12)
    once = count_rows(MatrixScores(scores), relevance)
    twice = count_rows(MatrixScores(np.hstack([scores, scores])), doubled)
    for k in (1, 5, 10):
        assert (hit_at_k(twice, k) <= hit_at_k(once, k)).all()
    assert (rank_of(twice) >= rank_of(once)).all()
    assert twice.num_tied == 5


@given(st.integers(0, 2**32 - 1))
def test_permuting_texts_and_videos_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, size=(7, 5)).astype(np.float32)
    owner = rng.integers(0, 5, size=7)
    rows, taken = rng.permutation(7), rng.permutation(5)
    before = count_both(MatrixScores(scores), Relevance.of(np.arange(7), owner, 7, 5), tile=3)
    after = count_both(
        MatrixScores(scores[np.ix_(rows, taken)]), Relevance.of(np.arange(7), np.argsort(taken)[owner[rows]], 7, 5)
    )
    for ties in TIES:
        assert rank_of(after.t2v, ties).tolist() == rank_of(before.t2v, ties)[rows].tolist()
        asked = before.v2t.num_relevant[taken] > 0
        assert rank_of(after.v2t, ties)[asked].tolist() == rank_of(before.v2t, ties)[taken][asked].tolist()


def test_infinite_similarities_are_counted_and_ranked() -> None:
    scores = np.array([[np.inf, 0.0], [1.0, -np.inf]])
    found = count_both(MatrixScores(scores), relevance_of({(0, 0), (1, 1)}, (2, 2)))
    assert found.num_infinite == 2
    assert rank_of(found.t2v).tolist() == [1, 2]


def test_wrong_input_is_refused() -> None:
    one = relevance_of({(0, 0)}, (2, 2))
    nan = np.array([[1.0, np.nan], [np.nan, 0.0]])
    with pytest.raises(EvaluationError, match="2 similarities are NaN, first in row 0, column 1"):
        count_both(MatrixScores(nan), one, tile=1)
    rows = np.ones((3, 2), dtype=np.float32)
    rows[1, 0] = np.nan
    with pytest.raises(EvaluationError, match=r"1 of 3 embeddings of the gallery .*1 NaN.*row 1"):
        EmbeddingScores(np.ones((2, 2), dtype=np.float32), rows)
    with pytest.raises(EvaluationError, match="one width"):
        EmbeddingScores(np.ones((2, 2), dtype=np.float32), np.ones((2, 3), dtype=np.float32))
    with pytest.raises(EvaluationError, match="overflow"):
        EmbeddingScores(np.full((1, 2), 1e30, dtype=np.float32), np.full((1, 2), 1e30, dtype=np.float32))
    with pytest.raises(EvaluationError, match="dtype"):
        MatrixScores(np.array([["a"]]))
    with pytest.raises(EvaluationError, match=r"0\.\.1, got 0\.\.2"):
        Relevance.of([0, 2], [0, 0], 2, 1)
    with pytest.raises(EvaluationError, match="do not fit"):
        count_both(MatrixScores(np.ones((3, 2))), one)
    with pytest.raises(EvaluationError, match="tile must"):
        count_both(MatrixScores(np.ones((2, 2))), one, tile=0)


MEMORY = """
import sys, resource
import numpy as np
from pathlib import Path
from vlmvid.metrics.retrieval_counts import BothCounts, RankCounts, Relevance
from vlmvid.metrics.retrieval_scores import EmbeddingScores
from vlmvid.metrics.retrieval_tiles import Relevance, count_both

def peak():
    return int(next(l for l in Path('/proc/self/status').read_text().splitlines() if l.startswith('VmHWM')).split()[1])

rng = np.random.default_rng(0)
found = []
for size in (2000, 10000, 20000):
    texts = rng.normal(size=(size, 64)).astype(np.float32)
    videos = texts + rng.normal(size=(size, 64)).astype(np.float32)
    scores = EmbeddingScores(texts, videos)
    Path('/proc/self/clear_refs').write_text('5')
    before = peak()
    count_both(scores, Relevance.of(np.arange(size), np.arange(size), size, size))
    found.append(peak() - before)
print(*found)
"""


@ON_LINUX
def test_memory_grows_with_the_rows_and_not_with_their_square() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    small, middle, large = (1024 * int(number) for number in done.stdout.split())
    # A matrix of 20,000 x 20,000 bytes is 400 MB; of float32 numbers 1.6 GB.
    assert large < 60e6
    assert (large - middle) / 10_000 < 2_000  # bytes for each further text and video: counts, thresholds, edges
    assert small < 60e6
