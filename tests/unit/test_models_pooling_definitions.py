"""Each pooling against its definition, written as loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from vlmvid.config.encoders import PoolingConfig, PoolingKind
from vlmvid.models.pooling import POOLINGS, build_pooling, frame_mean
from vlmvid.models.pooling.frames import frame_weights
from vlmvid.models.pooling.merging import merge_in_space, merge_in_time
from vlmvid.models.runtime import seeded

Array = NDArray[np.float64]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def built(kind: PoolingKind, feature_dim: int, num_frames: int, **options: Any) -> nn.Module:
    """The module with every weight drawn at random, in float64 arithmetic for exact comparison."""
    with seeded(0):
        module = build_pooling(PoolingConfig.model_validate({"kind": kind, **options}), feature_dim, num_frames)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.4)
    return module.eval().double()


def weights(module: nn.Module) -> dict[str, Array]:
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def layer_norm(x: Array, w: dict[str, Array], name: str) -> Array:
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return normal * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x: Array, w: dict[str, Array], name: str) -> Array:
    out = x @ w[f"{name}.weight"].T
    return out + w[f"{name}.bias"] if f"{name}.bias" in w else out


def gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def silu(x: Array) -> Array:
    return x / (1.0 + np.exp(-x))


def attention(queries: Array, states: Array, w: dict[str, Array], name: str, num_heads: int) -> Array:
    """Queries (Q, W) read states (S, W), query by query and head by head."""
    width = queries.shape[1]
    head = width // num_heads
    query = linear(queries, w, f"{name}.q")
    key, value = np.split(linear(states, w, f"{name}.kv"), 2, axis=1)
    read = np.zeros_like(query)
    for q in range(len(query)):
        for h in range(num_heads):
            part = slice(h * head, (h + 1) * head)
            scores = np.array([query[q, part] @ key[s, part] / math.sqrt(head) for s in range(len(states))])
            share = np.exp(scores - scores.max())
            read[q, part] = (share / share.sum()) @ value[:, part]
    return linear(read, w, f"{name}.out")


def mlp(x: Array, w: dict[str, Array], name: str) -> Array:
    return linear(gelu(linear(x, w, f"{name}.0")), w, f"{name}.2")


def test_frame_max_by_loops() -> None:
    x = drawn(2, 5, 3)
    expected = [[max(float(x[b, t, d]) for t in range(5)) for d in range(3)] for b in range(2)]
    assert built("frame_max", 3, 5)(x).tolist() == expected


@pytest.mark.parametrize("num_frames", [1, 2, 3, 6])
def test_temporal_difference_by_loops(num_frames: int) -> None:
    x = drawn(2, num_frames, 4)
    for clip, got in zip(x.double().numpy(), built("temporal_difference", 4, num_frames)(x), strict=True):
        change = []
        for t in range(num_frames):
            beside = [s for s in (t - 1, t + 1) if 0 <= s < num_frames]
            change.append(np.mean([np.linalg.norm(clip[t] - clip[s]) for s in beside]) if beside else 0.0)
        relative = np.array(change) / np.mean(change) if num_frames > 1 else np.zeros(1)
        share = np.exp(relative) / np.exp(relative).sum()
        expected = sum(share[t] * clip[t] for t in range(num_frames))
        np.testing.assert_allclose(got.numpy(), expected, rtol=2e-7, atol=1e-7)


def test_temporal_difference_of_a_still_clip_is_the_mean_and_scale_does_not_matter() -> None:
    module = built("temporal_difference", 4, 6)
    still = drawn(2, 1, 4).repeat(1, 6, 1).requires_grad_()
    torch.testing.assert_close(module(still), still[:, 0], rtol=2e-7, atol=0)
    module(still).sum().backward()
    assert still.grad is not None and still.grad.isfinite().all()
    x = drawn(2, 6, 4)
    torch.testing.assert_close(frame_weights(1e-6 * x.double()), frame_weights(x.double()))
    assert torch.equal(module(64.0 * x), 64.0 * module(x))


def test_temporal_difference_looks_at_the_frame_that_changes() -> None:
    x = torch.zeros(1, 7, 4)
    x[:, 3] = 1.0
    shares = frame_weights(x.double())[0]
    assert shares.argmax() == 3 and shares[2] == shares[4] > shares[0] == shares[6]
    assert shares.sum().item() == pytest.approx(1.0)


def test_attentive_by_loops() -> None:
    module = built("attentive", 6, 3, width=8, num_heads=2)
    w, x = weights(module), drawn(2, 3, 4, 6).double()
    for clip, got in zip(x.numpy(), module(x).detach().numpy(), strict=True):
        tokens = clip.reshape(12, 6)
        states = linear(layer_norm(tokens, w, "norm_in"), w, "down")
        read = attention(w["query_1W"], states, w, "attention", 2)
        read = read + mlp(layer_norm(read, w, "norm"), w, "mlp")
        mean = tokens.mean(0)
        expected = mean + np.sqrt((mean**2).mean()) * linear(read, w, "up")[0]
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_perceiver_by_loops() -> None:
    module = built("perceiver", 6, 3, width=8, num_heads=2, depth=3, num_queries=5)
    w, x = weights(module), drawn(2, 3, 4, 6).double()
    for clip, got in zip(x.numpy(), module(x).detach().numpy(), strict=True):
        states = np.concatenate(
            [linear(layer_norm(clip[t], w, "norm_in"), w, "down") + w["time_embed_TW"][t] for t in range(3)]
        )
        latents = w["latents_QW"]
        for i in range(3):
            block = f"blocks.{i}"
            normal = layer_norm(latents, w, f"{block}.norm_latents")
            everything = np.concatenate([layer_norm(states, w, f"{block}.norm_tokens"), normal])
            latents = latents + attention(normal, everything, w, f"{block}.attention", 2)
            latents = latents + mlp(layer_norm(latents, w, f"{block}.norm_mlp"), w, f"{block}.mlp")
        expected = linear(layer_norm(latents, w, "norm_out"), w, "up")
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11)


def test_space_time_by_loops() -> None:
    x = drawn(2, 3, 5, 4).double()
    got = built("space_time", 4, 3)(x)
    for b in range(2):
        expected = [sum(x[b, t, n] for n in range(5)) / 5 for t in range(3)]
        expected += [sum(x[b, t, n] for t in range(3)) / 3 for n in range(5)]
        torch.testing.assert_close(got[b], torch.stack([torch.as_tensor(e) for e in expected]))


def boxes(length: int, count: int) -> list[range]:
    return [range(math.floor(i * length / count), math.ceil((i + 1) * length / count)) for i in range(count)]


def cell_means(maps: Array, counts: tuple[int, int, int]) -> Array:
    """Means (count, D) of the boxes of (T, S, S, D), time first, then rows."""
    axes = [boxes(length, count) for length, count in zip(maps.shape, counts, strict=False)]
    return np.stack(
        [
            np.mean([maps[t, y, x] for t in times for y in rows for x in columns], axis=0)
            for times in axes[0]
            for rows in axes[1]
            for columns in axes[2]
        ]
    )


@pytest.mark.parametrize(("num_frames", "side", "frames_out", "side_out"), [(4, 4, 2, 2), (5, 5, 3, 2), (1, 3, 1, 3)])
def test_adaptive_3d_by_loops(num_frames: int, side: int, frames_out: int, side_out: int) -> None:
    x = drawn(2, num_frames, side * side, 3).double()
    got = built("adaptive_3d", 3, num_frames, output_frames=frames_out, output_side=side_out)(x)
    for b in range(2):
        expected = cell_means(x[b].numpy().reshape(num_frames, side, side, 3), (frames_out, side_out, side_out))
        np.testing.assert_allclose(got[b].numpy(), expected)


@pytest.mark.parametrize(("num_frames", "stride"), [(6, 3), (7, 3), (1, 4), (4, 1)])
def test_slow_fast_by_loops(num_frames: int, stride: int) -> None:
    x = drawn(2, num_frames, 9, 3).double()
    got = built("slow_fast", 3, num_frames, slow_stride=stride, output_side=2)(x)
    for b in range(2):
        slow = [x[b, t, n].numpy() for t in range(num_frames) if t % stride == 0 for n in range(9)]
        fast = cell_means(x[b].numpy().reshape(num_frames, 3, 3, 3), (num_frames, 2, 2))
        np.testing.assert_allclose(got[b].numpy(), np.concatenate([slow, fast]))


def reg_stage(frame: Array, w: dict[str, Array], name: str, depth: int) -> Array:
    """RegNet blocks on one frame (S, S, C), place by place."""

    def pointwise(x: Array, conv: str) -> Array:
        return x @ w[f"{conv}.conv.weight"][:, :, 0, 0].T

    side = frame.shape[0]
    for i in range(1, depth + 1):
        block = f"{name}.b{i}"
        x = silu(layer_norm(pointwise(frame, f"{block}.conv1"), w, f"{block}.conv1.bn"))
        kernel = w[f"{block}.conv2.conv.weight"][:, 0]
        spread = np.zeros_like(x)
        for y, z in np.ndindex(side, side):
            for dy, dz in np.ndindex(3, 3):
                if 0 <= y + dy - 1 < side and 0 <= z + dz - 1 < side:
                    spread[y, z] += kernel[:, dy, dz] * x[y + dy - 1, z + dz - 1]
        x = silu(layer_norm(spread, w, f"{block}.conv2.bn"))
        squeezed = silu(x.mean((0, 1)) @ w[f"{block}.se.fc1.weight"][:, :, 0, 0].T + w[f"{block}.se.fc1.bias"])
        gate = squeezed @ w[f"{block}.se.fc2.weight"][:, :, 0, 0].T + w[f"{block}.se.fc2.bias"]
        x = x / (1.0 + np.exp(-gate))
        x = layer_norm(pointwise(x, f"{block}.conv3"), w, f"{block}.conv3.bn")
        shortcut = frame
        if f"{block}.downsample.conv.weight" in w:
            shortcut = layer_norm(pointwise(frame, f"{block}.downsample"), w, f"{block}.downsample.bn")
        frame = silu(x + shortcut)
    return frame


@pytest.mark.parametrize(("num_frames", "side"), [(1, 2), (3, 3), (4, 2)])
def test_stc_by_loops(num_frames: int, side: int) -> None:
    module = built("stc", 6, num_frames, width=8, depth=2)
    w, x = weights(module), drawn(2, num_frames, side * side, 6).double()
    kernel, bias = w["sampler.0.weight"], w["sampler.0.bias"]
    for clip, got in zip(x.numpy(), module(x).detach().numpy(), strict=True):
        maps = np.stack([reg_stage(frame.reshape(side, side, 6), w, "stage_1", 2) for frame in clip])
        padded = np.pad(maps, ((1, 1), (1, 1), (1, 1), (0, 0)))
        halved = np.zeros((num_frames // 2 + 1, side // 2 + 1, side // 2 + 1, 8))
        for t, y, z in np.ndindex(*halved.shape[:3]):
            window = padded[2 * t : 2 * t + 2, 2 * y : 2 * y + 2, 2 * z : 2 * z + 2]
            halved[t, y, z] = np.einsum("tyzi,oityz->o", window, kernel) + bias
        frames = [reg_stage(frame, w, "stage_2", 2) for frame in silu(halved)]
        tokens = np.concatenate([frame.reshape(-1, 8) for frame in frames])
        expected = linear(gelu(linear(tokens, w, "readout.0")), w, "readout.2")
        np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-10)


# Merging: the oracle keeps every group as a list of the first places.


def merge_oracle(
    means: list[Tensor], sizes: list[int], num_kept: int, similarity: Any
) -> tuple[list[Tensor], list[int]]:
    while len(means) > num_kept:
        of_a, of_b = range(0, len(means), 2), range(1, len(means), 2)
        best = {}
        fixed = [mean.detach() for mean in means]
        for a in of_a:
            scores = {b: similarity(fixed, a, b) for b in of_b}
            choice = max(scores, key=lambda b: (scores[b], -b))
            best[a] = (scores[choice], choice)
        num_merged = min(len(means) // 2, len(means) - num_kept)
        merged = sorted(of_a, key=lambda a: (-best[a][0], a))[:num_merged]
        groups = {i: [i] for i in range(len(means)) if i not in merged}
        for a in merged:
            groups[best[a][1]].append(a)
        new_sizes = [sum(sizes[i] for i in groups[g]) for g in sorted(groups)]
        means = [
            sum(sizes[i] * means[i] for i in groups[g]) / n for g, n in zip(sorted(groups), new_sizes, strict=True)
        ]
        sizes = new_sizes
    return means, sizes


def cosine(means: list[Tensor], a: int, b: int) -> float:
    return float(torch.dot(means[a], means[b]) / (means[a].norm() * means[b].norm()))


def cosine_of_neighbours(means: list[Tensor], a: int, b: int) -> float:
    if abs(a - b) != 1:
        return -math.inf
    pairs = zip(means[a], means[b], strict=True)
    return sum(float(torch.dot(x, y) / (x.norm() * y.norm())) for x, y in pairs) / len(means[a])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 13), st.data(), st.integers(0, 1000))
def test_merging_in_space_by_loops_with_gradients(num_tokens: int, data: st.DataObject, seed: int) -> None:
    num_kept = data.draw(st.integers(1, num_tokens))
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=num_tokens, max_size=num_tokens))
    x = drawn(1, num_tokens, 4, seed=seed).double().requires_grad_()
    merged, merged_sizes = merge_in_space(x, torch.tensor([sizes]).double(), num_kept)
    slow = x.detach().clone().requires_grad_()
    expected, expected_sizes = merge_oracle(list(slow[0]), sizes, num_kept, cosine)
    assert merged_sizes[0].tolist() == expected_sizes and sum(expected_sizes) == sum(sizes)
    torch.testing.assert_close(merged[0], torch.stack(expected))
    pull = drawn(num_kept, 4, seed=seed + 1).double()
    (merged[0] * pull).sum().backward()
    (torch.stack(expected) * pull).sum().backward()
    torch.testing.assert_close(x.grad, slow.grad)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.data(), st.integers(0, 1000))
def test_merging_in_time_by_loops_with_gradients(num_frames: int, data: st.DataObject, seed: int) -> None:
    num_kept = data.draw(st.integers(1, num_frames))
    x = drawn(1, num_frames, 3, 4, seed=seed).double().requires_grad_()
    merged, sizes = merge_in_time(x, num_kept)
    slow = x.detach().clone().requires_grad_()
    expected, expected_sizes = merge_oracle(list(slow[0]), [1] * num_frames, num_kept, cosine_of_neighbours)
    assert sizes[0].tolist() == expected_sizes and sum(expected_sizes) == num_frames
    torch.testing.assert_close(merged[0], torch.stack(expected))
    pull = drawn(num_kept, 3, 4, seed=seed + 1).double()
    (merged[0] * pull).sum().backward()
    (torch.stack(expected) * pull).sum().backward()
    torch.testing.assert_close(x.grad, slow.grad)
    # Frames merge with their neighbours alone: each result is the mean of the next so many frames.
    runs = torch.split(x.detach()[0], [int(n) for n in sizes[0]])
    torch.testing.assert_close(merged[0].detach(), torch.stack([run.mean(0) for run in runs]))


@pytest.mark.parametrize("keep_fraction", [0.1, 0.5, 0.6, 1.0])
def test_tome_merges_each_frame_alone(keep_fraction: float) -> None:
    x = drawn(2, 3, 10, 4)
    got = built("tome", 4, 3, keep_fraction=keep_fraction)(x)
    kept = round(10 * keep_fraction)
    assert got.shape == (2, 3 * kept, 4)
    for b in range(2):
        for t in range(3):
            expected, _ = merge_oracle(list(x[b, t].double()), [1] * 10, kept, cosine)
            part = got[b, t * kept : (t + 1) * kept].double()
            torch.testing.assert_close(part, torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_testa_merges_frames_and_then_their_tokens() -> None:
    x = drawn(2, 7, 6, 4)
    got = built("testa", 4, 7, output_frames=3, keep_fraction=0.5)(x)
    for b in range(2):
        frames, sizes = merge_oracle(list(x[b].double()), [1] * 7, 3, cosine_of_neighbours)
        tokens = [merge_oracle(list(f), [n] * 6, 3, cosine)[0] for f, n in zip(frames, sizes, strict=True)]
        expected = torch.cat([torch.stack(part) for part in tokens])
        torch.testing.assert_close(got[b].double(), expected, rtol=1e-5, atol=1e-6)


def test_tokens_that_are_equal_or_zero_merge_to_themselves() -> None:
    for value in (0.0, 2.0):
        x = torch.full((1, 4, 9, 3), value)
        for kind, options in (("tome", {}), ("testa", {"output_frames": 2})):
            got = built(kind, 3, 4, keep_fraction=0.2, **options)(x)  # type: ignore[arg-type]
            assert torch.equal(got, torch.full_like(got, value))


def test_twins_merge_first() -> None:
    x = torch.eye(6)[None]
    x[0, 4] = 3.0 * x[0, 1]
    merged, sizes = merge_in_space(x, torch.ones(1, 6), 5)
    # Token 4 joins token 1, which stays at its place; the others stay as they are.
    assert sizes.tolist() == [[1, 2, 1, 1, 1]]
    assert torch.equal(merged[0], torch.stack([x[0, 0], (x[0, 1] + x[0, 4]) / 2, x[0, 2], x[0, 3], x[0, 5]]))


def test_numbers_of_tokens_that_the_papers_state() -> None:
    def tokens(kind: PoolingKind, num_frames: int, side: int, **options: int) -> tuple[int, int]:
        config = PoolingConfig.model_validate({"kind": kind, **options})
        with torch.device("meta"):
            module = build_pooling(config, 4, num_frames)
            out = module(torch.zeros(1, num_frames, side * side, 4))
        stated = POOLINGS.get(kind).num_tokens_out(config, num_frames, side * side)
        return out.shape[1], stated

    # Video-ChatGPT: 100 frames of 16 x 16. PLLaVA: 16 frames of 24 x 24. VideoLLaMA2: 8 frames of 24 x 24.
    assert tokens("space_time", 100, 16) == (356, 356)
    assert tokens("adaptive_3d", 16, 24, output_frames=16, output_side=12) == (2304, 2304)
    assert tokens("stc", 8, 24, width=8, depth=4) == (845, 845)
    # SlowFast-LLaVA: 50 frames of 4 x 4 and 10 slow ones of 24 x 24, which it thins and vlmvid does not.
    assert tokens("slow_fast", 50, 24, slow_stride=5, output_side=4) == (6560, 6560)


def test_frame_mean_of_tokens_is_the_mean_over_all_but_batch_and_channels() -> None:
    x = drawn(2, 7, 3)
    np.testing.assert_array_equal(frame_mean(x).numpy(), x.numpy().astype(np.float64).mean(1).astype(np.float32))
