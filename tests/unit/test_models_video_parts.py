from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.unit.test_models_video import vit
from vlmvid.models.runtime import seeded
from vlmvid.models.video.adapters import AIMBlock, SpaceTimeAdapter, STAdapterBlock
from vlmvid.models.video.blocks import DividedBlock, JointBlock, ShiftBlock, attend_time, shift_in_time
from vlmvid.models.video.dropping import kept_patches
from vlmvid.models.video.factorised import TemporalEncoder
from vlmvid.models.video.inflation import TubeletEmbedding, inflate_weight
from vlmvid.models.video.time_embedding import LearnedTime, SinusoidalTime, places_of, sinusoids
from vlmvid.models.video.vit import build_vit, vit_arguments

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def block() -> Any:
    return vit(depth=1).blocks[0]


def awake(module: nn.Module) -> nn.Module:
    with seeded(2):
        for parameter in module.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return module.eval()


def slow_attention(attention: Any, queries: Tensor, keys: Tensor) -> Tensor:
    """Tokens (N, D) that look at tokens (M, D), one head and one query at a time."""
    dim, heads = queries.shape[1], attention.num_heads
    width = dim // heads
    weight, bias = attention.qkv.weight.split(dim), attention.qkv.bias.split(dim)
    query, key, value = (x @ w.T + b for x, w, b in zip((queries, keys, keys), weight, bias, strict=True))
    out = torch.zeros_like(queries)
    for head in range(heads):
        cut = slice(head * width, (head + 1) * width)
        for row in range(len(queries)):
            scores = torch.stack([query[row, cut] @ k / math.sqrt(width) for k in key[:, cut]])
            out[row, cut] = (scores.softmax(0)[:, None] * value[:, cut]).sum(0)
    return out @ attention.proj.weight.T + attention.proj.bias


def slow_space(block: Any, normed: Tensor) -> Tensor:
    out = torch.zeros_like(normed)
    for clip in range(normed.shape[0]):
        for step in range(normed.shape[1]):
            out[clip, step] = slow_attention(block.attn, normed[clip, step], normed[clip, step])
    return out


def slow_time(attention: Any, normed: Tensor) -> Tensor:
    out = torch.zeros_like(normed)
    for clip in range(normed.shape[0]):
        for place in range(normed.shape[2]):
            out[clip, :, place] = slow_attention(attention, normed[clip, :, place], normed[clip, :, place])
    return out


def slow_mlp(block: Any, x: Tensor) -> Tensor:
    hidden = block.norm2(x) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
    return x + nn.functional.gelu(hidden) @ block.mlp.fc2.weight.T + block.mlp.fc2.bias


