"""Compat mode ``llava-med`` of `path_vqa` (microsoft/LLaVA-Med at b9a98a7, llava/eval/run_eval.py).

The functions for single answers are those of PathVQA's own script, which LLaVA-Med took over.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.answers.vqa_text import OFFICIAL, vqa_normal
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks.qa.open_answers import Value, compat_outcomes, compat_result
from vlmvid.evaluation.scoring.aggregate import Outcome
from vlmvid.evaluation.scoring.base import AnnotationFile, Item, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import read_json

CANDIDATES = AnnotationFile("candidate.json", ("0",), "https://github.com/microsoft/LLaVA-Med (v1.0.0)")
_UNIFORM = (0.25, 0.25, 0.25, 0.25)
_ORDERS = {"bleu": _UNIFORM, "bleu_1": (1, 0, 0, 0), "bleu_2": (0, 1, 0, 0), "bleu_3": (0, 0, 1, 0)}


def released_exact_match(candidate: Sequence[str], reference: Sequence[str]) -> float:
    """PathVQA's calculate_exactmatch: the distinct words of the reference that occur, over the words of the answer."""
    return sum(word in candidate for word in set(reference)) / len(candidate) if candidate else 0.0


def released_f1(candidate: Sequence[str], reference: Sequence[str]) -> tuple[float, float, float]:
    """PathVQA's calculate_f1score, with its precision and recall: a word counts as often as the *answer* repeats it."""
    given, right = Counter(candidate), Counter(reference)
    hits = sum(count for word, count in given.items() if word in right)
    if not hits:
        return 0.0, 0.0, 0.0
    lost = sum(count for word, count in right.items() if word not in given)
    precision, recall = hits / len(candidate), hits / (hits + lost)
    return 2 * precision * recall / (precision + recall), precision, recall


def sentence_bleu(reference: Sequence[str], hypothesis: Sequence[str], weights: Sequence[float]) -> float:
    """BLEU of one sentence without smoothing, as NLTK's: an order without a match counts as the smallest float."""
    matches, totals = [], []
    for order in range(1, len(weights) + 1):
        given, right = (
            Counter(tuple(words[place : place + order]) for place in range(len(words) - order + 1))
            for words in (hypothesis, reference)
        )
        matches.append(sum((given & right).values()))
        totals.append(max(1, sum(given.values())))
    if not matches[0]:
        return 0.0
    logs = (
        weight * math.log(match / total if match else sys.float_info.min)
        for weight, match, total in zip(weights, matches, totals, strict=True)
    )
    penalty = 1.0 if len(hypothesis) > len(reference) else math.exp(1 - len(reference) / len(hypothesis))
    return penalty * math.exp(math.fsum(logs))


def normalised(answer: str) -> str:
    """LLaVA-Med's normalize_word: VQA's normalisation with its slips, and no commas."""
    return vqa_normal(answer, OFFICIAL).replace(",", "")


def closest(prediction: Sequence[str], candidates: Sequence[str]) -> str:
    """The first candidate with the largest share of its words in the prediction, each distinct word counted once."""

    def share(candidate: str) -> float:
        words = set(candidate.lower().split())
        return sum(word in words for word in set(prediction)) / len(words) if words else 0.0

    return max(candidates, key=share)


class _Open(NamedTuple):
    """The scores of one open answer."""

    exact: float
    f1: float
    precision: float
    recall: float
    bleu: tuple[float, ...]
    hit: float


