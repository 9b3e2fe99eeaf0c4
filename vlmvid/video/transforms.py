"""Decoded frames to the square pictures that a backbone reads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmvid.errors import ConfigError


def scaled_size(height: int, width: int, image_size: int) -> tuple[int, int]:
    """Height and width in pixels once the short side is `image_size`: the long one is floor(S * long / short)."""
    short = min(height, width)
    return image_size * height // short, image_size * width // short


def center_crop(pixels: NDArray[np.uint8], image_size: int) -> NDArray[np.uint8]:
    """The view (S, S, ...) in the middle of `pixels` (H, W, ...); it starts at floor(excess / 2)."""
    top, left = (pixels.shape[0] - image_size) // 2, (pixels.shape[1] - image_size) // 2
    return pixels[top : top + image_size, left : left + image_size]


def resize_center_crop(frames: NDArray[np.uint8], image_size: int) -> NDArray[np.uint8]:
    """Scale the short side to `image_size`, then cut the centre: uint8 (T, 3, H, W) to (T, 3, S, S).

    Pillow's bicubic filter, which widens with the scale when shrinking (antialiased), as the
    ImageNet evaluation of the usual backbones does. The long side becomes
    floor(S * long / short) pixels, and the crop starts at floor(excess / 2). Frames that already
    are S x S are returned as they are, not copied.

    Raises ConfigError for frames of another shape or type, and for `image_size` below 1.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != np.uint8:
        raise ConfigError(f"frames must be uint8 (T, 3, H, W); got {frames.dtype} {frames.shape}")
    if image_size < 1:
        raise ConfigError(f"image_size={image_size} must be at least 1 pixel")
    num_frames, _, height, width = frames.shape
    if height == width == image_size:
        return frames
    new_height, new_width = scaled_size(height, width, image_size)
    out = np.empty((num_frames, 3, image_size, image_size), dtype=np.uint8)
    for slot, frame in zip(out, frames, strict=True):
        picture = Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0)))
        resized = np.asarray(picture.resize((new_width, new_height), Image.Resampling.BICUBIC))
        slot[:] = center_crop(resized, image_size).transpose(2, 0, 1)
    return out
