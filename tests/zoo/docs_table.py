"""The parts of docs/decode.md that the zoo decides.

``python -m tests.zoo.docs_table`` reads the zoo with every reader that loads and writes its table anew.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.zoo.broken import BROKEN
from tests.zoo.conftest import Zoo
from tests.zoo.inspecting import Inspector, Job, Report, look
from tests.zoo.readers import NAMES, why_absent
from tests.zoo.sound import SOUND

PAGE = Path(__file__).parents[2] / "docs" / "decode.md"
READS, IN_PART, SHOWS_DAMAGE = "reads", "in part", "shows damage"
_START, _END = "<!-- zoo: begin -->", "<!-- zoo: end -->"

Inspect = Callable[[Job], Report]
Table = dict[str, dict[str, str]]
"""Kind of file to reader to what the reader does with it."""


def measured(
    zoo: Zoo, inspect: Callable[[Job], Report], open_only: Callable[[Job], Report], reader: str
) -> dict[str, str]:
    """What `reader` does with each kind of file."""
    found: dict[str, set[str]] = {}
    for sound in SOUND:
        report = open_only(Job(zoo.path(sound.name), reader, stream_index=sound.stream_index))
        found.setdefault(sound.kind, set()).add(_outcome(report))
    for broken in BROKEN:
        found.setdefault(broken.kind, set()).add(_outcome(inspect(Job(zoo.broken(broken), reader))))
    return {kind: _cell(outcomes) for kind, outcomes in found.items()}


def written() -> Table:
    """The table as it stands in the page."""
    block = PAGE.read_text(encoding="utf-8").split(_START)[1].split(_END)[0].strip().splitlines()
    readers = _cells(block[0])[1:] if block else []
    return {cells[0]: dict(zip(readers, cells[1:], strict=True)) for cells in map(_cells, block[2:])}


def write(table: Table, readers: Sequence[str]) -> None:
    """Put `table` into the page."""
    lines = ["| kind of file | " + " | ".join(readers) + " |", "| --- |" + " --- |" * len(readers)]
    lines += [f"| {kind} | " + " | ".join(cells[reader] for reader in readers) + " |" for kind, cells in table.items()]
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(_START)
    PAGE.write_text(before + "\n".join([_START, *lines, _END]) + rest.split(_END)[1], encoding="utf-8")


def reasons() -> set[str]:
    """The reason codes that the page explains."""
    section = PAGE.read_text(encoding="utf-8").split("## Reason codes")[1].split("\n## ")[0]
    first_cells = re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", " ".join(first_cells)))


def _outcome(report: Report) -> str:
    if report.reason is not None:
        return f"`{report.reason}`"
    seen = report.seen()
    if any(frame.code is None for frame in seen.values()):
        return SHOWS_DAMAGE
    refused = {frame for frame in report.frames.values() if isinstance(frame, str)}
    if not refused and not report.is_truncated:
        return READS
    return IN_PART if seen else ", ".join(f"`{reason}`" for reason in sorted(refused))


def _cell(outcomes: set[str]) -> str:
    first = [outcome for outcome in (READS, IN_PART, SHOWS_DAMAGE) if outcome in outcomes]
    return ", ".join(first + sorted(outcomes - set(first)))


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split("|")]


def main() -> None:
    """Measure every reader that loads; columns of the others stay as they are."""
    readers = [reader for reader in NAMES if not why_absent(reader)]
    absent = [reader for reader in NAMES if why_absent(reader)]
    old = written()
    with tempfile.TemporaryDirectory() as folder, Inspector() as inspector:
        zoo = Zoo(Path(folder))
        columns = {reader: measured(zoo, inspector, lambda job: inspector(job, look), reader) for reader in readers}
    kinds = list(columns[readers[0]])
    columns |= {reader: {kind: old.get(kind, {}).get(reader, "?") for kind in kinds} for reader in absent}
    write({kind: {reader: columns[reader][kind] for reader in NAMES} for kind in kinds}, NAMES)
    sys.stderr.write(f"wrote {PAGE}; measured {', '.join(readers)}\n")


if __name__ == "__main__":
    main()
