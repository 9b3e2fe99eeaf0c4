"""What a terminal is shown: pictures only where they can be, nothing cut elsewhere, and nothing a file can slip in."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import pty
import re
import select
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np
import pytest

from tests.unit.video_files import grey_level, overwrite_frame, write_prefix, write_video
from vlmvid.cli import _configure_logging, main
from vlmvid.config.schema import RunOptions
from vlmvid.pipeline.inspect import inspect_file
from vlmvid.pipeline.progress import StageProgress
from vlmvid.serving.terminal import (
    HALF_BLOCK,
    Column,
    Terminal,
    alarming,
    bold,
    filmstrip_lines,
    one_line,
    table_lines,
    terminal_of,
)

HERE = RunOptions(decode_workers=0)
FULL = Terminal(80, has_colours=True, has_pictures=True)
GOOD = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "100"}
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@contextmanager
def terminal(encoding: str = "utf-8", size: tuple[int, int] = (24, 90)) -> Iterator[tuple[TextIO, int]]:
    """A real terminal's two ends: a stream that is one, and the descriptor from which is read what it shows."""
    shown, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    with open(end, "w", encoding=encoding, closefd=True) as stream:
        yield stream, shown
    os.close(shown)


def read_all(stream: TextIO, shown: int) -> str:
    stream.flush()
    found = b""
    while select.select([shown], [], [], 0.05)[0]:
        found += os.read(shown, 1 << 16)
    return found.decode()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Terminal(100, True, True)),
        ({"COLORTERM": "24bit"}, Terminal(100, True, True)),
        ({"COLORTERM": "", "TERM": "xterm-direct"}, Terminal(100, True, True)),
        ({"COLORTERM": ""}, Terminal(100, True, False)),
        ({"NO_COLOR": "1"}, Terminal(100, False, False)),
        ({"NO_COLOR": ""}, Terminal(100, True, True)),
        ({"TERM": "dumb"}, Terminal(100, False, False)),
        ({"TERM": ""}, Terminal(100, False, False)),
        ({"COLUMNS": "39"}, Terminal(39, True, False)),
        ({"COLUMNS": "40"}, Terminal(40, True, True)),
        ({"COLUMNS": "wide"}, Terminal(90, True, True)),
    ],
)
def test_what_a_terminal_can_show(changes: dict[str, str], expected: Terminal) -> None:
    with terminal() as (stream, _):
        assert terminal_of(stream, {**GOOD, **changes}) == expected


def test_what_is_no_terminal_gets_text_alone_and_half_blocks_need_an_encoding() -> None:
    assert terminal_of(io.StringIO(), GOOD) == Terminal(None, False, False)
    with terminal("ascii") as (stream, _):
        assert terminal_of(stream, GOOD) == Terminal(100, True, False)


