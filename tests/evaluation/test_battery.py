from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vlmvid.errors import ConfigError, EvaluationError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.battery import NUM_SEEDS, battery, condition_of, is_seeded
from vlmvid.evaluation.benchmarks.composition.mmvp import BENCHMARK as MMVP
from vlmvid.evaluation.frame_order import (
    BLACK,
    CONDITIONS,
    condition_features,
    condition_frames,
    frame_indices,
    is_exact_on_features,
)
from vlmvid.evaluation.scoring.base import Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.matrix import MatrixScorer, caption_scorer
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.types import MetricResult

ON_FEATURES = [condition for condition in CONDITIONS if condition != BLACK]
SETTINGS = ScoreSettings(num_bootstrap=200)


def values(result: TaskResult) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


# --- frames -----------------------------------------------------------------------------------------------------------


def test_indices_of_the_fixed_conditions() -> None:
    shown = {name: frame_indices(name, 5, "a", 0).tolist() for name in ("all", "middle", "reversed", "repeated")}
    assert shown == {"all": [0, 1, 2, 3, 4], "middle": [2], "reversed": [4, 3, 2, 1, 0], "repeated": [2] * 5}
    assert frame_indices("middle", 8, "a", 0).tolist() == [4]
    assert frame_indices("middle", 1, "a", 0).tolist() == [0]


def test_single_frames_can_keep_the_length() -> None:
    features = np.random.default_rng(0).normal(size=(3, 5, 2))
    names = ["a", "b", "c"]
    repeated = condition_features(features, "repeated", names, 1)
    assert np.array_equal(condition_features(features, "middle", names, 1, keep_length=True), repeated)
    one = condition_features(features, "random", names, 1)
    kept = condition_features(features, "random", names, 1, keep_length=True)
    assert one.shape == (3, 1, 2) and np.array_equal(kept, np.repeat(one, 5, axis=1))
    assert np.array_equal(condition_frames(features[1], "random", "b", 1, keep_length=True), kept[1])


@given(st.sampled_from(ON_FEATURES), st.integers(1, 12), st.text(max_size=8), st.integers(0, 5))
def test_indices_are_frames_of_the_clip(condition: str, num_frames: int, clip_id: str, seed: int) -> None:
    indices = frame_indices(condition, num_frames, clip_id, seed)
    assert ((indices >= 0) & (indices < num_frames)).all()
    assert len(indices) == (1 if condition in ("middle", "random") else num_frames)
    if condition in ("all", "reversed", "shuffled"):
        assert sorted(indices) == list(range(num_frames))
    assert indices.tolist() == frame_indices(condition, num_frames, clip_id, seed).tolist()


def test_every_order_and_every_frame_is_drawn_equally_often() -> None:
    orders = [tuple(frame_indices("shuffled", 3, f"clip {i}", 0).tolist()) for i in range(1200)]
    counts = [orders.count(order) for order in permutations(range(3))]
    assert sum(counts) == 1200 and min(counts) > 150 and max(counts) < 250
    frames = [int(frame_indices("random", 4, "one clip", seed)[0]) for seed in range(800)]
    assert all(150 < frames.count(frame) < 250 for frame in range(4))


@pytest.mark.parametrize("condition", ON_FEATURES)
def test_the_order_of_clips_changes_nothing(condition: str) -> None:
    features = np.random.default_rng(0).normal(size=(6, 5, 3, 2)).astype(np.float32)
    names = [f"clip {i}" for i in range(6)]
    whole = condition_features(features, condition, names, 3)
    assert whole.dtype == np.float32
    mixed = [4, 1, 5, 0, 3, 2]
    assert np.array_equal(condition_features(features[mixed], condition, [names[i] for i in mixed], 3), whole[mixed])
    # One clip alone, and frames instead of features, are the same choice.
    for row, name in enumerate(names):
        assert np.array_equal(condition_frames(features[row], condition, name, 3), whole[row])


def test_black_frames() -> None:
    frames = np.full((4, 3, 2, 2), 7, np.uint8)
    black = condition_frames(frames, "black", "a", 0)
    assert black.dtype == np.uint8 and black.shape == frames.shape and not black.any() and frames.all()
    assert [name for name in CONDITIONS if not is_exact_on_features(name)] == ["black"]
    with pytest.raises(EvaluationError, match="needs frames"):
        condition_features(frames, "black", ["a"] * 4, 0)


def test_wrong_conditions_and_ids_are_refused() -> None:
    with pytest.raises(EvaluationError, match="did you mean 'shuffled'"):
        frame_indices("shufled", 3, "a", 0)
    with pytest.raises(EvaluationError, match="0 frames"):
        frame_indices("all", 0, "a", 0)
    with pytest.raises(EvaluationError, match="one id for each clip"):
        condition_features(np.zeros((3, 2)), "all", ["a"], 0)


# --- battery ----------------------------------------------------------------------------------------------------------


