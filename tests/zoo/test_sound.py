from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest

from tests.zoo import mp4
from tests.zoo.codes import Code, read_all
from tests.zoo.conftest import Zoo
from tests.zoo.readers import EXACT, NAMES, case, need
from tests.zoo.sound import SOUND, Sound
from vlmvid.errors import DecodeError
from vlmvid.video import VideoReader, open_video

CASES = [case(reader, member.name, member, reader) for member in SOUND for reader in NAMES]
TURNED_OR_BLENDED = ("turned", "mirrored", "alpha")


@dataclass(frozen=True)
class Checker:
    """Compares what a reader gives with what the frames must say."""

    member: Sound
    codes: Sequence[Code]
    video: VideoReader

    def table(self) -> None:
        assert self.video.num_frames == len(self.codes) == len(self.video.pts_seconds)
        assert not self.video.is_truncated
        times = np.array([code.milliseconds for code in self.codes])
        if self.member.has_times:
            # Both are the double nearest to the same rational number.
            np.testing.assert_array_equal(self.video.pts_seconds, times / 1000)
        else:
            from_first = self.video.pts_seconds - self.video.pts_seconds[0]
            np.testing.assert_allclose(from_first, (times - times[0]) / 1000, rtol=0, atol=1e-6)

    def indices(self, indices: Sequence[int]) -> None:
        batch = self.video.frames_at(indices)
        assert read_all(batch.frames) == [self.codes[index] for index in indices], f"asked for {list(indices)}"
        np.testing.assert_array_equal(batch.pts_seconds, self.video.pts_seconds[list(indices)])

    def seconds(self, indices: Sequence[int]) -> None:
        """Ask for the frames by their own times, and by times at which they are still on screen."""
        ends = np.append(self.video.pts_seconds[1:], self.video.pts_seconds[0] + self.video.duration_seconds)
        for share in (0.0, 0.5):
            times = [(1 - share) * self.video.pts_seconds[index] + share * ends[index] for index in indices]
            batch = self.video.frames_at_seconds(times)
            assert read_all(batch.frames) == [self.codes[index] for index in indices], f"asked for {times} s"


def opened(path: Path, reader: str, member: Sound, **options: int | None) -> VideoReader | None:
    """The open file, or None when the reader refuses it with a reason."""
    try:
        return open_video(path, reader, member.stream_index, **options)  # type: ignore[arg-type]
    except DecodeError as error:
        assert reader not in EXACT, f"{reader} must read every sound file: {error}"
        assert error.reason_code == "unsupported" and str(path) in str(error)
        return None


@pytest.mark.parametrize(("member", "reader"), CASES)
def test_an_index_and_a_time_mean_the_frame_that_says_so(zoo: Zoo, member: Sound, reader: str) -> None:
    need(reader)
    path, codes = zoo.path(member.name), zoo.codes(member.name)
    rng = np.random.default_rng(len(codes))
    video = opened(path, reader, member)
    if video is None:
        return
    with video:
        check = Checker(member, codes, video)
        check.table()
        check.indices(rng.integers(0, len(codes), size=40).tolist())
        check.seconds(rng.integers(0, len(codes), size=4).tolist())
        for index in {0, len(codes) - 1, *rng.integers(0, len(codes), size=4).tolist()}:
            check.indices([index])
    with open_video(path, reader, member.stream_index, num_threads=2, image_size=48) as video:
        assert (video.height, video.width) == (48, 48)
        Checker(member, codes, video).indices(rng.integers(0, len(codes), size=24).tolist())


@pytest.mark.long
@pytest.mark.parametrize(("member", "reader"), CASES)
def test_every_index_alone_and_together_with_all_options(zoo: Zoo, member: Sound, reader: str) -> None:
    need(reader)
    path, codes = zoo.path(member.name), zoo.codes(member.name)
    rng = np.random.default_rng(1)
    for num_threads, image_size in product((1, 2, 3), (None, 32, 48, 100)):
        video = opened(path, reader, member, num_threads=num_threads, image_size=image_size)
        if video is None:
            return
        with video:
            check = Checker(member, codes, video)
            check.table()
            order = rng.permutation(len(codes)).tolist()
            check.indices(order + order[: len(order) // 2])
            check.seconds(order)
            for index in order if len(order) < 100 else order[:100]:
                check.indices([index])
            for _ in range(20):
                check.indices(rng.integers(0, len(codes), size=rng.integers(2, 9)).tolist())


@pytest.mark.parametrize(
    "member",
    [member for member in SOUND if not any(word in member.name for word in TURNED_OR_BLENDED)],
    ids=lambda member: member.name,
)
def test_pyav_gives_the_bits_of_a_decode_from_front_to_back(zoo: Zoo, member: Sound) -> None:
    path, codes = zoo.path(member.name), zoo.codes(member.name)
    order = np.random.default_rng(2).permutation(len(codes))[:24]
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        if member.stream_index is not None:
            stream = container.streams[member.stream_index]
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    with open_video(path, "pyav", member.stream_index) as video:
        batch = video.frames_at(order)
    for index, frame in zip(order, batch.frames, strict=True):
        np.testing.assert_array_equal(frame.transpose(1, 2, 0), expected[index], err_msg=f"frame {index}")


def test_rotations_are_those_of_the_mp4_standard(zoo: Zoo) -> None:
    """ISO/IEC 14496-12, 6.2.2: the matrix (a b u c d v x y w) maps a stored point to (a x + c y, b x + d y).

    y grows downwards: (a b c d) = (0 1 -1 0) shows downwards what is stored rightwards, a quarter turn clockwise.
    """
    for name, matrix in (("turned_270.mp4", (0, 1, -1, 0)), ("turned_90.mp4", (0, -1, 1, 0))):
        header = mp4.payload(zoo.path(name).read_bytes(), "moov/trak/tkhd")
        a, b, _, c, d = (value / 65536 for value in np.frombuffer(header[40:60], ">i4").tolist())
        assert (a, b, c, d) == matrix
