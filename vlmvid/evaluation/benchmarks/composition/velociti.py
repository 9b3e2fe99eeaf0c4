"""VELOCITI: which of two captions a clip entails, or whether (arXiv 2406.10889; katha-ai/VELOCITI at 8d66ddbb58)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.answers.choice import choice
from vlmvid.evaluation.answers.matrix import row as numbers_row
from vlmvid.evaluation.answers.yes_no import yes_no
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.scoring.aggregate import AnswerScorer
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.matrix import caption_scorer, compat_result
from vlmvid.evaluation.scoring.predictions import Predictions, from_pairs, read_document, read_predictions
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json_lines, unique_items

MODES = ("classic", "strict", "mcq")
FILE = AnnotationFile(
    "velociti.jsonl",
    ("test_name", "video_id", "event", "pos", "neg"),
    "https://huggingface.co/datasets/katha-ai-iiith/VELOCITI (split test, saved as JSON Lines)",
)
# The columns of the authors' result files, by what they hold.
_PAIRS = (("pos_score", "neg_score"), ("pos_pred", "neg_pred"), ("gt_A", "gt_B"))


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The items; ids are ``TEST_NUMBER``, numbered from 0 within a test in the order of the file."""
    found = find_file(path, FILE)
    choose(options, "mode", MODES)
    seen: dict[str, int] = {}
    items = []
    for entry in read_json_lines(found, FILE):
        test = str(entry["test_name"])
        number = seen[test] = seen.get(test, -1) + 1
        video = str(entry["video_id"]).split(".")[0]
        items.append(
            Item(
                item_id=f"{test}_{number}",
                video_id=video,
                answer=0,
                choices=(str(entry["pos"]), str(entry["neg"])),
                media=(Media(video),),
                groups={"test": test},
            )
        )
    return unique_items(items, found)


def read_results(path: Path, items: Sequence[Item]) -> Predictions:
    """The authors' result files, one CSV per test in a folder and in the order of the items, or a file of predictions.

    Raises:
        EvaluationError: no CSV file, unknown columns, or rows that are not those of the items.
    """
    if path.is_file() and path.suffix.lower() != ".csv":
        return read_predictions(path)
    pairs: list[tuple[str, Any]] = []
    files = [path] if path.is_file() else sorted(path.glob("*.csv"))
    if not files:
        raise EvaluationError(f"{path} holds no .csv file; expected one for each test, e.g. action_adv.csv")
    for file in files:
        asked = [item for item in items if item.groups["test"] == file.stem]
        rows = read_document(file)
        if len(rows) != len(asked):
            raise EvaluationError(f"{file} has {len(rows)} rows for the {len(asked)} items of the test {file.stem!r}")
        for number, (row, item) in enumerate(zip(rows, asked, strict=True), start=1):
            names = next((pair for pair in _PAIRS if set(pair) <= row.keys()), None)
            if names is None or str(row.get("video_id", item.video_id)).split(".")[0] != item.video_id:
                raise EvaluationError(
                    f"{file}, row {number}: expected {' or '.join(' and '.join(pair) for pair in _PAIRS)} of the video "
                    f"{item.video_id}, got {row}"
                )
            pairs.append((item.item_id, [_cell(row[name]) for name in names]))
    return from_pairs(pairs, str(path))


def _cell(text: str) -> Any:
    try:
        return float(text)
    except (TypeError, ValueError):
        return text


def _entailed(raw: Any, item: Item) -> tuple[float, float] | None:
    """Probabilities of yes for the true and the false caption; None where one is not in [0, 1] or unreadable.

    Each is a probability, an answer ``Yes`` or ``No``, or an object with the probabilities of both first tokens,
    ``{"yes": ..., "no": ...}``.
    """
    if not isinstance(raw, list | tuple) or len(raw) != 2:
        return None
    found = [_probability(value, item) for value in raw]
    first, second = found
    return None if first is None or second is None else (first, second)


def _probability(value: Any, item: Item) -> float | None:
    if isinstance(value, str):
        return {"yes": 1.0, "no": 0.0, None: None}[yes_no.parse(value, item)]
    if isinstance(value, Mapping):
        both = numbers_row([value.get("yes"), value.get("no")], 2)
        return both[0] / sum(both) if both is not None and min(both) >= 0 and sum(both) > 0 else None
    one = numbers_row([value], 1)
    return one[0] if one is not None and 0 <= one[0] <= 1 else None


