from __future__ import annotations

import pytest

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.answers.choice_lmms import (
    egoschema_letter,
    mcq_letter,
    mvbench_answer,
    nextqa_letter,
    tvbench_letter,
)
from vlmvid.evaluation.answers.choice_reference import (
    mvbench_check,
    tempcompass_caption_matching,
    tempcompass_multi_choice,
    tempcompass_yes_no,
    video_mme_letter,
    vlmevalkit_letter,
)

BABY = ("clap proudly", "the lady sitting down", "lay on floor", "just picked it up", "crawl")


# The vectors of the reference: an empty answer and brackets are part of "(c)".
@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("", True),
        ("(", True),
        (")", True),
        ("c", True),
        ("( c)", True),
        ("A", False),
        ("(C) foo", True),
        ("(c).", True),
        ("(a) c", False),
        ("x(c)x", True),
        ("foo", False),
    ],
)
def test_mvbench_check_ans(response: str, right: bool) -> None:
    assert mvbench_check(response, "(C) foo") is right


def test_mvbench_check_ans_stops_at_an_option_without_text() -> None:
    with pytest.raises(EvaluationError, match="option without text, here '.C. '"):
        mvbench_check("c", "(C) ")


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("Best answer: C", "B"),
        ("A person is shown, so B", "A"),
        ("Definitely C", "D"),
        ("c", ""),
        ("", ""),
        ("The answer is C.", "C"),
        ("The best option is D", "D"),
        ("Best option: C", "B"),
        ("The correct option is: C", "C"),
        ("it says nothing in more than ten words of lower case at all here", ""),
    ],
)
def test_video_mme_takes_the_first_capital(response: str, letter: str) -> None:
    assert video_mme_letter(response) == letter


def test_vlmevalkit_reads_options_from_the_question_only() -> None:
    question = "What?\nA. red apple\nB. green pear.\nnothing\nD. x"
    assert vlmevalkit_letter("Best answer: C", question) == "B"
    assert vlmevalkit_letter("it is a green pear", question) == "B"
    assert vlmevalkit_letter("it is a green pear", "What?") == "Z"
    assert vlmevalkit_letter("a green pear and a red apple", question) == "Z"
    assert vlmevalkit_letter("a green pear which is much longer than twice all options together", question) == "Z"
    assert vlmevalkit_letter("nan", "What?") == "Z"


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("A", "A"),
        ("(B)", "B"),
        ("The answer is Blue", "B"),  # a letter within a word counts after a phrase
        ("A person is shown, so B", "A"),  # the start outranks the end
        ("so it is B", "B"),
        ("Option B. or (C) here", "C"),
        ("x A. y A. B. z", "B"),
        ("Definitely maybe", "D"),
        ("no idea", ""),
        ("  ", ""),
        ("정답은 D 입니다", "D"),
    ],
)
def test_lmms_eval_mcq_extract(response: str, letter: str) -> None:
    assert mcq_letter(response, "ABCD") == letter


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("A", "A"),
        ("A. clap proudly", "A"),
        ("I say (B) or (C)", "C"),
        ("USA or B", "B"),
        ("the USA said B", "B"),
        ("NASA says", "A"),  # the last letter of a word before a space
        ("the baby will at last lay on floor", "C"),
        ("lay on floor", None),  # too short for texts: a random option there
        ("", None),
        ("(a)", None),
    ],
)
def test_lmms_eval_next_qa(response: str, letter: str | None) -> None:
    assert nextqa_letter(response, BABY) == letter


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("B or C", "B"),
        ("C. because A is wrong", "C"),
        ("A x C. y A z", "C"),  # A counts where it stands last
        ("so a. clap proudly is what they do", "A"),
        ("clap proudly", None),
    ],
)
def test_lmms_eval_egoschema(response: str, letter: str | None) -> None:
    assert egoschema_letter(response, [f"{mark}. {text}" for mark, text in zip("ABCDE", BABY, strict=True)]) == letter


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("B", "B"),
        ("b. the lady", "B"),
        ("a man walks", "A"),
        ("the man walks", "the man walks"),
        ("(C)", "C"),
        ("Option: (d) yes", "D"),
        ("F", "f"),
        ("1,000 e-mails", "1000 emails"),
        ("e-mails", "E"),
    ],
)
def test_lmms_eval_mvbench(response: str, answer: str) -> None:
    assert mvbench_answer(response) == answer


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("(b) right", "B"),
        ("cat", ""),
        ("both", "B"),
        ("I think it is b", ""),  # the first letter alone is I
        ("the Right.", "B"),
        ("to the left. or the right.", ""),
        ("", ""),
    ],
)
def test_lmms_eval_tvbench(response: str, letter: str) -> None:
    assert tvbench_letter(response, ["Left.", "Right."]) == letter


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("C. jumping", True),
        ("C", True),
        ("C) x", True),
        ("A. jumping", False),
        ("</s>C ", True),
        ("(C)", None),
        ("jumping", None),
        ("c", None),
        ("", None),
    ],
)
def test_tempcompass_multi_choice(response: str, right: bool | None) -> None:
    assert tempcompass_multi_choice(response, "C. jumping") is right


def test_tempcompass_yes_no_reads_the_beginning() -> None:
    assert tempcompass_yes_no("Not sure", "no") is True
    assert tempcompass_yes_no("yesterday", "yes") is True
    assert tempcompass_yes_no("It is. Yes", "yes") is None


def test_tempcompass_caption_matching() -> None:
    question = "Which matches?\nOption 1: a man: runs\nOption 2: a dog"
    assert tempcompass_caption_matching("Option 2", question, "Option 2: a dog") is True
    assert tempcompass_caption_matching("2.", question, "Option 2: a dog") is True
    assert tempcompass_caption_matching("x) a dog", question, "Option 2: a dog") is True
    assert tempcompass_caption_matching("Option 1: a man: runs", question, "Option 2: a dog") is False
    assert tempcompass_caption_matching("a man", question, "Option 1: a man: runs") is True  # cut at ": "
    assert tempcompass_caption_matching("a man: runs", question, "Option 1: a man: runs") is None
    assert tempcompass_caption_matching("I say Option 2", question, "Option 2: a dog") is None
    with pytest.raises(EvaluationError, match="stops at an option without ': '"):
        tempcompass_caption_matching("x", "q\nOption 1 a dog", "Option 1: a dog")
