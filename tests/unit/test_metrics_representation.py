"""Metrics of representations against loops, hand-made vectors, scikit-learn and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import normalized_mutual_info_score, silhouette_samples

from vlmvid.errors import EvaluationError
from vlmvid.metrics import cka, clusters, neighbours
from vlmvid.metrics.cka import linear_cka
from vlmvid.metrics.clusters import normalised_mutual_information, silhouette
from vlmvid.metrics.correlation import (
    average_ranks,
    correlation_result,
    has_high_leverage,
    leverage,
    pearson,
    spearman,
)
from vlmvid.metrics.neighbours import knn_predictions, mutual_knn


def random_features(num_rows: int, num_channels: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(num_rows, num_channels))


def knn_oracle(
    gallery: NDArray[np.float64], labels: list[str], queries: NDArray[np.float64] | None, k: int, temperature: float
) -> list[str]:
    answers = []
    for row, query in enumerate(gallery if queries is None else queries):
        scored = []
        for column, other in enumerate(gallery):
            if queries is not None or column != row:
                cosine = float(query @ other / math.sqrt((query @ query) * (other @ other)))
                scored.append((-cosine, column))
        votes: dict[str, float] = {}
        for negative, column in sorted(scored)[:k]:
            votes[labels[column]] = votes.get(labels[column], 0.0) + math.exp(-negative / temperature)
        answers.append(max(sorted(votes), key=votes.__getitem__))
    return answers


class TestNeighbours:
    @pytest.mark.parametrize("k", [1, 3, 10, 22])
    @pytest.mark.parametrize("leave_one_out", [True, False])
    def test_weighted_votes_equal_the_loop(self, k: int, leave_one_out: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        gallery, labels = random_features(23, 5), [f"c{i % 4}" for i in range(23)]
        queries = None if leave_one_out else random_features(9, 5, seed=1)
        expected = knn_oracle(gallery, labels, queries, k, 0.07)
        assert knn_predictions(gallery, labels, queries, k=k).tolist() == expected
        monkeypatch.setattr(neighbours, "_BLOCK_ENTRIES", 4 * 23)  # blocks of four queries and an odd last one
        assert knn_predictions(gallery, labels, queries, k=k).tolist() == expected

    def test_a_near_neighbour_outvotes_several_far_ones(self) -> None:
        gallery = [[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]]
        assert knn_predictions(gallery, ["near", "far", "far"], [[2.0, 0.0]], k=3).tolist() == ["near"]
        assert knn_predictions(gallery, ["near", "far", "far"], [[2.0, 0.0]], k=3, temperature=10).tolist() == ["far"]

    def test_a_small_temperature_does_not_overflow(self) -> None:
        gallery = random_features(12, 3)
        labels = list(range(12))
        first = knn_predictions(gallery, labels, k=1)
        np.testing.assert_array_equal(knn_predictions(gallery, labels, k=5, temperature=1e-4), first)

    def test_a_row_never_votes_for_itself(self) -> None:
        assert knn_predictions([[1.0, 0.0], [1.0, 0.0]], ["a", "b"], k=1).tolist() == ["b", "a"]

    @pytest.mark.parametrize(
        ("gallery", "labels", "options", "words"),
        [
            (np.ones((3, 2)), ["a"] * 3, {"k": 3}, "k=3 .* 2 rows may"),
            (np.ones((3, 2)), ["a"] * 2, {"k": 1}, "one label for each of 3"),
            (np.zeros((3, 2)), ["a"] * 3, {"k": 1}, "3 of 3 rows of gallery are zero"),
            (np.ones((3, 2)), ["a"] * 3, {"k": 1, "temperature": 0}, "temperature must be positive"),
            (np.ones((3, 2)), ["a"] * 3, {"k": 1, "queries": np.ones((2, 3))}, "3 channels, the gallery 2"),
            (np.full((3, 2), np.nan), ["a"] * 3, {"k": 1}, "first row 0"),
        ],
    )
    def test_bad_input_says_what_is_wrong(
        self, gallery: NDArray[np.float64], labels: list[str], options: dict[str, object], words: str
    ) -> None:
        with pytest.raises(EvaluationError, match=words):
            knn_predictions(gallery, labels, **options)  # type: ignore[arg-type]

    def test_mutual_knn_equals_the_loop(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first, second = random_features(17, 4), random_features(17, 6, seed=3)
        expected = []
        for row in range(17):
            sets = []
            for space in (first, second):
                unit = space / np.linalg.norm(space, axis=1, keepdims=True)
                order = sorted((j for j in range(17) if j != row), key=lambda j, u=unit: -float(u[row] @ u[j]))  # type: ignore[misc]
                sets.append(set(order[:5]))
            expected.append(len(sets[0] & sets[1]) / 5)
        np.testing.assert_allclose(mutual_knn(first, second, k=5), expected)
        monkeypatch.setattr(neighbours, "_BLOCK_ENTRIES", 5 * 17)
        np.testing.assert_allclose(mutual_knn(first, second, k=5), expected)

    def test_mutual_knn_knows_equal_and_unrelated_spaces(self) -> None:
        first = random_features(300, 8)
        turn = np.linalg.qr(random_features(8, 8, seed=1))[0]
        assert mutual_knn(first, 3 * first @ turn, k=10).mean() == 1.0
        unrelated = mutual_knn(first, random_features(300, 8, seed=2), k=10).mean()
        assert abs(unrelated - 10 / 299) < 0.02
        with pytest.raises(EvaluationError, match="got 300 and 299 rows"):
            mutual_knn(first, first[1:])


class TestClusters:
    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40))
    def test_nmi_equals_scikit_learn(self, pairs: list[tuple[int, int]]) -> None:
        first, second = ([pair[i] for pair in pairs] for i in (0, 1))
        expected = normalized_mutual_info_score(first, second)
        assert normalised_mutual_information(first, second) == pytest.approx(expected, abs=1e-12)

    def test_nmi_by_hand(self) -> None:
        assert normalised_mutual_information(["a", "a", "b"], [5, 5, 1]) == 1.0
        assert normalised_mutual_information([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx(0, abs=1e-12)
        with pytest.raises(EvaluationError, match=r"\(2,\) and \(3,\)"):
            normalised_mutual_information([0, 1], [0, 1, 2])

    def test_silhouette_equals_scikit_learn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        features, labels = random_features(31, 6), np.arange(31) % 4
        labels[0] = 9  # alone in its group
        expected = silhouette_samples(features, labels)
        np.testing.assert_allclose(silhouette(features, labels), expected, atol=1e-10)
        monkeypatch.setattr(clusters, "_BLOCK_ENTRIES", 7 * 31)
        np.testing.assert_allclose(silhouette(features, labels), expected, atol=1e-10)

    def test_silhouette_by_hand(self) -> None:
        np.testing.assert_allclose(silhouette([[0.0], [2.0], [9.0]], [0, 0, 1]), [1 - 2 / 9, 1 - 2 / 7, 0])
        np.testing.assert_allclose(silhouette([[1.0], [1.0], [1.0], [1.0]], [0, 0, 1, 1]), 0)
        with pytest.raises(EvaluationError, match="at least two groups"):
            silhouette([[0.0], [1.0]], [1, 1])


def gram(features: NDArray[np.float64]) -> NDArray[np.float64]:
    return features @ features.T


def cka_oracle(first: NDArray[np.float64], second: NDArray[np.float64], debiased: bool) -> float:
    n = len(first)
    centre = np.eye(n) - 1 / n

    def hsic(k: NDArray[np.float64], m: NDArray[np.float64]) -> float:
        if not debiased:
            return float(np.trace(k @ centre @ m @ centre)) / (n - 1) ** 2
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        one = np.ones(n)
        whole = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return float(whole - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))

    k, m = gram(first), gram(second)
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


class TestCka:
    @pytest.mark.parametrize("debiased", [False, True])
    @pytest.mark.parametrize("shape", [(40, 5, 7), (9, 20, 30), (4, 3, 3)])
    def test_equals_the_definition_with_whole_kernels(self, shape: tuple[int, int, int], debiased: bool) -> None:
        first, second = random_features(shape[0], shape[1]) + 3, random_features(shape[0], shape[2], seed=1) - 1
        second[:, :3] += first[:, :3]
        assert linear_cka(first, second, debiased=debiased) == pytest.approx(cka_oracle(first, second, debiased))

    @pytest.mark.parametrize("debiased", [False, True])
    def test_does_not_see_rotation_shift_and_scale(self, debiased: bool) -> None:
        first = random_features(50, 6)
        turn = np.linalg.qr(random_features(6, 6, seed=1))[0]
        assert linear_cka(first, 1e-30 * (first @ turn + 4), debiased=debiased) == pytest.approx(1, abs=1e-6)

    def test_only_the_debiased_one_is_near_zero_for_unrelated_features(self) -> None:
        first, second = random_features(60, 200), random_features(60, 200, seed=1)
        assert linear_cka(first, second, debiased=False) > 0.5
        assert abs(linear_cka(first, second, debiased=True)) < 0.1

    def test_undefined_and_wrong_input(self) -> None:
        assert math.isnan(cka.linear_cka(np.ones((5, 2)), random_features(5, 2), debiased=False))
        with pytest.raises(EvaluationError, match="N >= 4 things: got 3 and 3"):
            linear_cka(np.eye(3), np.eye(3), debiased=True)
        with pytest.raises(EvaluationError, match="second must be finite"):
            linear_cka(np.eye(4), np.full((4, 4), np.inf), debiased=True)


VALUES = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=20)


class TestCorrelation:
    @settings(max_examples=50, deadline=None)
    @given(VALUES)
    def test_pearson_and_spearman_equal_scipy(self, pairs: list[tuple[int, int]]) -> None:
        x, y = ([float(pair[i]) for pair in pairs] for i in (0, 1))
        if len(set(x)) == 1 or len(set(y)) == 1:
            assert math.isnan(pearson(x, y)) and math.isnan(spearman(x, y))
            return
        assert pearson(x, y) == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-9)
        assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-9)

    def test_ranks_share_ties(self) -> None:
        assert average_ranks([3, 1, 3, 7]).tolist() == [2.5, 1, 2.5, 4]

    def test_leverage_is_the_diagonal_of_the_hat_matrix(self) -> None:
        x = np.array([1.0, 2, 2, 3, 4, 20])
        design = np.stack([np.ones(6), x], axis=1)
        hat = design @ np.linalg.inv(design.T @ design) @ design.T
        np.testing.assert_allclose(leverage(x), np.diag(hat))
        assert leverage(x).sum() == pytest.approx(2)
        assert has_high_leverage(x).tolist() == [False] * 5 + [True]
        assert not has_high_leverage([1.0, 1, 1]).any()

    def test_one_far_point_makes_a_correlation_that_is_gone_without_it(self) -> None:
        x, y = np.array([1.0, 2, 3, 4, 5, 60]), np.array([2.0, 1, 2, 1, 2, 50])
        keep = ~has_high_leverage(x)
        assert pearson(x, y) > 0.99 and abs(pearson(x[keep], y[keep])) < 0.1

    def test_the_interval_holds_the_value_and_is_wider_over_clusters(self) -> None:
        rng = np.random.default_rng(0)
        x = np.repeat(rng.normal(size=8), 5)
        y = x + np.repeat(rng.normal(size=8), 5)
        options = {"method": "pearson", "num_bootstrap": 400, "seed": 1}
        alone = correlation_result("r", x, y, **options)  # type: ignore[arg-type]
        grouped = correlation_result("r", x, y, clusters=np.repeat(np.arange(8), 5), **options)  # type: ignore[arg-type]
        assert alone.ci_low is not None and alone.ci_high is not None
        assert grouped.ci_low is not None and grouped.ci_high is not None
        assert alone.ci_low < alone.value < alone.ci_high
        assert grouped.ci_high - grouped.ci_low > 1.5 * (alone.ci_high - alone.ci_low)

    def test_too_few_points_are_refused(self) -> None:
        with pytest.raises(EvaluationError, match="at least 3 points, got 2"):
            correlation_result("r", [1, 2], [1, 2], method="spearman", num_bootstrap=10, seed=0)
        with pytest.raises(EvaluationError, match="finite values only"):
            correlation_result("r", [1, 2, np.nan], [1, 2, 3], method="spearman", num_bootstrap=10, seed=0)
