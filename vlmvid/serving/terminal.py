"""What a terminal can show: tables, colours, and pictures of half blocks in 24-bit colours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TextIO

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

NUM_EXAMPLE_CHARACTERS = 100
HALF_BLOCK = "\N{UPPER HALF BLOCK}"
_RESET = "\x1b[0m"
_NO_COLOURS = ("", "dumb", "unknown")  # values of TERM
_TRUE_COLOURS = ("truecolor", "24bit")  # values of COLORTERM
_NARROWEST_WITH_PICTURES = 40
_USUAL_WIDTH = 80
_UNCUT_WIDTH = 100_000  # for rich, which needs a number
_BETWEEN, _NARROWEST_COLUMN = 2, 8
_SMALLEST_SIDE, _LARGEST_SIDE = 8, 24  # pixels of a picture in a strip; a line of text holds two


@dataclass(frozen=True, slots=True)
class Terminal:
    """What a stream can show.

    Attributes:
        width: columns; None for what is no terminal, where lines are never cut.
        has_colours: whether colours may be written.
        has_pictures: whether it shows 24-bit colours and half blocks, and is wide enough for pictures.
    """

    width: int | None = None
    has_colours: bool = False
    has_pictures: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table; numbers stand to the right, and only what `may_shrink` is cut in a narrow terminal."""

    name: str
    is_number: bool = False
    may_shrink: bool = False


def terminal_of(stream: TextIO, environment: Mapping[str, str] | None = None) -> Terminal:
    """What `stream` can show, by what it is and by TERM, COLORTERM, NO_COLOR and COLUMNS.

    Nothing but text where it is no terminal. NO_COLOR, if not empty, takes the colours (https://no-color.org), and with
    them the pictures, which consist of colours.
    """
    environment = os.environ if environment is None else environment
    if not stream.isatty():
        return Terminal()
    width = _width(stream, environment)
    term = environment.get("TERM", "")
    has_colours = not environment.get("NO_COLOR") and term not in _NO_COLOURS
    is_true = environment.get("COLORTERM", "").lower() in _TRUE_COLOURS or term.endswith("-direct")
    has_pictures = has_colours and is_true and width >= _NARROWEST_WITH_PICTURES and _has_half_blocks(stream)
    return Terminal(width, has_colours, has_pictures)


