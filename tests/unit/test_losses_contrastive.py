"""Contrastive losses against a double loop written out in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vlmvid.losses import info_nce, sigmoid_loss


def unit_rows(num_rows: int, dim: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num_rows, dim, generator=generator, dtype=torch.float64)
    return (rows / rows.norm(dim=1, keepdim=True)).to(dtype)


def dot(a: Tensor, b: Tensor) -> float:
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def sigmoid_oracle(video: Tensor, text: Tensor, scale: float, bias: float, reduction: str) -> float:
    total = 0.0
    for i in range(len(video)):
        for j in range(len(text)):
            logit = scale * dot(video[i], text[j]) + bias
            probability_of_truth = 1 / (1 + math.exp(-logit if i == j else logit))
            total -= math.log(probability_of_truth)
    return total / (len(video) if reduction == "per_sample" else len(video) ** 2)


def info_nce_oracle(video: Tensor, text: Tensor, scale: float) -> float:
    def one_direction(queries: Tensor, gallery: Tensor) -> float:
        losses = []
        for i in range(len(queries)):
            weights = [math.exp(scale * dot(queries[i], gallery[j])) for j in range(len(gallery))]
            losses.append(-math.log(weights[i] / sum(weights)))
        return sum(losses) / len(losses)

    return (one_direction(video, text) + one_direction(text, video)) / 2


@pytest.mark.parametrize("reduction", ["per_sample", "per_pair"])
@pytest.mark.parametrize("num_pairs", [1, 2, 7])
@pytest.mark.parametrize("tile_size", [None, 1, 3, 7, 50])
def test_sigmoid_loss_equals_the_double_loop(reduction: str, num_pairs: int, tile_size: int | None) -> None:
    video, text = unit_rows(num_pairs, 5, 0), unit_rows(num_pairs, 5, 1)
    loss = sigmoid_loss(video, text, logit_scale=20.0, logit_bias=-10.0, reduction=reduction, tile_size=tile_size)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(sigmoid_oracle(video, text, 20.0, -10.0, reduction), rel=1e-12)


@pytest.mark.parametrize("num_pairs", [1, 2, 7])
@pytest.mark.parametrize("tile_size", [None, 1, 3, 7, 50])
def test_info_nce_equals_the_double_loop(num_pairs: int, tile_size: int | None) -> None:
    video, text = unit_rows(num_pairs, 5, 0), unit_rows(num_pairs, 5, 1)
    loss = info_nce(video, text, logit_scale=14.0, tile_size=tile_size)
    assert loss.item() == pytest.approx(info_nce_oracle(video, text, 14.0), rel=1e-12, abs=1e-13)


def test_info_nce_equals_cross_entropy_of_torch() -> None:
    video, text = unit_rows(6, 4, 2), unit_rows(6, 4, 3)
    logits = 9.0 * video @ text.T
    labels = torch.arange(6)
    expected = (
        torch.nn.functional.cross_entropy(logits, labels) + torch.nn.functional.cross_entropy(logits.T, labels)
    ) / 2
    torch.testing.assert_close(info_nce(video, text, logit_scale=9.0), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("tile_size", [None, 2])
def test_gradients_of_every_input_are_the_numerical_ones(tile_size: int | None) -> None:
    video, text = unit_rows(5, 3, 4).requires_grad_(), unit_rows(5, 3, 5).requires_grad_()
    scale = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)

    def sigmoid(v: Tensor, t: Tensor, s: Tensor, b: Tensor) -> Tensor:
        return sigmoid_loss(v, t, logit_scale=s, logit_bias=b, tile_size=tile_size)

    def contrastive(v: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return info_nce(v, t, logit_scale=s, tile_size=tile_size)

    assert torch.autograd.gradcheck(sigmoid, (video, text, scale, bias))
    assert torch.autograd.gradcheck(contrastive, (video, text, scale))


@pytest.mark.parametrize("tile_size", [1, 4, 13, 64])
@pytest.mark.parametrize("name", ["sigmoid", "info_nce"])
def test_tiles_change_neither_value_nor_gradient(tile_size: int, name: str) -> None:
    def value_and_gradients(tile: int | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        inputs = [unit_rows(33, 16, seed, torch.float32).requires_grad_() for seed in (6, 7)]
        scale = torch.tensor(30.0, requires_grad=True)
        bias = torch.tensor(-8.0, requires_grad=True)
        if name == "sigmoid":
            loss = sigmoid_loss(*inputs, logit_scale=scale, logit_bias=bias, tile_size=tile)
            return loss, torch.autograd.grad(loss, [*inputs, scale, bias])
        loss = info_nce(*inputs, logit_scale=scale, tile_size=tile)
        return loss, torch.autograd.grad(loss, [*inputs, scale])

    plain, tiled = value_and_gradients(None), value_and_gradients(tile_size)
    torch.testing.assert_close(tiled, plain, rtol=1e-5, atol=1e-6)


def test_tiles_keep_no_full_logit_matrix_for_backward() -> None:
    num_pairs, tile_size = 96, 8
    video, text = (unit_rows(num_pairs, 4, seed, torch.float32).requires_grad_() for seed in (8, 9))

    def largest_saved(tile: int | None) -> int:
        sizes: list[int] = []

        def keep(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            sigmoid_loss(video, text, logit_scale=10.0, logit_bias=-10.0, tile_size=tile)
        return max(sizes)

    assert largest_saved(None) >= num_pairs**2
    assert largest_saved(tile_size) < num_pairs * tile_size


def test_half_precision_inputs_are_computed_in_float32() -> None:
    video, text = (unit_rows(6, 8, seed, torch.float32).half() for seed in (10, 11))
    loss = sigmoid_loss(video, text, logit_scale=20.0, logit_bias=-10.0)
    assert loss.dtype == torch.float32
    expected = sigmoid_loss(video.double(), text.double(), logit_scale=20.0, logit_bias=-10.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_large_logits_stay_finite_and_exact() -> None:
    # One perfect pair at logit 90: -log(sigmoid(90)) = 8.19e-40, not 0 and not inf.
    one = torch.ones(1, 1, dtype=torch.float64)
    assert sigmoid_loss(one, one, logit_scale=100.0, logit_bias=-10.0).item() == pytest.approx(math.exp(-90), rel=1e-9)
    assert sigmoid_loss(one, -one, logit_scale=100.0, logit_bias=-10.0).item() == pytest.approx(110.0)


@pytest.mark.parametrize("shapes", [((3, 2), (4, 2)), ((3, 2), (3, 3)), ((0, 2), (0, 2)), ((3,), (3,))])
def test_wrong_shapes_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    video, text = (torch.ones(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        sigmoid_loss(video, text, logit_scale=1.0, logit_bias=0.0)
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        info_nce(video, text, logit_scale=1.0)


def test_unknown_reduction_and_tile_size_are_refused() -> None:
    rows = torch.ones(2, 2)
    with pytest.raises(ValueError, match="unknown reduction 'mean'"):
        sigmoid_loss(rows, rows, logit_scale=1.0, logit_bias=0.0, reduction="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tile_size must be at least 1, got 0"):
        info_nce(rows, rows, logit_scale=1.0, tile_size=0)
