"""The report of an alignment probe: tables that read well as Markdown and in a terminal, the matrix and the scatter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmvid.evaluation.base import Sample
from vlmvid.evaluation.probing import (
    MODALITIES,
    Correlation,
    Modality,
    Point,
    ProbedEncoder,
    ProbedPair,
    ProbeFailure,
)
from vlmvid.evaluation.representation import RECALL
from vlmvid.metrics import has_high_leverage
from vlmvid.metrics.correlation import FEWEST
from vlmvid.types import MetricResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TRAINED, _RANDOM, _RING = "#2f6fb7", "#9aa5b1", "#c0392b"
_PANELS_PER_ROW = 4
# What the table of encoders shows beside the first k-NN accuracy; the rest is in the correlations and in the Parquet.
_IN_TABLE = ("linear_accuracy", "nmi", "cluster_silhouette", "cka_debiased", "mutual_knn")
_NOT_PERCENT = ("nmi", "cka", "cka_debiased", "cluster_silhouette", "label_silhouette")


@dataclass(frozen=True)
class ProbeResult:
    """Everything that a probe has measured.

    Attributes:
        name: of the probe.
        protocol: what was measured, in words.
        encoders: in the order of the recipe, vision first.
        pairs: in the order in which they were probed.
        points: by modality, what the correlations are over.
        correlations: over both modalities.
        failures: what could not be probed.
        notes: what was left out of a measure, and why.
    """

    name: str
    protocol: str
    encoders: tuple[ProbedEncoder, ...]
    pairs: tuple[ProbedPair, ...]
    points: Mapping[Modality, Sequence[Point]]
    correlations: tuple[Correlation, ...]
    failures: tuple[ProbeFailure, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The document of ``vlmvid probe --json``."""
        return {
            "probe": self.name,
            "protocol": self.protocol,
            "encoders": [{**vars(e), "metrics": [m.to_json() for m in e.metrics]} for e in self.encoders],
            "pairs": [{**vars(p), "metrics": [m.to_json() for m in p.metrics]} for p in self.pairs],
            "correlations": [correlation.to_json() for correlation in self.correlations],
            "failures": [vars(failure) for failure in self.failures],
            "notes": list(self.notes),
        }

    def rows(self) -> list[Sample]:
        """One row per number: encoder or pair, metric, value, n and interval."""
        owners: list[tuple[Sample, tuple[MetricResult, ...]]] = []
        for e in self.encoders:
            names = {"vision": e.name if e.modality == "vision" else None}
            names["language"] = e.name if e.modality == "language" else None
            owners.append(({**names, "is_random": e.is_random}, e.metrics))
        random: dict[tuple[str, str], bool] = {(e.modality, e.name): e.is_random for e in self.encoders}
        for p in self.pairs:
            is_random = random.get(("vision", p.vision), False) or random.get(("language", p.language), False)
            owners.append(({"vision": p.vision, "language": p.language, "is_random": is_random}, p.metrics))
        return [{**owner, **metric.to_json()} for owner, metrics in owners for metric in metrics]


def probe_report(result: ProbeResult) -> str:
    """The report: a table per modality, correlations, and what could not be probed."""
    lines = [f"# Alignment probe {result.name}", "", result.protocol, ""]
    for modality in MODALITIES:
        points = result.points.get(modality, ())
        if not points:
            continue
        lines += [f"## {modality.capitalize()} encoders", "", *_table(_encoder_rows(points)), ""]
        lines += [*_chance_words(result), ""]
        lines += [f"## R@10 and other measures over {len(points)} {modality} encoders", ""]
        if len(points) < FEWEST:
            lines += [f"No correlation is given: it needs at least {FEWEST} encoders, and there are {len(points)}.", ""]
        else:
            lines += [*_table(_correlation_rows(result, modality)), ""]
            if any(c.resampled == "encoders" for c in result.correlations if c.modality == modality):
                lines += ["\\* Resamples encoders, as they come from few networks: the interval is too narrow.", ""]
    num_visions, num_languages = (len({getattr(p, kind) for p in result.pairs}) for kind in MODALITIES)
    if min(num_visions, num_languages) > 1 and len(result.pairs) == num_visions * num_languages:
        lines += ["## Mean R@10 of the pairs", "", *_table(_matrix_rows(result)), ""]
    for title, words in (
        ("Not probed", [f"{f.what} ({f.stage}): {f.error}" for f in result.failures]),
        ("Notes", list(result.notes)),
    ):
        if words:
            lines += [f"## {title}", "", *(f"- {' '.join(text.split())}" for text in words), ""]
    return "\n".join(lines)


