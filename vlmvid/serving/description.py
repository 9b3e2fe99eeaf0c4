"""A loaded model in words: as a text for a terminal, and as a table for a notebook."""

from __future__ import annotations

from html import escape
from typing import Protocol

_DIGITS = 12  # of a digest, as everywhere that people read one


class Described(Protocol):
    """What is said of a model; see `vlmvid.serving.model.VideoTextModel`."""

    digest: str

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def embeds(self) -> bool:
        """Whether it compares videos with texts."""

    @property
    def speaks(self) -> bool:
        """Whether it says things of videos."""

    @property
    def parts(self) -> dict[str, str]:
        """What it consists of, by part."""


def description_text(model: Described) -> str:
    """One line that says what the model is for, and a line for each part."""
    rows = _rows(model)
    width = max(map(len, rows))
    return "\n".join([_title(model), *(f"  {name:<{width}}  {words}" for name, words in rows.items())])


def description_html(model: Described) -> str:
    """The same as a table; whatever the model's files say is escaped."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(words)}</td></tr>'
        for name, words in _rows(model).items()
    )
    return f"<table><caption>{escape(_title(model))}</caption>{rows}</table>"


def _title(model: Described) -> str:
    abilities = {"compares videos with texts": model.embeds, "says what videos show": model.speaks}
    return f"VideoTextModel {model.name!r}: {' and '.join(words for words, can in abilities.items() if can)}"


def _rows(model: Described) -> dict[str, str]:
    return {**model.parts, **({"digest": model.digest[:_DIGITS]} if model.digest else {})}