def check_with_gradient(fast: Tensor, slow: Tensor, x: Tensor) -> None:
    torch.testing.assert_close(fast, slow, **CLOSE)
    weight = random(*fast.shape, seed=9)
    gradients = [torch.autograd.grad((out * weight).sum(), x, retain_graph=True)[0] for out in (fast, slow)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


# --- blocks against loops


def test_joint_attention() -> None:
    module: Any = JointBlock(block())
    x = random(2, 3, 4, 16).requires_grad_()
    flat = [x[clip].flatten(0, 1) for clip in range(2)]
    attended = [slow_attention(module.image.attn, *[module.image.norm1(tokens)] * 2) for tokens in flat]
    slow = slow_mlp(module.image, x + torch.stack(attended).unflatten(1, (3, 4)))
    check_with_gradient(module(x), slow, x)


@pytest.mark.parametrize("residual", ["time", "input"])
def test_divided_attention(residual: Literal["time", "input"]) -> None:
    module: Any = awake(DividedBlock(block(), residual))
    x = random(2, 3, 4, 16).requires_grad_()
    timed = x + slow_time(module.time_attn, module.time_norm(x))
    space = slow_space(module.image, module.image.norm1(timed))
    slow = slow_mlp(module.image, (timed if residual == "time" else x) + space)
    check_with_gradient(module(x), slow, x)


def test_the_temporal_attention_is_a_copy_with_a_zero_output() -> None:
    image = block()
    module: Any = DividedBlock(image)
    assert torch.equal(module.time_attn.qkv.weight, image.attn.qkv.weight)
    assert module.time_attn.qkv.weight is not image.attn.qkv.weight
    assert not module.time_attn.proj.weight.any() and not module.time_attn.proj.bias.any()
    assert image.attn.proj.weight.any()


def test_temporal_shift_block() -> None:
    module: Any = ShiftBlock(block(), fraction=0.25)
    x = random(2, 5, 4, 16).requires_grad_()
    normed = module.image.norm1(x)
    shifted = normed.clone()
    for step in range(5):
        shifted[:, step, :, :4] = normed[:, max(step - 1, 0), :, :4]
        shifted[:, step, :, 4:8] = normed[:, min(step + 1, 4), :, 4:8]
    slow = slow_mlp(module.image, x + slow_space(module.image, shifted))
    check_with_gradient(module(x), slow, x)


@given(steps=st.integers(1, 6), dim=st.integers(1, 12), fraction=st.floats(0.01, 0.5))
@settings(max_examples=50, deadline=None)
def test_shifting_only_takes_values_from_the_neighbours(steps: int, dim: int, fraction: float) -> None:
    x = torch.arange(steps, dtype=torch.float32).view(1, steps, 1, 1).expand(1, steps, 1, dim)
    moved = int(dim * fraction)
    expected = np.repeat(np.arange(steps)[:, None], dim, axis=1)
    expected[:, :moved] = np.maximum(expected[:, :moved] - 1, 0)
    expected[:, moved : 2 * moved] = np.minimum(expected[:, moved : 2 * moved] + 1, steps - 1)
    np.testing.assert_array_equal(shift_in_time(x, fraction)[0, :, 0], expected)


def test_st_adapter_is_a_depthwise_convolution_over_time() -> None:
    module: Any = awake(STAdapterBlock(block(), embed_dim=16, width=6, num_prefix_tokens=1))
    x = random(2, 3, 5, 16).requires_grad_()
    adapter = module.adapter
    narrow = adapter.down(x[:, :, 1:])
    # The definition: a 3D convolution over a 2 x 2 grid with a kernel of 3 x 1 x 1.
    mixed = nn.functional.conv3d(
        narrow.permute(0, 3, 1, 2).unflatten(-1, (2, 2)),
        adapter.conv.weight[..., None, None],
        adapter.conv.bias,
        padding=(1, 0, 0),
        groups=6,
    )
    added = adapter.up(mixed.flatten(3).permute(0, 2, 3, 1))
    y = torch.cat([x[:, :, :1], x[:, :, 1:] + added], dim=2)
    slow = slow_mlp(module.image, y + slow_space(module.image, module.image.norm1(y)))
    check_with_gradient(module(x), slow, x)
    assert not SpaceTimeAdapter(16, 6)(x).any()


def test_aim() -> None:
    module: Any = awake(AIMBlock(block(), embed_dim=16, width=6))
    x = random(2, 3, 4, 16).requires_grad_()
    image = module.image

    def adapted(adapter: Any, values: Tensor) -> Tensor:
        hidden = nn.functional.gelu(values @ adapter.down.weight.T + adapter.down.bias)
        return hidden @ adapter.up.weight.T + adapter.up.bias

    y = x + adapted(module.time_adapter, slow_time(image.attn, image.norm1(x)))
    attended = slow_space(image, image.norm1(y))
    y = y + attended + adapted(module.space_adapter, attended)
    slow = slow_mlp(image, y) + 0.5 * adapted(module.mlp_adapter, image.norm2(y))
    check_with_gradient(module(x), slow, x)


@pytest.mark.parametrize("class_token", [True, False])
def test_factorised_encoder(class_token: bool) -> None:
    time = LearnedTime(3, 16)
    kinds = {"num_heads": 2, "depth": 1, "class_token": class_token, "time_embedding": time}
    with seeded(0):
        module: Any = awake(TemporalEncoder(type(block()), 16, **kinds))
    x = random(2, 3, 4, 16).requires_grad_()
    summary = x[:, :, 0] if class_token else x.sum(dim=2) / 4
    y = summary + time.table_TD
    inner = module.blocks[0]
    attended = torch.stack([slow_attention(inner.attn, *[inner.norm1(clip)] * 2) for clip in y])
    update = module.out(module.norm(slow_mlp(inner, y + attended)))
    check_with_gradient(module(x), x + update[:, :, None], x)


def test_attention_over_time_keeps_places_apart() -> None:
    x = random(1, 3, 4, 16)
    other = x.clone()
    other[:, :, 2] += 1
    with torch.no_grad():
        difference = (attend_time(block().attn, other) - attend_time(block().attn, x)).abs().amax(dim=(0, 1, 3))
    assert difference[2] > 1e-3 and difference[[0, 1, 3]].max() < 1e-6


# --- inflation


@pytest.mark.parametrize("tubelet", [1, 2, 3])
@pytest.mark.parametrize("inflation", ["central", "mean"])
def test_tubelets_are_a_3d_convolution(tubelet: int, inflation: Literal["central", "mean"]) -> None:
    model = vit(img_size=(16, 24))
    embedding = TubeletEmbedding(model.patch_embed, tubelet, inflation)
    with torch.no_grad():
        embedding.weight += 0.1 * random(*embedding.weight.shape)
        pixels = random(2, 2 * tubelet, 3, 16, 24)
        kernel = (tubelet, 8, 8)
        maps = nn.functional.conv3d(pixels.transpose(1, 2), embedding.weight, embedding.bias, stride=kernel)
        tokens = embedding(pixels)
        index = torch.tensor([[[1, 4], [0, 5]], [[2, 3], [3, 1]]])
        some = embedding(pixels, index)
    torch.testing.assert_close(tokens, maps.flatten(3).permute(0, 2, 3, 1), **CLOSE)
    for clip, step in np.ndindex(2, 2):
        torch.testing.assert_close(some[clip, step], tokens[clip, step, index[clip, step]], **CLOSE)


@pytest.mark.parametrize("inflation", ["central", "mean"])
@pytest.mark.parametrize("tubelet", [1, 2, 3, 4])
def test_inflation_is_exact_in_exact_arithmetic(tubelet: int, inflation: Literal["central", "mean"]) -> None:
    # Multiples of 12 divide by 1 to 4 without rounding, and sums of small integers are exact in float32.
    weight = torch.randint(-5, 6, (4, 3, 2, 2), generator=torch.Generator().manual_seed(0)).float() * 12
    frame = torch.randint(0, 9, (3, 2, 2), generator=torch.Generator().manual_seed(1)).float()
    inflated = inflate_weight(weight, tubelet, inflation)
    assert inflated.shape == (4, 3, tubelet, 2, 2)
    still = frame[:, None].expand(-1, tubelet, -1, -1)
    assert torch.equal((inflated * still).sum(dim=(1, 2, 3, 4)), (weight * frame).sum(dim=(1, 2, 3)))
    if inflation == "central":
        assert [int(part.any()) for part in inflated.unbind(2)].index(1) == tubelet // 2
        assert sum(int(part.any()) for part in inflated.unbind(2)) == 1


# --- time embedding


@given(steps=st.integers(1, 12), built=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_other_lengths_are_interpolated_between_centres(steps: int, built: int) -> None:
    embedding = LearnedTime(built, 3)
    with torch.no_grad():
        embedding.table_TD += random(built, 3)
    table = embedding.table_TD.detach().numpy()
    centres = (np.arange(steps) + 0.5) / steps
    known = (np.arange(built) + 0.5) / built
    expected = np.stack([np.interp(centres, known, table[:, channel]) for channel in range(3)], axis=1)
    np.testing.assert_allclose(embedding(steps).detach().numpy(), expected, atol=1e-5)
    places = np.interp(centres, known, np.arange(built))
    np.testing.assert_allclose(places_of(steps, built).numpy(), places, atol=1e-5)


def test_sinusoids() -> None:
    table = sinusoids(torch.tensor([0.0, 1.0, 2.5]), 5)
    for row, place in enumerate([0.0, 1.0, 2.5]):
        rates = [10_000 ** (-i / 3) for i in range(3)]
        expected = [*(math.sin(place * r) for r in rates), *(math.cos(place * r) for r in rates[:2])]
        np.testing.assert_allclose(table[row], expected, atol=1e-6)
    closed, opened = SinusoidalTime(3, 4), SinusoidalTime(3, 4, gate=1.0)
    assert not closed(3).any()
    torch.testing.assert_close(opened(3), sinusoids(torch.arange(3.0), 4))
    assert opened(5).shape == (5, 4)


# --- dropping


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_kept_patches_are_those_of_the_mask_in_order(clips: int, steps: int, patches: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, patches + 1))
    order = rng.permuted(np.tile(np.arange(patches), (clips, steps, 1)), axis=2)
    keep = torch.from_numpy(order < count)
    index = kept_patches(keep, (clips, steps, patches), tubes=False)
    for clip, step in np.ndindex(clips, steps):
        assert index[clip, step].tolist() == [p for p in range(patches) if keep[clip, step, p]]


# --- descriptions


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"class_token": False, "global_pool": "map"},
        {"no_embed_class": True, "reg_tokens": 4, "init_values": 0.1, "mlp_ratio": 2.7},
        {"pre_norm": True, "qkv_bias": False, "qk_norm": True, "act_layer": "gelu_tanh", "final_norm": False},
    ],
)
def test_a_described_vit_can_be_built_again(options: dict[str, Any]) -> None:
    model = vit(**options)
    again = build_vit(vit_arguments(model))
    again.load_state_dict({name: model.state_dict()[name] for name in again.state_dict()}, strict=True)
    again.eval()
    frame = random(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(again.forward_features(frame), model.forward_features(frame))
