"""The report of one run: its sections, from what is known of the run."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from vlmvid.artifacts import hash_json
from vlmvid.evaluation.base import TaskResult, group_by
from vlmvid.evaluation.report import is_rate, title_of
from vlmvid.evaluation.report_examples import Example, example_cards
from vlmvid.evaluation.report_metrics import (
    Compared,
    against_baselines,
    compared,
    families,
    headline,
    label_of,
    metrics_table,
    of_topic,
    topic_of,
)
from vlmvid.evaluation.report_page import Block, Facts, Figure, Page, Paragraph, Printed, Section, Strip, Table
from vlmvid.evaluation.report_plots import Bar, Line, Panel, bars_figure, curves_figure, heat_figure, recall_figure
from vlmvid.evaluation.report_run import Cost, Curve, RunRecord, StageRecord

NUM_DEFECTS = 5  # examples of each reason
_TOPICS = {"bias": "Bias", "hallucination": "Hallucination", "temporal": "Time"}
_ABOUT = {
    "bias": "Skews, gaps and associations are above 0 by chance alone: only what lies outside of the range that "
    "guessing reaches is bias. n says how many samples, or queries, each value is over.",
    "hallucination": "What the model affirms or names that is not there. Of rates of wrong yes and of CHAIR, less is "
    "better.",
    "temporal": "What the order of frames is worth to the model. A model that ignores it has a pair accuracy of 50 % "
    "and a temporal gain of 0.",
}
_FOOTER = (
    "Rates are in percent; CIDEr-D and RSum are times 100, so that CIDEr-D goes from 0 to 1000. Intervals are 95 % "
    "intervals, clustered as the protocols say. Chance is what guessing is expected to score, with the range that it "
    "reaches in 95 % of cases. In drawn intervals the solid mark is the value, dashed marks are its baselines. n "
    "counts samples."
)


def run_page(
    record: RunRecord, examples: Sequence[Example] = (), strips: Mapping[tuple[str, str], Strip] | None = None
) -> Page:
    """The whole report of a run, with the examples that were chosen and the frames that they show."""
    created = record.created_seconds
    made = f"made {utc(created)}" if created is not None else "undated"
    return Page(
        title=record.name,
        lead=f"Report of {_what(record)}, {made}",
        sections=[
            Section("Headline", _headline(record)),
            Section("Data and protocol", _data(record), _protocols(record)),
            Section("Training", training_blocks(record)),
            Section("Results", (), _results(record)),
            *(Section(title, *_topic(record, topic)) for topic, title in _TOPICS.items()),
            Section("Examples", (), _examples(examples, strips or {})),
            Section("Decode defects", _defects(record)),
            Section("Cost", cost_blocks(record)),
            Section("Lineage", _lineage(record)),
        ],
        footer=_FOOTER if record.results else "",
    )


def _what(record: RunRecord) -> str:
    return "one run" if record.source == record.name else record.source


def _headline(record: RunRecord) -> list[Block]:
    rows = headline(record.results)
    blocks: list[Block] = [Paragraph(note, is_warning=True) for note in record.notes]
    if rows:
        return [metrics_table(rows, "Main numbers", with_task=True), *blocks]
    done = ", ".join(stage.name for stage in record.stages) or "none"
    return [Paragraph(f"Nothing was measured: this run has no finished evaluation. Finished stages: {done}."), *blocks]


def _data(record: RunRecord) -> list[Block]:
    blocks: list[Block] = [Facts(record.facts)] if record.facts else []
    if record.splits:
        rows = tuple((s.split, f"{s.clips:,}", f"{s.captions:,}", f"{s.questions:,}") for s in record.splits)
        columns = ("split", "clips", "captions", "questions")
        blocks.append(Table("What the dataset holds", columns, rows, frozenset(columns[1:])))
    return blocks


def _protocols(record: RunRecord) -> list[Section]:
    if not record.results:
        return []
    rows = tuple((title_of(result), f"{result.protocol}.") for result in record.results)
    return [Section("What was measured, and how", [Facts(rows)])]


# Training.


def training_blocks(record: RunRecord) -> list[Block]:
    """Loss, and what was seen of other clips, over the updates of every training."""
    curves = [curve for curve in record.curves if curve.rows]
    if not curves:
        return []
    panels = [panel for curve in curves for panel in curve_panels({curve.stage: curve})]
    ends = [
        (curve.stage, f"{_last_step(curve):,}", f"{curve.rows[0].get('loss', float('nan')):.4g}", _end_of(curve))
        for curve in curves
    ]
    alt = f"Loss over updates of {', '.join(curve.stage for curve in curves)}; the table below has first and last."
    caption = "Loss of each training over its updates, and what looks at clips that are not trained on saw."
    columns = ("training", "updates", "first loss", "last loss")
    return [
        curves_figure("training", panels, alt, caption),
        Table("Beginning and end of each training", columns, tuple(ends), frozenset(columns[1:])),
    ]


def curve_panels(curves: Mapping[str, Curve]) -> list[Panel]:
    """Panels of the loss of `curves`, by the names of their lines, and one for each thing that looks at clips saw."""
    stage = next(iter(curves.values())).stage
    panels = [Panel(stage, tuple(_line(label, curve, "loss") for label, curve in curves.items()), "loss")]
    looks = dict.fromkeys(
        name for curve in curves.values() for row in curve.rows for name in row if name.startswith("val_")
    )
    for name in looks:
        lines = (_line(label, curve, name) for label, curve in curves.items())
        panels.append(Panel(f"{stage}: {name}", tuple(line for line in lines if line.x), name))
    return panels


def _line(label: str, curve: Curve, name: str) -> Line:
    rows = [row for row in curve.rows if row.get(name) is not None]
    return Line(label, [row["step"] for row in rows], [row[name] for row in rows], is_marked=name != "loss")


def _last_step(curve: Curve) -> int:
    return int(curve.rows[-1]["step"])


def _end_of(curve: Curve) -> str:
    return f"{curve.rows[-1].get('loss', float('nan')):.4g}"


# Results.


def _results(record: RunRecord) -> list[Section]:
    """The results that have no section of their own; all numbers of those whose section shows a part of them."""
    sections = []
    for number, result in enumerate(record.results):
        if topic_of(result, record.topics.get(result.task)):
            continue
        blocks = recall_blocks({"": result}, f"recall-{number}")
        if result.task == "retrieval" and record.similarity is not None:
            blocks.append(_heat(record))
        elsewhere = {one.metric.name for topic in _TOPICS for one in of_topic(result, topic)}
        blocks += _bars([one for one in compared(result) if one.metric.name not in elsewhere], f"bars-{number}")
        blocks.append(metrics_table(compared(result), "All numbers", with_task=False, is_folded=True))
        if result.printed is not None:
            blocks.append(Printed(f"As {result.compat} prints it", result.printed))
        sections.append(Section(title_of(result), blocks))
    return sections


def recall_blocks(results: Mapping[str, TaskResult], name: str) -> list[Block]:
    """Recall over K of every direction, for results that log ranks; their keys name the lines of several."""
    ranks: dict[str, list[float]] = {}
    chance: dict[str, list[tuple[int, float]]] = {}
    for key, result in results.items():
        for direction in ("t2v", "v2t"):
            found = [row.get("rank") for row in result.samples if row.get("direction") == direction]
            known = [float(rank) for rank in found if isinstance(rank, int | float) and np.isfinite(rank)]
            if known:
                label = " ".join(filter(None, (direction.upper(), key)))
                ranks[label] = known
                chance[label] = _chances(result, direction)
    if not ranks:
        return []
    words = "; ".join(f"{label}: {len(values):,} queries" for label, values in ranks.items())
    return [recall_figure(name, ranks, chance, f"Recall at K over K. {words}. The table of all numbers has R@1, 5, 10")]


def _chances(result: TaskResult, direction: str) -> list[tuple[int, float]]:
    by_name = {metric.name: metric.value for metric in result.metrics}
    names = {k: f"{direction}_r_at_{k}/chance" for k in (1, 5, 10)}
    return [(k, by_name[name]) for k, name in names.items() if name in by_name]


def _heat(record: RunRecord) -> Figure:
    assert record.similarity is not None  # the caller checked
    texts, values = record.similarity.texts, record.similarity.values
    own, every = float(np.diag(values).mean()), float(values.mean())
    alt = (
        f"Heat map of cosine similarities of {len(texts)} texts with {len(texts)} clips. The mean of those that belong "
        f"together is {own:.3f}, that of all pairs {every:.3f}."
    )
    return heat_figure("similarity", values, texts, alt)


def _bars(rows: Sequence[Compared], name: str) -> list[Block]:
    figures: list[Block] = []
    beside = against_baselines(rows)
    if beside is not None:
        metric, bars = beside
        measure = label_of(metric)
        unit = "%" if is_rate(metric) else "times 100"
        alt = f"Bars of {measure}: {_listed(bars)}."
        caption = f"{_capital(measure)} of the model beside its baselines, with 95 % intervals."
        figures.append(bars_figure(f"{name}-baselines", bars, f"{measure}, {unit}", alt, caption))
    for place, (measure, bars) in enumerate(families(rows)):
        caption = f"{_capital(measure)} by category, with 95 % intervals; dotted is what guessing gives, where known."
        alt = f"Bars of {measure} by category: {_listed(bars)}."
        figures.append(bars_figure(f"{name}-{place}", bars, f"{measure}, %", alt, caption))
    return figures


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _listed(bars: Sequence[Bar]) -> str:
    return ", ".join(f"{bar.label} {100 * bar.value:.1f}" for bar in bars)


def _topic(record: RunRecord, topic: str) -> tuple[list[Block], list[Section]]:
    sections = []
    for number, result in enumerate(record.results):
        known = record.topics.get(result.task)
        rows = of_topic(result, topic, known)
        if not rows:
            continue
        blocks = _bars(rows, f"{topic}-{number}")
        blocks.append(metrics_table(rows, f"{title_of(result)}: values with n", with_task=False))
        if result.printed is not None and topic_of(result, known) == topic:
            blocks.append(Printed(f"As {result.compat} prints it", result.printed))
        sections.append(Section(f"{title_of(result)} ({len(result.samples):,} logged samples)", blocks))
    return ([Paragraph(_ABOUT[topic])] if sections else []), sections


def _examples(examples: Sequence[Example], strips: Mapping[tuple[str, str], Strip]) -> list[Section]:
    return [Section(title, cards) for title, cards in example_cards(examples, strips).items()]


# How it was made.


def _defects(record: RunRecord) -> list[Block]:
    if not record.stages:
        return []
    if not record.defects:
        return [Paragraph("Every clip could be read, decoded and encoded.")]
    by_reason = group_by(record.defects, lambda one: (one.stage, one.status, one.reason))
    counts = Counter(one.stage for one in record.defects)
    words = ", ".join(f"{number:,} in {stage}" for stage, number in counts.items())
    rows = tuple(
        (stage, status.replace("_", " "), reason or "-", f"{len(group):,}")
        for (stage, status, reason), group in sorted(by_reason.items(), key=lambda item: -len(item[1]))
    )
    columns = ("stage", "status", "reason", "clips")
    examples = tuple(
        (one.video_id, one.stage, one.reason, one.message)
        for group in by_reason.values()
        for one in group[:NUM_DEFECTS]
    )
    return [
        Paragraph(f"Clips without a result: {words}."),
        Table("Clips without a result, by reason", columns, rows, frozenset(("clips",))),
        Table(f"Examples, up to {NUM_DEFECTS} of each reason", ("clip", "stage", "reason", "what was wrong"), examples),
    ]


def cost_blocks(record: RunRecord) -> list[Block]:
    """Time, CPU, memory and speed of every stage whose cost is known."""
    known = [(stage, stage.cost) for stage in record.stages if stage.cost is not None]
    if not known:
        return []
    rows = tuple((stage.name, *cost_cells(cost)) for stage, cost in known)
    columns = ("stage", *COST_COLUMNS)
    blocks: list[Block] = [
        Table("Cost of the last computation of each stage", columns, rows, frozenset(columns[1:])),
        Paragraph(
            "CPU and memory are those of the process that ran the stage and of all that it started, on its machine; "
            "memory that processes share counts for each of them, and is looked at every few seconds. A stage that was "
            "reused keeps the cost of its computation. Units are what that computation had to do."
        ),
    ]
    unknown = [stage.name for stage in record.stages if stage.cost is None]
    if unknown:
        blocks.append(Paragraph(f"Not measured: {', '.join(unknown)}."))
    return blocks


COST_COLUMNS = ("time", "CPU", "CPU / time", "peak memory", "units", "speed")


def cost_cells(cost: Cost | None) -> tuple[str, ...]:
    """The cells of a table of costs, in the order of `COST_COLUMNS`."""
    if cost is None:
        return ("",) * len(COST_COLUMNS)
    cpu, memory, wall = cost.cpu_seconds, cost.peak_memory_bytes, cost.wall_seconds
    return (
        seconds_text(wall),
        "-" if cpu is None else seconds_text(cpu),
        "-" if cpu is None or wall <= 0 else f"{cpu / wall:.1f}",
        "-" if memory is None else f"{memory / 1e9:.2f} GB",
        f"{cost.units:,} {cost.unit}s" if cost.units else "-",
        f"{cost.units / wall:,.3g} {cost.unit}s/s" if cost.units and wall > 0 else "-",
    )


def seconds_text(seconds: float) -> str:
    """A length of time in words: ``4.2 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _lineage(record: RunRecord) -> list[Block]:
    if not record.stages:
        return []
    rows = tuple((stage.name, _key(stage), _made(stage), _code(stage), _inputs(stage)) for stage in record.stages)
    blocks: list[Block] = [
        Table("Stages: the key of each names everything that decides its result", _LINEAGE_COLUMNS, rows)
    ]
    parts = [stage.parts for stage in record.stages if stage.parts is not None]
    weights = {name: value for part in parts for name, value in part.weights.items()}
    # Of pieces of one stage too: ``av (decode)``.
    packages = {f"{name.partition(' ')[0]} {value}" for part in parts for name, value in part.packages.items()}
    facts = [(f"weights of {name}", value) for name, value in sorted(weights.items())]
    facts += [("packages", ", ".join(sorted(packages, key=str.lower)))] if packages else []
    facts += list(record.versions.items())
    adopted = [stage.name for stage in record.stages if stage.adopted_code]
    if adopted:
        blocks.append(Paragraph(f"Results of older code were accepted for: {', '.join(adopted)}.", is_warning=True))
    return [*blocks, Facts(tuple(facts))] if facts else blocks


_KEY = re.compile(r"[0-9a-f]{24}[0-9a-f]*(\+[0-9a-f]+)?")
_LINEAGE_COLUMNS = ("stage", "key", "made (UTC)", "code", "made from")


def _key(stage: StageRecord) -> str:
    return f"{stage.key}+{stage.revision}" if stage.revision else stage.key


def _made(stage: StageRecord) -> str:
    return "-" if stage.created_seconds is None else utc(stage.created_seconds).removesuffix(" UTC")


def _code(stage: StageRecord) -> str:
    if stage.parts is None:
        return "-"
    return f"{hash_json(stage.parts.code)[:12]} ({len(stage.parts.code)} modules)"


def _inputs(stage: StageRecord) -> str:
    inputs = stage.parts.inputs if stage.parts is not None else {}
    return ", ".join(f"{name} {key[:12] if _KEY.fullmatch(key) else key}" for name, key in inputs.items()) or "-"


def utc(seconds: float) -> str:
    """A moment in words."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
