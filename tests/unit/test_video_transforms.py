from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vlmvid.errors import ConfigError
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
