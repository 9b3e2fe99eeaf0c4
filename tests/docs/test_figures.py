"""The scripts that draw the figures of docs/ draw those that are there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.docs.blocks import ROOT, Block, Workplace
from tests.tiny import COLOURS, write_clip

pytestmark = pytest.mark.long


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    made = Workplace(tmp_path / "tree")
    (made.folder / "docs" / "figures").mkdir(parents=True)
    yield made
    made.close()


def test_the_figures_of_the_method_are_those_of_its_script(place: Workplace) -> None:
    place.run(Block("sh", "python scripts/make_method_figures.py\n", 0))
    drawn = sorted((place.folder / "docs" / "figures").glob("method_*.svg"))
    assert len(drawn) == 5
    for figure in drawn:
        assert figure.read_bytes() == (ROOT / "docs" / "figures" / figure.name).read_bytes(), figure.name


def test_a_picture_of_a_terminal_has_the_colours_that_it_showed(place: Workplace) -> None:
    write_clip(place.folder / "red.mp4", COLOURS["red"])
    place.run(Block("sh", "python scripts/make_terminal_figure.py a.png --columns 90 -- vlmvid inspect red.mp4\n", 0))
    with Image.open(place.folder / "a.png") as picture:
        colours = picture.convert("RGB").getcolors(1 << 20) or []
        width = picture.width
    assert width == 90 * 9 + 28
    assert sum(n for n, colour in colours if colour[0] > 180 and max(colour[1:]) < 90) > 10_000, "the clip is red"
