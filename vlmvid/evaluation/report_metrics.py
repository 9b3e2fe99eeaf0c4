"""Metrics as a report shows them: each beside what it is compared with, grouped by what it is about."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.report import interval_text, is_chance, is_rate, main_metrics, number_text, title_of
from vlmvid.evaluation.report_page import Span, Table
from vlmvid.evaluation.report_plots import Bar
from vlmvid.types import MetricResult

# What a metric may be compared with, as its name says behind a slash, in the order of a table's columns.
BASELINES = ("chance", "blind", "other_clip", "prior", "majority", "nearest", "constant")
_OVER = "over_"
_NUMBERS = ("value", "95 % interval", "n", *(name.replace("_", " ") for name in BASELINES))
_MOST_COLUMNS = 3  # of baselines; more are listed in one
_TOPICS = {
    "bias": r"bias|group_.*",
    "hallucination": r"hallucination|chair.*|pope.*",
    "temporal": r"temporal|.*_battery|test_of_time|vinoground.*|temporal_bench|vitatecs|action_bench|tempcompass|ssv2",
}
# Metrics of other tasks that belong to a topic.
_METRICS_OF = {"hallucination": r"hallucination_.*|chair_.*|object_recall.*"}
_WORDS = {
    "t2v": "T2V",
    "v2t": "V2T",
    "cider d": "CIDEr-D",
    "bleu": "BLEU",
    "rouge l": "ROUGE-L",
    "mcq": "MCQ",
    "ndkl": "NDKL",
    "iou": "IoU",
    "f1": "F1",
    "chair i": "CHAIR-i",
    "chair s": "CHAIR-s",
}


@dataclass(frozen=True)
class Compared:
    """A metric of a result with those beside it, by the words behind their slash; `chance` is one of them."""

    result: TaskResult
    metric: MetricResult
    beside: dict[str, MetricResult]

    @property
    def against_chance(self) -> str:
        """Whether the value is better than guessing, in a word; empty where guessing is not known."""
        chance = self.beside.get("chance")
        low, high = self.metric.ci_low, self.metric.ci_high
        if chance is None or low is None or high is None or not math.isfinite(self.metric.value):
            return ""
        above, below = low > (chance.ci_high or chance.value), high < _low_end(chance)
        if not above and not below:
            return "not told apart"
        return "better" if above == self.metric.higher_is_better else "worse"


def _low_end(metric: MetricResult) -> float:
    return metric.value if metric.ci_low is None else metric.ci_low


def compared(result: TaskResult) -> list[Compared]:
    """The metrics of a result that are none of another's baselines, in its order."""
    by_base: dict[str, dict[str, MetricResult]] = {}
    own: list[MetricResult] = []
    names = {metric.name for metric in result.metrics}
    for metric in result.metrics:
        base, word = _parted(metric.name)
        if word and (base in names or is_chance(metric.name)):
            by_base.setdefault(base, {})[word] = metric
        else:
            own.append(metric)
    return [Compared(result, metric, by_base.get(metric.name, {})) for metric in own]


def _parted(name: str) -> tuple[str, str]:
    """``accuracy/blind[x]`` and ``accuracy[x]/blind`` -> ``accuracy[x]``, ``blind``."""
    found = re.fullmatch(r"([^/\[]*)(\[[^\]]*\])?/([^\[]*)(\[.*\])?", name)
    return (found[1] + (found[2] or "") + (found[4] or ""), found[3]) if found else (name, "")


def label_of(name: str) -> str:
    """The name of a metric as people read it: ``t2v_r_at_1`` is T2V R@1."""
    words = re.sub(r"(?<![a-z0-9])r_at_(\d+)", r"R@\1", name)
    words = re.sub(r"_at_(\d+)", r"@\1", words).replace("_", " ")
    return re.sub(r"\b(?:" + "|".join(_WORDS) + r")\b", lambda found: _WORDS[found[0]], words)


def headline(results: Sequence[TaskResult]) -> list[Compared]:
    """The main metrics of all results."""
    found = []
    for result in results:
        own = compared(result)
        names = {metric.name for metric in main_metrics(result.task, [one.metric for one in own])}
        found += [one for one in own if one.metric.name in names]
    return found


def topic_of(result: TaskResult, known: str | None = None) -> str:
    """``bias``, ``hallucination``, ``temporal``, or an empty text for what a result is about as a whole."""
    for topic, names in _TOPICS.items():
        if known == topic or re.fullmatch(names, result.task):
            return topic
    return ""


def of_topic(result: TaskResult, topic: str, known: str | None = None) -> list[Compared]:
    """What of a result belongs to a topic: all of it, or the metrics whose names say so."""
    own = compared(result)
    if topic_of(result, known) == topic:
        return own
    pattern = _METRICS_OF.get(topic)
    return [] if pattern is None else [one for one in own if re.fullmatch(pattern, one.metric.name)]


