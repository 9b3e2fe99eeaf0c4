from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmvid.errors import ConfigError, EvaluationError
from vlmvid.evaluation.answers.base import finite
from vlmvid.evaluation.answers.choice import chosen, is_right, is_tied
from vlmvid.evaluation.answers.label import chosen_label, ranked
from vlmvid.evaluation.answers.matrix import caption, matrix
from vlmvid.evaluation.answers.open_text import number
from vlmvid.evaluation.answers.windows import windows
from vlmvid.evaluation.scoring.base import Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.choices import ChoiceScorer, Rating, Script, chance
from vlmvid.evaluation.scoring.predictions import Predictions

BABY = ("clap proudly", "the lady sitting down", "lay on floor", "just picked it up", "crawl")
FAST = ScoreSettings(num_bootstrap=50)


def an_item(choices: tuple[str, ...] = BABY, answer: int = 0, item_id: str = "1", video_id: str = "v") -> Item:
    return Item(item_id, video_id, answer, choices=choices)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("A", 0),
        ("b", 1),
        ("(A)", 0),
        ("(b)", 1),
        ("(B", 1),
        ("A.", 0),
        (" C\n", 2),
        ("**B**", 1),
        ("\\boxed{C}", 2),
        ("A) clap proudly", 0),
        ("B: the lady", 1),
        ("C.Both", 2),
        ("A clap proudly", 0),
        ("Answer: A", 0),
        ("The answer is (B)", 1),
        ("The correct answer is B because she sits", 1),
        ("Best answer: C", 2),
        ("Option 2: the lady", 1),
        ("Option (c)", 2),
        ("The best caption is Caption B: x. Caption A is incorrect.", 1),
        ("A person is shown, so B", 1),
        ("Definitely C", 2),
        ("A is right", 0),
        ("Between A and B, I choose B.", 1),
        ("B. Because A is wrong", 1),
        ("A is wrong. B is right.", 1),
        ("crawl", 4),
        ("Lay on  floor.", 2),
        ("the baby will crawl then", 4),
        ("Answer: A man who lay on floor", 2),
        ("He does not crawl. He lay on floor.", 2),
        ("3", 3),
        (0, 0),
        (4.0, 4),
        ({"prediction": 2, "answer": 1}, 2),
        ([0.1, 0.5, 0.2, 0.3, 0.0], 1),
        ("I do not see a dog, so B", 1),
        ("C, because the man does not jump.", 2),
        ("The man is not sitting so the answer is B", 1),
        ("The answer is B, not A", 1),
        ("The answer is B and A is wrong", 1),
        ("Answer: B, A man sits", 1),
        ("The answer is B, C shows a dog", 1),
        ("The answer cannot be A. It is B.", 1),
        ("Without a doubt B", 1),
        ("None other than B", 1),
        ("No, B", 1),
        ("Option 2 is wrong. He will crawl.", 4),
        ("Not C. Option D.", 3),
    ],
)
def test_what_a_response_means(raw: Any, expected: int) -> None:
    assert chosen(raw, an_item()) == expected


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "   ",
        "§§§",
        "a man",
        "A man claps",
        "The answer is a man",
        "E.g. the man",
        "D.C. is the place",
        "A or B",
        "A and B",
        "The answer is A. The answer is B.",
        "The answer is not A, it is B",
        "Neither A nor B.",
        "C. crawl",
        "B's",
        "F",
        "they clap proudly and crawl",
        "He does not crawl.",
        "A. clap proudly B. the lady sitting down C. lay on floor",
        "7",
        7,
        -1,
        2.5,
        True,
        None,
        {"answer": 1},
        [],
        [1.0, 2.0],
        [0.1, 0.2, 0.3, 0.4, float("nan")],
        [0.1, 0.2, 0.3, 0.4, "x"],
        [True, False, False, False, False],
        [10**400, 0, 0, 0, 0],
        10**400,
        "The correct answer is not (B).",
        "Not C",
        "not (b)",
        "It isn't (C)",
        "The answer isn’t B.",
        "The answer cannot be (D).",
        "I would not choose B.",
        "I'm not sure if it is B",
        "The wrong answer is B",
        "Anything but B",
        "B is wrong.",
        "(B) is incorrect.",
        "B can be ruled out",
        "B does not fit",
        "B (wrong)",
        "Option B is not correct",
        "Option 2 is wrong",
        "The answer is B. The answer is not B.",
        "Both Caption A and Caption B are not supported.",
        "Option A and B are wrong",
        "Answer: A or B",
        "Answer: (A) or (B)",
        "Answer: A/B",
        "Answer: A, B",
        "Answer: A, B, or C",
        "(A) or (B)",
        "Option A or maybe B",
        "Option 1 or 2",
    ],
)
def test_what_is_no_clear_answer(raw: Any) -> None:
    assert chosen(raw, an_item()) is None


