"""What a search found, in a terminal, in a notebook and as a data frame; missing videos and hostile names included."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from PIL import Image
from traitlets.config import Config

from tests.tiny import COLOURS, write_clip
from vlmvid.serving.search_results import SearchHit, SearchResults
from vlmvid.serving.terminal import HALF_BLOCK, Terminal

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


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    made = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    yield made
    InteractiveShell.clear_instance()


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
    with capture_output() as shown:
        results.show()
    assert shown.stdout == "" and [output.data["text/html"] for output in shown.outputs] == [html]
