"""A report as blocks, whichever way it is written: `report_html` and `report_markdown` write the same page.

Every text in here is data: what a dataset's author, a file name or a model has put into it is escaped when it is
written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Span:
    """Where a value lies on an axis from `low` to `high`: a number with its interval, and marks of what it is beside.

    Attributes:
        value: the value.
        ci: its interval, if it has one.
        marks: what it is compared with, e.g. guessing.
        low: the axis' lower end.
        high: its upper end.
    """

    value: float
    ci: tuple[float, float] | None = None
    marks: tuple[float, ...] = ()
    low: float = 0.0
    high: float = 1.0

    def place(self, value: float) -> float:
        """Where `value` lies, from 0 to 100; outside of the axis at its end."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of words; `is_warning` sets it apart."""

    text: str
    is_warning: bool = False


@dataclass(frozen=True)
class Facts:
    """Names with values, one below the other."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is its heading.

    Attributes:
        caption: what it shows.
        columns: their names.
        rows: texts.
        numeric: columns whose cells stand to the right.
        spans: of each row, drawn behind its last cell; empty for none.
        is_folded: whether it is shown only when it is asked for.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()
    spans: tuple[Span | None, ...] = ()
    is_folded: bool = False


@dataclass(frozen=True)
class Figure:
    """A drawing.

    Attributes:
        svg: an ``<svg>`` element of our own making, which is written as it is.
        alt: what it shows, for those who do not see it.
        caption: what to look for.
        is_wide: whether it takes the whole width of the page.
    """

    svg: str
    alt: str
    caption: str
    is_wide: bool = False


@dataclass(frozen=True)
class Strip:
    """The frames of a clip side by side; `error` says why there are none.

    Attributes:
        title: what the clip is called.
        image: WebP, empty where there are no frames.
        alt: what is shown.
        width: of the picture, in pixels.
        height: likewise.
        seconds: when each frame is shown, in seconds of the file.
    """

    title: str
    image: bytes = b""
    alt: str = ""
    width: int = 0
    height: int = 0
    seconds: tuple[float, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Card:
    """One example: what was shown, what was said, and how it was scored."""

    verdict: str
    strips: tuple[Strip, ...]
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Cards:
    """Examples of one kind."""

    title: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Printed:
    """What is shown letter by letter."""

    caption: str
    text: str


Block = Paragraph | Facts | Table | Figure | Cards | Printed


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it; `parts` have headings of the next lower level."""

    title: str
    blocks: Sequence[Block] = ()
    parts: Sequence[Section] = ()

    @property
    def anchor(self) -> str:
        """Its name in links."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "section"


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        title: its heading.
        lead: one line below it.
        sections: in order; those without blocks and parts are left out.
        footer: how to read it.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    footer: str = field(default="")

    @property
    def shown(self) -> list[Section]:
        """The sections that hold something."""
        return [section for section in self.sections if section.blocks or section.parts]