def pair_items(count: int) -> list[Item]:
    """Clips whose two captions say the same in another order."""
    return [
        Item(f"i{number}", f"v{number // 2}", 0, choices=("forth", "back"), media=(Media(f"v{number}"),))
        for number in range(count)
    ]


SCORE = caption_scorer("probe", "probe")


def scored(items: Sequence[Item], scores: NDArray[Any], settings: ScoreSettings = SETTINGS) -> TaskResult:
    given = {item.item_id: row.tolist() for item, row in zip(items, scores, strict=True)}
    return SCORE(items, Predictions(given), settings)


def world(ordered: bool) -> dict[str, list[TaskResult]]:
    """A model that averages frames, or one that weighs them by time, on clips that move in one direction."""
    items = pair_items(200)
    rng = np.random.default_rng(1)
    direction = rng.normal(size=8)
    times = np.linspace(-1, 1, 6)
    features = (times[None, :, None] * direction + rng.normal(size=(200, 6, 8))).astype(np.float32)
    names = [item.item_id for item in items]
    content = rng.normal(size=8)

    def similarity(shown: NDArray[np.float32]) -> NDArray[np.float64]:
        count = shown.shape[1]
        weights = np.linspace(-1, 1, count) if ordered and count > 1 else np.ones(count)
        pooled = (shown * weights[None, :, None]).mean(axis=1, dtype=np.float64)
        captions = np.stack([direction, -direction]) if ordered else np.stack([content, direction])
        return pooled @ captions.T

    found = {}
    for condition in ON_FEATURES:
        seeds = range(NUM_SEEDS if is_seeded(condition) else 1)
        found[condition] = [
            scored(items, similarity(condition_features(features, condition, names, seed))) for seed in seeds
        ]
    found["black"] = [scored(items, np.zeros((200, 2)))]
    return found


def test_a_mean_of_frames_gains_nothing_from_their_order() -> None:
    result = battery(world(ordered=False), num_bootstrap=200)
    found = values(result)
    assert found["temporal_gain"] == pytest.approx(0, abs=1e-5)
    assert found["accuracy/reversed"] == found["accuracy/shuffled"] == found["accuracy/all"]
    assert 0.3 < found["accuracy/all"] < 0.7
    assert found["blind"] == found["accuracy/black"] == 0
    assert result.task == "probe_battery"


def test_the_embedding_of_a_mean_of_frames_does_not_move() -> None:
    features = np.random.default_rng(2).normal(size=(50, 8, 16)).astype(np.float32)
    names = [str(row) for row in range(50)]

    def embed(shown: NDArray[np.float32]) -> NDArray[np.float32]:
        pooled = shown.mean(axis=1)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    for condition in ("shuffled", "reversed"):
        assert np.abs(embed(features) - embed(condition_features(features, condition, names, 0))).max() < 1e-5


def test_a_model_that_weighs_time_gains_from_it() -> None:
    found = {metric.name: metric for metric in battery(world(ordered=True), num_bootstrap=200).metrics}
    assert found["accuracy/all"].value > 0.9
    assert found["accuracy/reversed"].value < 0.1
    gain = found["temporal_gain"]
    assert gain.ci_low is not None and gain.ci_high is not None and gain.stderr is not None
    assert 0.2 < gain.ci_low < gain.value < gain.ci_high < 0.8
    ratio = found["single_frame_ratio"]
    assert ratio.value == pytest.approx(found["accuracy/random"].value / found["accuracy/all"].value)
    assert ratio.ci_low is not None and ratio.ci_high is not None and ratio.ci_low < ratio.value < ratio.ci_high
    assert found["single_frame_ratio_middle"].value == pytest.approx(
        found["accuracy/middle"].value / found["accuracy/all"].value
    )


def test_numbers_by_hand() -> None:
    items = pair_items(4)

    def run(*right: int) -> TaskResult:
        return scored(items, np.array([[1.0, 0.0] if number in right else [0.0, 1.0] for number in range(4)]))

    result = battery(
        {"all": [run(0, 1, 2)], "shuffled": [run(0), run(1), run(0, 1)], "random": [run(0, 3)], "middle": [run()]},
        num_bootstrap=100,
    )
    found = values(result)
    assert found == {
        "accuracy/all": 0.75,
        "accuracy/middle": 0.0,
        "accuracy/random": 0.5,
        "accuracy/shuffled": pytest.approx(1 / 3),
        "temporal_gain": pytest.approx(0.75 - 1 / 3),
        "single_frame_ratio": pytest.approx(2 / 3),
        "single_frame_ratio_middle": 0.0,
    }
    assert [row["score_shuffled"] for row in result.samples] == pytest.approx([2 / 3, 2 / 3, 0, 0])
    assert [row["score"] for row in result.samples] == [1, 1, 1, 0]
    assert "fewer than 3 seeds of random" in result.protocol and "shuffled (3 runs)" in result.protocol


