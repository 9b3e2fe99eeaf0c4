from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.readers import need
from tests.unit.video_files import FPS, NUM_FRAMES, frame_numbers, write_prefix, write_video
from vlmvid.config.schema import DecodeConfig
from vlmvid.errors import ConfigError, DecodeError
from vlmvid.types import FrameBatch
from vlmvid.video import clip_decoder, open_video
from vlmvid.video.options import ClipJob
from vlmvid.video.sampling import uniform_indices
from vlmvid.video.transforms import resize_center_crop


def config(num_frames: int = 8, image_size: int = 32, reader: str = "auto", **options: object) -> DecodeConfig:
    sampling = {"num_frames": num_frames, **options}
    return DecodeConfig.model_validate({"sampling": sampling, "image_size": image_size, "reader": reader})


def decode_clip(
    path: Path, *, start_seconds: float = 0.0, end_seconds: float | None = None, config: DecodeConfig
) -> FrameBatch:
    return clip_decoder.decode_clip(ClipJob(str(path), start_seconds, end_seconds), config)


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 frames whose first is shown at 1 s."""
    return write_video(tmp_path_factory.mktemp("clips") / "late.mp4", ticks=range(FPS, FPS + NUM_FRAMES))


@pytest.mark.parametrize("reader", ["pyav", "decord"])
def test_the_whole_file_is_sampled_and_resized(late: Path, reader: str) -> None:
    need(reader)
    batch = decode_clip(late, config=config(reader=reader))
    expected = uniform_indices(NUM_FRAMES, 8)
    assert batch.frames.shape == (8, 3, 32, 32) and batch.frames.dtype == np.uint8
    assert frame_numbers(batch.frames) == expected.tolist()
    np.testing.assert_allclose(batch.pts_seconds, expected / FPS)  # from the first frame, as bounds count
    with open_video(late, reader) as video:
        by_pillow = resize_center_crop(video.frames_at(expected).frames, 32)
    # PyAV scales from YUV in one pass, so the two filters may round apart.
    difference = np.abs(batch.frames.astype(np.int64) - by_pillow)
    assert difference.mean() < 1.0 and difference[:, :, 8:, 8:].max() <= 2


def test_bounds_count_from_the_first_frame_and_exclude_the_end(late: Path) -> None:
    batch = decode_clip(late, start_seconds=0.5, end_seconds=1.0, config=config(num_frames=12))
    assert frame_numbers(batch.frames) == list(range(12, 24))
    batch = decode_clip(late, start_seconds=1.75, end_seconds=99.0, config=config(num_frames=6))
    assert frame_numbers(batch.frames) == list(range(42, 48))


def test_bounds_written_as_decimals_find_the_frame_at_that_time(tmp_path: Path) -> None:
    path = write_video(tmp_path / "tenths.mkv", ticks=range(7, 27), time_base=Fraction(1, 10))
    for first in range(19):
        batch = decode_clip(path, start_seconds=first / 10, end_seconds=(first + 1) / 10, config=config(num_frames=1))
        assert frame_numbers(batch.frames) == [first]


def test_a_clip_longer_than_one_piece_equals_single_frames(late: Path) -> None:
    batch = decode_clip(late, config=config(num_frames=NUM_FRAMES))
    assert frame_numbers(batch.frames) == list(range(NUM_FRAMES))
    single = decode_clip(late, start_seconds=1.5, end_seconds=1.53, config=config(num_frames=1))
    np.testing.assert_array_equal(batch.frames[36], single.frames[0])


def test_short_clips_follow_the_policy(late: Path) -> None:
    bounds = {"start_seconds": 0.0, "end_seconds": 3 / FPS}
    assert frame_numbers(decode_clip(late, **bounds, config=config(5)).frames) == [0, 1, 2, 2, 2]
    assert frame_numbers(decode_clip(late, **bounds, config=config(5, short_video="wrap")).frames) == [0, 1, 2, 0, 1]
    with pytest.raises(DecodeError, match=r"late\.mp4.*3 frames") as caught:
        decode_clip(late, **bounds, config=config(5, short_video="error"))
    assert caught.value.reason_code == "too_short"


def test_bounds_without_frames_are_refused(late: Path) -> None:
    with pytest.raises(DecodeError, match=r"48 frames last 2\.000 s") as caught:
        decode_clip(late, start_seconds=2.5, config=config())
    assert caught.value.reason_code == "too_short"
    for start, end in ((1.0, 1.0), (-1.0, None), (2.0, 1.0)):
        with pytest.raises(ConfigError, match="0 <= start < end"):
            decode_clip(late, start_seconds=start, end_seconds=end, config=config())


def test_a_cut_off_file_is_refused_only_where_it_is_missing(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", options={"movflags": "faststart"})
    path = write_prefix(whole, tmp_path / "cut.mp4", 0.7)
    assert frame_numbers(decode_clip(path, end_seconds=0.5, config=config(4)).frames) == [1, 4, 7, 10]
    for start, end in ((0.0, None), (0.0, 1.9), (1.9, 2.0)):
        with pytest.raises(DecodeError, match="cut off after") as caught:
            decode_clip(path, start_seconds=start, end_seconds=end, config=config(4))
        assert caught.value.reason_code == "truncated"


def test_a_picture_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    batch = decode_clip(tmp_path / "picture.png", config=config(num_frames=3))
    for frame in batch.frames:
        np.testing.assert_array_equal(frame, pixels.transpose(2, 0, 1))


def test_the_same_clip_gives_the_same_bytes(late: Path) -> None:
    first, second = (decode_clip(late, config=config(image_size=48)) for _ in range(2))
    assert first.frames.tobytes() == second.frames.tobytes()
    assert first.pts_seconds.tobytes() == second.pts_seconds.tobytes()