def test_numbers_are_texts_where_options_are_numbers() -> None:
    item = an_item(("4", "3", "2"))
    assert chosen("3", item) == 1
    assert chosen("0", item) is None
    assert chosen(0, item) == 0
    assert chosen("Option 3", item) == 2


@pytest.mark.parametrize(
    ("raw", "expected"), [("(B) is not moving", 1), ("B. not moving", 1), ("(C) is wrong", 2), ("D: False", 3)]
)
def test_an_option_that_denies_something_does_not_deny_its_letter(raw: str, expected: int) -> None:
    assert chosen(raw, an_item(("moving", "not moving", "is wrong", "False"))) == expected


@given(choices=st.integers(2, 6), data=st.data())
def test_a_letter_that_is_denied_is_no_answer(choices: int, data: st.DataObject) -> None:
    letter = string.ascii_uppercase[data.draw(st.integers(0, choices - 1))]
    form = data.draw(
        st.sampled_from(["not {}", "It is not ({}).", "{} is wrong", "({}) is not right", "The answer isn't {}."])
    )
    assert chosen(form.format(letter), an_item(tuple(f"text {n}" for n in "uvwxyz"[:choices]))) is None


HUGE = 10**400


def test_an_integer_beyond_floats_is_no_score() -> None:
    item = Item("1", "v", 0, choices=("x", "y"), media=(Media("v"),))
    assert finite(HUGE) is None and finite(-HUGE) is None and finite(float("nan")) is None and finite(True) is None
    assert finite(10**300) == 1e300
    assert matrix.parse([[HUGE, 1]], item) is None and caption.parse([HUGE, 1], item) is None
    assert chosen_label([HUGE, 1], item) is None and ranked([HUGE, 1], item) == [HUGE, 1]
    assert windows.parse([0, HUGE], item) is None and windows.parse([0, 1, HUGE], item) is None
    assert windows.parse(f"from 0:01 to {'9' * 400}:00", item) is None
    assert windows.parse(f"1 to {'9' * 400}", item) is None
    assert number.parse(HUGE, item) is None and number.parse("9" * 400, item) is None


def test_letters_that_are_options_of_their_own_are_ambiguous() -> None:
    item = an_item(("B", "A", "C"))
    assert chosen("A", item) is None
    assert chosen("C", item) == 2


def test_the_longest_of_nested_texts_counts() -> None:
    item = an_item(("red", "dark red", "blue"))
    assert chosen("it is dark red", item) == 1
    assert chosen("it is red, a dark red", item) is None


def test_ties_are_wrong_unless_the_texts_are_equal() -> None:
    item = an_item(("x", "y", "z"), answer=0)
    assert chosen([0.5, 0.5, 0.1], item) == (0, 1)
    assert is_tied([0.5, 0.5, 0.1], item) and not is_tied([0.6, 0.5, 0.1], item) and not is_tied("A or B", item)
    assert is_right((0, 1), item) == 0.0
    twins = an_item(("x", "y", "x"), answer=2)
    assert chosen([0.5, 0.1, 0.5], twins) == 0
    assert is_right(0, twins) == 1.0
    assert not is_tied([0.5, 0.1, 0.5], twins)
    assert chance(twins) == pytest.approx(2 / 3)


OPTION_TEXTS = st.lists(
    st.text(string.ascii_lowercase, min_size=3, max_size=9), min_size=2, max_size=8, unique=True
).map(tuple)
FORMS = (
    "{letter}",
    "({letter})",
    "{letter}.",
    "{letter}) {text}",
    "Answer: {letter}",
    "The answer is ({letter}).",
    "{text}",
)


@given(choices=OPTION_TEXTS, data=st.data())
def test_every_usual_form_of_an_option_is_that_option(choices: tuple[str, ...], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(choices) - 1))
    form = data.draw(st.sampled_from(FORMS))
    response = form.format(letter=string.ascii_uppercase[index], text=choices[index])
    assert chosen(response, an_item(choices)) == index


@given(
    raw=st.one_of(st.text(max_size=60), st.lists(st.floats() | st.none(), max_size=5), st.integers()), data=OPTION_TEXTS
)
def test_a_response_is_an_option_or_nothing(raw: Any, data: tuple[str, ...]) -> None:
    found = chosen(raw, an_item(data))
    indices = (found,) if isinstance(found, int) else found or ()
    assert all(index in range(len(data)) for index in indices)
    assert chosen(raw, an_item(data)) == found


@given(scores=st.lists(st.floats(-1, 1), min_size=2, max_size=6))
def test_scores_agree_with_a_slow_argmax(scores: list[float]) -> None:
    item = an_item(tuple(f"option {place}" for place in range(len(scores))))
    best = [i for i, score in enumerate(scores) if all(score >= other for other in scores)]
    assert chosen(scores, item) == (best[0] if len(best) == 1 else tuple(best))


