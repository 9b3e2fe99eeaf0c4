"""What the benchmarks with ANLS share: `docvqa` and `st_vqa`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError
from vlmvid.evaluation.answers.base import Parser, text
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks.qa.open_answers import compat_outcomes, compat_result, group_values, read_rows_of
from vlmvid.evaluation.scoring.aggregate import AnswerScorer
from vlmvid.evaluation.scoring.base import AnnotationFile, Item, Scorer, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import find_file
from vlmvid.metrics import anls_score, levenshtein

THRESHOLD = 0.5


def read_questions(path: Path, file: AnnotationFile, name: str | None = None) -> list[dict[str, Any]]:
    """The questions under ``data``; raises DatasetError for one without answers, as in the test splits."""
    found = find_file(path, file, name)
    rows = read_rows_of(found, file, "data")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row["answers"], list) or not row["answers"]:
            raise DatasetError(
                f"{found}, entry {number}: answers must be a list of texts, got {row['answers']!r}; take a split with "
                "public answers"
            )
    return rows


@lru_cache(maxsize=1 << 16)
def _plain(answer: str) -> str:
    return " ".join(answer.lower().split())


def anls_scorer(benchmark: str, title: str) -> AnswerScorer:
    """ANLS over the items' answers in lower case and with single spaces."""
    return AnswerScorer(
        benchmark=benchmark,
        parser=text,
        score=lambda parsed, item: anls_score(_plain(parsed), [_plain(answer) for answer in item.answer], THRESHOLD),
        about=f"{title}: ANLS, 1 - NL to the nearest answer, 0 where NL >= {THRESHOLD}, in lower case",
        metric="anls",
        constants=("yes", "no"),
        answer_text=lambda item: item.answer[0],
    )


def _as_lmms_eval(parsed: str, item: Item) -> float:
    distances = []
    for answer in item.answer:
        longer = max(len(answer.upper()), len(parsed.upper()))
        distances.append(levenshtein(_plain(answer), _plain(parsed)) / longer if longer else 0.0)
    best = 1 - min(distances)
    return best if best >= THRESHOLD else 0.0


def lmms_eval_scorer(benchmark: str) -> Scorer:
    """lmms-eval's anls at 75571cfe0f: texts are cleaned before they are compared, but their lengths taken before that.

    So spaces around an answer raise its score, and an NL of exactly 0.5 scores 0.5, where the paper says 0.
    """

    def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
        parser = Parser("as-text", lambda raw, item: raw if isinstance(raw, str) else str(raw))
        outcomes = compat_outcomes(items, predictions, parser, _as_lmms_eval, stop="lmms-eval scores what it generated")
        values = group_values(outcomes, "anls")
        return compat_result(
            benchmark,
            "lmms-eval",
            outcomes,
            values,
            printed=f"anls: {values['anls'][0]:.4f}",
            about="lmms-eval's anls: lengths of the uncleaned texts, 0 below a similarity of 0.5",
        )

    return score


def answers_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A question's answers as texts."""
    return tuple(str(answer) for answer in row["answers"])
