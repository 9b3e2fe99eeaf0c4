"""The tutorial does what it says: every block, in order, in a copy of the tree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, Workplace, blocks_of

pytestmark = pytest.mark.long


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    made = Workplace(tmp_path / "tree")
    made.environment.pop("PREFECT_API_URL", None)
    made.environment["PREFECT_HOME"] = str(tmp_path / "prefect")
    yield made
    made.close()


@pytest.mark.timeout(1800)
def test_every_block_of_the_tutorial(place: Workplace) -> None:
    shown = [
        (block, place.run(block, seconds=1200))
        for block in blocks_of(ROOT / "docs" / "tutorial.md")
        if block.language != "text"
    ]
    said = "\n".join(output for _, output in shown)
    for words in (
        "240 files, ", "num_keyframes", "register  run", "t2v_r_at_1", "align     run", "compares videos with texts",
        "index: 240 clips, 240 new", '{"status":"ok","clips":240}',
    ):  # fmt: skip
        assert words in said, words
    first = next(line for line in said.splitlines() if line.startswith("   1  "))
    assert "large white rings rise up" in first
    assert (place.folder / "my-report").is_dir() and (place.folder / "media.parquet").is_file()
    last = shown[-1][1]
    assert "champion" in last
