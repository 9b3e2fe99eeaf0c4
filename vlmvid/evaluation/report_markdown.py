"""A report's page as Markdown: the same words and tables, without pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlmvid.evaluation.report import markdown_table
from vlmvid.evaluation.report_page import Block, Cards, Facts, Figure, Page, Paragraph, Printed, Section, Table

_SPECIAL = re.compile(r"([\\`*_\[\]#])")


def markdown_page(page: Page) -> str:
    """The page as Markdown; what would be markup in a text is escaped."""
    lines = [f"# {_plain(page.title)}", "", _plain(page.lead)]
    for section in page.shown:
        lines += _section(section, 2)
    if page.footer:
        lines += ["", "---", "", _plain(page.footer)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _section(section: Section, level: int) -> list[str]:
    lines = ["", f"{'#' * level} {_plain(section.title)}"]
    for block in section.blocks:
        lines += ["", *_block(block)]
    for part in section.parts:
        lines += _section(part, level + 1)
    return lines


def _block(block: Block) -> list[str]:
    if isinstance(block, Paragraph):
        return [f"**Note:** {_plain(block.text)}" if block.is_warning else _plain(block.text)]
    if isinstance(block, Facts):
        return [f"- {_plain(name)}: {_plain(value)}" for name, value in block.rows]
    if isinstance(block, Table):
        return [f"{_plain(block.caption)}:", "", *markdown_table(block.columns, [_cells(row) for row in block.rows])]
    if isinstance(block, Figure):
        return [f"(Figure in the HTML report: {_plain(block.alt)})"]
    if isinstance(block, Printed):
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", block.text)), default=0))
        return [f"{_plain(block.caption)}:", "", f"{fence}text", block.text.rstrip(), fence]
    return _cards(block)


def _cards(block: Cards) -> list[str]:
    lines = [f"{_plain(block.title)}:", ""]
    for card in block.cards:
        lines.append(f"- {_plain(card.verdict)}")
        lines += [f"  - {_plain(name)}: {_plain(value)}" for name, value in card.rows]
        lines += [
            f"  - shown: {_plain(strip.title)}" + (f" ({_plain(strip.error)})" if strip.error else "")
            for strip in card.strips
        ]
    return lines


def _cells(row: Sequence[str]) -> tuple[str, ...]:
    """Texts without HTML and links; the table's own writer escapes its bars."""
    return tuple(cell.replace("<", "&lt;").replace("](", "]&#40;").replace("\r", " ") for cell in row)


def _plain(text: str) -> str:
    """A text on one line that is neither HTML nor markup."""
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return _SPECIAL.sub(r"\\\1", flat)
