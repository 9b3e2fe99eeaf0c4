"""The parts of docs/decode.md that the zoo decides.

``python -m tests.zoo.docs_table`` reads the zoo with every reader that loads and writes its tables anew.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.readers import why_absent
from tests.zoo.broken import BROKEN
from tests.zoo.conftest import Zoo
from tests.zoo.inspecting import Inspector, Job, Report, look
from tests.zoo.readers import NAMES
from tests.zoo.sound import SOUND

PAGE = Path(__file__).parents[2] / "docs" / "decode.md"
READS, IN_PART, SHOWS_DAMAGE = "reads", "in part", "shows damage"
SOUND_TABLE, BROKEN_TABLE = "sound", "broken"
COLUMN = "what is given"

Table = dict[str, dict[str, str]]
"""Kind of file to column to cell."""


def sound_kinds(zoo: Zoo, inspector: Inspector, reader: str) -> dict[str, str]:
    """What `reader` does with each kind of sound file."""
    found: dict[str, set[str]] = {}
    for sound in SOUND:
        job = Job(zoo.path(sound.name), reader, stream_index=sound.stream_index)
        found.setdefault(sound.kind, set()).add(_outcome(inspector.remembered(job, look)))
    return {kind: _cell(outcomes) for kind, outcomes in found.items()}


def broken_kinds(zoo: Zoo, inspector: Inspector) -> dict[str, str]:
    """What PyAV gives of each kind of broken file."""
    found: dict[str, set[str]] = {}
    for broken in BROKEN:
        report = inspector.remembered(Job(zoo.broken(broken), "pyav"))
        found.setdefault(broken.kind, set()).add(_outcome(report))
    return {kind: _cell(outcomes) for kind, outcomes in found.items()}


def written(name: str) -> Table:
    """A table as it stands in the page."""
    lines = _around(name)[1].strip().splitlines()
    columns = _cells(lines[0])[1:] if lines else []
    return {cells[0]: dict(zip(columns, cells[1:], strict=True)) for cells in map(_cells, lines[2:])}


def write(name: str, table: Table, columns: Sequence[str]) -> None:
    """Put `table` into the page."""
    lines = ["| kind of file | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    lines += [f"| {kind} | " + " | ".join(cells[column] for column in columns) + " |" for kind, cells in table.items()]
    before, _, after = _around(name)
    PAGE.write_text(before + "\n".join(["", *lines, ""]) + after, encoding="utf-8")


def _around(name: str) -> tuple[str, str, str]:
    """The page up to a table's first mark, the table, and the rest from its second mark on."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = PAGE.read_text(encoding="utf-8").split(begin)
    inside, after = rest.split(end)
    return before + begin, inside, end + after


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
    old = written(SOUND_TABLE)
    table: Table = {}
    with tempfile.TemporaryDirectory() as folder, Inspector() as inspector:
        zoo = Zoo(Path(folder))
        for reader in NAMES:
            absent = why_absent(reader)
            if absent:
                sys.stderr.write(f"the column of {reader} stays as it is: {absent}\n")
            kinds = {sound.kind: "?" for sound in SOUND} if absent else sound_kinds(zoo, inspector, reader)
            for kind, cell in kinds.items():
                table.setdefault(kind, {})[reader] = old.get(kind, {}).get(reader, cell) if absent else cell
        write(SOUND_TABLE, table, NAMES)
        write(BROKEN_TABLE, {kind: {COLUMN: cell} for kind, cell in broken_kinds(zoo, inspector).items()}, [COLUMN])
    sys.stderr.write(f"wrote {PAGE}\n")


if __name__ == "__main__":
    main()
