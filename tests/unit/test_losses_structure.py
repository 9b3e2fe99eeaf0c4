from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlmvid.losses import structure
from vlmvid.losses.structure import structure_loss


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_walk(rows: Tensor, temperature: float) -> list[list[Tensor]]:
    unit = [row / row.square().sum().sqrt() for row in rows]
    mean = sum(unit[1:], unit[0]) / len(unit)
    centred = [row - mean for row in unit]
    walk = []
    for row in centred:
        weights = [((row * other).sum() / temperature).exp() for other in centred]
        total = sum(weights[1:], weights[0])
        walk.append([weight / total for weight in weights])
    return walk


def slow_product(left: list[list[Tensor]], right: list[list[Tensor]]) -> list[list[Tensor]]:
    size = range(len(left))
    return [[sum(left[i][k] * right[k][j] for k in size) for j in size] for i in size]  # type: ignore[misc]


def slow_structure(inputs: Tensor, embeds: Tensor, temperature: float, levels: int) -> Tensor:
    steps = slow_walk(inputs, temperature), slow_walk(embeds, temperature)
    walks = steps
    total = torch.zeros((), dtype=torch.float64)
    for level in range(1, levels + 1):
        divergence = torch.zeros((), dtype=torch.float64)
        for p_row, q_row in zip(*walks, strict=True):
            for p, q in zip(p_row, q_row, strict=True):
                m = (p + q) / 2
                divergence = divergence + 0.5 * (p * (p / m).log() + q * (q / m).log())
        total = total + divergence / len(inputs) / level
        walks = slow_product(walks[0], steps[0]), slow_product(walks[1], steps[1])
    return total / levels


@pytest.mark.parametrize(("size", "temperature", "levels"), [(1, 0.07, 2), (2, 0.5, 1), (5, 0.2, 3), (7, 0.07, 1)])
def test_it_is_the_loop(size: int, temperature: float, levels: int) -> None:
    inputs, embeds = normal(size, 6).requires_grad_(), normal(size, 3, seed=1).requires_grad_()
    fast = structure_loss(inputs, embeds, temperature=temperature, levels=levels)
    slow = slow_structure(inputs, embeds, temperature, levels)
    torch.testing.assert_close(fast, slow)
    ours, theirs = torch.autograd.grad(fast, (inputs, embeds)), torch.autograd.grad(slow, (inputs, embeds))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("rows_per_tile", [1, 3, 7, 100])
def test_tiles_change_nothing(rows_per_tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, embeds = normal(7, 4).requires_grad_(), normal(7, 3, seed=1).requires_grad_()
    monkeypatch.setattr(structure, "_ROWS_PER_TILE", rows_per_tile)
    tiled, slow = structure_loss(inputs, embeds), slow_structure(inputs, embeds, 0.07, 1)
    torch.testing.assert_close(tiled, slow)
    torch.testing.assert_close(
        torch.autograd.grad(tiled, (inputs, embeds)), torch.autograd.grad(slow, (inputs, embeds))
    )


@pytest.mark.parametrize("levels", [1, 3])
def test_gradcheck(levels: int) -> None:
    inputs, embeds = normal(5, 4).requires_grad_(), normal(5, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: structure_loss(x, y, temperature=0.3, levels=levels), (inputs, embeds))


def test_two_rows_by_hand() -> None:
    # Opposite rows centre to themselves; a step stays with weight e^2 and leaves with e^-2 at temperature 1/2. Equal
    # rows centre to nothing, so a step is even.
    apart, equal = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double(), torch.ones(2, 3).double()
    stay = math.e**2 / (math.e**2 + math.e**-2)
    terms = [p * math.log(p / ((p + 0.5) / 2)) + 0.5 * math.log(0.5 / ((p + 0.5) / 2)) for p in (stay, 1 - stay)]
    assert structure_loss(apart, equal, temperature=0.5).item() == pytest.approx(sum(terms) / 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 3), st.sampled_from([1e-3, 0.07, 1.0]), st.integers(0, 99))
def test_bounds_and_symmetries(size: int, levels: int, temperature: float, seed: int) -> None:
    inputs, embeds = normal(size, 4, seed=seed).float(), normal(size, 5, seed=seed + 1).float().requires_grad_()
    options = {"temperature": temperature, "levels": levels}
    loss = structure_loss(inputs, embeds, **options)  # type: ignore[arg-type]
    assert -1e-6 <= loss.item() <= math.log(2) + 1e-6
    (gradient,) = torch.autograd.grad(loss, embeds)
    assert gradient.isfinite().all()
    exchanged = structure_loss(embeds, inputs, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(exchanged, loss, atol=1e-6, rtol=1e-4)
    # Scaling rows and turning the space keeps all neighbourhoods.
    turn = torch.linalg.qr(normal(4, 4, seed=seed + 2).float())[0]
    turned = (inputs @ turn) * (1 + torch.arange(size)[:, None])
    assert structure_loss(inputs, turned, temperature=max(temperature, 0.07), levels=levels).item() < 1e-4


def test_one_row_none_and_constant_rows() -> None:
    assert not structure_loss(normal(3, 2), normal(3, 2, seed=1)).requires_grad
    for size in (0, 1):
        embeds = normal(size, 3).requires_grad_()
        loss = structure_loss(normal(size, 4), embeds)
        (gradient,) = torch.autograd.grad(loss, embeds)
        assert loss.item() == 0 and not gradient.any()
    embeds = torch.zeros(4, 3, requires_grad=True)
    structure_loss(normal(4, 2).float(), embeds).backward()
    assert embeds.grad is not None and embeds.grad.isfinite().all()


def test_autocast_changes_nothing() -> None:
    inputs, embeds = normal(6, 4).float(), normal(6, 4, seed=1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = structure_loss(inputs, embeds, levels=2)
    assert torch.equal(inside, structure_loss(inputs, embeds, levels=2))
    assert structure_loss(inputs.bfloat16(), embeds.bfloat16()).dtype == torch.float32


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="of the same rows"):
        structure_loss(normal(3, 2), normal(2, 2))
    with pytest.raises(ValueError, match="temperature > 0"):
        structure_loss(normal(2, 2), normal(2, 2), temperature=0.0)
    embeds = normal(3, 2, seed=1).requires_grad_()
    with pytest.raises(RuntimeError, match="leave out create_graph"):
        torch.autograd.grad(structure_loss(normal(3, 2), embeds), embeds, create_graph=True)
    with pytest.raises(ValueError, match="levels >= 1"):
        structure_loss(normal(2, 2), normal(2, 2), levels=0)