def table_lines(columns: Sequence[Column], rows: Sequence[Sequence[str]], terminal: Terminal) -> list[str]:
    """A table: its head, then one line for each row; control characters are escaped."""
    from rich.table import Table
    from rich.text import Text

    cells = [[escaped(cell) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, width in zip(columns, _column_widths(columns, cells, terminal.width), strict=True):
        justify: Literal["left", "right"] = "right" if column.is_number else "left"
        table.add_column(Text(column.name), justify=justify, no_wrap=True, width=width)
    for row in cells:
        table.add_row(*map(Text, row))
    return _rendered(table, terminal)


def bold(text: str, terminal: Terminal) -> str:
    """A line that stands out where there are colours; control characters are escaped."""
    return f"\x1b[1m{one_line(text)}{_RESET}" if terminal.has_colours else one_line(text)


def alarming(text: str, terminal: Terminal) -> str:
    """A text in red where there are colours."""
    return f"\x1b[31m{text}{_RESET}" if terminal.has_colours else text


def filmstrip_lines(
    frames: Sequence[NDArray[np.uint8] | None], terminal: Terminal, labels: Sequence[str] = (), *, most_lines: int = 2
) -> list[str]:
    """Square frames side by side, as many and as large as fit; nothing where the terminal shows no pictures.

    Args:
        frames: uint8 (3, S, S) each; None for one that there is no picture of, whose place stays empty.
        terminal: where they are shown.
        labels: a short text below each frame.
        most_lines: of frames; with more lines they are larger.
    """
    if not terminal.has_pictures or terminal.width is None or not frames:
        return []
    per_line, side = _layout(len(frames), terminal.width, most_lines)
    lines: list[str] = []
    for start in range(0, len(frames), per_line):
        some = [_pixels(frame, side) for frame in frames[start : start + per_line]]
        lines += ["  " + " ".join(_half_blocks(pixels, row, side) for pixels in some) for row in range(0, side, 2)]
        below = [one_line(label)[:side].center(side) for label in labels[start : start + per_line]]
        if below:
            lines.append(("  " + " ".join(below)).rstrip())
    return lines


def escaped(text: str) -> str:
    """Text that changes nothing in a terminal but the place it is written to: control characters are spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(text: str) -> str:
    """Text for one line of a terminal: control characters escaped, the middle of a long one left out."""
    clean = escaped(text)
    if len(clean) <= 2 * NUM_EXAMPLE_CHARACTERS:
        return clean
    return f"{clean[:NUM_EXAMPLE_CHARACTERS]} ... {clean[-NUM_EXAMPLE_CHARACTERS:]}"


def _width(stream: TextIO, environment: Mapping[str, str]) -> int:
    said = environment.get("COLUMNS", "")
    if said.isdecimal() and int(said) > 0:
        return int(said)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL_WIDTH
    except (OSError, ValueError):  # a terminal that does not say, or a stream without a file behind it
        return _USUAL_WIDTH


def _has_half_blocks(stream: TextIO) -> bool:
    try:
        HALF_BLOCK.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _column_widths(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int | None) -> list[int]:
    """As wide as the widest cell; where that is too much in all, columns that may shrink do, the widest first."""
    from rich.cells import cell_len

    widths = [max([cell_len(c.name), *(cell_len(row[i]) for row in cells)]) for i, c in enumerate(columns)]
    can = [i for i, column in enumerate(columns) if column.may_shrink]
    while width is not None and can and sum(widths) + _BETWEEN * (len(widths) - 1) > width:
        widest = max(can, key=lambda i: widths[i])
        if widths[widest] <= _NARROWEST_COLUMN:
            break
        widths[widest] -= 1
    return widths


def _rendered(value: RenderableType, terminal: Terminal) -> list[str]:
    console = _console(terminal)
    with console.capture() as capture:
        console.print(value)
    lines = capture.get().splitlines()
    return lines if terminal.has_colours else [line.rstrip() for line in lines]


def _console(terminal: Terminal) -> Console:
    from rich.console import Console

    return Console(
        force_terminal=terminal.has_colours,
        force_jupyter=False,  # which would show an empty picture for every text made in a notebook
        color_system="standard" if terminal.has_colours else None,
        no_color=not terminal.has_colours,
        width=terminal.width or _UNCUT_WIDTH,
        legacy_windows=False,
    )


def _layout(num_frames: int, width: int, most_lines: int) -> tuple[int, int]:
    """How many frames stand in a line, and their side: even, because a character holds two pixels."""
    for num_lines in range(1, most_lines + 1):
        per_line = -(-num_frames // num_lines)
        side = min(_LARGEST_SIDE, (width - 2 - (per_line - 1)) // per_line) // 2 * 2
        if side >= _LARGEST_SIDE or num_lines == most_lines:
            break
    if side < _SMALLEST_SIDE:
        side = _SMALLEST_SIDE
        per_line = max(1, (width - 1) // (side + 1))
    return per_line, side


def _pixels(frame: NDArray[np.uint8] | None, side: int) -> NDArray[np.uint8] | None:
    """uint8 (side, side, 3)."""
    from PIL import Image

    if frame is None:
        return None
    picture = Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0)))
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX))


def _half_blocks(pixels: NDArray[np.uint8] | None, row: int, side: int) -> str:
    """Two rows of pixels as one line of characters; a colour is written where it changes."""
    if pixels is None:
        return " " * side
    parts, before = [], None
    for upper, lower in zip(pixels[row].tolist(), pixels[row + 1].tolist(), strict=True):
        colours = (*upper, *lower)
        if colours != before:
            parts.append("\x1b[38;2;{};{};{};48;2;{};{};{}m".format(*colours))
            before = colours
        parts.append(HALF_BLOCK)
    return "".join([*parts, _RESET])
