"""What every pooling must do, and what embeds with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vlmvid.config.alignment import AlignConfig, OptimConfig
from vlmvid.config.encoders import FRAME_STATE_KINDS, POOLING_OPTIONS, PoolingConfig, PoolingKind
from vlmvid.errors import ConfigError, DatasetError
from vlmvid.models import embedding
from vlmvid.models.alignment import AlignmentModel, load_alignment, save_alignment
from vlmvid.models.pooling import POOLINGS, build_pooling, frame_mean
from vlmvid.models.pooling.spec import FrameStatePooling
from vlmvid.models.runtime import seeded
from vlmvid.training.align import AlignmentData, train_alignment

KINDS: tuple[PoolingKind, ...] = tuple(sorted(get_args(PoolingKind)))
D, N = 12, 16
SMALL = {
    "width": 8, "depth": 3, "num_heads": 2, "num_queries": 3,
    "output_frames": 2, "output_side": 2, "slow_stride": 3, "keep_fraction": 0.4,
}  # fmt: skip
TOKEN_KINDS = tuple(kind for kind in KINDS if POOLINGS.get(kind).reads == "tokens")
GRID_KINDS = tuple(kind for kind in KINDS if POOLINGS.get(kind).needs_grid)
# Without matrix products and convolutions; everything that they do is counted by hand below.
UNCOUNTED = {"frame_mean", "frame_max", "temporal_difference", "space_time", "adaptive_3d", "slow_fast"}


def small(kind: PoolingKind, num_frames: int = 4, **changes: Any) -> PoolingConfig:
    values = {option: SMALL[option] for option, kinds in POOLING_OPTIONS.items() if kind in kinds}
    if "output_frames" in values:
        values["output_frames"] = min(2, num_frames)
    return PoolingConfig.model_validate({"kind": kind, **values, **changes})


def build(kind: PoolingKind, num_frames: int = 4, seed: int = 0) -> nn.Module:
    with seeded(seed):
        return build_pooling(small(kind, num_frames), D, num_frames).eval()


def awake(kind: PoolingKind, num_frames: int = 4) -> nn.Module:
    """The module with its zero-initialised weights drawn at random."""
    module = build(kind, num_frames)
    with seeded(1), torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(std=0.5)
    return module


def inputs(kind: PoolingKind, batch: int = 2, num_frames: int = 4, num_patches: int = N, seed: int = 0) -> Tensor:
    shape = (batch, num_frames, D) if POOLINGS.get(kind).reads == "frames" else (batch, num_frames, num_patches, D)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def feature(kind: PoolingKind, out: Tensor) -> Tensor:
    return out if POOLINGS.get(kind).gives == "feature" else frame_mean(out)


def test_the_registry_the_config_and_the_options_name_the_same_kinds() -> None:
    assert POOLINGS.names() == list(KINDS)
    assert {kind: PoolingConfig(kind=kind).reads for kind in KINDS} == {k: POOLINGS.get(k).reads for k in KINDS}
    trained = [kind for kind in KINDS if isinstance(build(kind), FrameStatePooling)]
    assert trained == list(FRAME_STATE_KINDS)
    assert POOLING_OPTIONS.keys() == PoolingConfig.model_fields.keys() - {"kind"} == SMALL.keys()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_frames", [1, 4, 5])
def test_shapes_and_number_of_tokens(kind: PoolingKind, num_frames: int) -> None:
    spec, config = POOLINGS.get(kind), small(kind, num_frames)
    out = build(kind, num_frames)(inputs(kind, num_frames=num_frames))
    num_tokens = spec.num_tokens_out(config, num_frames, N)
    assert out.dtype == torch.float32 and out.isfinite().all()
    assert out.shape == ((2, D) if spec.gives == "feature" else (2, num_tokens, D))
    assert spec.gives == "tokens" or num_tokens == 1


@pytest.mark.parametrize("kind", TOKEN_KINDS)
def test_an_odd_grid_and_no_grid(kind: PoolingKind) -> None:
    spec = POOLINGS.get(kind)
    out = build(kind)(inputs(kind, num_patches=9))
    assert spec.gives == "feature" or out.shape[1] == spec.num_tokens_out(small(kind), 4, 9)
    if spec.needs_grid:
        with pytest.raises(ConfigError, match=f"pooling {kind} needs a square grid of patch tokens; got 12"):
            build(kind)(inputs(kind, num_patches=12))
    else:
        out = build(kind)(inputs(kind, num_patches=7))
        assert spec.gives == "feature" or out.shape[1] == spec.num_tokens_out(small(kind), 4, 7)


@pytest.mark.parametrize("kind", KINDS)
def test_only_blind_poolings_keep_their_feature_when_frames_change_places(kind: PoolingKind) -> None:
    module = awake(kind)
    x = inputs(kind)
    # Frames change partners, so that neighbourhoods change too.
    before, after = feature(kind, module(x)), feature(kind, module(x[:, [2, 0, 3, 1]]))
    if POOLINGS.get(kind).is_order_blind:
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)
    else:
        assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_and_every_input_gets_a_gradient(kind: PoolingKind) -> None:
    module = awake(kind)
    x = inputs(kind).requires_grad_()
    module(x).square().sum().backward()
    without = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert x.grad is not None and x.grad.isfinite().all()
    reached = x.grad.flatten(2).any(dim=2) if kind != "frame_max" else x.grad.any(dim=1)
    assert reached.all()


@pytest.mark.parametrize("kind", KINDS)
def test_clips_of_a_batch_do_not_meet(kind: PoolingKind) -> None:
    module = awake(kind)
    x = inputs(kind, batch=3)
    alone = torch.cat([module(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(module(x), alone, rtol=1e-5, atol=1e-5)
    changed = x.clone()
    changed[1] = 7.0
    torch.testing.assert_close(module(changed)[[0, 2]], module(x)[[0, 2]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_near_float32(kind: PoolingKind) -> None:
    module = awake(kind)
    # Rounded first: merging compares tokens, and rounding alone may change who is nearest.
    x = inputs(kind).bfloat16()
    expected = module(x.float())
    out = module.to(torch.bfloat16)(x)
    assert out.dtype == torch.bfloat16 and out.shape == expected.shape
    assert (out.float() - expected).abs().mean() < 0.02 * expected.abs().mean() + 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_results_follow_the_seed_alone(kind: PoolingKind) -> None:
    first, again, other = build(kind), build(kind), build(kind, seed=1)
    x = inputs(kind)
    assert torch.equal(first(x), again(x))
    state, other_state = first.state_dict(), other.state_dict()
    assert all(torch.equal(state[name], again.state_dict()[name]) for name in state)
    assert not state or any(not torch.equal(state[name], other_state[name]) for name in state)


@pytest.mark.parametrize("kind", ["transformer", "attentive"])
def test_residual_poolings_start_as_the_mean_of_all_they_read(kind: PoolingKind) -> None:
    x = inputs(kind)
    assert torch.equal(build(kind)(x), frame_mean(x.flatten(1, -2)))
    assert (awake(kind)(x) - build(kind)(x)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("num_frames", "num_patches"), [(1, 9), (4, 16), (5, 25)])
def test_flops_are_those_that_torch_counts(kind: PoolingKind, num_frames: int, num_patches: int) -> None:
    spec = POOLINGS.get(kind)
    module = build(kind, num_frames)
    # This kernel is made of matrix products, which the counter knows.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(inputs(kind, batch=1, num_frames=num_frames, num_patches=num_patches))
    stated = spec.flops(small(kind, num_frames), num_frames, num_patches, D)
    assert counter.get_total_flops() == (0 if kind in UNCOUNTED else stated)


def test_flops_of_averages_by_hand() -> None:
    def flops(kind: PoolingKind, num_frames: int, num_patches: int = 1, **options: int) -> int:
        return POOLINGS.get(kind).flops(PoolingConfig(kind=kind, **options), num_frames, num_patches, 3)

    assert flops("frame_mean", 5) == flops("frame_max", 5) == 15
    assert flops("temporal_difference", 5) == 4 * 3 * 3 + 5 * 3 * 2
    assert flops("space_time", 5, 16) == 2 * 5 * 16 * 3
    assert flops("adaptive_3d", 4, 16, output_frames=2, output_side=2) == 4 * 16 * 3
    # 5 frames in 2 boxes are 3 + 3, 3 cells a side in 2 boxes 2 + 2.
    assert flops("adaptive_3d", 5, 9, output_frames=2, output_side=2) == 6 * 4 * 4 * 3
    assert flops("slow_fast", 5, 9, output_side=2) == 5 * 4 * 4 * 3


class _Watched:
    """A config that remembers which of its options were read."""

    def __init__(self, config: PoolingConfig) -> None:
        self._config = config
        self.seen: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.seen.add(name)
        return getattr(self._config, name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pooling_reads_the_options_that_the_config_states(kind: PoolingKind) -> None:
    watched: Any = _Watched(small(kind))
    spec = POOLINGS.get(kind)
    spec.build(watched, D, 4, 0.0)
    spec.num_tokens_out(watched, 4, N)
    spec.flops(watched, 4, N, D)
    assert watched.seen == {option for option, kinds in POOLING_OPTIONS.items() if kind in kinds}


def test_options_of_another_kind_are_refused() -> None:
    for option, value in SMALL.items():
        for kind in KINDS:
            if kind not in POOLING_OPTIONS[option]:
                with pytest.raises(ValidationError, match=f"kind='{kind}' does not read {option}"):
                    PoolingConfig.model_validate({"kind": kind, option: value})
    with pytest.raises(ValidationError, match="width=10 must be a multiple of num_heads=4"):
        PoolingConfig(kind="attentive", width=10)
    assert PoolingConfig(kind="stc", width=10).width == 10


@pytest.mark.parametrize("kind", ["adaptive_3d", "testa"])
def test_more_frames_than_there_are_is_an_error(kind: PoolingKind) -> None:
    config = PoolingConfig(kind=kind, output_frames=5)
    with pytest.raises(ConfigError, match="output_frames=5, but clips have num_frames=4"):
        build_pooling(config, D, 4)
    with pytest.raises(ConfigError, match="output_frames=5, but there are 4 frames"):
        build_pooling(config, D, 5)(inputs(kind))


@pytest.mark.parametrize("kind", ["adaptive_3d", "slow_fast"])
def test_more_cells_than_there_are_is_an_error(kind: PoolingKind) -> None:
    module = build_pooling(PoolingConfig(kind=kind, output_side=5), D, 4)
    with pytest.raises(ConfigError, match="output_side=5, but there are 4 patches a side"):
        module(inputs(kind))


@pytest.mark.parametrize("kind", ["transformer", "perceiver"])
def test_another_number_of_frames_than_the_time_embedding_is_an_error(kind: PoolingKind) -> None:
    with pytest.raises(ValueError, match="expected 4 frames per clip, got 3"):
        build(kind)(inputs(kind, num_frames=3))


# Alignment on top of each pooling.


def align_config(kind: PoolingKind, **changes: Any) -> AlignConfig:
    values = {"pooling": small(kind), "projection_dim": 6, "optim": OptimConfig(num_steps=3, global_batch_size=4)}
    return AlignConfig.model_validate(values | changes)


@pytest.mark.parametrize("kind", KINDS)
def test_alignment_trains_saves_and_embeds_with_it(kind: PoolingKind, tmp_path: Path) -> None:
    x = inputs(kind, batch=5).numpy()
    data = AlignmentData(x, np.eye(5, 7, dtype=np.float32), tuple((i,) for i in range(5)))
    model = train_alignment(align_config(kind), data, work_dir=tmp_path / "work")
    save_alignment(model, tmp_path / "saved")
    loaded = load_alignment(tmp_path / "saved")
    embeds = embedding.embed_videos(loaded, x)
    assert embeds.shape == (5, 6)
    np.testing.assert_array_equal(embeds, embedding.embed_videos(model, x))
    spread = model.pooling(torch.from_numpy(x))
    head = model.video_head(spread.double().mean(dim=1).float() if spread.ndim == 3 else spread).detach()
    np.testing.assert_allclose(embeds, (head / head.norm(dim=1, keepdim=True)).numpy(), atol=1e-6)


def test_batches_of_tokens_are_as_small_as_memory_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = AlignmentModel(D, 7, 4, align_config("space_time")).eval()
    x = inputs("space_time", batch=7).numpy()
    whole = embedding.embed_videos(model, x)
    sizes: list[int] = []
    inner = AlignmentModel.embed_video

    def counted(self: AlignmentModel, batch: Tensor) -> Tensor:
        sizes.append(len(batch))
        return inner(self, batch)

    monkeypatch.setattr(AlignmentModel, "embed_video", counted)
    monkeypatch.setattr(embedding, "VALUES_PER_BATCH", 3 * 4 * N * D + 1)
    np.testing.assert_allclose(embedding.embed_videos(model, x), whole, atol=1e-6)
    monkeypatch.setattr(embedding, "VALUES_PER_BATCH", 1)
    np.testing.assert_allclose(embedding.embed_videos(model, x), whole, atol=1e-6)
    assert sizes == [3, 3, 1] + [1] * 7


def test_a_pooling_of_tokens_refuses_frame_features_and_the_other_way_round(tmp_path: Path) -> None:
    texts, captions = np.eye(2, 7, dtype=np.float32), ((0,), (1,))
    frames, tokens = inputs("frame_mean"), inputs("tome")
    needs_tokens = r"pooling tome reads patch tokens .* encode with encode.keep_tokens: true"
    needs_frames = r"pooling frame_max reads frame features .* but these are patch tokens"
    with pytest.raises(ConfigError, match=needs_tokens):
        AlignmentModel(D, 7, 4, align_config("tome")).embed_video(frames)
    with pytest.raises(ConfigError, match=needs_frames):
        AlignmentModel(D, 7, 4, align_config("frame_max")).embed_video(tokens)
    with pytest.raises(ConfigError, match=needs_tokens):
        train_alignment(align_config("tome"), AlignmentData(frames.numpy(), texts, captions), work_dir=tmp_path)
    with pytest.raises(ConfigError, match=needs_frames):
        train_alignment(align_config("frame_max"), AlignmentData(tokens.numpy(), texts, captions), work_dir=tmp_path)
    with pytest.raises(DatasetError, match=r"\(N, T, D\) or \(N, T, P, D\)"):
        AlignmentData(tokens.numpy()[None], texts, captions)


@pytest.mark.parametrize("shape", [(2, 3, 16, 12), (2, 4, 16, 11), (2, 12), (1, 2, 4, 16, 12)])
def test_tokens_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"video features must be \(B, T=4, N, D=12\)"):
        AlignmentModel(D, 7, 4, align_config("tome")).embed_video(torch.zeros(shape))
