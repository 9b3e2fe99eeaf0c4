"""Random changes to the frames of a clip, the same for all of its frames."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmvid.config.augmentation import FrameAugmentConfig
from vlmvid.errors import ConfigError

Frames = NDArray[np.uint8]
_MAX_TRIES = 10
# ITU-R BT.601, as Pillow's conversion to grey.
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of a picture in pixels."""

    top: int
    left: int
    height: int
    width: int


def augment_clips(clips: Frames, rng: np.random.Generator, augmentation: FrameAugmentConfig) -> Frames:
    """`augment` of every clip for itself, sizes kept: uint8 (B, T, 3, S, S) to the same shape.

    Raises ConfigError for clips of another shape or type.
    """
    if clips.ndim != 5 or clips.shape[3] != clips.shape[4]:
        raise ConfigError(f"clips must be uint8 (B, T, 3, S, S); got {clips.dtype} {clips.shape}")
    out = np.empty_like(clips)
    for slot, frames in zip(out, clips, strict=True):
        slot[:] = augment(frames, rng, augmentation, clips.shape[-1])
    return out


def augment(frames: Frames, rng: np.random.Generator, augmentation: FrameAugmentConfig, image_size: int) -> Frames:
    """Crop, mirror and recolour a clip, every frame alike: uint8 (T, 3, H, W) to (T, 3, image_size, image_size).

    The same number of draws is taken from `rng` whatever the options say, so that turning one moves no other.
    Raises ConfigError for frames of another shape or type.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != np.uint8:
        raise ConfigError(f"frames must be uint8 (T, 3, H, W); got {frames.dtype} {frames.shape}")
    height, width = frames.shape[2:]
    crop = draw_crop(height, width, augmentation, rng)
    is_flipped = rng.random() < augmentation.flip_probability
    strengths = (augmentation.brightness, augmentation.contrast, augmentation.saturation)
    factors = [1 + strength * draw for strength, draw in zip(strengths, rng.uniform(-1, 1, size=3), strict=True)]
    changed = resized_crop(frames, crop, image_size)
    if is_flipped:
        changed = changed[..., ::-1]
    return np.ascontiguousarray(jitter_colours(changed, *factors))


def draw_crop(height: int, width: int, augmentation: FrameAugmentConfig, rng: np.random.Generator) -> Crop:
    """A crop of random area and aspect ratio (Inception, arXiv 1409.4842); of ten tries the first that fits.

    Else the largest square in the middle.
    """
    tries = rng.random((_MAX_TRIES, 4))
    side = min(height, width)
    middle = Crop((height - side) // 2, (width - side) // 2, side, side)
    if augmentation.min_area == 1:
        return middle
    for area_draw, ratio_draw, top_draw, left_draw in tries:
        share = augmentation.min_area + area_draw * (augmentation.max_area - augmentation.min_area)
        ratio = math.exp((2 * ratio_draw - 1) * math.log(augmentation.max_aspect_ratio))
        crop_width = round(math.sqrt(share * height * width * ratio))
        crop_height = round(math.sqrt(share * height * width / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = int(top_draw * (height - crop_height + 1)), int(left_draw * (width - crop_width + 1))
            return Crop(top, left, crop_height, crop_width)
    return middle


def resized_crop(frames: Frames, crop: Crop, image_size: int) -> Frames:
    """The crop of every frame, scaled to a square by Pillow's bicubic filter: uint8 (T, 3, S, S).

    What lies outside of the crop plays no part.
    """
    out = np.empty((len(frames), 3, image_size, image_size), dtype=np.uint8)
    cut = frames[:, :, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    for slot, frame in zip(out, cut, strict=True):
        picture = Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0)))
        resized = picture.resize((image_size, image_size), Image.Resampling.BICUBIC)
        slot[:] = np.asarray(resized).transpose(2, 0, 1)
    return out


def jitter_colours(frames: Frames, brightness: float, contrast: float, saturation: float) -> Frames:
    """Frames uint8 (T, 3, H, W) times `brightness`, then apart from the clip's mean grey, then from each pixel's grey.

    A factor of 1 changes nothing; contrast 0 is one grey, saturation 0 black and white. The mean grey is that of
    the whole clip, so that no frame is changed otherwise than the others.
    """
    if brightness == contrast == saturation == 1:
        return frames
    pixels = np.clip(frames.astype(np.float32) * np.float32(brightness), 0, 255)
    mean = np.float32(_grey(pixels).mean(dtype=np.float64))
    pixels = np.clip(mean + (pixels - mean) * np.float32(contrast), 0, 255)
    grey = _grey(pixels)
    pixels = np.clip(grey + (pixels - grey) * np.float32(saturation), 0, 255)
    changed: Frames = np.rint(pixels).astype(np.uint8)
    return changed


def _grey(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Luma (T, 1, H, W)."""
    luma: NDArray[np.float32] = np.einsum("tchw,c->thw", pixels, _LUMA)[:, None]
    return luma
