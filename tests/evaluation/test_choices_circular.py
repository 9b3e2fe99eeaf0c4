from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmvid.errors import ConfigError, EvaluationError
from vlmvid.evaluation.scoring.base import Item, ScoreSettings
from vlmvid.evaluation.scoring.choices import ChoiceScorer
from vlmvid.evaluation.scoring.circular import gathered, rotations
from vlmvid.evaluation.scoring.predictions import Predictions

CIRCULAR = ScoreSettings(options={"circular": "true"}, num_bootstrap=50)
SCORER = ChoiceScorer("x")


def items_of(answers: list[int], count: int = 3) -> list[Item]:
    choices = tuple(f"option {letter}x" for letter in "pqrstuv"[:count])
    return [Item(str(n), f"v{n}", answer, choices=choices) for n, answer in enumerate(answers)]


def numbers(items: list[Item], values: dict[str, Any], **changes: Any) -> dict[str, float]:
    chosen = ScoreSettings(**{"options": {"circular": "true"}, "num_bootstrap": 50, **changes})
    return {metric.name: metric.value for metric in SCORER(items, Predictions(values), chosen).metrics}


@given(count=st.integers(1, 6), data=st.data())
def test_a_rotation_keeps_the_right_text(count: int, data: st.DataObject) -> None:
    answer = data.draw(st.integers(0, count - 1))
    item = Item("7", "v", answer, choices=tuple(f"text {place}" for place in range(count)))
    turned = rotations(item)
    assert [other.item_id for other in turned] == [f"7@{shift}" for shift in range(count)]
    for shift, other in enumerate(turned):
        assert other.choices == item.choices[shift:] + item.choices[:shift]
        assert other.choices[other.answer] == item.choices[item.answer]
    # Every text stands once at every place.
    assert all(len({other.choices[place] for other in turned}) == count for place in range(count))


def test_a_model_that_knows_is_right_in_every_rotation() -> None:
    items = items_of([0, 1, 2])
    values = {item.item_id: [other.choices[other.answer] for other in rotations(item)] for item in items}
    found = numbers(items, values)
    assert found["circular_accuracy"] == found["accuracy"] == 1.0
    assert found["position_following"] == 0.0
    assert [found[f"position_share_{letter}"] for letter in "abc"] == pytest.approx([1 / 3] * 3)


def test_a_model_that_follows_a_position_is_never_right_throughout() -> None:
    items = items_of([0, 0, 2])
    found = numbers(items, {item.item_id: ["A"] * 3 for item in items})
    assert found["circular_accuracy"] == 0.0
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["position_following"] == 1.0
    assert [found[f"position_share_{letter}"] for letter in "abc"] == [1.0, 0.0, 0.0]
    assert found["position_share_a/chance"] == pytest.approx(1 / 3)
    assert found["circular_accuracy/chance"] == pytest.approx(1 / 27)
    assert found["circular_accuracy/constant"] == 0.0
    assert found["accuracy/chance"] == pytest.approx(1 / 3)


def test_by_hand() -> None:
    # Item 0 (answer p): p, q, (unparsed) -> one of three; item 1 (answer q): scores right, tied, right -> two of three.
    items = items_of([0, 1])
    values = {"0": ["A", "A", "?"], "1": [[0.1, 0.9, 0.2], [0.5, 0.5, 0.1], [0.1, 0.2, 0.9]]}
    result = SCORER(items, Predictions(values), CIRCULAR)
    found = {metric.name: metric.value for metric in result.metrics}
    assert result.metrics[0].name == "circular_accuracy" and found["circular_accuracy"] == 0.0
    assert found["accuracy"] == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert found["position_share_a"] == pytest.approx(2 / 4)  # of four read responses: A, A, B, C
    assert found["ties"] == 1
    assert found["position_following"] == 0.0


def test_missing_items_count_as_wrong_and_can_be_skipped() -> None:
    items = items_of([0, 1])
    values = {"0": ["A", "C", "B"]}
    assert numbers(items, values)["accuracy"] == 0.5
    assert numbers(items, values, missing="skip")["accuracy[missing=skip]"] == 1.0
    blind = Predictions({"0@0": "A", "0@1": "C", "0@2": "B"})
    assert numbers(items, values, blind=blind)["circular_accuracy/blind"] == 0.5


@settings(max_examples=25, deadline=None)
@given(answers=st.lists(st.integers(0, 3), min_size=1, max_size=5), data=st.data())
def test_agrees_with_a_slow_count(answers: list[int], data: st.DataObject) -> None:
    items = items_of(answers, 4)
    said = {i.item_id: data.draw(st.lists(st.integers(0, 3), min_size=4, max_size=4)) for i in items}
    right = []
    for item in items:
        pairs = zip(said[item.item_id], rotations(item), strict=True)
        right.append([turned.choices[place] == item.choices[item.answer] for place, turned in pairs])
    found = numbers(items, said)
    assert found["circular_accuracy"] == pytest.approx(sum(all(row) for row in right) / len(right))
    assert found["accuracy"] == pytest.approx(sum(sum(row) for row in right) / (4 * len(right)))
    assert found["position_following"] == pytest.approx(sum(len(set(row)) == 1 for row in said.values()) / len(said))


def test_single_responses_under_rotated_ids_are_gathered() -> None:
    items = items_of([0])
    together = gathered(items, Predictions({"0@0": "A", "0@2": "B", "other": "C"}))
    assert together.values == {"0": ["A", None, "B"], "other": "C"}


def test_predictions_that_are_no_lists_are_refused() -> None:
    with pytest.raises(EvaluationError, match="one for each of the item's rotations .3 for 0., got 'A'"):
        SCORER(items_of([0]), Predictions({"0": "A"}), CIRCULAR)
    with pytest.raises(EvaluationError, match="no prediction for any"):
        SCORER(
            items_of([0]), Predictions({"x": ["A"] * 3}), ScoreSettings(missing="skip", options={"circular": "true"})
        )
    with pytest.raises(ConfigError, match="circular='yes'"):
        SCORER(items_of([0]), Predictions({"0": "A"}), ScoreSettings(options={"circular": "yes"}))
