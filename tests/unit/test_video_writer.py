from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import av
import numpy as np
import pytest

from vlmvid.errors import ConfigError
from vlmvid.video.writer import write_mp4


def _noise(num_frames: int = 10, height: int = 48, width: int = 64) -> np.ndarray:
    blocks = np.random.default_rng(7).integers(0, 256, (num_frames, 3, height // 8, width // 8), dtype=np.uint8)
    return blocks.repeat(8, axis=2).repeat(8, axis=3)


def _decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("lossless", [False, True])
def test_same_input_gives_the_same_bytes_without_a_version_string(tmp_path: Path, lossless: bool) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_mp4(tmp_path / name, _noise(), fps=8, lossless=lossless)
    first, second = (tmp_path / "a.mp4").read_bytes(), (tmp_path / "b.mp4").read_bytes()
    assert first == second
    assert not any(word in first for word in (b"x264", b"Lavc", b"Lavf"))


def test_file_holds_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "a.mp4"
    flat = np.empty((5, 3, 32, 48), np.uint8)
    flat[:] = np.array([200, 40, 90], np.uint8)[:, None, None]
    write_mp4(path, flat, fps=12.5, lossless=True)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == 12.5
        assert (stream.width, stream.height, stream.frames) == (48, 32, 5)
    # Only the conversion to yuv420p and back is left: a few levels.
    assert np.abs(_decode(path).astype(int) - flat.transpose(0, 2, 3, 1)).max() <= 4


def test_lossless_frames_decode_equal_wherever_they_stand(tmp_path: Path) -> None:
    frames = _noise(24)
    order = np.random.default_rng(1).permutation(24)
    write_mp4(tmp_path / "a.mp4", frames, fps=8, lossless=True)
    write_mp4(tmp_path / "b.mp4", frames[order], fps=8, lossless=True)
    np.testing.assert_array_equal(_decode(tmp_path / "a.mp4")[order], _decode(tmp_path / "b.mp4"))


def test_lossy_frames_are_close_and_smaller(tmp_path: Path) -> None:
    frames = _noise(12)
    write_mp4(tmp_path / "lossy.mp4", frames, fps=8)
    write_mp4(tmp_path / "lossless.mp4", frames, fps=8, lossless=True)
    assert (tmp_path / "lossy.mp4").stat().st_size < (tmp_path / "lossless.mp4").stat().st_size
    difference = np.abs(_decode(tmp_path / "lossy.mp4").astype(int) - _decode(tmp_path / "lossless.mp4")).mean()
    assert difference < 6


@pytest.mark.parametrize(
    ("frames", "fps", "words"),
    [
        (np.zeros((2, 3, 31, 32), np.uint8), 8, "even sides; got 32x31"),
        (np.zeros((2, 32, 32, 3), np.uint8), 8, "transpose"),
        (np.zeros((2, 3, 32, 32), np.float32), 8, "float32"),
        (np.zeros((0, 3, 32, 32), np.uint8), 8, "T >= 1"),
        (np.zeros((2, 3, 32, 32), np.uint8), 0, "fps must be greater than 0"),
        (np.zeros((2, 3, 32, 32), np.uint8), float("nan"), "fps must be greater than 0"),
        (np.zeros((2, 3, 32, 32), np.uint8), 1e-5, "fps"),
    ],
)
def test_wrong_arguments_are_named_and_leave_no_file(
    tmp_path: Path, frames: np.ndarray, fps: float, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        write_mp4(tmp_path / "a.mp4", frames, fps=fps)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mp4"
    write_mp4(path, _noise(), fps=8)
    before = hashlib.sha256(path.read_bytes()).hexdigest()

    def full_disk(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_mp4(path, _noise(5), fps=8)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_the_file_is_readable_as_the_umask_says(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_mp4(tmp_path / "a.mp4", _noise(2), fps=8)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.mp4").stat().st_mode) == 0o640
