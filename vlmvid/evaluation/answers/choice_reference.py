"""Responses to questions with options as the benchmarks' own scripts read them, bug for bug.

Video-MME's and VLMEvalKit's readers give a letter, TempCompass's rules give whether the response is right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from vlmvid.errors import EvaluationError

# Two commas are missing in both lists, so that these two entries never match and "Best answer: C" keeps its B.
_MERGED = ("The best option isThe correct option is", "Best answer:Best option:")
_VLMEVALKIT_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    _MERGED[0],
    _MERGED[1],
    "Answer:",
    "Option:",
)
_VIDEO_MME_PREFIXES = (*_VLMEVALKIT_PREFIXES, "The correct answer", "The correct option")
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_API_FAILED = "Failed to obtain answer via API"
_NO_OPTION = "Z"


def mvbench_check(response: str, answer: str) -> bool:
    """MVBench's check_ans (OpenGVLab/Ask-Anything at 4dd8210b03, video_chat2/mvbench.ipynb; TVBench has the same).

    Only what stands before the first space is compared, as substrings both ways and in lower case: an empty response,
    ``(`` and ``)`` are part of ``(c)`` and so right.

    Args:
        response: what the model answered; the notebook puts the forced ``(`` before it.
        answer: ``(C) text``.

    Raises:
        EvaluationError: the answer has no text after its letter, where the script stops.
    """
    if not answer.partition(" ")[2]:
        raise EvaluationError(f"check_ans stops at an option without text, here {answer!r}; expected '(C) text'")
    said, right = response.lower().split(" ")[0], answer.lower().split(" ")[0]
    return said.replace(".", "") in right or right in said


def video_mme_letter(response: str) -> str:
    """The letter that Video-MME's script reads, or "" (thanku-all/parse_answer at afd52cfe3d).

    Known openings are cut out wherever they stand, then the first capital A, B, C or D counts, also within a word:
    "Definitely C" is D, "A person, so B" is A, and lower case is never an answer.
    """
    return _first_capital(response, _VIDEO_MME_PREFIXES)


def vlmevalkit_letter(response: str, question: str) -> str:
    """The letter that VLMEvalKit gives a response to Video-MME with ``exact_matching`` (at e8e78f05f3).

    As Video-MME's script with two openings fewer. Where that finds nothing it matches option letters and texts, which
    it looks for in the lines of the question; questions of Video-MME have none, so that the answer is Z: wrong. With a
    judge it asks a language model here, and after three failures draws a random option; that is not reproduced.
    """
    return _first_capital(response, _VLMEVALKIT_PREFIXES) or _infer(response, _options_in(question)) or _NO_OPTION


def _first_capital(response: str, prefixes: Sequence[str]) -> str:
    text = response.strip()
    for prefix in prefixes:
        text = text.replace(prefix, "")
    found = re.search("[ABCD]", text)
    return found.group() if found else ""


def _options_in(question: str) -> dict[str, str]:
    found = {}
    for index, line in enumerate(question.split("\n")[1:]):
        letter = chr(ord("A") + index)
        _, mark, text = line.partition(f"{letter}.")
        if mark:
            found[letter] = text.strip(". \n")
    return found


def _infer(response: str, options: Mapping[str, str]) -> str | None:
    """The option by its letter among the last words, else by the only text that occurs."""
    letter = None if _API_FAILED in response else _infer_letter(response, options)
    if letter:
        return letter
    lowered = response.lower()
    if len(lowered) > 2 * sum(len(text) for text in options.values()):
        return None
    held = [letter for letter, text in options.items() if text.lower() in lowered]
    return held[0] if len(held) == 1 else None


def _infer_letter(response: str, options: Mapping[str, str]) -> str | None:
    if any(refusal in response for refusal in _REFUSALS):
        return _NO_OPTION
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", response).split()
    present = [letter for letter in options if letter in words]
    if len(present) == 1 and words.index(present[0]) > len(words) - 5:
        return present[0]
    if not present and _NO_OPTION in words:
        return _NO_OPTION
    said = re.search(r"(?i)(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", response)
    return said.group(1).upper() if said and said.group(1).upper() in options else None


def tempcompass_multi_choice(response: str, answer: str) -> bool | None:
    """Whether ``--disable_llm`` rates a multi-choice response right; None where no rule applies, which it rates 0.

    llyx97/TempCompass at e1b4631664, eval_multi-choice.py: equal, one capital letter, or ``B.`` / ``B)`` at the start.
    """
    response = _tempcompass_text(response)
    if response == answer:
        return True
    if response in ("A", "B", "C", "D"):
        return response == answer[0]
    for mark in (".", ")"):
        if response[:1] in ("A", "B", "C", "D") and response[1:2] == mark:
            return response[0] == answer[0]
    return None


def tempcompass_yes_no(response: str, answer: str) -> bool | None:
    """The same for yes and no: what the response starts with in lower case, so that "not sure" is a no."""
    response = _tempcompass_text(response).lower()
    said = next((word for word in ("yes", "no") if response.startswith(word)), None)
    return None if said is None else said == answer


def tempcompass_caption_matching(response: str, question: str, answer: str) -> bool | None:
    """The same for caption matching: a whole option, its sentence, or its label ("Option 2", "2").

    The script cuts a sentence at ": ", and a response at its first ") ". Of matches by the whole option, by sentence
    and by label the last one counts.

    Raises:
        EvaluationError: an option has no ": ", where the script stops.
    """
    response = _tempcompass_text(response)
    options = question.split("\n")[1:]
    if not all(": " in option for option in options):
        raise EvaluationError(f"TempCompass's script stops at an option without ': ', here in {question!r}")
    sentences = [option.split(": ")[1] for option in options]
    labels = [option.split(": ")[0] for option in options]
    short = [label.replace("Sentence ", "").replace("Option ", "").replace("Caption ", "") for label in labels]
    after_bracket = response.split(") ")[1] if ") " in response else None
    matched = [option for option in options if option == response]
    matched += [sentence for sentence in sentences if sentence in (response, after_bracket)]
    matched += [label for label in [*labels, *short] if label in (response, response.replace(".", ""))]
    if not matched:
        return None
    label = answer.split(": ")[0]
    return matched[-1] in (answer, answer.split(":")[0], answer.split(": ")[1], label.split()[1])


def _tempcompass_text(response: str) -> str:
    return response.replace("</s>", "").strip()