@settings(max_examples=30, deadline=None)
@given(count=st.integers(2, 5), repeats=st.integers(1, 3), letter=st.integers(0, 4))
def test_a_constant_model_scores_chance_where_answers_are_balanced(count: int, repeats: int, letter: int) -> None:
    choices = tuple(f"option {place}" for place in range(count))
    items = [an_item(choices, n % count, str(n), f"v{n}") for n in range(count * repeats)]
    values = dict.fromkeys((item.item_id for item in items), string.ascii_uppercase[letter % count])
    result = ChoiceScorer("x")(items, Predictions(values), FAST)
    assert result.metric("accuracy").value == pytest.approx(1 / count)
    assert result.metric("accuracy/chance").value == pytest.approx(1 / count)
    assert result.metric("accuracy/constant").value == pytest.approx(1 / count)


def test_equal_scores_are_worth_nothing_and_are_counted() -> None:
    items = [an_item(answer=n, item_id=str(n)) for n in range(5)]
    result = ChoiceScorer("x")(items, Predictions({str(n): [0.3] * 5 for n in range(5)}), FAST)
    assert result.metric("accuracy").value == 0.0
    assert result.metric("ties").value == 5
    assert result.metric("n_parsed").value == 5
    assert all(row["tied"] for row in result.samples)


def test_baselines_by_hand() -> None:
    answers = [0, 0, 0, 1, 2, 2]
    items = [an_item(("x", "y", "z") if n else ("x", "y"), a, str(n), f"v{n}") for n, a in enumerate(answers)]
    blind = Predictions({"0": "A", "1": "B", "5": "C"})
    result = ChoiceScorer("x")(items, Predictions({str(n): "C" for n in range(6)}), ScoreSettings(blind=blind))
    assert result.metric("accuracy").value == pytest.approx(2 / 6)
    assert result.metric("n_parsed").value == 5  # there is no C among two
    assert result.metric("accuracy/constant").value == pytest.approx(3 / 6)
    assert result.metric("accuracy/majority").value == pytest.approx(3 / 6)
    assert result.metric("accuracy/chance").value == pytest.approx((1 / 2 + 5 / 3) / 6)
    assert result.metric("accuracy/blind").value == pytest.approx(2 / 6)


def a_script(**changes: Any) -> Script:
    defaults: dict[str, Any] = {
        "benchmark": "x",
        "name": "script",
        "protocol": "upper-case A",
        "rate": lambda raw, item: Rating(raw, float(raw == "A")) if raw else Rating(None, None),
        "printed": lambda counted: f"{1 / len(counted)}",
    }
    return Script(**{**defaults, **changes})


def test_a_script_leaves_out_what_it_leaves_out() -> None:
    items = [an_item(item_id=str(n)) for n in range(3)]
    result = a_script()(items, Predictions({"0": "A", "1": "", "2": "B"}), FAST)
    assert result.metric("accuracy").value == 0.5 and result.metric("accuracy").num_samples == 2
    assert [row["status"] for row in result.samples] == ["parsed", "unparsed", "parsed"]
    assert (result.metric("n_total").value, result.metric("n_scored").value) == (3, 2)


def test_a_script_stops_where_the_released_one_does() -> None:
    items = [an_item(item_id=str(n)) for n in range(2)]
    with pytest.raises(EvaluationError, match="needs an answer to every question; 1 of 2 are missing, e.g. 1"):
        a_script()(items, Predictions({"0": "A"}), FAST)
    with pytest.raises(EvaluationError, match="takes text; the answer to 0 is int 3"):
        a_script()(items, Predictions({"0": 3, "1": "A"}), FAST)
    with pytest.raises(EvaluationError, match="divides by zero"):
        a_script()(items, Predictions({"0": "", "1": ""}), FAST)
    with pytest.raises(ConfigError, match="no rotations"):
        a_script()(items, Predictions({"0": "A", "1": "A"}), ScoreSettings(options={"circular": "true"}))
    skipped = a_script()(items, Predictions({"0": "A"}), ScoreSettings(missing="skip"))
    assert skipped.metric("accuracy[missing=skip]").value == 1.0


def test_a_missing_answer_is_unseen_or_rated() -> None:
    items = [an_item(item_id=str(n)) for n in range(2)]
    unseen = a_script(missing="unseen")(items, Predictions({"0": "A"}), FAST)
    assert (unseen.metric("accuracy").value, unseen.metric("n_scored").value) == (1.0, 1)
    rated = a_script(missing="rate", rate=lambda raw, item: Rating(raw, float(raw == "A")))
    assert rated(items, Predictions({"0": "A"}), FAST).metric("accuracy").value == 0.5
