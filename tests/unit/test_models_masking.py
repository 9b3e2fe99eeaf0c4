"""Masks keep exact numbers, and a dropped token decides nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from vlmvid.models.masking import clip_mask, frame_mask, keep_tokens, restore_tokens, tube_mask
from vlmvid.models.runtime import seeded
from vlmvid.models.torchvision_compat import ensure_torchvision

Draw = Callable[[tuple[int, int, int], float, torch.Generator], Tensor]
MASKS: list[Draw] = [tube_mask, frame_mask, clip_mask]
FRACTIONS = st.floats(0.001, 1.0)
SIZES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 9))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(SIZES, FRACTIONS, st.integers(0, 99))
def test_numbers_kept_are_exact(shape: tuple[int, int, int], fraction: float, seed: int) -> None:
    batch, num_frames, num_patches = shape
    per_frame = max(1, round(fraction * num_patches))
    for draw in (tube_mask, frame_mask):
        mask = draw(shape, fraction, generator(seed))
        assert mask.shape == shape and mask.dtype == torch.bool
        assert mask.sum(2).tolist() == [[per_frame] * num_frames] * batch
    tube = tube_mask(shape, fraction, generator(seed))
    assert torch.equal(tube, tube[:, :1].expand(shape))
    in_clip = clip_mask(shape, fraction, generator(seed)).flatten(1)
    assert in_clip.sum(1).tolist() == [max(1, round(fraction * num_frames * num_patches))] * batch


@pytest.mark.parametrize("draw", MASKS)
def test_masks_follow_the_generator_alone(draw: Draw) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = (draw((4, 6, 16), 0.25, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    # Clips of a batch are drawn apart from each other.
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("draw", MASKS)
def test_every_place_is_kept_equally_often(draw: Draw) -> None:
    rate = draw((4000, 2, 8), 0.25, generator()).double().mean(0)
    # Binomial: standard deviation 0.007, so five of them on each side.
    assert (rate - 0.25).abs().max() < 5 * (0.25 * 0.75 / 4000) ** 0.5


def test_frames_are_drawn_apart_only_without_tubes() -> None:
    assert not torch.equal(*frame_mask((1, 2, 64), 0.5, generator())[0])
    counts = clip_mask((1, 8, 64), 0.5, generator())[0].sum(1)
    assert counts.unique().numel() > 1


@pytest.mark.parametrize("draw", MASKS)
@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_a_fraction_out_of_range_is_refused(draw: Draw, fraction: float) -> None:
    with pytest.raises(ValueError, match="keep_fraction must be above 0 and at most 1"):
        draw((1, 2, 4), fraction, generator())


@given(SIZES, FRACTIONS, st.sampled_from(MASKS), st.integers(0, 99))
def test_keep_and_restore_by_loops(shape: tuple[int, int, int], fraction: float, draw: Draw, seed: int) -> None:
    mask = draw(shape, fraction, generator(seed))
    tokens = torch.randn(*shape, 3, generator=generator(seed))
    places = [(t, n) for t in range(shape[1]) for n in range(shape[2])]
    expected = [[tokens[b, t, n] for t, n in places if mask[b, t, n]] for b in range(shape[0])]
    kept = keep_tokens(tokens, mask)
    assert torch.equal(kept, torch.stack([torch.stack(clip) for clip in expected]))
    filler = torch.tensor([7.0, 8.0, 9.0])
    restored = restore_tokens(kept, mask, filler)
    for b in range(shape[0]):
        for t, n in places:
            assert torch.equal(restored[b, t, n], tokens[b, t, n] if mask[b, t, n] else filler)


def test_gradients_of_restored_tokens() -> None:
    mask = frame_mask((2, 3, 4), 0.5, generator())
    kept = torch.randn(2, 6, 5, generator=generator(1)).requires_grad_()
    filler = torch.zeros(5, requires_grad=True)
    pull = torch.randn(2, 3, 4, 5, generator=generator())
    (restore_tokens(kept, mask, filler) * pull).sum().backward()
    assert torch.equal(kept.grad, keep_tokens(pull, mask))
    torch.testing.assert_close(filler.grad, pull[~mask].sum(0))


def test_shapes_that_do_not_fit_are_refused() -> None:
    mask = frame_mask((2, 3, 4), 0.5, generator())
    with pytest.raises(ValueError, match="a bool mask"):
        keep_tokens(torch.zeros(2, 3, 5, 6), mask)
    with pytest.raises(ValueError, match="a bool mask"):
        keep_tokens(torch.zeros(2, 3, 4, 6), mask.float())
    with pytest.raises(ValueError, match=r"expected kept tokens \(2, 6, D\)"):
        restore_tokens(torch.zeros(2, 5, 6), mask, torch.zeros(6))
    with pytest.raises(ValueError, match=r"expected kept tokens \(2, 6, D\)"):
        restore_tokens(torch.zeros(2, 6, 6), mask, torch.zeros(5))
    uneven = mask.clone()
    uneven[0] = True
    with pytest.raises(ValueError, match="clips keep from 6 to 12 tokens"):
        keep_tokens(torch.zeros(2, 3, 4, 6), uneven)
    with pytest.raises(ValueError, match="clips keep from 6 to 12 tokens"):
        restore_tokens(torch.zeros(2, 6, 6), uneven, torch.zeros(6))


# A ViT over the kept tokens of each frame, or of the whole clip.


def vit() -> nn.Module:
    ensure_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    with seeded(0):
        return VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=0).eval()


def encode(model: nn.Module, pixels: Tensor, mask: Tensor, per_frame: bool) -> Tensor:
    """Pixels (B, T, 3, 32, 32) to normalised tokens of the kept patches alone."""
    batch, num_frames = pixels.shape[:2]
    patches = model.patch_embed(pixels.flatten(0, 1)) + model.pos_embed[:, model.num_prefix_tokens :]
    kept = keep_tokens(patches.unflatten(0, (batch, num_frames)), mask)
    states = kept.unflatten(1, (num_frames, -1)).flatten(0, 1) if per_frame else kept
    return model.norm(model.blocks(states))


def spoil(pixels: Tensor, dropped: Tensor, value: float) -> Tensor:
    """Pixels with `value` in all dropped patches."""
    grid = dropped.unflatten(-1, (4, 4)).repeat_interleave(8, -1).repeat_interleave(8, -2)
    return torch.where(grid[:, :, None], torch.full_like(pixels, value), pixels)


@pytest.mark.parametrize("draw", MASKS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_a_dropped_token_cannot_influence_the_encoder(draw: Draw, value: float) -> None:
    model, per_frame = vit(), draw is not clip_mask
    pixels = torch.randn(2, 3, 3, 32, 32, generator=generator())
    mask = draw((2, 3, 16), 0.25, generator(1))
    with torch.no_grad():
        out = encode(model, pixels, mask, per_frame)
        spoiled = encode(model, spoil(pixels, ~mask, value), mask, per_frame)
        kept_changed = encode(model, spoil(pixels, mask, 1.0), mask, per_frame)
    assert out.isfinite().all() and torch.equal(out, spoiled)
    assert not torch.equal(out, kept_changed)


@pytest.mark.parametrize("draw", MASKS)
def test_the_gradient_of_a_dropped_token_is_zero(draw: Draw) -> None:
    model = vit()
    pixels = torch.randn(2, 3, 3, 32, 32, generator=generator()).requires_grad_()
    mask = draw((2, 3, 16), 0.25, generator(1))
    encode(model, pixels, mask, per_frame=draw is not clip_mask).square().sum().backward()
    assert pixels.grad is not None
    patches = pixels.grad.unflatten(-1, (4, 8)).unflatten(-3, (4, 8))
    is_reached = (patches != 0).any(dim=(2, 4, 6)).flatten(2)
    assert torch.equal(is_reached, mask)
