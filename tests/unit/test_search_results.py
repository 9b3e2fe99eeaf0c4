"""What a search found, in a terminal, in a notebook and as a data frame; missing videos and hostile names included."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from PIL import Image
from traitlets.config import Config

from tests.tiny import COLOURS, write_clip
from tests.unit.test_serving_load import template
from tests.unit.video_index_fixtures import make_index, table_row, unit_rows
from vlmvid.errors import ConfigError
from vlmvid.serving.load import load
from vlmvid.serving.search_results import SearchHit, SearchResults
from vlmvid.serving.terminal import HALF_BLOCK, Terminal
from vlmvid.serving.video_index_table import Maker

HOSTILE = "<script>alert(1)</script>\x1b[31m[bold]"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> SearchResults:
    folder = tmp_path_factory.mktemp("clips")
    red = write_clip(folder / "red.mp4", COLOURS["red"])
    (folder / "text.mp4").write_text("no video")
    where = {"start_seconds": 0.0, "end_seconds": 0.5}
    return SearchResults(
        [
            SearchHit(query="red", rank=1, score=0.9, video_id=HOSTILE, path=str(red), moment_seconds=0.25, **where),
            SearchHit(query="red", rank=2, score=0.5, video_id="b", path=str(folder / "text.mp4"), **where),
            SearchHit(query=HOSTILE, rank=1, score=0.1, video_id="gone", path=str(folder / "gone.mp4"),
                      start_seconds=1.0, end_seconds=None, captions=(HOSTILE, "another")),
        ]
    )  # fmt: skip


def test_text(results: SearchResults) -> None:
    shown = "<script>alert(1)</script>\\x1b[31m[bold]"
    assert repr(results).splitlines() == [
        "red",
        "rank  score  clip                                     time        moment",
        f"   1  0.900  {shown}  0.0..0.5 s   0.2 s",
        "   2  0.500  b                                        0.0..0.5 s",
        "",
        shown,
        "rank  score  clip            time      caption",
        f"   1  0.100  gone (missing)  1.0..end  {shown}",
    ]
    assert repr(SearchResults([])) == "nothing was found"


def test_a_terminal_with_pictures_shows_a_strip_or_the_reason_below_each_row(results: SearchResults) -> None:
    lines = results.to_text(Terminal(80, has_colours=True, has_pictures=True)).splitlines()
    strips = [line for line in lines if HALF_BLOCK in line]
    assert len(strips) == 6 and "\x1b[38;2;2" in strips[3]  # 12 x 12 pixels; the clip is red
    assert [line.strip() for line in lines if "no picture" in line] == [
        "no picture: unreadable",
        "no picture: missing_file",
    ]
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in lines) <= 80


def test_a_data_frame_has_the_fields_as_columns(results: SearchResults) -> None:
    frame = results.to_pandas()
    assert list(frame.columns) == list(SearchHit.model_fields) and len(frame) == 3
    assert frame.groupby("query")["score"].max().to_dict() == {"red": 0.9, HOSTILE: 0.1}
    assert list(SearchResults([]).to_pandas().columns) == list(SearchHit.model_fields)
    assert len(results) == 3 and results[1].video_id == "b" and results[:2].by_query.keys() == {"red"}


class ZMQInteractiveShell(InteractiveShell):
    """By its name other packages know that they are in a notebook."""


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    made = ZMQInteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    yield made
    ZMQInteractiveShell.clear_instance()


def test_a_notebook_gets_html_with_pictures_and_nothing_that_runs(
    results: SearchResults, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    formats, _ = shell.display_formatter.format(results)
    html = formats["text/html"]
    assert formats["text/plain"] == repr(results)
    assert "<script" not in html and html.count("&lt;script&gt;") >= 3
    (data,) = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', html)
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.size == (6 * 72 + 5 * 2, 72) and picture.getpixel((30, 60))[0] > 150
    assert "no picture: missing_file" in html and "gone (missing)" in html

    results.show()  # IPython in a terminal has no kernel
    assert capsys.readouterr().out == f"{results!r}\n"
    shell.kernel = SimpleNamespace()
    shell.push({"results": results})
    with capture_output() as shown:
        shell.run_cell("results.show(); kept = repr(results)", store_history=False)
    assert shown.stdout == "" and [output.data["text/html"] for output in shown.outputs] == [html]


def test_a_model_searches_an_index_of_its_own_alone(tmp_path: Path) -> None:
    model = load(template()[0], device="cpu")
    texts = ["a red square", "ein Ball", "red"]
    rows = [table_row(number, path=str(tmp_path / f"{number}.mp4")) for number in range(3)]
    maker = Maker(model.embedding_digest, model.name, "eyes")
    index = make_index(tmp_path / "own", model.encode_text(texts).astype(np.float16), rows, maker)
    found = model.search(index, texts, top_k=2)
    assert [(hit.query, hit.video_id) for hit in found if hit.rank == 1] == [
        (text, f"v{number}") for number, text in enumerate(texts)
    ]
    assert found[0].score == pytest.approx(1.0, abs=1e-3) and found[0].captions == ("caption 0",)
    assert found[0].moment_seconds is None and found[0].is_missing and len(found) == 6
    one = model.search(tmp_path / "own", "red", where={"colour": ["blue"]})
    assert [hit.video_id for hit in one] == ["v2"]
    with pytest.raises(ConfigError, match="query 2 of 2 has 10,000 characters; at most 1,000 are taken"):
        model.search(index, ["red", "x" * 10_000])
    with pytest.raises(ConfigError, match="query 2 of 2 is empty"):
        model.search(index, ["red", " \n"])
    other = make_index(tmp_path / "other", unit_rows(3, 8))
    with pytest.raises(ConfigError, match="'tiny'.*cannot be compared"):
        model.search(other, "red")
