"""Results as text for a terminal and as Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from vlmvid.evaluation.base import TaskResult
from vlmvid.types import MetricResult

CHANCE = "/chance"
_NOT_RATE = re.compile(
    r".*_rank|(max_|min_)?skew_.*|ndkl.*|(abs_)?bias(_at_\d+)?|effect_size.*|bias_amplification_.*|"
    r"shuffle_change_max|temporal_gain|single_frame_ratio.*|(.*_)?p(_.*)?|.*_(spearman|pearson)|cider.*|mse|judge_score|effective_reliability.*|"
    r"clip_score|ref_clip_score|emscore_coarse|yes_bias.*|mcc|(yes|no)_difference|pair_.*_(place|similarity)|(population|top)_.*_gap|recall_auc_gap|rsum"
)
_COUNT = re.compile(
    r"n_(total|scored|parsed|infinite|videos|texts)|judge_n_unparsed|ties|.*_num_tied|(absent_groups|count_(?!r_at_).*)_at_\d+"
)
_NO_RATES_BESIDE = ("permutation_p", "mcnemar_p", "std")  # behind the slash
_IN_BRACKETS = re.compile(r"\[[^\]]*\]")
_TIMES_100 = re.compile(r"cider.*|rsum")  # as the literature gives them
_SCALES = "Rates are in percent; CIDEr-D and RSum are times 100, so that CIDEr-D goes from 0 to 1000."
_NUM_EXAMPLES = 8
_LONGEST_EXAMPLE = 300  # characters of a cell
# Columns of a sample log that people read, by task: what the report calls each, and the column.
_EXAMPLES: Mapping[str, Mapping[str, str]] = {
    "vlm_caption": {
        "clip": "video_id",
        "reference": "references",
        "model": "generated",
        "blind": "blind_caption",
        "nearest": "nearest_caption",
    },
    "vlm_vqa": {
        "clip": "video_id",
        "question": "question",
        "answer": "answer",
        "generated": "generated",
        "counted": "predicted",
    },
}
_NAME_WIDTH = 58
_COLUMNS = ("metric", "value", "95 % interval", "n", "chance")
_MAIN = {
    "retrieval": r"(t2v|v2t)_r_at_1",
    "attributes": r".*_r_at_1",
    "vqa": r"(mcq|yes_no)_accuracy",
    "hallucination": r"false_yes_rate",
    "bias": r"max_skew_.*|ndkl|worst_group_.*|group_gap_.*",
    "temporal": r"temporal_pair_(accuracy|group_score)",
    "vlm_vqa": r"((mcq|yes_no|open)_)?accuracy(/blind|/other_clip|/prior|/majority)?|"
    r"accuracy/over_(blind|other_clip|prior)|hallucination_(accuracy|false_yes_rate)(/blind|/other_clip)?",
    "vlm_caption": r"cider_d[^/]*(/.*)?|(bleu_4|rouge_l)[^/]*|chair_i(/.*)?",
    "vlm_grounding": r"(mean_iou|accuracy_iou_50)(/blind|/constant)?|unreadable",
}
_MAIN_OF_BATTERY = r"temporal_gain.*|single_frame_ratio.*|blind.*"

_Row = tuple[str, ...]


def format_table(results: Sequence[TaskResult], most_rows: int | None = None) -> str:
    """A plain table of every metric without a final line break; names are cut after 58 characters.

    Of one of our own tasks with more than `most_rows` rows only the main numbers, and how many more there are.

    Rates are in percent, CIDEr-D and RSum times 100, which a last line says where such rows are shown. `chance` holds
    the metric's ``/chance`` value with the range that guessing reaches, where the task reports it.
    """
    rows: list[_Row] = []
    for result in results:
        rows.append((title_of(result), "", "", "", ""))
        found = _rows(result)
        is_long = most_rows is not None and len(found) > most_rows and result.task in _MAIN
        shown = _rows(result, main_only=True) if is_long else found
        rows += [("  " + name, *cells) for name, *cells in shown]
        if len(shown) < len(found):
            rows.append((f"  ... and {len(found) - len(shown)} more in the report", "", "", "", ""))
    table = _plain([_COLUMNS, *rows])
    return f"{table}\n\n{_SCALES}" if any(_is_times_100(row[0].strip()) for row in rows) else table


def markdown_report(results: Sequence[TaskResult], header: Mapping[str, str]) -> str:
    """The report of one evaluation: header, main numbers, all numbers by task, protocols.

    Args:
        results: in the order of the report.
        header: what was evaluated, e.g. ``{"model": ..., "dataset": ...}``; printed as a list.
    """
    lines = ["# Evaluation", ""]
    lines += [f"- {_escape(key)}: {_escape(value)}" for key, value in header.items()]
    lines += ["", "## Main numbers", ""]
    lines += markdown_table(
        ("task", *_COLUMNS), [(title_of(r), *row) for r in results for row in _rows(r, main_only=True)]
    )
    for result in results:
        lines += ["", f"## {title_of(result)}", "", f"{_escape(result.protocol)}.", ""]
        lines += markdown_table(_COLUMNS, _rows(result))
        lines += _examples(result)
        if result.printed is not None:
            lines += ["", f"As {result.compat} prints it:", "", "```text", result.printed.rstrip(), "```"]
    lines += [
        "",
        f"{_SCALES} The interval is the 95 % interval of the value; chance is the expected score of guessing with the "
        "range that it reaches in 95 % of cases. n counts samples.",
        "",
    ]
    return "\n".join(line.rstrip() for line in lines)


def is_rate(name: str) -> bool:
    """Whether a metric of this name lies in [0, 1] and is printed in percent."""
    base, _, beside = _IN_BRACKETS.sub("", name).partition("/")
    return _NOT_RATE.fullmatch(base) is None and beside not in _NO_RATES_BESIDE and not is_count(name)


def is_count(name: str) -> bool:
    """Whether a metric of this name counts samples."""
    return _COUNT.fullmatch(_IN_BRACKETS.sub("", name).removesuffix(CHANCE)) is not None


def _examples(result: TaskResult) -> list[str]:
    """What a model said of a few samples, spread evenly over those of its task."""
    columns = _EXAMPLES.get(result.task, {})
    samples = [row for row in result.samples if all(row.get(columns[name]) is not None for name in list(columns)[:3])]
    if not columns or not samples:
        return []
    shown = {name: column for name, column in columns.items() if any(column in row for row in samples)}
    step = max(1, len(samples) / _NUM_EXAMPLES)
    chosen = [samples[int(place * step)] for place in range(min(_NUM_EXAMPLES, len(samples)))]
    rows = [tuple(_cut(row.get(column)) for column in shown.values()) for row in chosen]
    return ["", f"{len(rows)} of {len(samples)}, spread evenly:", "", *markdown_table(tuple(shown), rows)]


def _cut(value: object) -> str:
    text = "" if value is None else str(value).replace("<", "&lt;")  # a box is no HTML
    return text if len(text) <= _LONGEST_EXAMPLE else text[: _LONGEST_EXAMPLE - 3] + "..."


def _rows(result: TaskResult, *, main_only: bool = False) -> list[_Row]:
    chances = {_without_chance(metric.name): metric for metric in result.metrics if is_chance(metric.name)}
    shown = [metric for metric in result.metrics if not is_chance(metric.name)]
    if main_only:
        shown = main_metrics(result.task, shown)
    return [
        (
            metric.name,
            number_text(metric.value, metric.name),
            interval_text(metric),
            str(metric.num_samples),
            _chance(chances.get(metric.name)),
        )
        for metric in shown
    ]


def title_of(result: TaskResult) -> str:
    """The name of a result in a report."""
    return result.task if result.compat is None else f"{result.task} [{result.compat}]"


def is_chance(name: str) -> bool:
    """Whether a metric of this name says what guessing reaches."""
    return _IN_BRACKETS.sub("", name).endswith(CHANCE)


def _without_chance(name: str) -> str:
    """The name of the metric that a chance stands beside; both end in the same brackets."""
    return name.replace(CHANCE, "", 1)


def main_metrics(task: str, metrics: list[MetricResult]) -> list[MetricResult]:
    """The main metrics of a task; of a task without an entry its first metric."""
    wanted = _MAIN_OF_BATTERY if task.endswith("_battery") else _MAIN.get(task, "")
    return [metric for metric in metrics if re.fullmatch(wanted, metric.name)] or metrics[:1]


def number_text(value: float, name: str) -> str:
    """The value of a metric as reports show it: rates in percent."""
    if math.isnan(value):
        return "-"
    if is_rate(name):
        return f"{100 * value:.1f} %"
    if is_count(name):
        return f"{value:.0f}"
    base = _IN_BRACKETS.sub("", name).partition("/")[0]
    if _is_times_100(name):
        return f"{100 * value:.1f}"
    if base.endswith("_rank"):
        return f"{value:.2f}"
    return f"{value:.3f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"


def _is_times_100(name: str) -> bool:
    return _TIMES_100.fullmatch(_IN_BRACKETS.sub("", name).partition("/")[0]) is not None


def interval_text(metric: MetricResult) -> str:
    """The 95 % interval of a metric, without its unit."""
    if metric.ci_low is None or metric.ci_high is None:
        return "-"
    low, high = (number_text(bound, metric.name).removesuffix(" %") for bound in (metric.ci_low, metric.ci_high))
    return f"{low}..{high}"


def _chance(metric: MetricResult | None) -> str:
    if metric is None:
        return ""
    value = number_text(metric.value, metric.name).removesuffix(" %")
    return value if metric.ci_low is None else f"{value} ({interval_text(metric)})"


def _plain(rows: Sequence[_Row]) -> str:
    cut = [tuple(_shorten(cell) for cell in row) for row in rows]
    widths = [max(len(row[column]) for row in cut) for column in range(len(_COLUMNS))]
    lines = [
        "  ".join(
            # Text to the left, numbers to the right.
            cell.rjust(width) if column in (1, 3) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cut
    ]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([lines[0], rule, *lines[1:]])


def _shorten(cell: str) -> str:
    return cell if len(cell) <= _NAME_WIDTH else cell[: _NAME_WIDTH - 3] + "..."


def markdown_table(columns: Sequence[str], rows: Sequence[_Row]) -> list[str]:
    """The lines of a Markdown table; value and n to the right."""
    right = {"value", "n"}
    head = "| " + " | ".join(columns) + " |"
    rule = "|" + "|".join(" ---: " if column in right else " --- " for column in columns) + "|"
    return [head, rule, *("| " + " | ".join(_escape(cell) for cell in row) + " |" for row in rows)]


def _escape(text: str) -> str:
    return str(text).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
