"""What a report draws: curves of training, recall over ranks, similarities, bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlmvid.evaluation.report_page import Figure
from vlmvid.evaluation.report_svg import GRID, INK, QUIET, SERIES, drawing, legend_below, panels_of, svg_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_POINTS = 160
_MOST_BARS = 24
_PANELS_PER_ROW = 3
_LONGEST_LABEL = 44

Points = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Line:
    """One line of a panel: where, what, and how it is called; `is_marked` draws every point."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    is_marked: bool = False


@dataclass(frozen=True)
class Panel:
    """Lines that share axes."""

    title: str
    lines: tuple[Line, ...]
    y_label: str = ""


@dataclass(frozen=True)
class Bar:
    """One value with its interval and what guessing gives."""

    label: str
    value: float
    ci: tuple[float, float] | None = None
    chance: float | None = None


def curves_figure(name: str, panels: Sequence[Panel], alt: str, caption: str, x_label: str = "updates") -> Figure:
    """Panels of lines over updates; long lines are means of equal parts, with the range of the parts behind them."""
    columns = min(_PANELS_PER_ROW, len(panels))
    rows = -(-len(panels) // columns)
    with drawing(3.1 * columns + 0.4, 2.3 * rows + 0.4) as figure:
        axes = panels_of(figure, rows, columns)
        colours = _colours(panels)
        for one, panel in zip(axes, panels, strict=False):
            for line in panel.lines:
                _draw_line(one, line, colours[line.label])
            one.set_title(_short(panel.title))
            one.set_xlabel(x_label)
            one.set_ylabel(panel.y_label)
        for one in axes[len(panels) :]:
            one.set_axis_off()
        if any(len(panel.lines) > 1 for panel in panels):
            legend_below(figure, axes)
        return Figure(svg_of(figure, name), alt, caption, is_wide=columns > 1)


def _colours(panels: Sequence[Panel]) -> dict[str, str]:
    labels = dict.fromkeys(line.label for panel in panels for line in panel.lines)
    if all(len(panel.lines) < 2 for panel in panels):
        return dict.fromkeys(labels, SERIES[0])  # their titles tell them apart
    return {label: SERIES[number % len(SERIES)] for number, label in enumerate(labels)}


def _draw_line(axes: Axes, line: Line, colour: str) -> None:
    x, y = np.asarray(line.x, np.float64), np.asarray(line.y, np.float64)
    known = np.isfinite(y)
    x, y = x[known], y[known]
    if line.is_marked:
        axes.plot(x, y, color=colour, lw=1.4, marker="o", ms=3.5, label=line.label)
        return
    if len(x) > _MOST_POINTS:
        parts = np.array_split(np.arange(len(x)), _MOST_POINTS)
        low, high = (np.array([f(y[part]) for part in parts]) for f in (np.min, np.max))
        x, y = (np.array([v[part].mean() for part in parts]) for v in (x, y))
        axes.fill_between(x, low, high, color=colour, alpha=0.22, lw=0)
    axes.plot(x, y, color=colour, lw=1.5, label=line.label)


def recall_figure(
    name: str, ranks: Mapping[str, Sequence[float]], chance: Mapping[str, Sequence[tuple[int, float]]], alt: str
) -> Figure:
    """Recall at K over K, on a logarithmic axis.

    Args:
        name: of the drawing.
        ranks: by line, the 1-based rank of each query.
        chance: by line, what guessing reaches at some K.
        alt: what is shown, in words.
    """
    with drawing(5.6, 3.1) as figure:
        axes = panels_of(figure, 1, 1)[0]
        most = max(10.0, *(max(values) for values in ranks.values()))
        for number, (label, values) in enumerate(ranks.items()):
            colour = SERIES[number % len(SERIES)]
            ks, recall = _recalls(values, most)
            axes.plot(ks, 100 * recall, color=colour, lw=1.7, label=label, drawstyle="steps-post")
            points = chance.get(label, ())
            if points:
                axes.plot(
                    [k for k, _ in points], [100 * v for _, v in points], color=colour, ls=":", marker=".", ms=4, lw=1.2
                )
        if any(chance.values()):
            axes.plot([], [], color=QUIET, ls=":", marker=".", ms=4, lw=1.2, label="guessing")
        axes.set_xscale("log")
        ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 10_000, 100_000) if k <= most]
        axes.set_xticks(ticks, [f"{k:,}" for k in ticks])
        axes.minorticks_off()
        axes.set_ylim(0, 101)
        axes.set_xlabel("K, the best matches that are looked at")
        axes.set_ylabel("recall at K, %")
        legend_below(figure, [axes])
        caption = "How often the right one is among the K best. Dotted: what guessing gives at K = 1, 5, 10."
        return Figure(svg_of(figure, name), alt, caption)


