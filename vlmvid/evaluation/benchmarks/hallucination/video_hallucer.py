"""VideoHallucer: a basic and a hallucinated question in pairs (arXiv 2406.16338).

Script and data: patrick-tssn/VideoHallucer at ae4c2f25e9.

Of the published pairs 200 are in each category but ``temporal``, which has 176 where the text says 200; ``interaction``
(124) and ``fact_detect`` (50, both answers no) are extra. The pairs of ``semantic_detail`` show two different videos.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from vlmvid.errors import ConfigError, DatasetError, EvaluationError
from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.answers.yes_no import yes_no
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks.hallucination.common import (
    Mode,
    YesNoScorer,
    counted,
    is_right,
    mean_score,
    modes,
    values_by,
    yes_no_answers,
)
from vlmvid.evaluation.scoring.aggregate import Outcome, labelled, outcomes_of
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions, from_pairs, read_document, read_predictions
from vlmvid.evaluation.scoring.reading import find_file, read_json, require_columns, unique_items
from vlmvid.metrics import chance_result, macro_rate_result, rate_result
from vlmvid.registry import nearest
from vlmvid.types import MetricResult

# category -> how the result files of the released script name it, in the order in which it runs them
CATEGORIES = {
    "object_relation": "obj_rel",
    "temporal": "temporal",
    "semantic_detail": "semantic",
    "interaction": "interaction",
    "external_factual": "fact",
    "external_nonfactual": "nonfact",
    "fact_detect": "factdet",
}
MAIN = ("object_relation", "temporal", "semantic_detail", "external_factual", "external_nonfactual")
SIDES = ("basic", "hallucination")
FILE = AnnotationFile(
    "object_relation.json",
    SIDES,
    "https://huggingface.co/datasets/ColorfulAI/VideoHallucer (CATEGORY/CATEGORY.json)",
)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """Both questions of every pair; ids are ``CATEGORY_ROW_SIDE`` with rows from 0 and the sides basic, hallucination.

    Options:
        categories: names with commas between; by default the five that the paper's overall score has.
    """
    if path.is_file():
        return unique_items(_category(path.stem, path), path)
    wanted = options.get("categories", ",".join(MAIN)).split(",")
    for name in wanted:
        if name not in CATEGORIES:
            raise ConfigError(
                f"option categories={name!r}{nearest(name, list(CATEGORIES))}; known: {', '.join(CATEGORIES)}"
            )
    items = [item for name in wanted for item in _category(name, find_file(path, FILE, f"{name}.json"))]
    return unique_items(items, path)


def _category(category: str, path: Path) -> list[Item]:
    items = []
    for number, row in enumerate(read_json(path, list, FILE)):
        require_columns(path, FILE, row if isinstance(row, dict) else {}, f"entry {number + 1}")
        for side in SIDES:
            asked = row[side]
            if not isinstance(asked, dict) or not {"video", "question", "answer"} <= asked.keys():
                raise DatasetError(
                    f"{path}, entry {number + 1}: {side} must hold video, question and answer; got {asked!r:.80}"
                )
            items.append(
                Item(
                    item_id=f"{category}_{number}_{side}",
                    video_id=str(row["basic"].get("video")),
                    answer=str(asked["answer"]).strip().lower(),
                    question=str(asked["question"]),
                    choices=("yes", "no"),
                    media=(Media(f"{category}/videos/{asked['video']}"),),
                    groups={"category": category, "side": side},
                    units={"pair": f"{category}_{number}"},
                )
            )
    return items


def read_answers(path: Path, items: Sequence[Item]) -> Predictions:
    """The script's result files: the annotations with ``predict`` beside each question.

    They are called ``QATYPE_MODEL.json``, as the script writes them, or ``CATEGORY.json``, as the annotations are. A
    folder with one for each category that was read, one such file, or any file that joins by id.
    """
    categories = list(dict.fromkeys(item.groups["category"] for item in items))
    if path.is_dir():
        files = [(category, _result_file(path, category)) for category in categories]
    else:
        document = read_document(path)
        if not (
            isinstance(document, list)
            and document
            and isinstance(document[0], dict)
            and set(SIDES) <= document[0].keys()
        ):
            return read_predictions(path)
        named = [name for name in categories if path.stem == name] or [
            name for name in categories if path.stem.startswith((f"{CATEGORIES.get(name, name)}_", name))
        ]
        if len(named or categories) != 1:
            raise EvaluationError(
                f"{path} holds pairs of one category, but which? Name it CATEGORY.json ({', '.join(CATEGORIES)}) or "
                f"QATYPE_MODEL.json ({', '.join(CATEGORIES.values())}), or give the folder of all"
            )
        files = [((named or categories)[0], path)]
    asked = {item.item_id: item.question for item in items}
    pairs = [pair for category, file in files for pair in _answered(category, file, asked)]
    return from_pairs(pairs, str(path))


def _result_file(folder: Path, category: str) -> Path:
    """The one file with the answers to `category`: named as the annotations are, or as the script does it."""
    name = f"{category}.json"
    found = [place for place in (folder / name, folder / category / name) if place.is_file()]
    for place in sorted(folder.glob(f"{CATEGORIES.get(category, category)}_*.json")):
        if "evaluation_results" not in place.name and place.stem not in CATEGORIES:
            found.append(place)
    if len(found) != 1:
        raise EvaluationError(
            f"{folder} holds {len(found)} files of answers to {category}; expected one, {name} or "
            f"{CATEGORIES.get(category, category)}_MODEL.json"
        )
    return found[0]


def _answered(category: str, file: Path, asked: Mapping[str, str]) -> list[tuple[str, Any]]:
    rows, pairs = read_document(file), []
    for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
        for side in SIDES:
            entry = row.get(side) if isinstance(row, dict) else None
            name = f"{category}_{number}_{side}"
            if not isinstance(entry, dict) or "predict" not in entry:
                raise EvaluationError(f"{file}, entry {number + 1}: {side} has no predict; got {entry!r:.80}")
            if entry.get("question", asked.get(name)) != asked.get(name):
                raise EvaluationError(
                    f"{file}, entry {number + 1}: answers {entry['question']!r}, but {name} asks {asked.get(name)!r}"
                )
            pairs.append((name, entry["predict"]))
    return pairs


_answers = yes_no_answers(
    "video_hallucer",
    about="VideoHallucer: overall = both questions of a pair right, basic and halluc = one of them, unweighted mean "
    "over the categories that were read",
)
_questions = YesNoScorer(_answers)


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """`overall`, `basic` and `halluc` over all categories and for each; then all questions together.

    A pair of which an answer is missing is wrong; where missing answers are skipped it is left out as a whole.
    """
    result = _questions(items, predictions, settings)
    outcomes = outcomes_of(items, predictions, yes_no, is_right)
    rows = _pairs(counted(outcomes, settings))
    metrics = _scores(rows, settings)
    metrics.append(chance_result("overall", [0.25] * len(rows)))
    items_of_pairs = [outcome.item for pair in rows for outcome in pair.values()]
    for name, answers in {"yes": "yes", "no": "no"}.items():
        always = Predictions(dict.fromkeys((item.item_id for item in items_of_pairs), answers))
        said = _pairs(outcomes_of(items_of_pairs, always, yes_no, is_right))
        metrics.append(_overall(f"overall/always_{name}", said, settings, _both))
    if settings.blind is not None:
        blind = _pairs(outcomes_of(items_of_pairs, settings.blind, yes_no, is_right))
        metrics.append(_overall("overall/blind", blind, settings, _both))
    kept = [metric for metric in result.metrics if not metric.name.startswith("pair_accuracy")]
    return replace(result, metrics=(*labelled(metrics, settings), *kept))


Pair = Mapping[str, Outcome]


def _pairs(outcomes: Sequence[Outcome]) -> list[Pair]:
    found: dict[str, dict[str, Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.item.units["pair"], {})[outcome.item.groups["side"]] = outcome
    pairs: list[Pair] = [pair for pair in found.values() if len(pair) == len(SIDES)]
    if not pairs:
        raise EvaluationError("no pair has answers to both of its questions; check the ids of the predictions")
    return pairs


def _both(pair: Pair) -> float:
    return pair["basic"].score * pair["hallucination"].score


def _scores(pairs: Sequence[Pair], settings: ScoreSettings) -> list[MetricResult]:
    measures: dict[str, Callable[[Pair], float]] = {
        "overall": _both,
        "basic": lambda pair: pair["basic"].score,
        "halluc": lambda pair: pair["hallucination"].score,
    }
    metrics = [_overall(name, pairs, settings, measure) for name, measure in measures.items()]
    for category in dict.fromkeys(sorted(_category_of(pair) for pair in pairs)):
        members = [pair for pair in pairs if _category_of(pair) == category]
        metrics += [
            rate_result(
                f"{name}_{category}",
                [measure(pair) for pair in members],
                clusters=[pair["basic"].item.video_id for pair in members],
                seed=settings.seed,
                num_bootstrap=settings.num_bootstrap,
            )
            for name, measure in measures.items()
        ]
    return metrics


def _category_of(pair: Pair) -> str:
    return pair["basic"].item.groups["category"]


def _overall(
    name: str, pairs: Sequence[Pair], settings: ScoreSettings, measure: Callable[[Pair], float]
) -> MetricResult:
    return macro_rate_result(
        name,
        [measure(pair) for pair in pairs],
        [_category_of(pair) for pair in pairs],
        clusters=[pair["basic"].item.video_id for pair in pairs],
        seed=settings.seed,
        num_bootstrap=settings.num_bootstrap,
    )


def _says(word: str, text: str) -> bool:
    return re.search(rf"\b({word})\b", text, re.IGNORECASE) is not None


def _hit(raw: Any, item: Item) -> str | None:
    """The item's answer if that word occurs anywhere in the response, whatever else does."""
    return item.answer if _says(item.answer, str(raw)) else None