def test_a_strip_is_as_large_as_fits_and_its_colours_are_those_of_the_frames() -> None:
    frames = [np.full((3, 48, 48), value, np.uint8) for value in (10, 20, 30, 40)]
    frames[0][:, :24] = 200  # the upper half
    lines = filmstrip_lines(frames, FULL, ["0.1", "0.2", "a\x1b]0;x\x07", "0.4"], most_lines=1)
    side = 18  # (80 - 2 - 3) // 4, even
    bare = [_COLOUR.sub("", line) for line in lines]
    assert bare[:-1] == ["  " + " ".join([HALF_BLOCK * side] * 4)] * (side // 2)
    assert all(len(line) <= 80 for line in bare) and "\x1b" not in bare[-1] and "a\\x1b]0;x\\x07" in bare[-1]
    assert "\x1b[38;2;200;200;200;48;2;200;200;200m" in lines[0]
    assert "\x1b[38;2;200;200;200;48;2;10;10;10m" in lines[side // 4]  # the border runs through the middle line
    assert all(line.endswith("\x1b[0m") for line in lines[:-1])
    assert filmstrip_lines(frames, Terminal(80, True, False)) == filmstrip_lines([], FULL) == []
    with_gap = filmstrip_lines([None, frames[1]], FULL, most_lines=1)
    assert _COLOUR.sub("", with_gap[0]) == "  " + " " * 24 + " " + HALF_BLOCK * 24
    narrow = [_COLOUR.sub("", line) for line in filmstrip_lines(frames * 4, Terminal(40, True, True))]
    assert max(map(len, narrow)) <= 40 and len(narrow) == 4 * 4  # 4 lines of frames, 8 x 8 pixels each


def test_a_table_is_cut_in_a_terminal_and_whole_elsewhere() -> None:
    columns = [Column("rank", is_number=True), Column("caption", may_shrink=True), Column("time")]
    rows = [["1", "x" * 300, "0.0..end"], ["10", "[bold]y[/bold]\x1b[31m\n", "1.0..2.0 s"]]
    head, first, second = table_lines(columns, rows, Terminal())
    assert first == f"   1  {'x' * 300}  0.0..end" and head.split() == ["rank", "caption", "time"]
    assert second.startswith("  10  [bold]y[/bold]\\x1b[31m\\n  ") and second.endswith("1.0..2.0 s")
    cut = table_lines(columns, rows, Terminal(40))
    assert len(cut) == 3 and all(len(line) <= 40 for line in cut) and cut[1].endswith("…  0.0..end")
    coloured = table_lines(columns, rows, Terminal(40, True))
    assert "\x1b[1m" in coloured[0] and "\x1b[31m" not in "".join(coloured)


def test_emphasis_needs_colours() -> None:
    assert bold("a\nb", Terminal(80)) == "a\\nb" and bold("a", FULL) == "\x1b[1ma\x1b[0m"
    assert alarming("a", Terminal(80)) == "a" and alarming("a", FULL) == "\x1b[31ma\x1b[0m"
    assert one_line("a\u202eb") == "a\\u202eb"  # would turn the line around


def test_inspect_tells_of_the_packets_and_shows_frames(tmp_path: Path) -> None:
    found = inspect_file(write_video(tmp_path / "a.mp4"), HERE, every_frame=False)
    assert found.index is not None
    told = {name: found.index[name] for name in ("time_base", "num_frames", "num_packets", "found_by", "is_reordered")}
    assert told == {
        "time_base": "1/12288", "num_frames": 48, "num_packets": 48, "found_by": "times", "is_reordered": True,
    }  # fmt: skip
    assert (found.index["num_keyframes"], found.index["first_keyframes_seconds"]) == (4, [0.0, 0.5, 1.0, 1.5])
    assert [frame["number"] for frame in found.frames] == [3, 9, 15, 21, 27, 33, 39, 45]
    for frame, picture in zip(found.frames, found.pictures, strict=True):
        assert picture is not None and picture.shape == (3, 48, 48)
        assert abs(int(picture[:, 24:, 24:].mean()) - grey_level(frame["number"])) <= 2
    plain = found.to_text(Terminal())
    assert "num_keyframes             4" in plain and "\x1b" not in plain
    assert plain.endswith("0.12  0.38  0.62  0.88  1.12  1.38  1.62  1.88")
    assert HALF_BLOCK in found.to_text(FULL)
    document = json.loads(json.dumps(found.to_json()))
    assert document["path"] == "a.mp4" and document["frames"][0] == {
        "number": 3, "seconds": 0.125, "is_key": False, "reason": None,
    }  # fmt: skip


def test_inspect_of_damage_loses_the_damaged_frames_alone(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4")
    found = inspect_file(overwrite_frame(tmp_path / "a.mp4", tmp_path / "b.mp4", 20), HERE, every_frame=False)
    reasons = [frame["reason"] for frame in found.frames]
    assert set(reasons) == {"decode_error", None} and reasons.count("decode_error") <= 2
    assert [picture is None for picture in found.pictures] == [reason is not None for reason in reasons]
    assert "\x1b[31mdefect" in found.to_text(FULL) and "decode_error" in found.to_text(Terminal())
    cut = inspect_file(write_prefix(write_video(tmp_path / "c.mkv"), tmp_path / "d.mkv", 0.6), HERE, every_frame=False)
    assert cut.row["defects"] == ["truncated"] and all(frame["reason"] is None for frame in cut.frames)
    gone = inspect_file(tmp_path / "gone.mp4", HERE, every_frame=False)
    assert (gone.index, gone.frames, gone.row["defects"]) == (None, [], ["missing_file"])


def test_the_command_inspect_shows_pictures_in_a_terminal_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write_video(tmp_path / "a.mp4"))
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    assert main(["inspect", path]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert main(["inspect", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["index"]["num_frames"] == 48
    with terminal() as (stream, shown):
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["inspect", path]) == 0
        monkeypatch.undo()
        assert HALF_BLOCK in read_all(stream, shown)


@pytest.mark.parametrize("size", [(24, 90), (0, 0)])
def test_bars_look_alike_and_are_silent_elsewhere(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        progress = StageProgress()
        for stage, unit in (("decode", "clip"), ("import-embeddings", "file")):
            progress.begin(stage, 4, unit, done=1)
            progress.advance(stage, 3)
            progress.end(stage)

    work()
    assert capsys.readouterr() == ("", "")
    with terminal(size=size) as (stream, shown):
        monkeypatch.setattr(sys, "stderr", stream)
        work()
        monkeypatch.undo()
        text = read_all(stream, shown)
    last = [line.split("\r")[-1] for line in text.strip().split("\r\n")]
    assert [line.partition("|")[0] for line in last] == ["decode     100 % ", "import-embeddings 100 % "]
    assert re.search(r"\| 4/4 clips \[00:00<00:00, .*clip/s\]", last[0]) and "4/4 files [" in last[1]


def test_log_lines_do_not_tear_bars_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from tqdm import tqdm

    root, level = logging.getLogger(), logging.getLogger("vlmvid").level
    before = root.handlers[:]
    with terminal() as (stream, shown):
        monkeypatch.setattr(sys, "stderr", stream)
        root.handlers[:] = []
        try:
            _configure_logging(1)
            with tqdm(total=2, file=stream, bar_format="BAR {n_fmt}") as bar:
                bar.update(1)
                logging.getLogger("vlmvid").warning("a line")
        finally:
            root.handlers[:] = before
            logging.getLogger("vlmvid").setLevel(level)
        monkeypatch.undo()
        text = read_all(stream, shown)
    assert re.search(r"\rWARNING vlmvid: a line\r\n\r?BAR 1", text), text
