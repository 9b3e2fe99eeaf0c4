"""What released scripts print for the same similarities; `vlmvid.metrics.retrieval_reference` has their definitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks.retrieval.joined import Joined, has_distractors, join
from vlmvid.evaluation.scoring.base import Item, Scorer, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.metrics import retrieval_reference as reference
from vlmvid.metrics.retrieval_counts import BothCounts, RankCounts
from vlmvid.metrics.retrieval_reference import RECALL_AT, ReferenceMetrics
from vlmvid.metrics.retrieval_tiles import count_both
from vlmvid.types import MetricResult


@dataclass(frozen=True)
class _Printed:
    """What one script makes of the counts."""

    metrics: list[MetricResult]
    printed: str
    about: str


_Script = Callable[[BothCounts, Joined, ScoreSettings], _Printed]


def reference_scorers(name: str, gallery: str) -> dict[str, Scorer]:
    """The scorers by the name of the script, for the benchmark `name` with its default `gallery`.

    They raise EvaluationError where the script cannot run: missing texts or videos, and, but for singularity, a text
    with several correct videos. NaN is refused, which CLIP4Clip drops without a word.
    """
    scripts: dict[str, _Script] = {
        "clip4clip": _clip4clip,
        "collaborative-experts": _collaborative_experts,
        "frozen": _frozen,
        "clip_benchmark": _clip_benchmark,
        "singularity": _singularity,
    }
    return {
        compat: cast(Scorer, partial(_score, (name, compat, gallery), script)) for compat, script in scripts.items()
    }


def _score(
    names: tuple[str, str, str],
    script: _Script,
    items: Sequence[Item],
    predictions: Predictions,
    settings: ScoreSettings,
) -> TaskResult:
    name, compat, gallery = names
    joined = join(items, predictions, distractors=has_distractors(settings, gallery))
    missing = joined.missing_texts + joined.missing_videos
    if missing:
        raise EvaluationError(
            f"{compat} works on a whole matrix; {len(missing)} texts and videos are missing, e.g. {missing[0]}"
        )
    if compat != "singularity" and bool((joined.relevance.per_query > 1).any()):
        raise EvaluationError(f"{compat} knows one correct video per text; this benchmark has several for some")
    found = script(count_both(joined.scores, joined.found()), joined, settings)
    return TaskResult(
        task=name,
        protocol="; ".join([found.about, *joined.words("left out")]),
        metrics=tuple(found.metrics),
        compat=compat,
        printed=found.printed,
    )


def _clip4clip(counts: BothCounts, joined: Joined, settings: ScoreSettings) -> _Printed:
    several = bool((counts.v2t.num_relevant > 1).any())
    if several and counts.v2t_groups is not None:
        text = reference.clip4clip_multi_caption(_asked(counts.t2v))
        video = reference.clip4clip(_asked(counts.v2t_groups))
        how = (
            "each caption is a query, the median is the lower middle; V2T ranks the videos' best captions, and divides "
            "by the number of tied places"
        )
    else:
        text, video = reference.clip4clip(_asked(counts.t2v)), reference.clip4clip(_asked(counts.v2t))
        how = "recalls are divided by the number of places that tie with the relevant item, not by the queries"
    lines = []
    for head, mark, found in (("Text-to-Video:", "", text), ("Video-to-Text:", "V2T$", video)):
        parts = [f"{mark}R@{k}: {100 * found.recall[k]:.1f}" for k in RECALL_AT]
        parts += [f"{mark}Median R: {found.median_rank:.1f}", f"{mark}Mean R: {found.mean_rank:.1f}"]
        lines += [head, "\t>>>  " + " - ".join(parts)]
    return _Printed([*_metrics("t2v", text), *_metrics("v2t", video)], "\n".join(lines), f"CLIP4Clip: {how}")


def _collaborative_experts(counts: BothCounts, joined: Joined, settings: ScoreSettings) -> _Printed:
    """Values are rounded as the script rounds them: percent and ranks to one decimal place."""
    sides = {
        "t2v": reference.averaging(_asked(counts.t2v)),
        "v2t": reference.averaging(_asked(counts.v2t)),
    }
    metrics, printed = [], []
    for prefix, found in sides.items():
        named = {name: round(value, 1) for name, value in _named(found).items()}
        printed.append(f"{prefix}_metrics: {named}")
        recall = {k: named[f"R{k}"] / 100 for k in RECALL_AT}
        rounded = ReferenceMetrics(recall, named["MedR"], named["MeanR"], found.num_entries)
        metrics += _metrics(prefix, rounded)
        mean = named["geometric_mean_R1-R5-R10"] / 100
        metrics.append(MetricResult(name=f"{prefix}_geometric_mean", value=mean, num_samples=found.num_entries))
    return _Printed(
        metrics,
        "\n".join(printed),
        "collaborative-experts: the place is the mean over all tied items, V2T among all captions; rounded to one "
        "decimal place",
    )


def _frozen(counts: BothCounts, joined: Joined, settings: ScoreSettings) -> _Printed:
    sides = {"t2v": reference.optimistic(_asked(counts.t2v)), "v2t": reference.averaging(_asked(counts.v2t))}
    metrics = []
    for prefix, found in sides.items():
        metrics += _metrics(prefix, found)
        mean = found.geometric_mean
        metrics.append(MetricResult(name=f"{prefix}_geometric_mean", value=mean, num_samples=found.num_entries))
    return _Printed(
        metrics,
        "\n".join(f"{prefix}_metrics: {_named(found)}" for prefix, found in sides.items()),
        "frozen-in-time: T2V takes the first of the tied places (a constant matrix has R@1 of 1), V2T their mean",
    )


def _clip_benchmark(counts: BothCounts, joined: Joined, settings: ScoreSettings) -> _Printed:
    wanted = settings.options.get("recall_k", "5").split(",")
    if not all(k.strip().isdigit() and int(k) > 0 for k in wanted):
        raise EvaluationError(f"option recall_k={settings.options['recall_k']!r} must be numbers such as 1,5,10")
    metrics: list[MetricResult] = []
    printed = {}
    for k in (int(k) for k in wanted):
        for prefix, name, side in (("t2v", "image", _asked(counts.t2v)), ("v2t", "text", _asked(counts.v2t))):
            if k > side.num_items:
                raise EvaluationError(f"torch.topk cannot take {k} of {side.num_items} items; choose recall_k")
            value, num_open = reference.earlier_first(side, k)
            printed[f"{name}_retrieval_recall@{k}"] = value
            num = len(side.better)
            metrics.append(MetricResult(name=f"{prefix}_r_at_{k}", value=value, num_samples=num))
            metrics.append(_open(f"{prefix}_r_at_{k}_num_tied", num_open, num))
    return _Printed(
        metrics,
        str(printed),
        "CLIP_benchmark: among ties torch.topk promises no order, here the earlier item comes first; _num_tied counts "
        "the queries which that decides",
    )


def _singularity(counts: BothCounts, joined: Joined, settings: ScoreSettings) -> _Printed:
    metrics: list[MetricResult] = []
    named: dict[str, float] = {}
    means = []
    for prefix, name, side in (("v2t", "txt", _asked(counts.v2t)), ("t2v", "img", _asked(counts.t2v))):
        found, num_open = reference.later_first(side)
        for k in RECALL_AT:
            named[f"{name}_r{k}"] = 100 * found.recall[k]
        means.append(float(np.mean([100 * found.recall[k] for k in RECALL_AT])))
        named[f"{name}_r_mean"] = means[-1]
        recall = {k: round(100 * found.recall[k], 2) / 100 for k in RECALL_AT}
        metrics = [*_metrics(prefix, ReferenceMetrics(recall, 0.0, 0.0, found.num_entries), ranks=False), *metrics]
        metrics.append(_open(f"{prefix}_num_tied", num_open, found.num_entries))
    named["r_mean"] = sum(means) / 2
    return _Printed(
        metrics,
        str({name: round(value, 2) for name, value in named.items()}),
        "singularity's itm_eval (also ALBEF, BLIP): the best of several correct items; its sort is unstable, here the "
        "later of tied items comes first; _num_tied counts the queries which that decides; rounded to two decimal "
        "places",
    )


def _asked(counts: RankCounts) -> RankCounts:
    return counts.taken(counts.num_relevant > 0)


def _metrics(prefix: str, found: ReferenceMetrics, *, ranks: bool = True) -> list[MetricResult]:
    num = found.num_entries
    metrics = [
        MetricResult(name=f"{prefix}_r_at_{k}", value=value, num_samples=num) for k, value in found.recall.items()
    ]
    values = {"median_rank": found.median_rank, "mean_rank": found.mean_rank} if ranks else {}
    return metrics + [
        MetricResult(name=f"{prefix}_{name}", value=value, num_samples=num, higher_is_better=False)
        for name, value in values.items()
    ]


def _open(name: str, value: int, num_samples: int) -> MetricResult:
    return MetricResult(name=name, value=float(value), num_samples=num_samples, higher_is_better=False)


def _named(found: ReferenceMetrics) -> Mapping[str, float]:
    """The keys and units of ``cols2metrics`` in collaborative-experts and frozen-in-time."""
    recalls = {f"R{k}": 100 * value for k, value in found.recall.items()}
    recalls |= {} if found.recall_at_50 is None else {"R50": 100 * found.recall_at_50}
    ranks = {"MedR": found.median_rank, "MeanR": found.mean_rank}
    return recalls | ranks | {"geometric_mean_R1-R5-R10": 100 * found.geometric_mean}
