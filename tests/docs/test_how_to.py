"""The how-to pages do what they say: every block, in order, in a copy of the tree."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.docs.blocks import ROOT, Block, Workplace, blocks_of
from tests.tiny import COLOURS, write_clip

pytestmark = pytest.mark.long
HOW_TO = ROOT / "docs" / "how_to"
SUBTITLES = "1\n00:00:00,000 --> 00:00:01,500\na {0} picture\n\n2\n00:00:03,000 --> 00:00:04,500\na bar over {0}\n"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    """A copy of the tree beside which lies a folder of videos with captions and subtitles."""
    made = Workplace(tmp_path / "tree")
    for number, (name, colour) in enumerate(COLOURS.items()):
        write_clip(made.folder / "videos" / f"{name}.mp4", colour, shift=number, num_frames=30)
        (made.folder / "videos" / f"{name}.srt").write_text(SUBTITLES.format(name))
        (made.folder / "videos" / f"{name}.txt").write_text(f"a {name} picture\n")
    yield made
    made.close()


def run_page(place: Workplace, name: str) -> dict[int, tuple[Block, str]]:
    return {block.line: (block, place.run(block)) for block in blocks_of(HOW_TO / name)}


def outputs(done: dict[int, tuple[Block, str]]) -> list[str]:
    return [output for block, output in done.values() if block.language == "sh"]


def test_dataset(place: Workplace) -> None:
    tested, used = outputs(run_page(place, "dataset.md"))
    assert "1 passed" in tested
    assert "ingest: 8 ok" in used and "encode: 8 ok" in used
    rows = [json.loads(line) for line in (place.folder / "clips.jsonl").read_text().splitlines()]
    assert len(rows) == len(COLOURS)


def test_backbone(place: Workplace) -> None:
    _, tested = outputs(run_page(place, "backbone.md"))
    assert "7 passed" in tested and "encode: 4 ok" in tested


def test_metric(place: Workplace) -> None:
    (tested,) = outputs(run_page(place, "metric.md"))
    assert "2 passed" in tested
    place.run(Block("sh", "python -c 'from vlmvid.config.gates import load_gates; load_gates(\"gates.yaml\")'\n", 0))


@pytest.mark.prefect
def test_deployment(prefect_api: str, tmp_path: Path) -> None:
    place = Workplace(tmp_path / "tree", PREFECT_API_URL=prefect_api)
    try:
        write_clip(place.folder / "videos" / "red.mp4", COLOURS["red"])
        (shown,) = outputs(run_page(place, "deployment.md"))
    finally:
        place.close()
    assert "COMPLETED" in shown, shown
    assert pq.read_table(place.folder / "media.parquet").num_rows == 1
    listed = subprocess.run(
        [str(place.folder / "bin" / "prefect"), "deployment", "ls"],
        capture_output=True, text=True, env={**place.environment, "COLUMNS": "200"}, cwd=place.folder,
    )  # fmt: skip
    assert "vlmvid-pipeline/mine-nightly" in listed.stdout and "probe-media/probe-media" in listed.stdout
