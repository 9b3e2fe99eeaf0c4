"""Augmentation of frames against its formulas by loops."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from vlmvid.config.augmentation import FrameAugmentConfig
from vlmvid.errors import ConfigError
from vlmvid.video.augment import augment, augment_clips, draw_crop, jitter_colours, resized_crop

STILL = FrameAugmentConfig(min_area=1.0)
STRONG = FrameAugmentConfig(min_area=0.2, flip_probability=0.5, brightness=0.4, contrast=0.4, saturation=0.4)


def clip(num_frames: int = 3, height: int = 24, width: int = 32, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, 3, height, width), dtype=np.uint8)


@given(
    height=st.integers(1, 80),
    width=st.integers(1, 80),
    area=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    ratio=st.floats(1, 5),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_a_crop_lies_in_the_picture_and_keeps_to_its_limits(
    height: int, width: int, area: tuple[float, float], ratio: float, seed: int
) -> None:
    low, high = sorted(area)
    wanted = FrameAugmentConfig(min_area=low, max_area=high, max_aspect_ratio=ratio)
    crop = draw_crop(height, width, wanted, np.random.default_rng(seed))
    assert 0 <= crop.top and crop.top + crop.height <= height and crop.height > 0
    assert 0 <= crop.left and crop.left + crop.width <= width and crop.width > 0
    side = min(height, width)
    if (crop.height, crop.width) != (side, side):
        # Sides are rounded to pixels.
        assert (crop.height - 0.5) * (crop.width - 0.5) <= high * height * width
        assert (crop.height + 0.5) * (crop.width + 0.5) >= low * height * width
        assert (max(crop.height, crop.width) - 0.5) / (min(crop.height, crop.width) + 0.5) <= ratio


def test_crops_reach_every_place() -> None:
    crops = [draw_crop(20, 20, FrameAugmentConfig(min_area=0.2), np.random.default_rng(seed)) for seed in range(400)]
    assert min(c.top for c in crops) == min(c.left for c in crops) == 0
    assert max(c.top + c.height for c in crops) == max(c.left + c.width for c in crops) == 20
    shares = [c.height * c.width / 400 for c in crops]
    assert min(shares) < 0.25 and max(shares) > 0.9 and np.mean(shares) == pytest.approx(0.6, abs=0.05)


def test_without_any_change_the_frames_stay() -> None:
    frames = clip(height=24, width=24)
    np.testing.assert_array_equal(augment(frames, np.random.default_rng(0), STILL, 24), frames)
    wide = clip(height=24, width=32)
    np.testing.assert_array_equal(augment(wide, np.random.default_rng(0), STILL, 24), wide[..., 4:28])


def test_a_crop_is_cut_then_scaled_as_one_picture() -> None:
    frames = clip()
    crop = draw_crop(24, 32, FrameAugmentConfig(min_area=0.2), np.random.default_rng(1))
    for got, frame in zip(resized_crop(frames, crop, 16), frames, strict=True):
        part = frame[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width].transpose(1, 2, 0)
        scaled = Image.fromarray(np.ascontiguousarray(part)).resize((16, 16), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(got.transpose(1, 2, 0), np.asarray(scaled))


@pytest.mark.parametrize("factors", [(1.3, 1.0, 1.0), (1.0, 0.6, 1.0), (1.0, 1.0, 1.4), (0.7, 1.2, 0.5), (1, 1, 1)])
def test_colours_by_loops(factors: tuple[float, float, float]) -> None:
    frames = clip(2, 3, 4)
    brightness, contrast, saturation = factors
    pixels = frames.astype(np.float64).transpose(0, 2, 3, 1).reshape(-1, 3) * brightness
    pixels = pixels.clip(0, 255)
    mean = np.mean([0.299 * r + 0.587 * g + 0.114 * b for r, g, b in pixels])
    pixels = (mean + (pixels - mean) * contrast).clip(0, 255)
    expected = []
    for r, g, b in pixels:
        grey = 0.299 * r + 0.587 * g + 0.114 * b
        expected.append([min(255.0, max(0.0, grey + (value - grey) * saturation)) for value in (r, g, b)])
    got = jitter_colours(frames, *factors).transpose(0, 2, 3, 1).reshape(-1, 3)
    # Half a level of rounding.
    np.testing.assert_allclose(got, expected, atol=0.501)


def test_every_frame_is_changed_alike() -> None:
    still = np.repeat(clip(1), 4, axis=0)
    for seed in range(5):
        changed = augment(still, np.random.default_rng(seed), STRONG, 20)
        assert changed.shape == (4, 3, 20, 20) and changed.dtype == np.uint8 and changed.flags.c_contiguous
        assert all(np.array_equal(changed[0], frame) for frame in changed)


def test_nothing_is_mirrored_unless_asked_and_half_of_the_clips_when_asked() -> None:
    frames = clip(1, 8, 8)
    turned = FrameAugmentConfig(min_area=1.0, flip_probability=0.5)
    seeds = range(200)
    mirrored = [augment(frames, np.random.default_rng(s), turned, 8) for s in seeds]
    flipped = sum(np.array_equal(out, frames[..., ::-1]) for out in mirrored)
    kept = sum(np.array_equal(out, frames) for out in mirrored)
    assert flipped + kept == 200 and 75 < flipped < 125
    assert all(np.array_equal(augment(frames, np.random.default_rng(s), STILL, 8), frames) for s in seeds)


def test_turning_one_option_moves_no_other_draw() -> None:
    frames, seed = clip(), 4
    plain = augment(frames, np.random.default_rng(seed), FrameAugmentConfig(), 16)
    flipped = augment(frames, np.random.default_rng(seed), FrameAugmentConfig(flip_probability=1.0), 16)
    np.testing.assert_array_equal(flipped, plain[..., ::-1])
    rngs = [np.random.default_rng(seed) for _ in range(2)]
    augment(frames, rngs[0], STILL, 16)
    augment(frames, rngs[1], STRONG, 16)
    assert rngs[0].random() == rngs[1].random()


def test_clips_are_changed_each_for_itself_and_follow_the_generator() -> None:
    batch = np.stack([clip(2, 16, 16)] * 3)
    change = partial(augment_clips, augmentation=STRONG)
    first, again = (change(batch, np.random.default_rng(9)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == batch.shape
    assert not np.array_equal(first[0], first[1]) and not np.array_equal(first[1], first[2])
    rng = np.random.default_rng(9)
    np.testing.assert_array_equal(first, np.stack([augment(c, rng, STRONG, 16) for c in batch]))
    assert augment_clips(batch[:0], rng, STRONG).shape == (0, 2, 3, 16, 16)


@pytest.mark.parametrize(
    "values",
    [{"min_area": 0.0}, {"min_area": 0.9, "max_area": 0.5}, {"max_aspect_ratio": 0.5}, {"flip_probability": 1.5}],
)
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=[*values][0]):
        FrameAugmentConfig(**values)


def test_other_shapes_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match=r"frames must be uint8 \(T, 3, H, W\); got float32"):
        augment(clip().astype(np.float32), rng, STILL, 8)
    with pytest.raises(ConfigError, match=r"clips must be uint8 \(B, T, 3, S, S\); got uint8 \(1, 3, 3, 24, 32\)"):
        augment_clips(clip()[None], rng, STILL)