def metrics_table(rows: Sequence[Compared], caption: str, *, with_task: bool, is_folded: bool = False) -> Table:
    """Values with intervals and n, beside the baselines that some row has; rates are drawn.

    What is folded has the metrics' own names, which gates and files know.
    """
    baselines = [name for name in BASELINES if any(name in one.beside for one in rows)]
    own = baselines if len(baselines) <= _MOST_COLUMNS else baselines[: baselines[0] == "chance"]
    listed = baselines[len(own) :]
    has_over = any(_best_over(one) for one in rows)
    has_words = any(one.against_chance for one in rows)
    columns = [*(["task"] if with_task else []), "metric", "value", "95 % interval", "n"]
    columns += [*map(_words, own), *(["baselines"] if listed else [])]
    columns += ["against guessing"] * has_words + ["gain over baseline"] * has_over
    cells = []
    for one in rows:
        metric = one.metric
        label = metric.name if is_folded else label_of(metric.name)
        row = [*([title_of(one.result)] if with_task else []), label]
        row += [number_text(metric.value, metric.name), interval_text(metric), f"{metric.num_samples:,}"]
        row += [_baseline(one.beside.get(name), metric.name) for name in own]
        if listed:
            found = {name: _baseline(one.beside.get(name), metric.name) for name in listed}
            told = [f"{_words(name)} {value}" for name, value in found.items() if value]
            row.append(", ".join(text.replace(" ", "\N{NO-BREAK SPACE}") for text in told))
        row += [one.against_chance] * has_words + [_best_over(one)] * has_over
        cells.append(tuple(row))
    spans = tuple(_span(one) for one in rows)
    return Table(
        caption=caption,
        columns=tuple(columns),
        rows=tuple(cells),
        numeric=frozenset(_NUMBERS),
        spans=spans if any(spans) else (),
        is_folded=is_folded,
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _baseline(metric: MetricResult | None, name: str) -> str:
    if metric is None:
        return ""
    value = number_text(metric.value, name).removesuffix(" %")
    if not is_chance(metric.name) or metric.ci_low is None:
        return value
    return f"{value} ({interval_text(replace(metric, name=name))})"


def _best_over(one: Compared) -> str:
    """The smallest of the paired gains over baselines, which is the hardest to have, with its interval."""
    gains = [(name.removeprefix(_OVER), m) for name, m in one.beside.items() if name.startswith(_OVER)]
    if not gains:
        return ""
    name, metric = min(gains, key=lambda gain: gain[1].value)
    value = number_text(metric.value, one.metric.name).removesuffix(" %")
    interval = "" if metric.ci_low is None else f" ({interval_text(replace(metric, name=one.metric.name))})"
    return f"{value}{interval} over {_words(name)}"


def _span(one: Compared) -> Span | None:
    metric = one.metric
    if not is_rate(metric.name) or not 0 <= metric.value <= 1:  # NaN is neither
        return None
    marks = [beside.value for name, beside in one.beside.items() if name in BASELINES and 0 <= beside.value <= 1]
    return Span(metric.value, _interval_of(metric), tuple(marks))


def families(rows: Sequence[Compared]) -> list[tuple[str, list[Bar]]]:
    """Rates that are one measure of several categories, by the measure; at most two measures.

    ``accuracy_SIZE_big`` and ``accuracy_SIZE_small`` are categories of accuracy, ``colour_r_at_1`` and ``size_r_at_1``
    of R@1: what they share at one end of their names is the measure.
    """
    rates = [one for one in rows if is_rate(one.metric.name) and 0 <= one.metric.value <= 1]
    names = {one.metric.name: one for one in rates if not set("[/") & set(one.metric.name)}
    found: list[tuple[str, list[Bar]]] = []
    for measure, pattern, fewest in _FAMILIES:
        members = {name: match[1] for name in names if (match := re.fullmatch(pattern, name))}
        if len(members) >= fewest and len(found) < _MOST_FAMILIES:
            found.append((measure, [_bar(label, names[name]) for name, label in members.items()]))
            names = {name: one for name, one in names.items() if name not in members}
    return found


_MOST_FAMILIES = 2
_PROBE = r"(?:hallucination_(?=.+_(?:accuracy|false_yes_rate|f1)))?(?!hallucination_)"  # in the log of another task
# What is measured, the names of its categories' metrics, and how few categories are drawn.
_FAMILIES = (
    ("accuracy", r"accuracy_(.+)", 3),
    ("accuracy", _PROBE + r"(?!worst_|group_gap)(.+)_accuracy", 2),
    ("false yes rate", _PROBE + r"(.+)_false_yes_rate", 3),
    ("R@1 of groups", r"group_(?!gap_)(.+)_t2v_r_at_1", 2),
    ("R@1", r"(?!t2v|v2t|worst_|group_)(.+)_r_at_1", 3),
    ("F1", _PROBE + r"(.+)_f1", 3),
    ("mean IoU", r"mean_iou_(.+)", 3),
    ("score", r"score_(.+)", 3),
)


def against_baselines(rows: Sequence[Compared]) -> tuple[str, list[Bar]] | None:
    """The name of the first metric that two baselines or more stand beside, and all their bars; None for none."""
    for one in rows:
        beside = {name: metric for name, metric in one.beside.items() if name in BASELINES}
        if len(beside) < 2 or not (is_rate(one.metric.name) or one.metric.name.startswith("cider")):
            continue
        values = {"model": one.metric, **beside}
        bars = [
            Bar(_words(name), metric.value, _interval_of(metric))
            for name, metric in values.items()
            if math.isfinite(metric.value)
        ]
        return one.metric.name, bars
    return None


def _interval_of(metric: MetricResult) -> tuple[float, float] | None:
    return None if metric.ci_low is None or metric.ci_high is None else (metric.ci_low, metric.ci_high)


def _bar(label: str, one: Compared) -> Bar:
    metric, chance = one.metric, one.beside.get("chance")
    words = f"{label.replace('_', ' ')} (n = {metric.num_samples:,})"
    return Bar(words, metric.value, _interval_of(metric), None if chance is None else chance.value)
