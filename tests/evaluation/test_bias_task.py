from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vlmvid.config.schema import EvaluateConfig
from vlmvid.errors import EvaluationError
from vlmvid.evaluation import EvaluationData, TaskResult
from vlmvid.evaluation.tasks.bias import run
from vlmvid.types import Clip

QUERIES = ("q0", "q1")


def world(num_small: int = 3) -> EvaluationData:
    """20 clips of 'left', 12 of 'right', `num_small` of 'few'; scores fall with the number of the clip.

    Every clip finds itself by its caption, but 'right' clips with an odd number do not.
    """
    sides = ["left"] * 20 + ["right"] * 12 + ["few"] * num_small
    total = len(sides)
    clips, videos, texts = [], [], {}
    for number, side in enumerate(sides):
        scene = str(number % 12) if side != "few" else ""
        clips.append(
            Clip(
                video_id=f"v{number}",
                path="x",
                captions=(f"t{number}",),
                attributes={"side": side, "scene": scene},
            )
        )
        videos.append(np.concatenate([[1 - number / total], 2 * np.eye(total)[number]]))
        lost = side == "right" and number % 2
        texts[f"t{number}"] = np.concatenate([[0.0], np.eye(total)[0 if lost else number]])
    for query in QUERIES:
        texts[query] = np.concatenate([[1.0], np.zeros(total)])

    def unit(rows: Any) -> Any:
        array = np.asarray(rows, dtype=np.float64)
        return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)

    return EvaluationData(tuple(clips), unit(videos), lambda names: unit([texts[name] for name in names]))


def measure(data: EvaluationData, **bias: Any) -> TaskResult:
    settings = {"group_attribute": "side", "queries": QUERIES, "k": 6, **bias}
    return run(data, EvaluateConfig.model_validate({"bias": settings, "num_bootstrap": 100}))


def numbers(result: TaskResult) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


def test_a_small_group_is_reported_and_not_ranked() -> None:
    result = measure(world())
    found = numbers(result)
    # All of the first six are 'left': 'few' is absent with skew ln((1/6) / (3/35)) > 0, above that of 'left'.
    assert found["skew_few_at_6"] == pytest.approx(np.log(35 / 18))
    assert found["max_skew_at_6"] == found["skew_left_at_6"] == pytest.approx(np.log(35 / 20))
    assert found["min_skew_at_6"] == found["skew_right_at_6"]
    better = {metric.name for metric in result.metrics if metric.higher_is_better and "skew" in metric.name}
    assert better == {"min_skew_at_6", "min_skew_at_6/chance"}
    assert found["absent_groups_at_6"] == 2.0 and found["count_left_at_6"] == 6.0
    assert found["worst_group_t2v_r_at_1"] == 0.5 and found["group_few_t2v_r_at_1"] == 1.0
    assert "fewer than 10 clips, reported and not ranked: few" in result.protocol
    assert numbers(measure(world(), min_group=1))["max_skew_at_6"] == found["skew_few_at_6"]


def test_too_few_large_groups_leave_the_comparison_out() -> None:
    result = measure(world(), min_group=13)
    found = numbers(result)
    assert not {"max_skew_at_6", "min_skew_at_6", "group_gap_t2v_r_at_1", "worst_group_t2v_r_at_1"} & found.keys()
    assert {"ndkl", "skew_left_at_6", "group_left_t2v_r_at_1"} <= found.keys()
    assert "worst group not measured" in result.protocol


def test_pairs_share_a_scene_and_differ_in_the_group() -> None:
    data = world()
    found = numbers(measure(data, pair_attribute="scene"))
    scores = data.video_embeds[:, 0].astype(np.float64)
    sides = np.array([clip.attributes["side"] for clip in data.clips])
    scenes = np.array([clip.attributes["scene"] for clip in data.clips])
    wanted = [
        scores[(scenes == str(scene)) & (sides == "left")].mean()
        - scores[(scenes == str(scene)) & (sides == "right")].mean()
        for scene in range(12)
    ]
    assert found["pair_left_minus_right_similarity"] == pytest.approx(np.mean(wanted), abs=1e-6)
    assert found["pair_left_minus_right_similarity/permutation_p"] == pytest.approx(2 / 2**12)
    assert found["pair_left_minus_right_t2v_r_at_1"] == pytest.approx(0.5)
    assert not any("few" in name for name in found if name.startswith("pair_"))


def test_a_pair_attribute_that_no_clip_has_is_refused() -> None:
    with pytest.raises(EvaluationError, match="'take'.*pair_attribute"):
        measure(world(), pair_attribute="take")