def _recalls(values: Sequence[float], most: float) -> Points:
    """Recall at those K that change the line visibly: all up to 20, then about fifteen for every tenfold."""
    ordered = np.sort(np.asarray(values, np.float64))
    ks = np.unique(np.concatenate([np.arange(1, 21), np.geomspace(1, most, 80).round()]))
    ks = ks[ks <= most]
    return ks, np.searchsorted(ordered, ks, side="right") / len(ordered)


def heat_figure(name: str, values: NDArray[np.float32], labels: Sequence[str], alt: str) -> Figure:
    """Similarities (N, N) of texts (rows) with clips (columns); those that belong together are on the diagonal."""
    count = len(values)
    with drawing(6.4, 5.2) as figure:
        axes = panels_of(figure, 1, 1)[0]
        axes.grid(visible=False)
        image = axes.imshow(values, cmap="cividis", aspect="equal", interpolation="nearest")
        axes.set_xlabel("clips, in the order of their texts")
        axes.set_xticks([])
        shown = range(0, count, max(1, -(-count // 32)))
        axes.set_yticks(list(shown), [_short(labels[row], 34) for row in shown], fontsize=6.5)
        bar = figure.colorbar(image, shrink=0.8)
        bar.outline.set_edgecolor(GRID)
        bar.set_label("cosine similarity")
        caption = (
            f"Cosines of {count} texts (rows) with their clips (columns), sorted by text, so that texts that begin "
            "alike are neighbours. A bright diagonal is what a good model has; bright blocks are clips that it takes "
            "for one another."
        )
        return Figure(svg_of(figure, name), alt, caption)


def bars_figure(name: str, bars: Sequence[Bar], x_label: str, alt: str, caption: str) -> Figure:
    """Horizontal bars with intervals, at most 24; a dotted mark is what guessing gives."""
    shown = list(bars)[:_MOST_BARS]
    more = f" {len(bars) - len(shown)} more are in the table." if len(shown) < len(bars) else ""
    with drawing(6.2, 0.75 + 0.27 * len(shown)) as figure:
        axes = panels_of(figure, 1, 1)[0]
        axes.grid(visible=False, axis="y")
        for row, bar in enumerate(shown):
            axes.barh(row, 100 * bar.value, height=0.62, color=SERIES[0], alpha=0.75)
            if bar.ci is not None:
                axes.plot([100 * bound for bound in bar.ci], [row, row], color=INK, lw=1.2)
            if bar.chance is not None and math.isfinite(bar.chance):
                axes.plot([100 * bar.chance] * 2, [row - 0.42, row + 0.42], color=SERIES[1], lw=1.8, ls=(0, (1, 1)))
        axes.set_yticks(range(len(shown)), [_short(bar.label) for bar in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, max(100.0, *(100 * max(bar.value, *(bar.ci or (0.0,))) for bar in shown)) * 1.01)
        axes.set_xlabel(x_label)
        return Figure(svg_of(figure, name), alt, caption + more)


def differences_figure(name: str, bars: Sequence[Bar], alt: str, caption: str) -> Figure:
    """Differences with their intervals around 0, in points."""
    shown = list(bars)[:_MOST_BARS]
    with drawing(6.2, 0.75 + 0.27 * len(shown)) as figure:
        axes = panels_of(figure, 1, 1)[0]
        axes.grid(visible=False, axis="y")
        axes.axvline(0, color=QUIET, lw=1)
        for row, bar in enumerate(shown):
            if bar.ci is not None:
                axes.plot([100 * bound for bound in bar.ci], [row, row], color=SERIES[0], lw=2)
            axes.plot([100 * bar.value], [row], color=SERIES[0], marker="o", ms=5)
        axes.set_yticks(range(len(shown)), [_short(bar.label) for bar in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlabel("difference, percentage points")
        return Figure(svg_of(figure, name), alt, caption)


def _short(text: str, most: int = _LONGEST_LABEL) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 3] + "..."
