"""Deja vu: does a model remember its training pairs (arXiv 2402.02103; facebookresearch/VLMDejaVu at 45bb66489b)?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import ConfigError, EvaluationError
from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.memorisation import MODELS, read_neighbours, read_objects, recalled
from vlmvid.evaluation.scoring.aggregate import AnswerScorer, Outcome, labelled, outcomes_of
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions, from_pairs, read_document
from vlmvid.evaluation.scoring.reading import find_file, unique_items
from vlmvid.metrics.memorisation import histogram_auc, object_precision_recall, population_gaps
from vlmvid.metrics.rates import rate_result
from vlmvid.types import MetricResult

PUBLISHER = "your own training pairs and public pictures, see docs/benchmarks/zero_shot.md"
FILE = AnnotationFile("train_objects.jsonl", ("id", "objects"), PUBLISHER)
PUBLIC = AnnotationFile("public_objects.jsonl", ("id", "objects"), PUBLISHER)
DEFAULT_K = 10
_TOP_SHARES = (0.001, 0.01, 0.1)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The training pictures that have objects; the option `k` is how many public pictures are looked at.

    Pictures without objects are left out, as in the released script: there is nothing to recall.
    """
    number = options.get("k", str(DEFAULT_K))
    if not number.isdigit() or int(number) < 1:
        raise ConfigError(f"k={number!r} must be a whole number of at least 1")
    found = find_file(path, FILE)
    public = read_objects(find_file(found.parent, PUBLIC), PUBLIC)
    shown = read_objects(found, FILE)
    shared = {"public": public, "k": int(number), "num_rows": len(shown)}
    return unique_items(
        [
            Item(name, name, objects, extra={**shared, "row": row})
            for row, (name, objects) in enumerate(shown.items())
            if objects
        ],
        found,
    )


def read_predictions(path: Path, items: Sequence[Item]) -> Predictions:
    """An ``.npz`` of embeddings (`vlmvid.evaluation.memorisation.read_neighbours`), or rows of nearest pictures.

    Rows are ``{"id", "target": [ids of public pictures, nearest first], "reference": [...]}``.
    """
    if path.suffix == ".npz":
        return read_neighbours(path, items[0].extra["k"])
    rows = read_document(path)
    if isinstance(rows, dict):
        return from_pairs([(str(key), value) for key, value in rows.items()], str(path))
    pairs: list[tuple[str, Any]] = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or "id" not in row:
            raise EvaluationError(f"{path}, entry {number}: expected an object with id, target and reference")
        pairs.append((str(row["id"]), {model: row.get(model) for model in MODELS}))
    return from_pairs(pairs, str(path))


@dataclass(frozen=True, slots=True)
class _Recalled:
    """Precision and recall of the objects that the two models recall; (2,) each, target first."""

    precision: tuple[float, float]
    recall: tuple[float, float]


def _parse(raw: Any, item: Item) -> _Recalled | None:
    """Of the first k pictures of each model; None where a model has fewer."""
    k = item.extra["k"]
    named = [raw.get(model) for model in MODELS] if isinstance(raw, dict) else []
    lists = [found for found in named if isinstance(found, list) and len(found) >= k]
    if len(lists) < len(MODELS):
        return None
    sets = [recalled([str(name) for name in found[:k]], item.extra["public"]) for found in lists]
    precision, recall = object_precision_recall(sets, [item.answer, item.answer])
    return _Recalled((precision[0], precision[1]), (recall[0], recall[1]))


_parser = Parser("neighbours-1", _parse)


def _gap(values: tuple[float, float]) -> float:
    return float(population_gaps([values[0]], [values[1]])[0])


_answers = AnswerScorer(
    benchmark="deja_vu",
    parser=_parser,
    score=lambda found, item: _gap(found.precision),
    about=(
        "share of training pictures whose objects the target model recalls with higher precision than the reference "
        "model, minus the share with lower precision; a picture without a prediction counts as remembered"
    ),
    metric="population_precision_gap",
    is_rate=False,
    higher_is_better=False,
    worst=lambda item: 1.0,
)


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """Population precision gap (PPG) and recall gap (PRG), 0 without memorisation, with intervals over pictures.

    ``recall_auc_gap`` is the area between the curves of the share of pictures whose recall exceeds x: the difference
    of the mean recalls. Mean precision and recall of both models stand beside them. The released script also reports
    the gaps of the pictures with the largest gaps; a selection by the outcome is above 0 for any two models, so it is
    in `compat` only.
    """
    result = _answers(items, predictions, settings)
    outcomes = outcomes_of(items, predictions, _parser, _answers.score)
    counted = [row for row in outcomes if settings.missing != "skip" or row.status != "missing"]
    parsed = [row for row in counted if row.status == "parsed"]
    gaps = [_gap(row.parsed.recall) if row.status == "parsed" else 1.0 for row in counted]
    more = [_mean("population_recall_gap", gaps, counted, settings)]
    if parsed:
        precision, recall = _columns(parsed)
        more.append(_mean("recall_auc_gap", recall[:, 0] - recall[:, 1], parsed, settings))
        for column, model in enumerate(MODELS):
            more.append(_mean(f"object_precision_{model}", precision[:, column], parsed, settings, rate=True))
            more.append(_mean(f"object_recall_{model}", recall[:, column], parsed, settings, rate=True))
    protocol = f"{result.protocol}; k = {items[0].extra['k']} of {len(items[0].extra['public'])} public pictures"
    return replace(result, protocol=protocol, metrics=(*result.metrics, *labelled(more, settings)))