def score_as_llava_med(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """LLaVA-Med's run_eval.py: open answers by words, closed ones by substring.

    A closed answer is right if the label is a substring of it: "I do not know" is a no. The accuracy that papers quote
    for open questions is the *recall* of their words. "exact match" is that of `released_exact_match`. Its line of
    counts has the names of open and closed swapped. Open accuracy, which takes the nearest of given candidates for the
    answer, needs the option ``candidates``; without it its row is left out, where the script stops. The main metric
    here, ``accuracy``, is the mean of recall and closed hits over all questions; the script does not print it. The
    lines are those of its table, without the frame.

    Raises EvaluationError where it stops: other answers than questions, or no open question.
    """
    extra = predictions.extra(item.item_id for item in items)
    if extra:
        raise EvaluationError(f"run_eval.py needs answers to the very questions; {len(extra)} others, e.g. {extra[0]}")
    candidates = _candidates(settings)
    outcomes = compat_outcomes(items, predictions, _text, _score, stop="run_eval.py needs an answer to every question")
    open_rows = [row for row in outcomes if row.item.groups["answer_type"] == "open"]
    closed_rows = [row for row in outcomes if row.item.groups["answer_type"] == "closed"]
    if not open_rows:
        raise EvaluationError("run_eval.py divides by the number of open questions; there is none")
    scores = [_open(row, candidates) for row in open_rows]
    values: dict[str, Value] = {"accuracy": _mean([row.score for row in outcomes])}
    values["exact_match_open"] = _mean([one.exact for one in scores])
    values["token_f1_open"] = _mean([one.f1 for one in scores])
    values["token_precision_open"] = _mean([one.precision for one in scores])
    values["token_recall_open"] = _mean([one.recall for one in scores])
    for place, name in enumerate(_ORDERS):
        values[f"{name}_open"] = _mean([one.bleu[place] for one in scores])
    if candidates:
        values["candidate_accuracy_open"] = _mean([one.hit for one in scores])
    values["accuracy_answer_type_closed"] = _mean([row.score for row in closed_rows]) if closed_rows else (0.0, 0)
    return compat_result(
        "path_vqa",
        "llava-med",
        outcomes,
        values,
        printed=_lines(values, len(open_rows), len(closed_rows)),
        about="LLaVA-Med's run_eval.py: open = word recall, closed = the label is a substring of the answer",
    )


_NAMES = {
    "exact_match_open": "exact match score",
    "token_f1_open": "f1 score",
    "token_precision_open": "precision",
    "token_recall_open": "recall",
    "bleu_open": "bleu_score",
    "bleu_1_open": "bleu_score_1",
    "bleu_2_open": "bleu_score_2",
    "bleu_3_open": "bleu_score_3",
    "candidate_accuracy_open": "open accuracy",
    "accuracy_answer_type_closed": "yes/no accuracy",
}


def _lines(values: dict[str, Value], num_open: int, num_closed: int) -> str:
    rows = [f"{shown} {100 * values[name][0]:g}" for name, shown in _NAMES.items() if name in values]
    return "\n".join([f"num_open {num_closed} || num_close {num_open}", "Metric Performance", *rows])


def _candidates(settings: ScoreSettings) -> tuple[str, ...]:
    if "candidates" not in settings.options:
        return ()
    path = Path(settings.options["candidates"])
    found = read_json(path, dict, CANDIDATES).get("0")
    if not isinstance(found, list) or not found:
        raise EvaluationError(f"{path}: expected a list of answers under '0', got {found!r:.60}")
    return tuple(normalised(str(one)) for one in found)


def _said(raw: Any, item: Item) -> str:
    return normalised(str(raw).lower())


_text = Parser("llava-med", _said)


def _pair(parsed: str, item: Item) -> tuple[list[str], list[str]]:
    # The script normalises once in its loop and again in each function.
    right = normalised(normalised(item.answer.lower()))
    return normalised(parsed).lower().split(), right.lower().split()


def _score(parsed: str, item: Item) -> float:
    if item.groups["answer_type"] == "closed":
        label = normalised(item.answer.lower())
        return float(("yes" in parsed or "no" in parsed) and label in parsed)
    return released_f1(*_pair(parsed, item))[2]


def _open(row: Outcome, candidates: Sequence[str]) -> _Open:
    said, right = _pair(row.parsed, row.item)
    once = normalised(row.item.answer.lower()).split()
    bleu = tuple(sentence_bleu(once, row.parsed.split(), weights) for weights in _ORDERS.values())
    hit = float(closest(said, candidates) == " ".join(right)) if candidates else 0.0
    return _Open(released_exact_match(said, right), *released_f1(said, right), bleu, hit)


def _mean(values: Sequence[float]) -> Value:
    return sum(values) / len(values), len(values)
