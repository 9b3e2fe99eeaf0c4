"""The temporal transformer, projection heads and the alignment model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vlmvid.config.alignment import AlignConfig, HeadConfig, OptimConfig
from vlmvid.config.encoders import PoolingConfig
from vlmvid.errors import CheckpointError, ConfigError
from vlmvid.models.alignment import AlignmentModel, load_alignment, save_alignment
from vlmvid.models.heads import GatedHead, LinearHead
from vlmvid.models.pooling.frames import FrameMean
from vlmvid.models.pooling.transformer import TemporalTransformer
from vlmvid.models.runtime import seeded

OPTIM = OptimConfig(num_steps=10, global_batch_size=4)
FULL = AlignConfig(
    pooling=PoolingConfig(kind="transformer", width=8, depth=2, num_heads=2),
    video_head=HeadConfig(kind="gated", width_factor=2),
    text_head=HeadConfig(kind="linear"),
    projection_dim=6,
    optim=OPTIM,
    seed=3,
)


def features(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def transformer(num_frames: int = 5, **options: float) -> TemporalTransformer:
    with seeded(0):
        return TemporalTransformer(12, num_frames, width=8, depth=2, num_heads=2, **options)


def wake(module: TemporalTransformer) -> None:
    with seeded(1):
        nn.init.normal_(module.up.weight, std=0.5)


def test_frame_mean_is_the_numpy_mean() -> None:
    x = features(3, 7, 12)
    expected = x.numpy().astype(np.float64).mean(axis=1).astype(np.float32)
    np.testing.assert_array_equal(FrameMean()(x).numpy(), expected)


def test_frame_mean_does_not_see_the_order_of_frames() -> None:
    x = features(4, 64, 16, scale=1000.0) + 1e4
    shuffled = x[:, torch.randperm(64, generator=torch.Generator().manual_seed(5))]
    # One unit in the last place of float32 at most.
    torch.testing.assert_close(FrameMean()(shuffled), FrameMean()(x), rtol=1.2e-7, atol=0)


def test_temporal_transformer_starts_as_the_mean() -> None:
    x = features(3, 5, 12)
    assert torch.equal(transformer()(x), FrameMean()(x))


def test_the_mean_of_the_frame_states_makes_the_feature() -> None:
    module, x = transformer(), features(3, 5, 12)
    wake(module)
    states, mean = module.frame_states(x), x.mean(dim=1)
    assert states.shape == (3, 5, module.state_dim) == (3, 5, 8)
    scale = mean.square().mean(dim=1, keepdim=True).sqrt()
    torch.testing.assert_close(module(x), mean + scale * module.up(states.mean(dim=1)))
    # A frame's state is of its place too, and of the other frames.
    assert not torch.allclose(module.frame_states(x.flip(1)).flip(1), states)
    changed = x.clone()
    changed[:, 0] = features(3, 12, seed=4)
    assert not torch.allclose(module.frame_states(changed)[:, 1:], states[:, 1:])
    with pytest.raises(ValueError, match="expected 5 frames per clip, got 4"):
        module.frame_states(x[:, :4])


def test_an_alignment_gives_the_frame_states_of_its_pooling() -> None:
    model, x = AlignmentModel(12, 9, 5, FULL).eval(), features(3, 5, 12)
    assert model.trains_frames and model.frame_state_dim == 8
    assert torch.equal(model.frame_states(x.half()), model.pooling.frame_states(x.half().float()))  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"\(B, T=5, D=12\); got \(3, 4, 12\)"):
        model.frame_states(x[:, :4])
    plain = AlignmentModel(12, 9, 5, AlignConfig(optim=OPTIM))
    assert not plain.trains_frames and plain.frame_state_dim == 0
    with pytest.raises(ConfigError, match="'frame_mean' trains no states of single frames; use pooling.kind 'transf"):
        plain.frame_states(x)


def test_temporal_transformer_sees_the_order_once_awake() -> None:
    module = transformer()
    wake(module)
    x = features(3, 5, 12)
    forward, backward = module(x), module(x.flip(1))
    assert (forward - backward).abs().max() > 1e-3
    assert (forward - FrameMean()(x)).abs().max() > 1e-3


def test_every_temporal_parameter_gets_a_gradient_once_awake() -> None:
    module = transformer()
    wake(module)
    module(features(3, 5, 12)).square().sum().backward()
    without = [name for name, p in module.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert without == []


def test_only_the_zero_layer_learns_in_the_very_first_step() -> None:
    module = transformer()
    module(features(3, 5, 12)).square().sum().backward()
    moved = {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert moved == {"up.weight", "up.bias"}


def test_temporal_transformer_keeps_the_scale_of_the_features() -> None:
    module = transformer()
    wake(module)
    x = features(3, 5, 12, scale=10.0)
    torch.testing.assert_close(module(64.0 * x), 64.0 * module(x), rtol=1e-4, atol=1e-3)


def test_temporal_transformer_refuses_another_number_of_frames() -> None:
    with pytest.raises(ValueError, match="expected 5 frames per clip, got 4"):
        transformer()(features(2, 4, 12))


def test_linear_head_is_layer_norm_then_matrix() -> None:
    with seeded(0):
        head = LinearHead(6, 4)
    x = features(5, 6, scale=30.0).double()
    normal = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    expected = normal @ head.project.weight.double().T
    torch.testing.assert_close(head(x.float()).double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(head.project.bias, torch.zeros(4))
    # Xavier uniform: bounded by sqrt(6 / (in + out)) and filling that range.
    bound = math.sqrt(6 / (6 + 4))
    assert 0.8 * bound < head.project.weight.abs().max() <= bound


def test_gated_head_is_relu6_times_linear() -> None:
    with seeded(0):
        head = GatedHead(6, 4, width_factor=3)
    assert head.f1.weight.shape == head.f2.weight.shape == (18, 6)
    with torch.no_grad():
        for layer in (head.f1, head.f2, head.g):
            layer.bias.normal_(generator=torch.Generator().manual_seed(1))
            layer.weight.mul_(4.0)
    x = head.norm(features(5, 6))
    gate = (x @ head.f1.weight.T + head.f1.bias).clamp(0.0, 6.0)
    assert (gate == 6.0).any() and (gate == 0.0).any()
    expected = (gate * (x @ head.f2.weight.T + head.f2.bias)) @ head.g.weight.T + head.g.bias
    torch.testing.assert_close(head(features(5, 6)), expected, rtol=1e-5, atol=1e-4)


def test_embeddings_are_float32_unit_vectors_at_any_feature_scale() -> None:
    model = AlignmentModel(12, 7, 5, FULL).eval()
    for scale in (1e-1, 1.0, 1e4):
        video = model.embed_video(features(3, 5, 12, scale=scale).double())
        text = model.embed_text(features(4, 7, scale=scale).half())
        assert video.dtype == text.dtype == torch.float32
        assert video.shape == (3, 6) and text.shape == (4, 6)
        torch.testing.assert_close(video.norm(dim=1), torch.ones(3))
        torch.testing.assert_close(text.norm(dim=1), torch.ones(4))


def test_every_parameter_of_the_model_gets_a_gradient() -> None:
    from vlmvid.losses import sigmoid_loss

    model = AlignmentModel(12, 7, 5, FULL)
    assert isinstance(model.pooling, TemporalTransformer)
    wake(model.pooling)
    loss = sigmoid_loss(
        model.embed_video(features(4, 5, 12)),
        model.embed_text(features(4, 7, seed=1)),
        logit_scale=model.logit_scale,
        logit_bias=model.logit_bias,
    )
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert without == []


def test_weights_follow_the_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, again = AlignmentModel(12, 7, 5, FULL), AlignmentModel(12, 7, 5, FULL)
    other = AlignmentModel(12, 7, 5, FULL.model_copy(update={"seed": 4}))
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not torch.equal(first.text_head.project.weight, other.text_head.project.weight)  # type: ignore[union-attr]


def test_logit_scale_starts_as_configured_and_is_clamped() -> None:
    model = AlignmentModel(12, 7, 5, FULL)
    assert model.logit_scale.item() == pytest.approx(20.0, rel=1e-6)
    assert model.logit_bias.item() == -10.0
    with torch.no_grad():
        model.log_logit_scale.fill_(9.0)
    model.clamp_logit_scale()
    assert model.logit_scale.item() == pytest.approx(100.0, rel=1e-6)
    with torch.no_grad():
        model.log_logit_scale.fill_(-1.0)
    model.clamp_logit_scale()
    assert model.logit_scale.item() == 1.0


@pytest.mark.parametrize("shape", [(2, 4, 12), (2, 5, 11), (2, 12)])
def test_video_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"video features must be \(B, T=5, D=12\)"):
        AlignmentModel(12, 7, 5, FULL).embed_video(torch.zeros(shape))


def test_text_features_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"text features must be \(B, D=7\); got \(2, 8\)"):
        AlignmentModel(12, 7, 5, FULL).embed_text(torch.zeros(2, 8))


def test_saved_alignment_gives_the_same_embeddings(tmp_path: Path) -> None:
    model = AlignmentModel(12, 7, 5, FULL).eval()
    assert isinstance(model.pooling, TemporalTransformer)
    wake(model.pooling)
    save_alignment(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alignment.json", "alignment.safetensors"]
    loaded = load_alignment(tmp_path)
    assert loaded.config == FULL and not loaded.training
    x, y = features(3, 5, 12), features(3, 7)
    with torch.inference_mode():
        assert torch.equal(loaded.embed_video(x), model.embed_video(x))
        assert torch.equal(loaded.embed_text(y), model.embed_text(y))
    assert torch.equal(loaded.log_logit_scale, model.log_logit_scale)


def test_an_alignment_saved_while_pooling_was_called_temporal_is_read(tmp_path: Path) -> None:
    model = AlignmentModel(12, 7, 5, FULL).eval()
    wake(model.pooling)  # type: ignore[arg-type]
    save_alignment(model, tmp_path)
    weights, path = tmp_path / "alignment.safetensors", tmp_path / "alignment.json"
    names = {name: name.replace("pooling.", "temporal.") for name in load_file(weights)}
    assert "temporal.up.weight" in names.values()
    save_file({names[name]: tensor for name, tensor in load_file(weights).items()}, weights)
    x = features(3, 5, 12)
    # Between the two renamings the config said pooling and the tensors still temporal.
    for rename_config in (False, True):
        values = json.loads(path.read_text())
        if rename_config:
            kept = ("kind", "width", "depth", "num_heads")
            pooling = values["config"].pop("pooling")
            values["config"]["temporal"] = {key: pooling[key] for key in kept}
            path.write_text(json.dumps(values))
        loaded = load_alignment(tmp_path)
        assert loaded.config == FULL
        with torch.inference_mode():
            assert torch.equal(loaded.embed_video(x), model.embed_video(x))
    save_file(load_file(weights) | {"temporal.more": torch.zeros(1)}, weights)
    with pytest.raises(CheckpointError, match="1 too many: pooling.more"):
        load_alignment(tmp_path)
    values["config"]["pooling"] = values["config"]["temporal"]
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="not a saved alignment"):
        load_alignment(tmp_path)


def test_a_saved_alignment_is_loaded_strictly(tmp_path: Path) -> None:
    save_alignment(AlignmentModel(12, 7, 5, FULL), tmp_path)
    path = tmp_path / "alignment.json"
    path.write_text(path.read_text().replace('"video_dim": 12', '"video_dim": 13'))
    with pytest.raises(CheckpointError, match="does not fit AlignmentModel"):
        load_alignment(tmp_path)
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 99'))
    with pytest.raises(CheckpointError, match="format version 99"):
        load_alignment(tmp_path)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="not a readable model description"):
        load_alignment(tmp_path)


def test_a_truncated_weight_file_is_a_checkpoint_error(tmp_path: Path) -> None:
    save_alignment(AlignmentModel(12, 7, 5, FULL), tmp_path)
    path = tmp_path / "alignment.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_alignment(tmp_path)