def _mean(
    name: str,
    values: Sequence[float] | NDArray[np.float64],
    rows: Sequence[Outcome],
    settings: ScoreSettings,
    *,
    rate: bool = False,
) -> MetricResult:
    return rate_result(
        name,
        values,
        clusters=[row.item.video_id for row in rows],
        bounded=rate,
        seed=settings.seed,
        num_bootstrap=settings.num_bootstrap,
        higher_is_better=False,
    )


def _columns(parsed: Sequence[Outcome]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall (N, 2), target first."""
    return np.array([row.parsed.precision for row in parsed]), np.array([row.parsed.recall for row in parsed])


def score_as_released(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """The numbers that VLMDejaVu's dejavu_attack.py prints, sorted by `max_pred_gap`, its default.

    The area is summed from a histogram, and the pictures with the largest gaps, chosen by that gap, are reported.
    Raises EvaluationError for a picture without a prediction.
    """
    outcomes = outcomes_of(items, predictions, _parser, _answers.score)
    wrong = [row.item.item_id for row in outcomes if row.status != "parsed"]
    if wrong:
        raise EvaluationError(
            f"the released script needs k pictures for every caption; {len(wrong)} lack them: {wrong[:3]}"
        )
    precision, recall = _columns(outcomes)
    values = {
        "population_precision_gap": float(population_gaps(precision[:, 0], precision[:, 1]).mean()),
        "population_recall_gap": float(population_gaps(recall[:, 0], recall[:, 1]).mean()),
        "recall_auc_gap": histogram_auc(recall[:, 0]) - histogram_auc(recall[:, 1]),
    }
    num_shown = np.array([len(row.item.answer) for row in outcomes])
    hits = np.rint(recall * num_shown[:, None]).astype(np.intp)
    order = _by_gap(outcomes, hits[:, 0] - hits[:, 1])
    lines = [
        "******** Population Memorization Metrics ********",
        f"Population Precision Gap: {values['population_precision_gap']:.4f}",
        f"Population Recall Gap: {values['population_recall_gap']:.4f}",
        f"AUC Gap: {values['recall_auc_gap']:.4f}",
        "",
        "******** Fine-Grained Memorization Metrics ********",
    ]
    for share in _TOP_SHARES:
        top = order[: max(1, int(len(order) * share))]
        gaps = _top_gaps(precision[top].mean(axis=0), recall[top].mean(axis=0))
        values |= {f"top_{share}_{name}_gap".replace(".", "_"): gap for name, gap in gaps.items()}
        lines += ["", f"Evaluating on Top-{len(top)} records..."]
        lines += [f"{'F-score' if name == 'f' else name.title()} Gap: {gap:.4f}" for name, gap in gaps.items()]
    return replace(
        _answers(items, predictions, settings),
        protocol="VLMDejaVu's dejavu_attack.py with score_fn max_pred_gap",
        metrics=tuple(
            MetricResult(name=name, value=value, num_samples=len(items), higher_is_better=False)
            for name, value in values.items()
        ),
        compat="vlm_dejavu",
        printed="\n".join(lines),
    )


def _by_gap(outcomes: Sequence[Outcome], gaps: NDArray[np.intp]) -> NDArray[np.intp]:
    """Places of the outcomes by falling gap: the script's unstable sort over all rows, also those it drops."""
    rows = [row.item.extra["row"] for row in outcomes]
    of_row = np.zeros(outcomes[0].item.extra["num_rows"], dtype=np.intp)
    of_row[rows] = gaps
    place = {row: number for number, row in enumerate(rows)}
    return np.array([place[row] for row in np.argsort(-of_row).tolist() if row in place])


def _top_gaps(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> dict[str, float]:
    harmonic = 2 * precision * recall / (precision + recall + 1e-5)
    found = {"precision": precision, "recall": recall, "f": harmonic}
    return {name: float(values[0] - values[1]) for name, values in found.items()}


BENCHMARK = Benchmark(
    name="deja_vu",
    title="deja-vu test of memorisation",
    kind="other",
    source="arXiv 2402.02103",
    files=(FILE, PUBLIC),
    read=read,
    score=score,
    compat={"vlm_dejavu": score_as_released},
    options={"k": f"public pictures per caption (default {DEFAULT_K})"},
    read_predictions=read_predictions,
)
