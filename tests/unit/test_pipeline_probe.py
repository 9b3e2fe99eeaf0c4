"""Probing folders: a row for every file whatever its name and state, and the same bytes again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.unit.video_files import NUM_FRAMES, write_audio, write_prefix, write_video
from vlmvid.artifacts.digests import sha256_file
from vlmvid.cli import main
from vlmvid.config.schema import RunOptions
from vlmvid.data.files import list_videos
from vlmvid.errors import ConfigError
from vlmvid.pipeline.probe import probe_folder, row_words, summary_table
from vlmvid.video.isolation import pool as isolation

HERE = RunOptions(decode_workers=0)
ODD_NAMES = [b"new\nline.mp4", b"not utf \xff.mp4", "\N{SNOWMAN} space.MP4".encode()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("media")
    write_video(root / "plain.mp4")
    (root / "sub" / "deep").mkdir(parents=True)
    write_prefix(write_video(root / "sub" / "whole.mkv"), root / "sub" / "deep" / "cut.mkv", 0.6)
    write_audio(root / "sub" / "sound.mp4")
    (root / "empty.mp4").touch()
    (root / "notes.txt").write_text("no video")
    (root / "sub" / "loop").symlink_to(root / "sub")
    os.mkfifo(root / "pipe.mp4")
    for name in ODD_NAMES:
        with open(os.path.join(os.fsencode(root), name), "wb") as file:
            file.write((root / "plain.mp4").read_bytes())
    return root


def table_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


EXPECTED = {
    b"empty.mp4": ["empty_file"],
    b"new\nline.mp4": [],
    b"not utf \xff.mp4": [],
    b"pipe.mp4": ["not_a_file"],
    b"plain.mp4": [],
    b"sub/deep/cut.mkv": ["truncated"],
    b"sub/sound.mp4": ["no_video_stream"],
    b"sub/whole.mkv": [],
    "\N{SNOWMAN} space.MP4".encode(): [],
}


@pytest.mark.parametrize("workers", [0, 2])
def test_one_row_per_file_in_order_of_names(folder: Path, tmp_path: Path, workers: int) -> None:
    summary = probe_folder(folder, tmp_path / "m.parquet", RunOptions(decode_workers=workers), every_frame=False)
    rows = table_of(tmp_path / "m.parquet")
    assert {row["path_bytes"]: row["defects"] for row in rows} == EXPECTED
    assert [row["path_bytes"] for row in rows] == sorted(EXPECTED)
    assert [row["path"] for row in rows][1:3] == ["new\nline.mp4", "not utf \\xff.mp4"]
    plain = next(row for row in rows if row["path"] == "plain.mp4")
    assert plain["sha256"] == sha256_file(folder / "plain.mp4")
    assert (plain["codec"], plain["num_frames"], plain["width"], plain["height"]) == ("h264", NUM_FRAMES, 96, 64)
    assert (plain["has_audio"], plain["is_vfr"], plain["keyframe_interval_max"]) == (False, False, 12)
    same = [{**row, "path": "", "path_bytes": b""} for row in rows if row["sha256"] == plain["sha256"]]
    assert len(same) == 4 and all(row == same[0] for row in same)
    empty = rows[0]
    assert empty["file_size"] == 0 and empty["codec"] is None and empty["has_audio"] is None
    # Messages name the file as the table does, wherever the folder stands.
    assert empty["defect_messages"] == ["empty.mp4 is empty (0 bytes); copy or download it again"]
    assert {key: summary[key] for key in ("num_files", "num_with_defects", "no_video", "codecs", "defects")} == {
        "num_files": 9,
        "num_with_defects": 4,
        "no_video": 3,
        "codecs": {"h264": 6},
        "defects": {"empty_file": 1, "no_video_stream": 1, "not_a_file": 1, "truncated": 1},
    }


def test_the_same_files_give_the_same_bytes_elsewhere_with_any_workers(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    subprocess.run(["cp", "-a", str(folder), str(moved)], check=True)
    one, other = tmp_path / "one.parquet", tmp_path / "other.parquet"
    probe_folder(folder, one, HERE, every_frame=False)
    probe_folder(moved, other, RunOptions(decode_workers=2), every_frame=False)
    assert one.read_bytes() == other.read_bytes()


def test_a_file_that_hangs_or_crashes_costs_its_row(folder: Path, tmp_path: Path) -> None:
    """With a worker in which the name decides what decoding does to its process."""
    command = (sys.executable, "-m", "tests.unit.faulty_media_worker")
    for name in ("hang.mp4", "crash.mp4"):
        (tmp_path / name).write_bytes(b"x")
    write_video(tmp_path / "good.mp4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolation, "DecodePool", partial(isolation.DecodePool, worker_command=command))
        options = RunOptions(decode_workers=2, decode_timeout_seconds=8)
        probe_folder(tmp_path, tmp_path / "m.parquet", options, every_frame=False)
    rows = {row["path"]: row for row in table_of(tmp_path / "m.parquet")}
    assert {name: row["defects"] for name, row in rows.items()} == {
        "crash.mp4": ["crashed"],
        "good.mp4": [],
        "hang.mp4": ["timeout"],
    }
    assert rows["hang.mp4"]["file_size"] == 1
    assert rows["hang.mp4"]["defect_messages"][0].startswith("hang.mp4: ")


def test_ten_thousand_files_are_listed_in_order(tmp_path: Path) -> None:
    for number in range(10_000):
        (tmp_path / f"{number * 7919 % 10_000:05}.mp4").touch()
    names, unlisted = list_videos(tmp_path)
    assert names == [b"%05d.mp4" % number for number in range(10_000)]
    assert unlisted == {}


def test_a_folder_that_cannot_be_listed_is_a_row() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        write_video(folder / "a.mp4")
        (folder / "closed").mkdir()
        (folder / "closed").chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65_534)  # root may list every folder
        try:
            probe_folder(folder, folder / "m.parquet", HERE, every_frame=False)
        finally:
            os.seteuid(user)
        rows = table_of(folder / "m.parquet")
        (folder / "closed").chmod(0o700)
    assert [(row["path"], row["defects"]) for row in rows] == [("a.mp4", []), ("closed", ["unreadable"])]
    assert "this folder cannot be listed: Permission denied" in rows[1]["defect_messages"][0]


def test_no_folder_and_no_videos_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder"):
        probe_folder(tmp_path / "absent", tmp_path / "m.parquet", HERE, every_frame=False)
    with pytest.raises(ConfigError, match="holds no video file"):
        probe_folder(tmp_path, tmp_path / "m.parquet", HERE, every_frame=False)


def test_a_table_that_cannot_be_written_is_said_before_anything_is_examined(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "DecodePool", None)  # calling it would be a TypeError
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a folder; name a file"):
        probe_folder(folder, tmp_path, HERE, every_frame=False)
    for name in ("file/m.parquet", "file/deeper/m.parquet"):
        with pytest.raises(ConfigError, match="give a file in a folder that may be written"):
            probe_folder(folder, tmp_path / name, HERE, every_frame=False)


def test_the_folder_of_the_table_is_made(folder: Path, tmp_path: Path) -> None:
    probe_folder(folder, tmp_path / "new" / "deep" / "m.parquet", HERE, every_frame=False)
    assert os.listdir(tmp_path / "new" / "deep") == ["m.parquet"]


class TestCommands:
    def run(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        out, error = capsys.readouterr()
        return code, out, error

    def test_probe_media(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        table = tmp_path / "t.parquet"
        code, out, _ = self.run(capsys, "probe-media", str(folder), "--out", str(table), "--workers", "0")
        assert code == 0 and len(table_of(table)) == 9
        lines = out.splitlines()
        assert lines[0].startswith("9 files, 0.0 MB, 10.6 s of video") and "h264                      6" in lines
        assert any(line.startswith("truncated                 1  sub/deep/cut.mkv is cut off") for line in lines)
        code, out, _ = self.run(capsys, "probe-media", str(folder), "--out", str(table), "--workers", "0", "--json")
        assert json.loads(out)["defects"]["truncated"] == 1

    def test_the_table_goes_here_by_default(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert self.run(capsys, "probe-media", str(folder), "--workers", "0")[0] == 0
        assert len(table_of(tmp_path / "media.parquet")) == 9

    def test_inspect(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        code, out, _ = self.run(capsys, "inspect", str(folder / "sub" / "deep" / "cut.mkv"), "--json")
        row = json.loads(out)
        assert (code, row["codec"], row["defects"]) == (0, "h264", ["truncated"])
        _, out, _ = self.run(capsys, "inspect", str(folder / "sub" / "deep" / "cut.mkv"))
        assert "defect                    truncated: cut.mkv is cut off after" in out
        _, out, _ = self.run(capsys, "inspect", os.fsdecode(os.path.join(os.fsencode(folder), ODD_NAMES[1])))
        assert "path                      not utf \\xff.mp4" in out

    def test_inspect_of_what_cannot_be_read_fails_with_the_reason(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, out, error = self.run(capsys, "inspect", "https://x/y.mp4")
        assert (code, out) == (1, "")
        assert "https://x/y.mp4 is an address of the protocol 'https'" in error and "manifest" not in error
        for name, reason in (("empty.mp4", "empty_file"), ("pipe.mp4", "not_a_file"), ("gone.mp4", "missing_file")):
            code, out, error = self.run(capsys, "inspect", str(folder / name), "--json")
            assert (code, json.loads(out)["defects"]) == (1, [reason])
            assert error.startswith(f"vlmvid: {reason}: {name} ") and "manifest" not in error
        code, out, error = self.run(capsys, "inspect", f"file:{folder / 'plain.mp4'}", "--json")
        assert (code, json.loads(out)["path"], error) == (0, "plain.mp4", "")

    def test_wrong_options_are_bad_usage(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        code, out, error = self.run(capsys, "probe-media", str(folder), "--workers", "-1")
        assert (code, out) == (2, "") and "--workers" in error
        code, _, error = self.run(capsys, "probe-media", "/nowhere")
        assert code == 2 and "/nowhere is no folder" in error


def test_words_for_the_terminal_stay_on_their_lines() -> None:
    row = {"path": "a\nb\x1b[31m.mp4", "defects": ["unreadable"], "defect_messages": ["first\nsecond"]}
    assert row_words(row).splitlines() == [
        "path                      a\\nb\\x1b[31m.mp4",
        "defect                    unreadable: first\\nsecond",
    ]
    counts = {"num_files": 1, "file_size": 0, "duration_seconds": 0, "num_vfr": 0, "num_with_audio": 0}
    summary = {**counts, "codecs": {}, "no_video": 1, "defects": {}, "examples": {}, "table": "x\ny.parquet"}
    assert summary_table(summary).splitlines()[-1] == "table: x\\ny.parquet"