def _as_evaluation(outcomes: Sequence[Outcome]) -> tuple[dict[str, float], str]:
    found: dict[str, list[float]] = {"overall": [], "basic": [], "halluc": []}
    values: dict[str, float] = {}
    by_category = values_by(outcomes, lambda item: item.groups["category"])
    for category in sorted(by_category, key=lambda name: [*CATEGORIES, name].index(name)):
        rows = by_category[category]
        pairs = _pairs(rows)
        scores = {
            "overall": sum(map(_both, pairs)) / len(pairs),
            "basic": mean_score(pair["basic"] for pair in pairs),
            "halluc": mean_score(pair["hallucination"] for pair in pairs),
        }
        for name, value in scores.items():
            found[name].append(value)
            values[f"{name}_{category}"] = value
    # Added one by one: newer versions of Python round what `sum` gives differently.
    means = {name: reduce(add, scores, 0.0) / len(scores) for name, scores in found.items()}
    lines = [
        "=" * 20,
        f"Basic Accuracy:  {means['basic']}",
        f"Hallucination Accuracy:  {means['halluc']}",
        f"Final Accuracy:  {means['overall']}",
    ]
    if "fact_detect" in by_category:
        lines.append(f"Fact Score:  {(means['basic'] + means['halluc']) / 2}")
    return means | values, "\n".join(lines)


