from __future__ import annotations

import av
import numpy as np
import pytest
from PIL import Image

from tests.unit.video_files import ACCURATE
from vlmvid.errors import ConfigError
from vlmvid.video.pictures import FrameConverter
from vlmvid.video.transforms import resize_center_crop


def noise(height: int, width: int, num_frames: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, 3, height, width), dtype=np.uint8)


def test_frames_of_the_right_size_are_returned_as_they_are() -> None:
    frames = noise(32, 32)
    assert resize_center_crop(frames, 32) is frames


@pytest.mark.parametrize(
    ("height", "width", "size", "scaled"),
    [
        (40, 60, 20, (20, 30)),
        (60, 40, 20, (30, 20)),
        (33, 50, 16, (16, 24)),
        (16, 16, 32, (32, 32)),
        (20, 31, 20, (20, 31)),
    ],
)
def test_equals_pillow_resize_then_crop(height: int, width: int, size: int, scaled: tuple[int, int]) -> None:
    frames = noise(height, width)
    result = resize_center_crop(frames, size)
    assert result.dtype == np.uint8 and result.shape == (2, 3, size, size)
    top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    for frame, got in zip(frames, result, strict=True):
        picture = Image.fromarray(frame.transpose(1, 2, 0)).resize(scaled[::-1], Image.Resampling.BICUBIC)
        expected = np.asarray(picture.crop((left, top, left + size, top + size))).transpose(2, 0, 1)
        np.testing.assert_array_equal(got, expected)


def test_the_centre_is_kept_and_shrinking_does_not_alias() -> None:
    frames = np.zeros((1, 3, 32, 96), dtype=np.uint8)
    frames[..., 32:64] = 200
    assert (resize_center_crop(frames, 32) == 200).all()
    stripes = np.zeros((1, 3, 128, 128), dtype=np.uint8)
    stripes[..., ::2] = 255
    assert abs(int(resize_center_crop(stripes, 16).mean()) - 127) <= 1
    assert resize_center_crop(stripes, 16).std() < 3


def test_wrong_input_is_named() -> None:
    with pytest.raises(ConfigError, match="float64"):
        resize_center_crop(noise(8, 8).astype(np.float64), 4)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"\(2, 8, 8, 3\)"):
        resize_center_crop(noise(8, 8).transpose(0, 2, 3, 1), 4)
    with pytest.raises(ConfigError, match="image_size=0"):
        resize_center_crop(noise(8, 8), 0)


@pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le", "yuv422p10le", "nv12", "yuv444p12le", "gray", "gbrp10le"])
@pytest.mark.parametrize("image_size", [None, 32, 48])
def test_greys_keep_their_level_in_every_format(name: str, image_size: int | None) -> None:
    for grey in (60, 100, 200):
        pixels = np.full((64, 96, 3), grey, np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=name, interpolation=ACCURATE)
        converted = FrameConverter("grey", image_size)(frame)
        assert converted.shape == ((64, 96, 3) if image_size is None else (image_size, image_size, 3))
        assert np.abs(converted.astype(np.int64) - grey).max() <= 1


@pytest.mark.parametrize("shape", [(96, 160), (160, 96), (98, 160), (97, 161), (100, 104), (64, 64)])
@pytest.mark.parametrize("name", ["yuv420p", "yuv444p"])
def test_scaling_while_converting_equals_scaling_after(shape: tuple[int, int], name: str) -> None:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    waves = [128 + 100 * np.sin(rows / a + columns / b) for a, b in ((9, 13), (17, 11), (23, 19))]
    pixels = np.stack(waves, axis=2).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=name, interpolation=ACCURATE)
    full = frame.reformat(format="rgb24", interpolation=ACCURATE).to_ndarray()
    # The square is cut before scaling where that saves work, else after; the places differ by less than a pixel.
    short, excess = min(shape), abs(shape[0] - shape[1])
    start = excess // 4 * 2
    square = full[start : start + short] if shape[0] > shape[1] else full[:, start : start + short]
    ways = [resize_center_crop(source.transpose(2, 0, 1)[None], 32)[0].transpose(1, 2, 0) for source in (full, square)]
    converted = FrameConverter("waves", 32)(frame).astype(np.int64)
    differences = [np.abs(converted - way) for way in ways]
    assert min(difference.mean() for difference in differences) < 0.5
    assert min(difference.max() for difference in differences) <= 4


def test_a_strip_is_cut_before_it_is_scaled() -> None:
    frame = av.VideoFrame.from_ndarray(np.full((2, 8192, 3), 100, np.uint8), format="rgb24").reformat(format="yuv420p")
    assert np.abs(FrameConverter("strip", 224)(frame).astype(np.int64) - 100).max() <= 1
