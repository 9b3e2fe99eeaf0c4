"""Parsers of yes and no, and the metrics that constants cannot win."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.answers import yes_no as parsers
from vlmvid.evaluation.benchmarks.hallucination import vid_halluc_mcq, vid_halluc_sth, vid_halluc_tsh
from vlmvid.evaluation.scoring.base import Item, Media
from vlmvid.metrics import macro_rate_result, matthews_correlation, yes_no_scores

ITEM = Item("i", "v", "yes", media=(Media("v.mp4"),))
LETTERED = Item("i", "v", "A", choices=("A", "B"), groups={"question_type": "multiple_choice"})
OPTIONS = Item("i", "v", "A", choices=("a man runs", "a man walks", "a man jumps", "a man sits"))
FAST = {"seed": 0, "num_bootstrap": 200}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("No", "no"),
        ("no\n", "yes"),
        ("NO", "yes"),
        ("Nope.", "yes"),
        ("None", "yes"),
        ("", "yes"),
        ("I do not know.", "no"),
        ("Yes, there is no doubt.", "no"),
        ("Yes. No other.", "yes"),
    ],
)
def test_pope_reads_as_its_script(text: str, answer: str) -> None:
    assert parsers.pope.parse(text, ITEM) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("No", "no"),
        ("NO!", "no"),
        ("no\n", "no"),
        ("Yes, there is no doubt.", "yes"),
        ("There is no dog.", "no"),
        ("It says yes.", "yes"),
        ("Nope.", None),
        ("None", None),
        ("", None),
        ("It is not there", None),
        ("either yes or no", None),
        ("yes and no", None),
        ("Yes/No", None),
        ("Yes or no?", None),
        ("No, yes.", None),
        ("Yes. No.", None),
        ("yes\nno", None),
        ("not yes", None),
        ("I wouldn't say no", None),
        ("Yes. No other.", "yes"),
        ("Yes and there is no doubt", "yes"),
        ("No, no.", "no"),
        ("It is not there, no", "no"),
        ("**Yes**", "yes"),
        (True, "yes"),
        (False, "no"),
        (None, None),
        (3, None),
        (["yes"], None),
    ],
)
def test_yes_no_reads_what_was_said_and_nothing_else(text: object, answer: str | None) -> None:
    assert parsers.yes_no.parse(text, ITEM) == answer


@given(st.text())
def test_yes_no_is_one_of_three_and_says_none_without_the_words(text: str) -> None:
    found = parsers.yes_no.parse(text, ITEM)
    assert found in ("yes", "no", None)
    if not re.search(r"yes|no", text, re.IGNORECASE):
        assert found is None
    assert parsers.pope.parse(text, ITEM) in ("yes", "no")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes!", "yes"),
        ("yes, no", None),  # the comma touches a space, so it goes and both words stay
        ("yes,no", None),
        ("no-one", "no"),  # a hyphen that touches no space becomes one
        ("no-one - said", None),  # but it vanishes when another of its kind does
        ("Nope", None),
        ("yes.", "yes"),
        ("I have 3,000 / yes", "yes"),
    ],
)
def test_vlmevalkit_takes_the_one_word_that_occurs(text: str, answer: str | None) -> None:
    assert parsers.vlmevalkit.parse(text, ITEM) == answer


def test_punctuation_is_stripped_as_in_vqa_with_at_most_32_full_stops() -> None:
    assert parsers.without_punctuation("a;b (c) d, e?f") == "a b c d e f"
    assert parsers.without_punctuation("1,000 a-b") == "1000 ab"
    assert parsers.without_punctuation("3.5 a.b.") == "3.5 ab"
    assert parsers.without_punctuation("." * 40) == "." * 8


@pytest.mark.parametrize(
    ("text", "shown", "hidden"),
    [
        ("I cannot tell.", "unclear", "unclear"),
        ("No, I can't see it", "no", "unclear"),
        ("Yes", "yes", "yes"),
        ("unclear", "unclear", "unclear"),
        ("Yes/No", None, None),
        ("§§§", None, None),
        ("", None, None),
    ],
)
def test_declining_counts_first_where_nothing_is_shown(text: str, shown: str | None, hidden: str | None) -> None:
    assert parsers.yes_no_unclear.parse(text, ITEM) == shown
    assert parsers.yes_no_unclear.parse(text, Item("i", "v", "yes")) == hidden


def test_quirks_of_the_other_scripts() -> None:
    assert parsers.contains_yes.parse("Yesterday", ITEM) == "yes"
    assert parsers.contains_yes.parse("certainly", ITEM) == "no"
    assert parsers.amber.parse("yes", ITEM) is None and parsers.amber.parse("Yes", ITEM) == "yes"
    assert parsers.starts_with.parse("Nobody", ITEM) == "no"
    assert parsers.starts_with.parse(" no", ITEM) is None and parsers.starts_with.parse(None, ITEM) is None
    assert parsers.lower_text.parse(" YES\n", ITEM) == "yes"
    assert parsers.first_position.parse("no, yes", ITEM) == "no"
    assert parsers.first_position.parse("a picture of B", LETTERED) == "A"
    assert parsers.first_position.parse("neither", ITEM) is None


@pytest.mark.parametrize(
    ("text", "right", "script"),
    [
        ("A", "A", "A"),
        ("B, D", "BD", "BD"),
        ("BD", "BD", ""),
        ("A and C.", "AC", "AC"),
        ("A man walks", "B", "A"),
        ("The answer is C", None, "C"),
        ("(B) a man walks\n(D) a man sits", "BD", "BD"),
        ("a man walks, a man sits", "BD", "B"),
        ("nothing", None, ""),
    ],
)
def test_letters_and_the_script_that_takes_articles_for_them(text: str, right: str | None, script: str) -> None:
    assert vid_halluc_mcq.BENCHMARK.score.parser.parse(text, OPTIONS) == right  # type: ignore[attr-defined]
    assert vid_halluc_mcq._as_letters(text, OPTIONS) == script


@pytest.mark.parametrize(
    ("text", "right", "script"),
    [
        ("AB", "AB", "AB"),
        ("b.", "B", "None"),
        ("Action A happens before Action B", "AB", "AB"),
        ("Action B happens after Action A", "AB", "BA"),
        ("Action B, then action A", "BA", "BA"),
        ("Only action B", "B", "B"),
        ("a. action b) action a", "BA", ".BA"),
        ("It is not clear whether action a or action b", None, "None"),
        ("neither", None, "None"),
    ],
)
def test_orders_and_the_script_that_reads_them_by_character_classes(text: str, right: str | None, script: str) -> None:
    assert vid_halluc_tsh.BENCHMARK.score.parser.parse(text, OPTIONS) == right  # type: ignore[attr-defined]
    assert vid_halluc_tsh._as_script(text, OPTIONS) == script


def test_similarities_are_rescaled_from_one_half() -> None:
    assert vid_halluc_sth.rescaled(0.5) == 0 and vid_halluc_sth.rescaled(-1.0) == 0
    assert vid_halluc_sth.rescaled(1.0) == pytest.approx(1.0)
    low, high, middle = (1 / (1 + np.exp(-x)) for x in (0.5, 1.0, 0.75))
    assert vid_halluc_sth.rescaled(0.75) == pytest.approx((middle - low) / (high - low))


pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(pairs)
def test_matthews_is_the_correlation_of_the_two_columns(rows: list[tuple[bool, bool]]) -> None:
    predicted, label = (np.array(column) for column in zip(*rows, strict=True))
    found = matthews_correlation(predicted, label)
    if predicted.std() == 0 or label.std() == 0:
        assert found == 0
    else:
        assert found == pytest.approx(np.corrcoef(predicted, label)[0, 1])


@given(pairs)
def test_balanced_accuracy_bias_and_share(rows: list[tuple[bool, bool]]) -> None:
    predicted, label = (np.array(column) for column in zip(*rows, strict=True))
    scores = yes_no_scores(predicted, label)
    assert scores.yes_bias == pytest.approx(predicted.sum() / len(rows) - label.sum() / len(rows))
    if label.any() and not label.all():
        by_label = [(predicted == label)[label == value].mean() for value in (True, False)]
        assert scores.balanced_accuracy == pytest.approx(np.mean(by_label))
        constant = yes_no_scores(np.ones(len(rows), dtype=bool), label)
        assert constant.balanced_accuracy == 0.5
    else:
        assert np.isnan(scores.balanced_accuracy)
    wrong = predicted != label
    if wrong.any():
        assert scores.false_yes_share == pytest.approx(predicted[wrong].mean())
    else:
        assert np.isnan(scores.false_yes_share)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=2, max_size=40))
def test_the_macro_mean_is_the_mean_of_means(rows: list[tuple[str, bool]]) -> None:
    strata, hits = zip(*rows, strict=True)
    result = macro_rate_result("macro", [float(hit) for hit in hits], strata, **FAST)
    means = [np.mean([hit for name, hit in rows if name == stratum]) for stratum in sorted(set(strata))]
    assert result.value == pytest.approx(np.mean(means))
    if result.ci_low is not None and result.ci_high is not None:
        assert 0 <= result.ci_low <= result.value <= result.ci_high <= 1


def test_the_macro_interval_is_about_that_of_resampling_each_stratum() -> None:
    rng = np.random.default_rng(5)
    strata = ["a"] * 900 + ["b"] * 100
    hits = np.concatenate([rng.random(900) < 0.9, rng.random(100) < 0.5]).astype(float)
    result = macro_rate_result("macro", hits, strata, seed=1, num_bootstrap=2000)
    drawn = [(rng.choice(hits[:900], 900).mean() + rng.choice(hits[900:], 100).mean()) / 2 for _ in range(2000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert result.ci_low == pytest.approx(low, abs=0.01) and result.ci_high == pytest.approx(high, abs=0.01)
    assert result.stderr == pytest.approx(np.std(drawn), rel=0.1)
    perfect = macro_rate_result("macro", np.ones(1000), strata, **FAST)
    assert perfect.value == 1 and perfect.ci_high == 1 and perfect.ci_low is not None and perfect.ci_low > 0.99


def test_the_macro_mean_refuses_what_is_no_rate() -> None:
    with pytest.raises(EvaluationError, match="rates lie in"):
        macro_rate_result("macro", [0.5, 2.0], ["a", "b"], **FAST)
    with pytest.raises(EvaluationError, match="one stratum per value"):
        macro_rate_result("macro", [0.5], ["a", "b"], **FAST)
