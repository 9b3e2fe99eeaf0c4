"""The tiled losses against the plain ones: numbers, gradients, memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.losses_fixtures import Created, unit_rows
from vlmvid.losses import info_nce, sigmoid_loss

Loss = Callable[..., Tensor]
LOSSES = ("per_sample", "per_pair", "info_nce")


def loss_of(name: str, video: Tensor, text: Tensor, scale: Tensor, bias: Tensor, **options: Any) -> Tensor:
    if name == "info_nce":
        return info_nce(video, text, logit_scale=scale, **options) + 0 * bias
    return sigmoid_loss(video, text, logit_scale=scale, logit_bias=bias, reduction=name, **options)  # type: ignore[arg-type]


def inputs(num_clips: int, num_texts: int, dim: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    tensors = [unit_rows(num_clips, dim, 0, dtype), unit_rows(num_texts, dim, 1, dtype)]
    wide = torch.promote_types(dtype, torch.float32)
    return [*tensors, torch.tensor(25.0, dtype=wide), torch.tensor(-7.0, dtype=wide)]


def value_and_gradients(name: str, tensors: list[Tensor], **options: Any) -> tuple[Tensor, ...]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    loss = loss_of(name, *leaves, **options)
    return (loss.detach(), *torch.autograd.grad(3 * loss, leaves))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_sizes_and_owners_give_the_plain_numbers(data: st.DataObject) -> None:
    num_clips, dim, tile = (data.draw(st.integers(1, most)) for most in (12, 5, 14))
    owners = data.draw(st.lists(st.integers(-1, num_clips - 1), min_size=1, max_size=14))
    owners[data.draw(st.integers(0, len(owners) - 1))] = data.draw(st.integers(0, num_clips - 1))
    name = data.draw(st.sampled_from(LOSSES))
    tensors = inputs(num_clips, len(owners), dim, torch.float64)
    of_text = torch.tensor(owners)
    tiled = value_and_gradients(name, tensors, tile_size=tile, video_of_text=of_text)
    plain = value_and_gradients(name, tensors, video_of_text=of_text)
    torch.testing.assert_close(tiled, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("tile_size", [1, 4, 13, 33, 64])
def test_tiles_change_float32_numbers_by_rounding_only(name: str, tile_size: int) -> None:
    tensors = inputs(33, 33, 16)
    tiled, plain = (value_and_gradients(name, tensors, tile_size=size) for size in (tile_size, None))
    torch.testing.assert_close(tiled, plain, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 100.0, 1000.0])
def test_far_apart_logits_stay_finite(scale: float) -> None:
    # Rows whose largest logits lie 2 * scale apart: no common shift of a tile could hold both in float32.
    one, others = (unit_rows(count, 8, seed, torch.float32) for count, seed in ((1, 0), (6, 1)))
    tensors = [torch.cat([one, -one, others]), one.repeat(8, 1), torch.tensor(scale), torch.tensor(-10.0)]
    for name in LOSSES:
        tiled = value_and_gradients(name, tensors, tile_size=3)
        plain = value_and_gradients(name, [tensor.double() for tensor in tensors])
        assert all(torch.isfinite(some).all() for some in tiled)
        torch.testing.assert_close(tiled, tuple(some.float() for some in plain), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2), (2, 3), (3,)])
def test_only_the_gradients_that_are_needed(name: str, wanted: tuple[int, ...]) -> None:
    tensors = inputs(9, 9, 4, torch.float64)
    every = value_and_gradients(name, tensors, tile_size=4)[1:]
    leaves = [tensor.clone().requires_grad_(index in wanted) for index, tensor in enumerate(tensors)]
    (3 * loss_of(name, *leaves, tile_size=4)).backward()
    for index, leaf in enumerate(leaves):
        assert (leaf.grad is not None) == (index in wanted)
        if leaf.grad is not None:
            torch.testing.assert_close(leaf.grad, every[index], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", LOSSES)
def test_no_tensor_is_larger_than_a_tile_or_the_embeddings(name: str) -> None:
    num_pairs, dim, tile = 120, 4, 16

    def largest(tile_size: int | None) -> int:
        leaves = [tensor.requires_grad_() for tensor in inputs(num_pairs, num_pairs, dim)]
        with Created() as created:
            loss_of(name, *leaves, tile_size=tile_size).backward()
        return max(created.numels)

    assert largest(None) >= num_pairs**2
    assert largest(tile) <= max(num_pairs * dim, tile * tile)


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_saved_for_backward_is_the_size_of_the_inputs(name: str) -> None:
    leaves = [tensor.requires_grad_() for tensor in inputs(96, 96, 4)]

    def saved(tile_size: int | None) -> int:
        sizes: list[int] = []

        def keep(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss_of(name, *leaves, tile_size=tile_size)
        return sum(sizes)

    assert saved(None) >= 96 * 96
    assert saved(8) <= 2 * 96 * 4 + 8


@pytest.mark.parametrize(("name", "products"), [("per_sample", 1), ("info_nce", 1)])
def test_without_gradients_only_the_value_is_made(name: str, products: int) -> None:
    tensors = inputs(8, 8, 4)

    def matrix_products(gradients: bool) -> int:
        leaves = [tensor.clone().requires_grad_(gradients) for tensor in tensors]
        with Created() as created:
            loss_of(name, *leaves, tile_size=8)
        return sum(operation in ("mm", "addmm", "addmm_") for operation in created.operations)

    assert matrix_products(gradients=False) == products
    assert matrix_products(gradients=True) == {"per_sample": 3, "info_nce": 4}[name]
    with torch.no_grad(), Created() as created:
        loss = loss_of(name, *[tensor.requires_grad_() for tensor in tensors], tile_size=8)
    assert not loss.requires_grad
    assert sum(operation in ("mm", "addmm", "addmm_") for operation in created.operations) == products


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_promoted_tile_by_tile(name: str, dtype: torch.dtype) -> None:
    tensors = inputs(40, 40, 8, dtype)
    with Created() as created:
        tiled = value_and_gradients(name, tensors, tile_size=8)
    plain = value_and_gradients(name, tensors)
    assert tiled[0].dtype == torch.float32 and tiled[1].dtype == tiled[2].dtype == dtype
    tolerance = 2e-3 if dtype == torch.float16 else 1e-2
    torch.testing.assert_close(tiled, plain, rtol=tolerance, atol=1e-6)
    assert created.operations.count("_to_copy") >= 40 // 8  # per tile; all rows at once would be two


def test_a_loss_scale_saves_gradients_that_float16_cannot_hold() -> None:
    video, text = (tensor.requires_grad_() for tensor in inputs(64, 64, 8, torch.float16)[:2])
    loss = sigmoid_loss(video, text, logit_scale=1e-4, logit_bias=-10.0, reduction="per_pair", tile_size=16)
    (scaled,) = torch.autograd.grad(2.0**24 * loss, video, retain_graph=True)
    (unscaled,) = torch.autograd.grad(loss, video)
    assert not unscaled.any()  # all below the smallest float16
    wide = [tensor.detach().double().requires_grad_() for tensor in (video, text)]
    exact = sigmoid_loss(*wide, logit_scale=1e-4, logit_bias=-10.0, reduction="per_pair")
    expected = torch.autograd.grad(2.0**24 * exact, wide[0])[0]
    torch.testing.assert_close(scaled.double(), expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("tile_size", [None, 5])
def test_autocast_does_not_reach_the_loss(name: str, tile_size: int | None) -> None:
    tensors = inputs(12, 12, 8)
    expected = value_and_gradients(name, tensors, tile_size=tile_size)
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(name, *leaves, tile_size=tile_size)
    found = (loss.detach(), *torch.autograd.grad(3 * loss, leaves))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_backward_twice_and_second_derivatives(name: str) -> None:
    leaves = [tensor.requires_grad_() for tensor in inputs(6, 6, 4)]
    loss = loss_of(name, *leaves, tile_size=4)
    first = torch.autograd.grad(loss, leaves[0], retain_graph=True)[0].clone()
    torch.testing.assert_close(torch.autograd.grad(2 * loss, leaves[0], retain_graph=True)[0], 2 * first)
    with pytest.raises(RuntimeError, match="leave out create_graph, or tile_size"):
        torch.autograd.grad(loss, leaves[0], create_graph=True)


@pytest.mark.parametrize("name", LOSSES)
def test_the_same_inputs_give_the_same_bytes(name: str) -> None:
    tensors = inputs(50, 50, 8)
    first, second = (value_and_gradients(name, tensors, tile_size=16) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_stay_visible(name: str, wrong: float) -> None:
    tensors = inputs(9, 9, 4)
    tensors[0][7, 2] = wrong
    assert not torch.isfinite(loss_of(name, *tensors, tile_size=4))
