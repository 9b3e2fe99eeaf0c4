from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.readers import need
from tests.zoo import makers, mp4
from tests.zoo.codes import Code, read_all
from tests.zoo.conftest import Zoo
from tests.zoo.makers import Track
from tests.zoo.readers import EXACT, NAMES, case
from tests.zoo.sound import SOUND, Sound
from vlmvid.config.schema import DecodeConfig, SamplingConfig, SamplingPolicy
from vlmvid.errors import DecodeError
from vlmvid.video import VideoReader, open_video
from vlmvid.video.clip_decoder import decode_clip
from vlmvid.video.gop import frame_source
from vlmvid.video.options import ClipJob
from vlmvid.video.pictures import FrameConverter

CASES = [case(reader, member.name, member, reader) for member in SOUND for reader in NAMES]
NOT_SO_SIMPLE = ("vp8_alpha.webm", "vp9_alpha.webm", "turned_by_message.mp4")
"""FFmpeg's own decoders leave the transparency of WebM out, and tell the turn of a stream with its first frame only."""


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
        if reader == "auto":  # opens one of the others
            return
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


@pytest.mark.parametrize("member", [m for m in SOUND if m.name not in NOT_SO_SIMPLE], ids=lambda m: m.name)
def test_pyav_gives_the_bits_of_a_decode_from_front_to_back(zoo: Zoo, member: Sound) -> None:
    path, codes = zoo.path(member.name), zoo.codes(member.name)
    order = np.random.default_rng(2).permutation(len(codes))[:24]
    convert = FrameConverter(str(path))
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        if member.stream_index is not None:
            stream = container.streams[member.stream_index]
        expected = [convert(frame).copy() for frame in container.decode(stream)]
    with open_video(path, "pyav", member.stream_index) as video:
        batch = video.frames_at(order)
    for index, frame in zip(order, batch.frames, strict=True):
        np.testing.assert_array_equal(frame.transpose(1, 2, 0), expected[index], err_msg=f"frame {index}")


@pytest.mark.parametrize("member", SOUND, ids=lambda member: member.name)
def test_a_kept_index_gives_the_same_frames(
    zoo: Zoo, member: Sound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_source, "_PACKETS_WORTH_A_FILE", 0)
    kept = tmp_path / "kept.npz"
    order = np.random.default_rng(3).permutation(len(zoo.codes(member.name)))[:12].tolist()
    for _ in range(2):
        with open_video(zoo.path(member.name), "pyav", member.stream_index, index_path=str(kept)) as video:
            check = Checker(member, zoo.codes(member.name), video)
            check.table()
            check.indices(order)
        assert kept.exists()


@pytest.mark.parametrize("policy", get_args(SamplingPolicy))
@pytest.mark.parametrize(
    "name", ["open_gop.mkv", "hevc.ts", "vp9_hidden.webm", "b_frames.avi", "vfr.mp4", "edit_cut.mp4"]
)
def test_a_clip_holds_frames_of_its_own_time_under_every_policy(zoo: Zoo, name: str, policy: SamplingPolicy) -> None:
    rate = {"sampling_fps": 6.0} if policy == "fps" else {}
    config = DecodeConfig(sampling=SamplingConfig(policy=policy, num_frames=5, **rate), image_size=48)
    codes = zoo.codes(name)
    start, end = 0.4, 1.2
    first = codes[0].milliseconds
    inside = {code for code in codes if 1000 * start <= code.milliseconds - first < 1000 * end}
    batch = decode_clip(ClipJob(str(zoo.path(name)), start, end, identity="a"), config)
    found = read_all(batch.frames)
    assert set(found) <= inside and len(found) == 5
    np.testing.assert_allclose(
        batch.pts_seconds, [(code.milliseconds - first) / 1000 for code in found if code], atol=1e-9
    )


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("dot.mkv", "ffv1", "yuv420p"),
        ("dot.mov", "png", "rgb24"),
        ("dot.mp4", "mpeg4", "yuv420p"),
        ("dot.webm", "libvpx", "yuv420p"),
    ],
)
def test_pictures_of_one_pixel(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    def dot(code: Code, height: int, width: int) -> NDArray[np.uint8]:
        return np.full((height, width, 3), 200, np.uint8)

    track = Track(codes=makers.codes(4), codec=codec, codec_options={}, pix_fmt=pix_fmt, height=1, width=1, picture=dot)
    makers.write(tmp_path / name, track)
    with open_video(tmp_path / name) as video:
        assert video.frames_at([0, 3, 1]).frames.shape == (3, 3, 1, 1)
    with open_video(tmp_path / name, image_size=32) as video:
        frames = video.frames_at([0, 3, 1]).frames
    assert frames.shape == (3, 3, 32, 32) and np.abs(frames.astype(int) - 200).max() <= 2


@pytest.mark.long
def test_a_frame_of_8k(tmp_path: Path) -> None:
    code = Code(7, 0)
    makers.write(tmp_path / "8k.mp4", Track(codes=[code], height=4320, width=7680))
    with open_video(tmp_path / "8k.mp4", image_size=64) as video:
        assert read_all(video.frames_at([0]).frames) == [code]
    with pytest.raises(DecodeError) as caught:
        open_video(tmp_path / "8k.mp4", max_frame_pixels=7680 * 4320 - 1)
    assert caught.value.reason_code == "frame_too_large"


def test_rotations_are_those_of_the_mp4_standard(zoo: Zoo) -> None:
    """ISO/IEC 14496-12, 6.2.2: the matrix (a b u c d v x y w) maps a stored point to (a x + c y, b x + d y).

    y grows downwards: (a b c d) = (0 1 -1 0) shows downwards what is stored rightwards, a quarter turn clockwise.
    """
    for name, matrix in (("turned_270.mp4", (0, 1, -1, 0)), ("turned_90.mp4", (0, -1, 1, 0))):
        header = mp4.payload(zoo.path(name).read_bytes(), "moov/trak/tkhd")
        a, b, _, c, d = (value / 65536 for value in np.frombuffer(header[40:60], ">i4").tolist())
        assert (a, b, c, d) == matrix