def _chance_words(result: ProbeResult) -> list[str]:
    """What guessing reaches, and of how many samples the figures are."""
    known = {metric.name: metric for pair in result.pairs for metric in pair.metrics}
    recall, chance = known.get(RECALL), known.get(f"{RECALL}/chance")
    if recall is None or chance is None:
        return []
    return [
        f"R@10 is of {recall.num_samples} queries per seed, texts and clips together; chance is {chance.value:.1%}."
    ]


def _encoder_rows(points: Sequence[Point]) -> list[list[str]]:
    found = list(dict.fromkeys(name for point in points for name in point.values))
    shown = [name for name in found if name.startswith("knn_")][:1] + [name for name in _IN_TABLE if name in found]
    rows = [["encoder", "R@10", *(_title(name) for name in shown)]]
    for point in sorted(points, key=lambda p: -p.recall):
        values = [(RECALL, point.recall), *((name, point.values.get(name, math.nan)) for name in shown)]
        rows.append([point.name, *(_cell(name, value, point.intervals.get(name)) for name, value in values)])
    return rows


def _correlation_rows(result: ProbeResult, modality: Modality) -> list[list[str]]:
    rows = [["measure", "encoders", "n (networks)", "Pearson r", "Spearman r"]]
    lines: dict[tuple[str, str, bool], dict[str, Correlation]] = {}
    for c in result.correlations:
        if c.modality == modality:
            lines.setdefault((c.metric, c.subset, c.without_leverage), {})[c.method] = c
    for (metric, subset, without), by_method in lines.items():
        one = by_method["pearson"]
        chosen = f"{subset}, without {', '.join(one.left_out)}" if without else subset
        count = f"{len(one.points)} ({one.num_weights})"
        rows.append([_title(metric), chosen, count, *(_r(by_method[method]) for method in ("pearson", "spearman"))])
    return rows


def _matrix_rows(result: ProbeResult) -> list[list[str]]:
    languages = list(dict.fromkeys(p.language for p in result.pairs))
    found = {(p.vision, p.language): {m.name: m.value for m in p.metrics}[RECALL] for p in result.pairs}
    rows = [["vision", *languages]]
    for vision in dict.fromkeys(p.vision for p in result.pairs):
        rows.append([vision, *(_cell(RECALL, found.get((vision, name), math.nan), None) for name in languages)])
    return rows


def _r(correlation: Correlation) -> str:
    result = correlation.result
    if result is None:
        return correlation.why_not
    if result.ci_low is None or result.ci_high is None:
        return f"{result.value:.2f}"
    note = "" if correlation.resampled == "networks" else "*"
    return f"{result.value:.2f} ({result.ci_low:.2f}..{result.ci_high:.2f}){note}"


def _cell(name: str, value: float, interval: tuple[float, float] | None) -> str:
    if not math.isfinite(value):
        return "-"
    factor, digits = (1, 3) if name in _NOT_PERCENT else (100, 1)
    text = f"{factor * value:.{digits}f}"
    return (
        text if interval is None else f"{text} ({factor * interval[0]:.{digits}f}..{factor * interval[1]:.{digits}f})"
    )


def _title(name: str) -> str:
    known = {"nmi": "NMI", "cka": "CKA", "cka_debiased": "CKA debiased", "mutual_knn": "mutual k-NN"}
    return known.get(name, name.replace("knn_", "k-NN ").replace("_", " "))


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(r, widths, strict=True)) + " |" for r in cells]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def write_figures(result: ProbeResult, folder: Path) -> list[Path]:
    """Write ``matrix.png`` and a scatter per modality with enough points for a correlation; returns the paths."""
    paths = [_matrix_figure(result, folder / "matrix.png")] if result.pairs else []
    for modality in MODALITIES:
        points = result.points.get(modality, ())
        if len(points) >= FEWEST:
            paths.append(_scatter_figure(result, modality, points, folder / f"scatter_{modality}.png"))
    return paths


