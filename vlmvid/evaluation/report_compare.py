"""The comparison of several runs with the first: differences with their intervals and p values, and what differs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlmvid.artifacts.keys import differences
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.gate_samples import num_shared, paired
from vlmvid.evaluation.gates import independent_difference
from vlmvid.evaluation.report import interval_text, is_rate, number_text, title_of
from vlmvid.evaluation.report_differing import choose_differing, differing_sections
from vlmvid.evaluation.report_metrics import headline, label_of
from vlmvid.evaluation.report_page import Block, Facts, Page, Paragraph, Section, Strip, Table
from vlmvid.evaluation.report_plots import Bar, curves_figure, differences_figure
from vlmvid.evaluation.report_run import Curve, RunRecord, StageRecord
from vlmvid.evaluation.report_sections import COST_COLUMNS, cost_cells, curve_panels, recall_blocks, utc
from vlmvid.metrics import PairedComparison
from vlmvid.types import MetricResult

NUM_PERMUTATIONS = 10_000
_MOST_DIFFERENCES = 40
_FOOTER = (
    "Differences are run minus first run, in percentage points for rates. Paired: both runs were measured on the same "
    "samples, the interval is a bootstrap over clusters of samples (those of one video, unless the protocol says "
    "otherwise), and p is that of a permutation test that flips whole clusters; McNemar's p takes samples for "
    "independent. p values are not corrected for how many there are."
)


@dataclass(frozen=True)
class Difference:
    """A metric of a run minus that of the first run.

    Attributes:
        run: name of the run.
        task: title of the result.
        first: the first run's value.
        second: the run's.
        paired: over the same samples, where they are and the metric is a mean over them.
        interval: of the difference.
        how: how the interval was made, or why there is none.
    """

    run: str
    task: str
    first: MetricResult
    second: MetricResult
    paired: PairedComparison | None
    interval: tuple[float, float] | None
    how: str

    @property
    def value(self) -> float:
        """Of the difference."""
        return self.second.value - self.first.value

    @property
    def verdict(self) -> str:
        """Better, worse, or not told apart, by the interval."""
        if self.interval is None:
            return ""
        low, high = self.interval
        if low <= 0 <= high:
            return "not told apart"
        return "better" if (low > 0) == self.first.higher_is_better else "worse"


def comparison_page(records: Sequence[RunRecord], strips: Mapping[tuple[str, str], Strip] | None = None) -> Page:
    """The comparison of `records`, which have names of their own, with the first of them.

    `strips` by (result name, clip) are the frames of what `choose_differing` chooses.
    """
    first = records[0]
    examples = [
        section
        for other in records[1:]
        for section in differing_sections((first.name, other.name), choose_differing(first, other), strips or {})
    ]
    found = [one for other in records[1:] for one in differences_of(first, other)]
    return Page(
        title="Comparison of " + " with ".join(record.name for record in (*records[1:], first)),
        lead="; ".join(f"{record.name}: {_source(record)}" for record in records),
        sections=[
            Section("Headline", _values(records)),
            Section("Differences", _differences(found, first.name)),
            Section("Same protocol and data?", _protocols(records)),
            Section("Training", _training(records)),
            Section("Recall", _recall(records)),
            Section("Examples", (), examples),
            Section("What differs", (), [_changes(first, other) for other in records[1:]]),
            Section("Cost", _costs(records)),
        ],
        footer=_FOOTER,
    )


def _source(record: RunRecord) -> str:
    made = record.created_seconds
    return record.source + ("" if made is None else f", made {utc(made)}")


def differences_of(first: RunRecord, other: RunRecord) -> list[Difference]:
    """The main metrics that both runs have, compared on their samples."""
    by_name = {(title_of(one.result), one.metric.name): one for one in headline(other.results)}
    found = []
    for ours in headline(first.results):
        theirs = by_name.get((title_of(ours.result), ours.metric.name))
        if theirs is None or not (math.isfinite(ours.metric.value) and math.isfinite(theirs.metric.value)):
            continue
        pair = paired((theirs.result, theirs.metric), (ours.result, ours.metric), num_permutations=NUM_PERMUTATIONS)
        interval, how = _interval(pair, theirs.metric, ours.metric, _samples(ours.result, theirs.result))
        found.append(Difference(other.name, title_of(ours.result), ours.metric, theirs.metric, pair, interval, how))
    return found


def _interval(
    pair: PairedComparison | None, second: MetricResult, first: MetricResult, samples: str
) -> tuple[tuple[float, float] | None, str]:
    if pair is None:
        interval = independent_difference(second, first)
        return interval, f"taken for independent: {samples}" if interval else f"no interval: {samples}"
    ends = (0.0, 0.0) if pair.ci_low is None or pair.ci_high is None else (pair.ci_low, pair.ci_high)
    return ends, "paired"


def _samples(first: TaskResult, second: TaskResult) -> str:
    """Whether two logs are of the same samples, in words."""
    shared, counts = num_shared(first, second), (len(first.samples), len(second.samples))
    if not min(counts):
        return "a sample log is missing"
    if shared == counts[0] == counts[1]:
        return "the metric is no mean over samples"
    return f"the samples differ, {shared:,} of {counts[0]:,} and {counts[1]:,} are the same"


# Sections.


def _values(records: Sequence[RunRecord]) -> list[Block]:
    rows: dict[tuple[str, str], dict[str, MetricResult]] = {}
    for record in records:
        for one in headline(record.results):
            rows.setdefault((title_of(one.result), one.metric.name), {})[record.name] = one.metric
    if not rows:
        return [Paragraph("None of these runs has a finished evaluation.")]
    names = tuple(record.name for record in records)
    cells = tuple(
        (task, label_of(metric), *(_value(found.get(name)) for name in names)) for (task, metric), found in rows.items()
    )
    caption = "Main numbers of each run, with 95 % intervals and n"
    return [Table(caption, ("task", "metric", *names), cells, frozenset(names))]


def _value(metric: MetricResult | None) -> str:
    if metric is None:
        return "not measured"
    return f"{number_text(metric.value, metric.name)} ({interval_text(metric)}), n = {metric.num_samples:,}"


def _differences(found: Sequence[Difference], first: str) -> list[Block]:
    if not found:
        return [Paragraph("There is no metric that two of these runs have in common.")]
    rows = tuple(
        (
            one.run,
            one.task,
            label_of(one.first.name),
            _points(one.value, one),
            "-" if one.interval is None else f"{_points(one.interval[0], one)}..{_points(one.interval[1], one)}",
            "-" if one.paired is None else _p(one.paired.permutation_p),
            "-" if one.paired is None or one.paired.mcnemar_p is None else _p(one.paired.mcnemar_p),
            "-" if one.paired is None else f"{one.paired.only_first:,} / {one.paired.only_second:,}",
            one.verdict,
            one.how,
        )
        for one in found
    )
    numeric = ("difference", "95 % interval", "p", "McNemar p", "higher / lower on")
    columns = ("run", "task", "metric", *numeric, "verdict", "compared")
    blocks: list[Block] = [Table(f"Differences from {first}", columns, rows, frozenset(numeric))]
    bars = [
        Bar(f"{one.run}: {one.task} {label_of(one.first.name)}", one.value, one.interval)
        for one in found
        if is_rate(one.first.name)
    ]
    if bars:
        words = ", ".join(f"{bar.label} {100 * bar.value:+.1f}" for bar in bars)
        caption = f"Differences of rates from {first} with 95 % intervals; one that crosses 0 is not told apart."
        blocks.insert(0, differences_figure("differences", bars, f"Differences in percentage points: {words}", caption))
    return blocks


def _points(value: float, one: Difference) -> str:
    return f"{100 * value:+.1f}" if is_rate(one.first.name) else f"{value:+.3g}"


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _protocols(records: Sequence[RunRecord]) -> list[Block]:
    """Where tasks were measured in different ways, or on other data."""
    first, blocks = records[0], list[Block]()
    known = {title_of(result): result for result in first.results}
    for other in records[1:]:
        for result in other.results:
            ours = known.get(title_of(result))
            if ours is None or ours.protocol == result.protocol:
                continue
            words = f"{title_of(result)} was not measured in the same way in {first.name} and {other.name}."
            blocks.append(Paragraph(words, is_warning=True))
            blocks.append(Facts(((first.name, ours.protocol), (other.name, result.protocol))))
        ours_rows, theirs_rows = _rows_key(first), _rows_key(other)
        if ours_rows and theirs_rows and ours_rows != theirs_rows:
            words = f"{other.name} reads another dataset than {first.name}, or another state of it."
            blocks.append(Paragraph(words, is_warning=True))
    return blocks or [Paragraph("All tasks that the runs share were measured in the same way, on the same data.")]


def _rows_key(record: RunRecord) -> str:
    stage = record.stage("curate") or record.stage("ingest")
    return "" if stage is None else f"{stage.key}+{stage.revision}"


def _training(records: Sequence[RunRecord]) -> list[Block]:
    by_stage: dict[str, dict[str, Curve]] = {}
    for record in records:
        for curve in record.curves:
            if curve.rows:
                by_stage.setdefault(curve.stage, {})[record.name] = curve
    if not by_stage:
        return []
    panels = [panel for curves in by_stage.values() for panel in curve_panels(curves)]
    alt = f"Loss over updates of {', '.join(by_stage)}, one line for each run."
    return [curves_figure("training", panels, alt, "Losses of other data or objectives are not comparable.")]


def _recall(records: Sequence[RunRecord]) -> list[Block]:
    blocks: list[Block] = []
    titles = dict.fromkeys(title_of(result) for record in records for result in record.results)
    for number, title in enumerate(titles):
        results = {r.name: result for r in records for result in r.results if title_of(result) == title}
        found = recall_blocks(results, f"recall-{number}")
        blocks += [Paragraph(f"{title}:"), *found] if found else []
    return blocks


def _changes(first: RunRecord, other: RunRecord) -> Section:
    """Stage by stage what differs in what their keys are made of."""
    rows: list[tuple[str, ...]] = []
    for stage in dict.fromkeys(stage.name for stage in (*first.stages, *other.stages)):
        rows += _stage_changes(stage, first.stage(stage), other.stage(stage))
    more = len(rows) - _MOST_DIFFERENCES
    blocks: list[Block] = [Paragraph("Nothing: their stages have the same keys.")]
    if rows:
        shown = tuple(rows[:_MOST_DIFFERENCES])
        blocks = [Table(f"From {first.name} to {other.name}", ("stage", "difference"), shown)]
    if more > 0:
        blocks.append(Paragraph(f"{more:,} more differences are left out."))
    return Section(f"{first.name} and {other.name}", blocks)


def _stage_changes(name: str, ours: StageRecord | None, theirs: StageRecord | None) -> list[tuple[str, ...]]:
    if ours is None or theirs is None:
        return [(name, "only in the second" if ours is None else "only in the first")]
    if ours.key == theirs.key:
        return []
    if ours.parts is None or theirs.parts is None:
        return [(name, f"key {ours.key} -> {theirs.key}")]
    return [(name, words) for words in differences(ours.parts, theirs.parts)]


def _costs(records: Sequence[RunRecord]) -> list[Block]:
    stages = dict.fromkeys(stage.name for record in records for stage in record.stages if stage.cost is not None)
    rows = []
    for name in stages:
        for record in records:
            stage = record.stage(name)
            if stage is not None and stage.cost is not None:
                rows.append((name, record.name, *cost_cells(stage.cost)))
    if not rows:
        return []
    caption = "Cost of the last computation of each stage"
    return [Table(caption, ("stage", "run", *COST_COLUMNS), tuple(rows), frozenset(COST_COLUMNS))]