def _as_bias(outcomes: Sequence[Outcome]) -> tuple[dict[str, float], str]:
    count = dict.fromkeys(("yes", "no", "wrong", "false_yes", "basic", "fooled", "halluc", "both"), 0)
    pairs = _pairs(outcomes)
    for pair in pairs:
        yes, no = _says("yes", str(pair["basic"].raw)), _says("no", str(pair["hallucination"].raw))
        count["basic"] += yes
        count["halluc"] += no
        count["both"] += yes and no
        count["fooled"] += yes and not no
        # The answer to the hallucinated question is never searched for a yes: that of the basic one stands in for it.
        count["yes"] += yes + (yes and not no)
        count["no"] += no + (no and not yes)
        count["wrong"] += (not yes) + (not no)
        count["false_yes"] += yes and not no
    n = len(pairs)
    values = {
        "overall": count["both"] / n,
        "basic": count["basic"] / n,
        "halluc": count["halluc"] / n,
        "yes_difference": (count["yes"] - n) / (2 * n),
        "no_difference": (count["no"] - n) / (2 * n),
        "false_positive_ratio": count["false_yes"] / count["wrong"] if count["wrong"] else 0.0,
        "halluc_score": count["fooled"] / count["basic"],
    }
    names = {
        "yes difference percentage": "yes_difference",
        "no difference percentage": "no_difference",
        "false positive ratio": "false_positive_ratio",
        "hallucination score": "halluc_score",
        "overall basic score": "basic",
        "overall hallucination score": "halluc",
        "overall score": "overall",
    }
    return values, "\n".join(["#" * 40, *(f"{text}:  {values[name]}" for text, name in names.items())])


_parser = Parser("video-hallucer", _hit)
BENCHMARK = Benchmark(
    name="video_hallucer",
    title="VideoHallucer",
    kind="yes_no",
    source="arXiv 2406.16338",
    files=(FILE,),
    read=read,
    score=score,
    compat=modes(
        "video_hallucer",
        Mode(
            name="video-hallucer",
            parser=_parser,
            protocol="VideoHallucer's evaluation.py: right when the word of the answer occurs anywhere, so that 'No, "
            "it is not a yes' is right for both; unweighted mean over categories (printed without the model's name)",
            measure=_as_evaluation,
        ),
        Mode(
            name="video-hallucer-bias",
            parser=_parser,
            protocol="VideoHallucer's evaluation_bias.py: all pairs pooled; a yes to a hallucinated question is "
            "counted when that answer lacks the word no and the basic answer has the word yes "
            "(printed without the model's name)",
            measure=_as_bias,
            selects=lambda item: item.groups["category"] not in ("interaction", "fact_detect"),
        ),
    ),
    options={"categories": f"names with commas between; known: {', '.join(CATEGORIES)}; default: {', '.join(MAIN)}"},
    read_predictions=read_answers,
)
