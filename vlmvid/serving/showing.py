"""Values that show themselves: as a table in a notebook, as text in a terminal."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from html import escape
from importlib import import_module

from vlmvid.serving.terminal import Terminal, terminal_of

_CELL = 'style="text-align:left; vertical-align:middle"'


class Showable(ABC):
    """What `show` shows; the last line of a notebook's cell shows it, too."""

    @abstractmethod
    def to_text(self, terminal: Terminal) -> str:
        """The value as lines for `terminal`."""

    @abstractmethod
    def _repr_html_(self) -> str:
        """The value as HTML, by which notebooks show it; whatever comes from files is escaped."""

    def __repr__(self) -> str:
        return self.to_text(Terminal())

    def show(self) -> None:
        """Show it here: in the notebook that this runs in, else as text on stdout."""
        if _is_notebook():
            import_module("IPython.display").display(self)  # a function without types
        else:
            sys.stdout.write(self.to_text(terminal_of(sys.stdout)) + "\n")


def html_table(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table; the cells are HTML already, names and caption are texts."""
    head = "".join(f"<th {_CELL}>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td {_CELL}>{cell}</td>' for cell in row)}</tr>" for row in rows)
    title = f'<caption style="text-align:left; font-weight:bold">{escape(caption)}</caption>'
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _is_notebook() -> bool:
    """Whether a kernel runs this, which shows HTML; a shell of IPython in a terminal has none."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None
