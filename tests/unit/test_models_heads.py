"""Every projection head against its formula written out, and the head for tokens inside the alignment model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from vlmvid.config.alignment import AlignConfig, HeadConfig, HeadKind, OptimConfig
from vlmvid.config.encoders import PoolingConfig
from vlmvid.errors import ConfigError
from vlmvid.models.alignment import AlignmentModel, load_alignment, save_alignment
from vlmvid.models.heads import build_head
from vlmvid.models.runtime import seeded

D, P = 6, 4
OPTIONS: dict[str, dict[str, Any]] = {
    "linear": {},
    "mlp": {"width_factor": 2, "num_layers": 3},
    "swiglu": {"width_factor": 3},
    "gated": {"width_factor": 3},
    "token": {},
    "identity": {},
}
Weights = dict[str, Tensor]


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def head_of(kind: str, out: int = P, seed: int = 0, dropout: float = 0.0) -> nn.Module:
    with seeded(seed):
        return build_head(HeadConfig(kind=kind, **OPTIONS[kind]), D, D if kind == "identity" else out, dropout)  # type: ignore[arg-type]


def norm(x: Tensor, w: Weights) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / ((centred**2).mean(-1, keepdim=True) + 1e-5) ** 0.5 * w["norm.weight"] + w["norm.bias"]


def layer(x: Tensor, w: Weights, name: str) -> Tensor:
    out = x @ w[f"{name}.weight"].T
    return out + w[f"{name}.bias"] if f"{name}.bias" in w else out


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def linear_oracle(x: Tensor, w: Weights) -> Tensor:
    return layer(norm(x, w), w, "project")


def mlp_oracle(x: Tensor, w: Weights) -> Tensor:
    x = norm(x, w)
    for number in range(3):
        x = gelu(layer(x, w, f"hidden.{number}"))
    return layer(x, w, "project")


def swiglu_oracle(x: Tensor, w: Weights) -> Tensor:
    x = norm(x, w)
    gate = x @ w["f1.weight"].T
    return (gate / (1 + (-gate).exp()) * (x @ w["f2.weight"].T)) @ w["g.weight"].T


def gated_oracle(x: Tensor, w: Weights) -> Tensor:
    x = norm(x, w)
    gate = layer(x, w, "f1")
    clipped = torch.where(gate < 0, 0 * gate, torch.where(gate > 6, 0 * gate + 6, gate))
    return layer(clipped * layer(x, w, "f2"), w, "g")


def token_oracle(x: Tensor, w: Weights) -> Tensor:
    x = norm(x, w)
    return layer(x, w, "a") + layer(gelu(layer(x, w, "b")), w, "c")


def identity_oracle(x: Tensor, w: Weights) -> Tensor:
    return x


ORACLES: dict[str, Callable[[Tensor, Weights], Tensor]] = {
    "linear": linear_oracle,
    "mlp": mlp_oracle,
    "swiglu": swiglu_oracle,
    "gated": gated_oracle,
    "token": token_oracle,
    "identity": identity_oracle,
}


def test_every_kind_has_a_row() -> None:
    assert set(get_args(HeadKind)) == set(OPTIONS) == set(ORACLES)


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("shape", [(5, D), (2, 3, D), (0, D)])
def test_value_and_gradients_are_those_of_the_formula(kind: str, shape: tuple[int, ...]) -> None:
    head = head_of(kind).double()
    with torch.no_grad():
        for number, weight in enumerate(head.parameters()):
            # Large enough that every gate is met on both sides of its bends.
            weight.add_(drawn(*weight.shape, seed=number, scale=2.0))
    x = drawn(*shape, seed=50, scale=3.0).double().requires_grad_()
    weights = {name: value.detach().clone().requires_grad_() for name, value in head.state_dict().items()}
    got, expected = head(x), ORACLES[kind](x, weights)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    probe = drawn(*got.shape, seed=51).double()
    named = dict(head.named_parameters())
    of_head = torch.autograd.grad((got * probe).sum(), [x, *named.values()])
    of_oracle = torch.autograd.grad((expected * probe).sum(), [x, *(weights[name] for name in named)])
    for ours, theirs in zip(of_head, of_oracle, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", OPTIONS)
def test_contract(kind: str) -> None:
    head, again, other = head_of(kind), head_of(kind), head_of(kind, seed=1)
    out = head(drawn(5, D))
    assert out.shape == (5, D if kind == "identity" else P) and out.dtype == torch.float32
    if kind != "identity":
        out.square().sum().backward()
    without = [name for name, p in head.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert without == []
    state = head.state_dict()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in state.items())
    matrices = [name for name in state if name.endswith("weight") and not name.startswith("norm")]
    assert bool(matrices) == (kind != "identity")
    assert not any(torch.equal(state[name], other.state_dict()[name]) for name in matrices)
    if kind != "identity":
        # A LayerNorm comes first, so the scale of the features plays no part.
        torch.testing.assert_close(head(64.0 * drawn(5, D)), head(drawn(5, D)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [kind for kind in OPTIONS if kind != "identity"])
def test_dropout_acts_in_training_alone(kind: str) -> None:
    head = head_of(kind, dropout=0.5)
    x = drawn(8, D)
    with seeded(3):
        assert not torch.equal(head.train()(x), head.eval()(x))
    assert torch.equal(head(x), head_of(kind)(x))


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("linear", 2 * D + D * P + P),
        ("mlp", 2 * D + (D * 2 * D + 2 * D) + 2 * (4 * D * D + 2 * D) + 2 * D * P + P),
        ("swiglu", 2 * D + 2 * (D * 3 * D) + 3 * D * P),
        ("gated", 2 * D + 2 * (D * 3 * D + 3 * D) + 3 * D * P + P),
        ("token", 2 * D + 2 * (D * P + P) + P * P + P),
        ("identity", 0),
    ],
)
def test_number_of_weights(kind: str, count: int) -> None:
    assert sum(p.numel() for p in head_of(kind).parameters()) == count


def test_identity_needs_features_as_wide_as_the_space() -> None:
    with pytest.raises(ConfigError, match=r"'identity', but its features have 6 channels and projection_dim=4; set"):
        build_head(HeadConfig(kind="identity"), D, P)


@pytest.mark.parametrize(
    ("kind", "option"), [("linear", {"width_factor": 4}), ("token", {"width_factor": 4}), ("gated", {"num_layers": 2})]
)
def test_an_option_that_a_kind_does_not_read_is_refused(kind: str, option: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="does not read"):
        HeadConfig.model_validate({"kind": kind, **option})


def model_of(head: str, pooling: str = "frame_mean", *, video_dim: int = D, **options: Any) -> AlignmentModel:
    config = AlignConfig(
        pooling=PoolingConfig(kind=pooling, **options),  # type: ignore[arg-type]
        video_head=HeadConfig(kind=head, **OPTIONS[head]),  # type: ignore[arg-type]
        projection_dim=P,
        optim=OptimConfig(num_steps=10, global_batch_size=4),
    )
    return AlignmentModel(video_dim, 5, 4, config).eval()


def unit(x: Tensor) -> Tensor:
    return x / (x**2).sum(-1, keepdim=True) ** 0.5


@pytest.mark.parametrize("pooling", ["frame_mean", "frame_max"])
def test_the_token_head_maps_every_frame_before_they_are_pooled(pooling: str) -> None:
    model, x = model_of("token", pooling), drawn(3, 4, D)
    frames = torch.stack([torch.stack([model.video_head(frame) for frame in clip]) for clip in x])
    expected = frames.mean(1) if pooling == "frame_mean" else frames.max(1).values
    torch.testing.assert_close(model.embed_video(x), unit(expected))
    head_last = unit(model.video_head(x.mean(1) if pooling == "frame_mean" else x.max(1).values))
    assert (model.embed_video(x) - head_last).abs().max() > 1e-3


def test_the_token_head_maps_every_token_that_the_pooling_gives() -> None:
    model, x = model_of("token", "tome"), drawn(3, 4, 9, D)
    tokens = model.pooling(x)
    assert tokens.ndim == 3
    expected = unit(torch.stack([torch.stack([model.video_head(token) for token in clip]).mean(0) for clip in tokens]))
    torch.testing.assert_close(model.embed_video(x), expected)


def test_the_token_head_maps_every_patch_behind_a_pooling_that_keeps_all() -> None:
    model, x = model_of("token", "adaptive_3d", output_frames=4, output_side=3), drawn(3, 4, 9, D)
    expected = unit(model.video_head(x.flatten(1, 2)).mean(1))
    torch.testing.assert_close(model.embed_video(x), expected)


def test_a_pooling_that_gives_one_feature_gives_the_token_head_one_token() -> None:
    model, x = model_of("token", "temporal_difference"), drawn(3, 4, D)
    torch.testing.assert_close(model.embed_video(x), unit(model.video_head(model.pooling(x))))


def test_an_identity_head_leaves_the_pooled_features_and_the_other_side_learns() -> None:
    model, x = model_of("identity", video_dim=P), drawn(3, 4, P)
    torch.testing.assert_close(model.embed_video(x), unit(x.mean(1)))
    (model.embed_video(x) @ model.embed_text(drawn(3, 5)).T).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.text_head.parameters())
    with pytest.raises(ConfigError, match="align.video_head is 'identity', but its features have 6 channels"):
        model_of("identity")


@pytest.mark.parametrize("kind", OPTIONS)
def test_every_kind_is_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    dim = P if kind == "identity" else D
    model, x = model_of(kind, video_dim=dim), drawn(3, 4, dim)
    save_alignment(model, tmp_path)
    assert torch.equal(load_alignment(tmp_path).embed_video(x), model.embed_video(x))


def test_a_linear_head_saved_with_a_width_is_read(tmp_path: Path) -> None:
    model = model_of("linear")
    save_alignment(model, tmp_path)
    path = tmp_path / "alignment.json"
    values = json.loads(path.read_text())
    for side in ("video_head", "text_head"):
        # As it was written before heads had more options than these.
        values["config"][side] = {"kind": "linear", "width_factor": 4}
    path.write_text(json.dumps(values))
    assert load_alignment(tmp_path).config == model.config
