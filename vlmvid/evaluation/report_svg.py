"""Drawings as SVG that take their colours from the page they stand in, so that they follow light, dark and print."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Drawn in these colours, which stand for the page's own; nothing else is drawn in them.
INK, QUIET, GRID = "#010101", "#010102", "#010103"
SERIES = tuple(f"#0102{number:02x}" for number in range(1, 7))
_VARIABLES: Mapping[str, str] = {
    INK: "var(--ink)",
    QUIET: "var(--quiet)",
    GRID: "var(--grid)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)},
}
_SETTINGS: Mapping[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": QUIET,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",  # the page's font, and text that can be found
    "svg.hashsalt": "vlmvid",  # the same drawing has the same bytes
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "xtick.color": QUIET,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": QUIET,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8.5,
}
_FONT = re.compile(r"font: (?:(\w+) )?([\d.]+)px [^;\"]*")


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches, to be drawn on with the colours of this module and given to `svg_of` in the block."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: Any = dict(_SETTINGS)
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that its own font lacks; the page's has them
        yield Figure(figsize=(width, height), layout="constrained")


def panels_of(figure: Figure, rows: int, columns: int) -> list[Axes]:
    """The axes of a grid, row by row."""
    return list(figure.subplots(rows, columns, squeeze=False).flat)


def svg_of(figure: Figure, name: str) -> str:
    """The figure as an ``<svg>`` element; `name`, letters and dashes, keeps its ids apart from those of others."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = _FONT.sub(lambda found: f"font-size: {found[2]}px; font-weight: {found[1] or 'normal'}", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1).strip()


def legend_below(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend below all panels, each label once."""
    known: dict[str, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    if known:
        figure.legend(known.values(), known.keys(), loc="outside lower left", ncols=min(4, len(known)))
