from __future__ import annotations

from pathlib import Path

import pytest

from vlmvid.evaluation.benchmarks import BENCHMARKS
from vlmvid.evaluation.probes import ProbeOptions

PAGES = Path(__file__).parents[2] / "docs" / "benchmarks"
NAMES = sorted(page.stem for page in PAGES.glob("*.md") if not page.stem.startswith("qa_"))


def rows_of(page: str) -> list[list[str]]:
    lines = (PAGES / f"{page}.md").read_text(encoding="utf-8").split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith("| name |"))
    table = lines[start : next(number for number, line in enumerate(lines) if number > start and not line)]
    return [
        [cell.strip() for cell in line[1:].removesuffix("|").split("|")] for line in table if set(line) - set("|- ")
    ]


@pytest.mark.parametrize("page", NAMES)
def test_every_row_is_a_benchmark_and_says_what_its_ids_are(page: str) -> None:
    header, *rows = rows_of(page)
    column = next(place for place, name in enumerate(header) if name in ("ids", "texts called"))
    for row in rows:
        assert len(row) == len(header) and row[column], row
        assert all(name.strip("` ") in BENCHMARKS for name in row[0].split(",")), row[0]


def test_the_options_of_make_probes_are_listed() -> None:
    text = (PAGES / "hallucination.md").read_text(encoding="utf-8")
    listed = {line.split("`")[1].split("=")[0] for line in text.split("\n") if line.startswith("| `") and "=" in line}
    assert set(ProbeOptions.model_fields) <= listed
    assert "vlmvid make-probes MANIFEST --out F" in text