def _letters(raw: Any, item: Item) -> tuple[int, int] | None:
    """The options chosen when the true caption is A, and when it is B; None where one cannot be read."""
    if not isinstance(raw, list | tuple) or len(raw) != 2:
        return None
    first = choice.parse(raw[0], item)
    second = choice.parse(raw[1], replace(item, choices=item.choices[::-1]))
    return (first, second) if isinstance(first, int) and isinstance(second, int) else None


_SCORERS = {
    "classic": caption_scorer(
        "velociti", "VELOCITI, classic entailment: the true caption above the false one", macro=("test",)
    ),
    "strict": AnswerScorer(
        benchmark="velociti",
        parser=Parser("entailment-1", _entailed),
        score=lambda parsed, item: float(parsed[0] > 0.5 > parsed[1]),
        about="VELOCITI, strict entailment: probability of yes above 0.5 for the true caption, below it for the false",
        constants=(("Yes", "Yes"), ("No", "No")),
        chance=lambda item: 0.25,
        macro=("test",),
    ),
    "mcq": AnswerScorer(
        benchmark="velociti",
        parser=Parser("both-orders-1", _letters),
        score=lambda parsed, item: float(parsed == (0, 1)),
        about="VELOCITI, multiple choice: right with the true caption as A and as B",
        constants=(("A", "A"), ("B", "B")),
        chance=lambda item: 0.25,
        macro=("test",),
    ),
}


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """Accuracy in the mode of the option ``mode``, for all items and each test."""
    return _SCORERS[choose(settings.options, "mode", MODES)](items, predictions, settings)


def score_as_velociti(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """The authors' metrics.py, test by test, rounded to 3 places; ``accuracy`` is the mean of the tests, ours.

    The bugs: in ``mcq`` the answer is the text before the first white space and must be ``A`` or ``B``, so ``A.`` is
    none; items without two such answers are left out of the denominator.

    Raises:
        EvaluationError: a missing prediction, an empty answer or a test without an answer, where the script stops.
    """
    mode = choose(settings.options, "mode", MODES)
    missing = predictions.missing(item.item_id for item in items)
    if missing:
        raise EvaluationError(f"metrics.py reads every item; {len(missing)} are missing, e.g. {missing[:3]}")
    values: dict[str, tuple[float, int]] = {"accuracy": (0.0, len(items))}
    for test in sorted({item.groups["test"] for item in items}):
        right = [_rated(mode, predictions.values[i.item_id], i.item_id) for i in items if i.groups["test"] == test]
        counted = [value for value in right if value is not None]
        if not counted:
            raise EvaluationError(f"metrics.py divides by zero: no item of {test} has two answers A or B")
        values[f"accuracy_test_{test}"] = (round(sum(counted) / len(counted), 3), len(counted))
    rates = {name.removeprefix("accuracy_test_"): rate for name, (rate, _) in values.items() if "_test_" in name}
    values["accuracy"] = (math.fsum(rates.values()) / len(rates), len(items))
    return compat_result(
        score(items, predictions, settings),
        "velociti",
        f"VELOCITI's metrics.py, {mode}",
        values,
        "\n".join(f"{test}: {rate}" for test, rate in rates.items()),
    )


def _rated(mode: str, raw: Any, item_id: str) -> bool | None:
    if mode == "mcq":
        if not isinstance(raw, list | tuple) or not all(isinstance(text, str) and text.split() for text in raw):
            raise EvaluationError(f"metrics.py stops at an empty answer; {item_id} has {raw!r:.80}")
        first, second = (text.split()[0] for text in raw)
        return None if {first, second} - {"A", "B"} else (first, second) == ("A", "B")
    scores = numbers_row(raw, 2)
    if scores is None:
        raise EvaluationError(f"metrics.py compares two numbers; {item_id} has {raw!r:.80}")
    return scores[0] > scores[1] if mode == "classic" else scores[0] > 0.5 > scores[1]


BENCHMARK = Benchmark(
    name="velociti",
    title="VELOCITI",
    kind="choice",
    source="arXiv 2406.10889",
    files=(FILE,),
    read=read,
    score=score,
    compat={"velociti": score_as_velociti},
    options={
        "mode": "classic (default: two scores), strict (two probabilities of yes) or mcq (answers in both orders)"
    },
    read_predictions=read_results,
)
