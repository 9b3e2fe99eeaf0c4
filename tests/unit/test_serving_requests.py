"""What a request to a served model may name: files of one folder, and bytes."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from vlmvid.artifacts.files import SCRATCH_PREFIX
from vlmvid.errors import ConfigError
from vlmvid.serving import requests
from vlmvid.serving.requests import ROOT_VARIABLE, local_videos


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "videos"
    (folder / "day").mkdir(parents=True)
    (folder / "day" / "a.mp4").write_bytes(b"a")
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (folder / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    monkeypatch.setenv(ROOT_VARIABLE, str(folder))
    return folder


def test_files_of_the_folder_and_bytes_become_local_files(root: Path) -> None:
    names = ["day/a.mp4", str(root / "day" / "a.mp4"), f"file://{root}/day/a.mp4", None]
    with local_videos(names, [None, None, None, base64.b64encode(b"film").decode()]) as found:
        assert found[:3] == [str(root / "day" / "a.mp4")] * 3
        assert Path(found[3]).read_bytes() == b"film"
    assert not Path(found[3]).exists()


@pytest.mark.parametrize(
    "name",
    [
        "../secret.mp4",
        "day/../../secret.mp4",
        "link.mp4",
        "/etc/passwd",
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data",
        "s3://bucket/a.mp4",
        "concat:a.mp4|/etc/passwd",
        "subfile,,start,0,end,9,,:/etc/passwd",
        "~/a.mp4",
        "a\0.mp4",
        "",
    ],
)
def test_nothing_else_is_named(root: Path, name: str) -> None:
    if name in ("~/a.mp4", ""):  # names like others: below the folder, where there is no such video
        with local_videos([name], [None]) as found:
            assert Path(found[0]).is_relative_to(root)
        return
    with pytest.raises(ConfigError, match="not below the folder of videos"), local_videos([name], [None]):
        pass


def test_requests_that_are_no_requests_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for video, data in ((None, None), ("day/a.mp4", "AAAA")):
        with pytest.raises(ConfigError, match="row 0 must have either"), local_videos([video], [data]):
            pass
    with pytest.raises(ConfigError, match="is no base64"), local_videos([None], ["not base64!"]):
        pass
    monkeypatch.setattr(requests, "MAX_VIDEO_BYTES", 3)
    with pytest.raises(ConfigError, match="has more than"), local_videos([None], ["AAAAAAAAAAAA"]):
        pass
    monkeypatch.delenv(ROOT_VARIABLE)
    with pytest.raises(ConfigError, match=f"{ROOT_VARIABLE} is not set"), local_videos(["day/a.mp4"], [None]):
        pass


def test_a_request_is_refused_as_a_whole_before_anything_is_written(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = base64.b64encode(b"four").decode()
    monkeypatch.setattr(requests, "MAX_REQUEST_BYTES", 8)
    with local_videos([None, None], [film, film]) as found:
        assert Path(found[0]).parent.name.startswith(SCRATCH_PREFIX)  # `vlmvid gc` knows it
    monkeypatch.setattr(requests, "scratch_folder", None)
    with pytest.raises(ConfigError, match=r"12 bytes in all, and at most 8"), local_videos([None] * 3, [film] * 3):
        pass
    with (
        pytest.raises(ConfigError, match="1025 rows, and at most 1024"),
        local_videos(["day/a.mp4"] * 1025, [None] * 1025),
    ):
        pass