def test_samples_are_joined_by_id_not_by_row() -> None:
    items = pair_items(40)
    rng = np.random.default_rng(3)
    scores, other = rng.normal(size=(2, 40, 2))
    straight = battery({"all": [scored(items, scores)], "shuffled": [scored(items, other)]})
    mixed = rng.permutation(40)
    turned = battery({"all": [scored(items, scores)], "shuffled": [scored([items[i] for i in mixed], other[mixed])]})
    assert straight.metrics == turned.metrics


def test_units_and_matrices_are_paired_too(tmp_path: Any) -> None:
    path = tmp_path / "Questions.csv"
    rows = [f"{n},Open?,(a) Open (b) Closed,({'ab'[(n + 1) % 2]})" for n in range(1, 41)]
    path.write_text("Index,Question,Options,Correct Answer\n" + "\n".join(rows), encoding="utf-8")
    items = MMVP.read(path, {})
    rng = np.random.default_rng(4)
    runs = {
        name: [MMVP.score(items, Predictions({i.item_id: "AB"[rng.integers(2)] for i in items}), SETTINGS)]
        for name in ("all", "shuffled")
    }
    result = battery(runs, num_bootstrap=100)
    pairs = {name: found[0].metric("pair_accuracy").value for name, found in runs.items()}
    assert values(result)["temporal_gain"] == pytest.approx(pairs["all"] - pairs["shuffled"])
    assert result.metric("temporal_gain").ci_low is not None and len(result.samples) == 20
    matrices = [Item(f"m{n}", f"m{n}", (0, 1), choices=("a", "b"), media=(Media("a"), Media("b"))) for n in range(30)]
    score = MatrixScorer("pairs", "pairs")

    def run() -> TaskResult:
        return score(matrices, Predictions({i.item_id: rng.normal(size=(2, 2)).tolist() for i in matrices}), SETTINGS)

    probed = battery({"all": [run()], "shuffled": [run()]}, num_bootstrap=100)
    assert len(probed.samples) == 30 and "group_score/shuffled" in values(probed)


def test_a_metric_that_is_no_mean_of_samples_has_values_only() -> None:
    def run(value: float) -> TaskResult:
        return TaskResult("task", "", (MetricResult(name="map", value=value, num_samples=3),), [{"video_id": "a"}])

    result = battery({"all": [run(0.5)], "shuffled": [run(0.25)], "black": [run(0.1)]})
    assert values(result)["temporal_gain"] == 0.25 and values(result)["blind"] == 0.1
    assert result.metric("temporal_gain").ci_low is None and not result.samples
    assert "values only" in result.protocol


def test_tasks_without_ids_are_joined_by_row() -> None:
    def run(*right: bool) -> TaskResult:
        rows = [{"video_id": f"v{n}", "correct": ok} for n, ok in enumerate(right)]
        metric = MetricResult(name="acc", value=float(np.mean(right)), num_samples=len(right))
        return TaskResult("task", "", (metric,), list(rows))

    result = battery({"all": [run(True, True, False, True)], "shuffled": [run(True, False, False, False)]})
    gain = result.metric("temporal_gain")
    assert gain.value == 0.5 and gain.ci_low is not None and gain.ci_low <= 0.5


def test_a_label_stays_at_the_end_of_a_name() -> None:
    items = pair_items(4)
    settings = ScoreSettings(num_bootstrap=100, missing="skip")
    given = Predictions({item.item_id: [1.0, 0.0] for item in items[:3]})
    runs = {name: [SCORE(items, given, settings)] for name in ("all", "shuffled")}
    assert "accuracy/all[missing=skip]" in values(battery(runs))
    assert "temporal_gain[missing=skip]" in values(battery(runs))


def test_wrong_runs_are_refused() -> None:
    items = pair_items(4)
    good = scored(items, np.eye(4)[:, :2])
    with pytest.raises(EvaluationError, match="one result of all frames"):
        battery({"shuffled": [good]})
    with pytest.raises(EvaluationError, match="unknown conditions"):
        battery({"all": [good], "backwards": [good]})
    other = TaskResult("other", "", good.metrics, good.samples)
    with pytest.raises(EvaluationError, match="is of other"):
        battery({"all": [good], "middle": [other]})
    with pytest.raises(EvaluationError, match="scored other samples"):
        battery({"all": [good], "middle": [scored(items[:2], np.eye(4)[:2, :2])]})


@pytest.mark.parametrize(
    ("name", "condition"),
    [
        ("shuffled", "shuffled"),
        ("shuffled-2", "shuffled"),
        ("random.0", "random"),
        ("random_3", "random"),
        ("black", "black"),
    ],
)
def test_names_of_runs(name: str, condition: str) -> None:
    assert condition_of(name) == condition


@pytest.mark.parametrize("name", ["all", "shufled", "", "shuffled-x"])
def test_unknown_names_of_runs(name: str) -> None:
    with pytest.raises(ConfigError, match="no condition"):
        condition_of(name)