def _matrix_figure(result: ProbeResult, path: Path) -> Path:
    from matplotlib.figure import Figure

    visions = list(dict.fromkeys(p.vision for p in result.pairs))
    languages = list(dict.fromkeys(p.language for p in result.pairs))
    values = np.full((len(visions), len(languages)), np.nan)
    for pair in result.pairs:
        recall = next(m.value for m in pair.metrics if m.name == RECALL)
        values[visions.index(pair.vision), languages.index(pair.language)] = 100 * recall
    figure = Figure(figsize=(2.6 + 1.1 * len(languages), 1.6 + 0.3 * len(visions)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, cmap="viridis", vmin=0, aspect="auto")
    middle = float(np.nanmax(values)) / 2
    for (row, column), value in np.ndenumerate(values):
        if math.isfinite(value):
            colour = "white" if value < middle else "black"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(languages)), languages, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(visions)), visions, fontsize=8)
    axes.set_title("mean of T2V and V2T R@10, %", fontsize=9)
    figure.colorbar(image, shrink=0.8)
    figure.savefig(path, dpi=120)
    return path


def _scatter_figure(result: ProbeResult, modality: Modality, points: Sequence[Point], path: Path) -> Path:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    names = list(dict.fromkeys(name for point in points for name in point.values))
    columns = min(_PANELS_PER_ROW, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.3 * columns, 3.2 * rows + 0.4), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    chance = next((m.value for pair in result.pairs for m in pair.metrics if m.name == f"{RECALL}/chance"), 0.0)
    for axes, name in zip(panels, names, strict=False):
        _panel(axes, name, points)
        axes.axhline(100 * chance, color="#555555", lw=0.8, ls=":")
        axes.set_ylim(0, None)
        axes.set_title(f"{_title(name)}\n{_panel_words(result, modality, name)}", fontsize=8)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    marks = [
        Line2D([], [], marker="o", ls="", color=_TRAINED, label="trained"),
        Line2D([], [], marker="o", ls="", color=_RANDOM, label="random"),
        Line2D([], [], marker="o", ls="", mfc="none", mec=_RING, ms=10, label="high leverage"),
        Line2D([], [], color="#555555", lw=0.8, ls=":", label="chance"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=120)
    return path


def _panel(axes: Axes, name: str, points: Sequence[Point]) -> None:
    known = [p for p in points if math.isfinite(p.values.get(name, math.nan))]
    scale = 1 if name in _NOT_PERCENT else 100
    x, y = [scale * p.values[name] for p in known], [100 * p.recall for p in known]
    bounds = [p.intervals.get(RECALL, (p.recall, p.recall)) for p in known]
    axes.vlines(
        x, [100 * low for low, _ in bounds], [100 * high for _, high in bounds], color="#cccccc", lw=1, zorder=1
    )
    axes.scatter(x, y, c=[_RANDOM if p.is_random else _TRAINED for p in known], s=18)
    ringed = np.flatnonzero(has_high_leverage(x)) if known else ()
    axes.scatter([x[i] for i in ringed], [y[i] for i in ringed], s=90, facecolors="none", edgecolors=_RING)
    for point, horizontal, vertical in zip(known, x, y, strict=True):
        axes.annotate(
            point.name, (horizontal, vertical), xytext=(3, 2), textcoords="offset points", fontsize=4.5, color="#555555"
        )
    axes.set_xlabel(_title(name) + ("" if scale == 1 else ", %"), fontsize=8)
    axes.set_ylabel("mean R@10, %", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.margins(x=0.28)


def _panel_words(result: ProbeResult, modality: Modality, metric: str) -> str:
    lines = []
    for c in result.correlations:
        if (c.modality, c.metric, c.method) == (modality, metric, "pearson") and not c.without_leverage:
            lines.append(f"{c.subset}: r = {_r(c)}" if c.result else f"{c.subset}: {c.why_not}")
    return "\n".join(lines)
