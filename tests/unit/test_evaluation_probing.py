"""Measures of frozen features, and how they go together over encoders."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from vlmvid.config.probing import LabelsConfig, ProbeRecipe, load_probe
from vlmvid.errors import ConfigError, EvaluationError
from vlmvid.evaluation.base import Sample
from vlmvid.evaluation.probing import Correlation, Point, ProbedEncoder, ProbedPair, correlate, points_of
from vlmvid.evaluation.probing_report import ProbeResult, probe_report, write_figures
from vlmvid.evaluation.representation import RECALL, label_metrics, pair_metrics, retrieval_metrics
from vlmvid.evaluation.runner import read_samples, write_samples
from vlmvid.metrics import jackknife_interval, knn_predictions
from vlmvid.types import MetricResult

ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, Any] = {"num_bootstrap": 100, "seed": 0}


def blobs(num_rows: int, num_labels: int, spread: float, seed: int = 0) -> tuple[NDArray[np.float32], list[str]]:
    rng = np.random.default_rng(seed)
    centres = 3 * rng.normal(size=(num_labels, 6))
    codes = np.arange(num_rows) % num_labels
    features = centres[codes] + spread * rng.normal(size=(num_rows, 6))
    return features.astype(np.float32), [f"label {code}" for code in codes]


def values_of(metrics: tuple[MetricResult, ...]) -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics}


def measured(
    features: NDArray[np.float32], labels: list[str], is_train: NDArray[np.bool_], **config: Any
) -> dict[str, float]:
    options = {"seeds": (0, 1), **OPTIONS}
    return values_of(label_metrics(features, labels, is_train, LabelsConfig(**config), **options))


class TestLabels:
    @pytest.mark.parametrize("protocol", ["held_out", "cross_validated"])
    def test_labels_that_stand_apart_are_found_and_others_are_not(self, protocol: str) -> None:
        is_train = np.arange(60) >= 20
        features, labels = blobs(60, 4, spread=0.1)
        apart = measured(features, labels, is_train, k=(5, 39), protocol=protocol)
        assert apart["knn_5_accuracy"] == apart["linear_accuracy"] == apart["nmi"] == 1
        assert apart["label_silhouette"] == apart["cluster_silhouette"] > 0.8
        mixed = measured(blobs(60, 1, spread=1)[0], labels, is_train, k=(5,), protocol=protocol)
        assert max(mixed["knn_5_accuracy"], mixed["linear_accuracy"]) < 0.5
        assert mixed["nmi"] < 0.3 and mixed["label_silhouette"] < 0.1

    def test_held_out_equals_the_classifiers_by_hand(self) -> None:
        features, labels = blobs(60, 4, spread=4)
        names, is_train = np.array(labels), np.arange(60) % 3 > 0
        found = measured(features, labels, is_train, k=(7,), inverse_l2=0.5)
        predicted = knn_predictions(features[is_train], names[is_train], features[~is_train], k=7)
        assert found["knn_7_accuracy"] == (predicted == names[~is_train]).mean()
        mean, deviation = features[is_train].mean(axis=0), features[is_train].std(axis=0)
        scaled = (features.astype(np.float64) - mean) / deviation
        model = LogisticRegression(C=0.5, max_iter=1000).fit(scaled[is_train], names[is_train])
        assert found["linear_accuracy"] == model.score(scaled[~is_train], names[~is_train])
        assert 0.2 < found["knn_7_accuracy"] < 1

    def test_a_k_beyond_the_gallery_is_left_out_and_equal_seeds_give_equal_numbers(self) -> None:
        features, labels = blobs(30, 3, spread=2)
        is_train = np.arange(30) >= 10
        first = measured(features, labels, is_train, k=(5, 20, 21))
        assert "knn_20_accuracy" in first and "knn_21_accuracy" not in first
        assert measured(features, labels, is_train, k=(5, 20, 21)) == first

    def test_too_few_labels_say_so(self) -> None:
        features, labels = blobs(10, 1, spread=1)
        with pytest.raises(EvaluationError, match="10 clips with 1 labels to learn from"):
            measured(features, labels, np.ones(10, bool), protocol="cross_validated")
        features, labels = blobs(10, 2, spread=1)
        with pytest.raises(EvaluationError, match="and 0 to score"):
            measured(features, labels, np.ones(10, bool))


class TestPairs:
    def test_equal_features_agree_and_unrelated_ones_do_not(self) -> None:
        features = np.random.default_rng(0).normal(size=(80, 5)).astype(np.float32)
        other = np.random.default_rng(1).normal(size=(80, 5)).astype(np.float32)
        same = values_of(pair_metrics(features, 2 * features, mutual_k=10, **OPTIONS))
        assert same["cka"] == pytest.approx(1) and same["cka_debiased"] == pytest.approx(1) and same["mutual_knn"] == 1
        apart = pair_metrics(features, other, mutual_k=10, **OPTIONS)
        debiased = next(metric for metric in apart if metric.name == "cka_debiased")
        assert debiased.ci_low is not None and debiased.ci_high is not None
        assert debiased.ci_low < 0 < debiased.ci_high
        assert values_of(apart)["mutual_knn"] == pytest.approx(values_of(apart)["mutual_knn/chance"], abs=0.05)

    def test_few_clips_give_what_can_be_measured(self) -> None:
        features = np.eye(5, dtype=np.float32)
        assert pair_metrics(features, features, mutual_k=10, **OPTIONS) == ()

    def test_jackknife_of_a_mean_is_its_standard_error(self) -> None:
        values = np.random.default_rng(0).normal(size=400)
        interval = jackknife_interval(400, lambda kept: float(values[kept].mean()), num_groups=400, seed=0)
        assert interval is not None
        half = 1.959964 * values.std(ddof=1) / math.sqrt(400)
        np.testing.assert_allclose(interval, [values.mean() - half, values.mean() + half], rtol=1e-5)
        assert jackknife_interval(1, lambda kept: 0.0, seed=0) is None
        assert jackknife_interval(30, lambda kept: math.nan, seed=0) is None


def log(ranks: list[tuple[str, str, float]]) -> list[Sample]:
    return [
        {
            "direction": direction,
            "video_id": name,
            "caption": f"{name} {i}" if direction == "t2v" else None,
            "rank": rank,
        }
        for i, (direction, name, rank) in enumerate(ranks)
    ]


class TestRetrieval:
    def test_recall_by_hand_over_two_seeds(self, tmp_path: Path) -> None:
        first = log([("t2v", "a", 1), ("t2v", "a", 11), ("t2v", "b", 10), ("v2t", "a", 1), ("v2t", "b", 40)])
        second = log([("t2v", "a", 11), ("t2v", "a", 11), ("t2v", "b", 11), ("v2t", "a", 12), ("v2t", "b", 40)])
        write_samples(second, tmp_path / "retrieval.parquet")
        found = values_of(retrieval_metrics([first, read_samples(tmp_path, "retrieval")], **OPTIONS))
        assert found["t2v_r_at_10"] == pytest.approx((2 / 3 + 0) / 2)
        assert found["v2t_r_at_10"] == pytest.approx((1 / 2 + 0) / 2)
        assert found[RECALL] == pytest.approx((2 / 3 + 1 / 2) / 4)
        assert found[f"{RECALL}/seed_deviation"] == pytest.approx(np.std([7 / 12, 0], ddof=1))
        assert found[f"{RECALL}/chance"] == 1  # two clips and three captions: all are among the first ten

    def test_other_queries_are_refused(self) -> None:
        with pytest.raises(EvaluationError, match="same queries"):
            retrieval_metrics([log([("t2v", "a", 1)]), log([("t2v", "b", 1)])], **OPTIONS)


def metric(name: str, value: float) -> MetricResult:
    return MetricResult(name=name, value=value, num_samples=9)


def point(name: str, x: float, recall: float, weights: str = "", is_random: bool = False) -> Point:
    return Point(name, weights or name, is_random, {"nmi": x}, recall)


def find(found: list[Correlation], **wanted: Any) -> Correlation:
    (one,) = [c for c in found if all(getattr(c, name) == value for name, value in wanted.items())]
    return one


class TestCorrelations:
    def test_random_encoders_and_leverage_are_left_out_by_turns(self) -> None:
        trained = [point(f"t{i}", 0.5 + 0.01 * i, 0.4 + 0.02 * (i % 2)) for i in range(8)]
        found = correlate("vision", [*trained, point("r", 0.0, 0.0, is_random=True)], **OPTIONS)
        whole = find(found, subset="all", method="pearson", without_leverage=False)
        assert whole.result is not None and whole.result.value > 0.95 and whole.left_out == ()
        without = find(found, subset="all", method="pearson", without_leverage=True)
        assert without.left_out == ("r",) and len(without.points) == 8
        assert without.result is not None and without.result.value < 0.5
        alone = find(found, subset="trained", method="pearson", without_leverage=False)
        assert alone.result is not None and alone.result.value == without.result.value
        assert whole.resampled == "networks"

    def test_depths_of_few_networks_are_resampled_by_themselves_and_it_is_said(self) -> None:
        points = [point(f"t{i}", i * i, i, weights=f"net {i % 2}") for i in range(6)]
        found = find(correlate("vision", points, **OPTIONS), method="spearman", without_leverage=False)
        assert (found.resampled, found.num_weights) == ("encoders", 2)
        assert found.result is not None and found.result.ci_low is not None and found.result.value == 1

    @pytest.mark.parametrize(("count", "words"), [(2, "needs at least 3 encoders, has 2"), (3, "")])
    def test_fewer_than_three_have_no_correlation_and_few_no_interval(self, count: int, words: str) -> None:
        found = find(correlate("vision", [point(f"t{i}", i, i) for i in range(count)], **OPTIONS), method="pearson")
        assert found.why_not == words
        assert (found.result is None) == bool(words)
        if found.result is not None:
            assert found.result.value == pytest.approx(1) and found.result.ci_low is None

    def test_a_measure_that_does_not_vary_says_so(self) -> None:
        found = find(correlate("vision", [point(f"t{i}", 1, i) for i in range(4)], **OPTIONS), method="pearson")
        assert found.result is None and found.why_not == "one of the two does not vary"

    def test_points_are_means_over_partners_and_need_all_of_them(self) -> None:
        encoders = [ProbedEncoder(name, "vision", name, False, (metric("nmi", 0.5),)) for name in ("a", "b")]
        pairs = [
            ProbedPair("a", "x", (metric(RECALL, 0.2), metric("cka", 0.1), metric("cka/chance", 0.0))),
            ProbedPair("a", "y", (metric(RECALL, 0.4), metric("cka", 0.3))),
            ProbedPair("b", "x", (metric(RECALL, 0.9), metric("cka", 0.9))),
        ]
        (only,) = points_of("vision", encoders, pairs, ["x", "y"])
        assert (only.name, only.recall, only.values) == ("a", pytest.approx(0.3), {"nmi": 0.5, "cka": 0.2})
        assert [p.name for p in points_of("vision", encoders, pairs, ["x"])] == ["a", "b"]
        assert points_of("vision", encoders, pairs, []) == []


def test_the_report_and_the_figures_are_written(tmp_path: Path) -> None:
    names = ["a", "b", "c|d"]
    encoders = tuple(ProbedEncoder(n, "vision", n, n == "b", (metric("nmi", i / 3),)) for i, n in enumerate(names))
    pairs = tuple(
        ProbedPair(n, text, (metric(RECALL, 0.2 + i / 10), metric(f"{RECALL}/chance", 0.1)))
        for i, n in enumerate(names)
        for text in ("x", "y")
    )
    points = {"vision": points_of("vision", encoders, pairs, ["x"]), "language": []}
    correlations = tuple(correlate("vision", points["vision"], **OPTIONS))
    result = ProbeResult("p", "How.", encoders, pairs, points, correlations, notes=("a note",))  # type: ignore[arg-type]
    text = probe_report(result)
    assert "| c\\|d   | 40.0 |" in text and "| a       | 20.0 |" in text and "- a note" in text
    assert "needs at least 3 encoders, has 2" in text  # of the trained ones
    assert "## Mean R@10 of the pairs" in text
    assert json.loads(json.dumps(result.to_json()))["pairs"][0]["vision"] == "a"
    paths = write_figures(result, tmp_path)
    assert [path.name for path in paths] == ["matrix.png", "scatter_vision.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


RECIPE: dict[str, Any] = {
    "name": "p",
    "data": {"name": "manifest", "options": {"path": "m"}},
    "decode": {"sampling": {"num_frames": 1}, "image_size": 32},
    "vision": [{"name": "a", "backbone": "timm:test_vit"}, {"name": "b", "backbone": "timm:test_vit", "layer": 1}],
    "language": [{"name": "x", "encoder": "minilm"}, {"name": "y", "encoder": "minilm", "pooling": "cls"}],
    "align": {"optim": {"num_steps": 2, "global_batch_size": 2}},
}


class TestRecipe:
    def test_pairs_of_anchors_and_of_the_matrix(self) -> None:
        probe = ProbeRecipe.model_validate(RECIPE)
        assert probe.names_of_pairs() == [("a", "x"), ("b", "x"), ("a", "y")]
        whole = ProbeRecipe.model_validate({**RECIPE, "pairs": "matrix"})
        assert whole.names_of_pairs() == [("a", "x"), ("b", "x"), ("a", "y"), ("b", "y")]
        assert probe.names_of_pairs({("vision", "a"), ("language", "b")}) == [("b", "x"), ("b", "y")]
        recipe = probe.recipe_of("b", "y", 3)
        assert recipe.stages() == ("ingest", "encode", "align", "evaluate")
        assert recipe.align is not None and recipe.align.seed == 3
        assert (recipe.encode.vision.layer, recipe.encode.text.pooling) == (1, "cls")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"vision": RECIPE["vision"][:1] * 2}, "vision names 'a' more than once"),
            (
                {"align": {**RECIPE["align"], "video_head": {"kind": "mlp"}}},
                "a linear map aligns; got video_head 'mlp'",
            ),
            ({"align": {**RECIPE["align"], "pooling": {"kind": "transformer"}}}, "got pooling 'transformer'"),
            ({"seeds": [1, 1]}, "names a seed twice"),
            ({"labels": {"k": [0]}}, "different numbers of at least 1"),
            ({"vision": [{"name": "a", "backbone": "x", "layr": 1}]}, "did you mean 'layer'"),
            ({"language": []}, "language"),
        ],
    )
    def test_what_cannot_work_is_refused(self, tmp_path: Path, change: dict[str, Any], words: str) -> None:
        path = tmp_path / "p.yaml"
        path.write_text(json.dumps({**RECIPE, **change}))
        with pytest.raises(ConfigError, match=words):
            load_probe(path)

    def test_the_recipe_in_the_documentation_is_valid(self, tmp_path: Path) -> None:
        page = (ROOT / "docs" / "probing.md").read_text(encoding="utf-8")
        path = tmp_path / "p.yaml"
        path.write_text(page.partition("```yaml\n")[2].partition("```")[0])
        assert [vision.layer for vision in load_probe(path).vision] == [None, 3, None]

    @pytest.mark.parametrize("path", sorted((ROOT / "configs" / "probe").glob("*.yaml")), ids=lambda path: path.name)
    def test_the_recipes_in_the_repository_are_valid(self, path: Path) -> None:
        probe = load_probe(path, ["seeds=[5]"])
        assert probe.seeds == (5,) and len(probe.vision) >= 8
        assert any(not v.pretrained for v in probe.vision)
