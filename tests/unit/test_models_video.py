from __future__ import annotations

import itertools
from functools import cache
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from vlmvid.config.encoders import VideoConfig, VideoKind
from vlmvid.errors import ConfigError
from vlmvid.models.runtime import seeded
from vlmvid.models.torchvision_compat import ensure_torchvision
from vlmvid.models.video.encoder import VideoEncoder, build_video_encoder

KINDS = get_args(VideoKind)
FRAMES = 4
# Kinds that know which neighbour comes before, without a time embedding.
DIRECTED = ("temporal_shift", "st_adapter")
# Kinds in which a time step may keep other patches than its neighbours.
ANY_MASK = ("frames", "joint", "factorised")
EVERY = [
    {"kind": kind, "tubelet_size": tubelet, "inflation": inflation, "time_embedding": time}
    for kind, tubelet, inflation, time in itertools.product(
        KINDS, (1, 2), ("central", "mean"), ("zero", "sinusoidal", "none")
    )
] + [
    {"kind": "divided", "divided_residual": "input"},
    {"kind": "divided", "freeze_space": True},
    {"kind": "factorised", "freeze_space": True},
    {"kind": "joint", "freeze_space": True, "tubelet_size": 2},
    {"kind": "temporal_shift", "freeze_space": True},
]

# How a patch is inflated matters to tubelets of more than one frame.
DIFFERENT = [values for values in EVERY if values.get("tubelet_size") != 1 or values.get("inflation") == "central"]


def name_of(values: dict[str, Any]) -> str:
    return "-".join(str(value) for value in values.values())


def vit(**options: Any) -> Any:
    ensure_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
    with seeded(1):
        model = VisionTransformer(**{**sizes, **options}).eval()
        # timm starts with an almost constant class token and small weights, which would hide mistakes.
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model


@cache
def image() -> Any:
    return vit(reg_tokens=1)


def clips(num_clips: int = 2, num_frames: int = FRAMES, seed: int = 0) -> Tensor:
    return torch.randn(num_clips, num_frames, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def build(values: dict[str, Any], num_frames: int = FRAMES, model: nn.Module | None = None) -> VideoEncoder:
    config = VideoConfig.model_validate(
        {"adapter_width": 8, **values} if values["kind"] in ("aim", "st_adapter") else values
    )
    return build_video_encoder(config, image() if model is None else model, num_frames, seed=3)


def loss_of(encoder: VideoEncoder, pixels: Tensor) -> Tensor:
    tokens = encoder(pixels)
    return (tokens * torch.randn(tokens.shape, generator=torch.Generator().manual_seed(7))).sum()


def wake(encoder: VideoEncoder, num_updates: int = 1) -> VideoEncoder:
    """AdamW updates. After one, nothing that was zero blocks a gradient; after two, nothing is zero any longer."""
    optimizer = torch.optim.AdamW([p for p in encoder.parameters() if p.requires_grad], lr=0.05, weight_decay=0.0)
    for _ in range(num_updates):
        encoder.zero_grad(set_to_none=True)
        loss_of(encoder, clips(seed=5)).backward()
        optimizer.step()
    encoder.zero_grad(set_to_none=True)
    return encoder


# --- the start: on a still clip, the image encoder; rtol and atol 1e-5 in float32


@pytest.mark.parametrize("values", EVERY, ids=name_of)
def test_a_still_clip_gives_the_image_encoders_tokens(values: dict[str, Any]) -> None:
    encoder = build(values)
    frame = clips(num_frames=1)
    with torch.no_grad():
        expected = (
            image().forward_features(frame[:, 0])[:, None].expand(-1, FRAMES // encoder.config.tubelet_size, -1, -1)
        )
        tokens = encoder(frame.expand(-1, FRAMES, -1, -1, -1))
    assert tokens.shape == (2, FRAMES // encoder.config.tubelet_size, 2 + 4, 16)
    torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {"class_token": False, "global_pool": "avg"},
        {"no_embed_class": True, "reg_tokens": 2, "init_values": 0.5},
        {"pre_norm": True, "qkv_bias": False, "qk_norm": True, "act_layer": "quick_gelu"},
        {"pos_embed": "none", "mlp_ratio": 3.3, "img_size": (16, 24), "scale_attn_norm": False},
    ],
    ids=["no_class", "dinov2", "clip", "no_positions"],
)
def test_the_start_holds_for_other_vits(kind: str, options: dict[str, Any]) -> None:
    model = vit(**options)
    encoder = build({"kind": kind, "tubelet_size": 2}, model=model)
    frame = torch.randn(1, 1, 3, *encoder.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.forward_features(frame[:, 0])[:, None].expand(-1, 2, -1, -1)
        torch.testing.assert_close(encoder(frame.expand(-1, 4, -1, -1, -1)), expected, rtol=1e-5, atol=1e-5)


def test_the_image_model_stays_as_it_is() -> None:
    model = vit()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wake(build({"kind": "divided"}, model=model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, second = (build({"kind": "factorised"}).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), state)


# --- gradients


@pytest.mark.parametrize("values", DIFFERENT, ids=name_of)
def test_after_one_update_every_trainable_parameter_has_a_gradient_and_no_frozen_one(values: dict[str, Any]) -> None:
    encoder = wake(build(values))
    loss_of(encoder, clips()).backward()
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and bool(parameter.grad.any()), f"{name} has no gradient"
        else:
            assert parameter.grad is None, f"{name} is frozen and has a gradient"


@pytest.mark.parametrize("values", [v for v in DIFFERENT if v.get("time_embedding") in (None, "zero")], ids=name_of)
def test_frozen_is_the_image_encoder_and_nothing_else(values: dict[str, Any]) -> None:
    encoder = build(values)
    frozen = [parameter for parameter in encoder.parameters() if not parameter.requires_grad]
    used = [p for name, p in image().named_parameters() if not name.startswith(("head", "fc_norm"))]
    if not encoder.config.frozen_image:
        assert not frozen
        return
    # With tubelets the patch embedding is new.
    expected = [p for p in used if encoder.config.tubelet_size == 1 or p.ndim != 4]
    num_new_biases = 0 if encoder.config.tubelet_size == 1 else image().patch_embed.proj.bias.numel()
    assert sum(p.numel() for p in frozen) == sum(p.numel() for p in expected) - num_new_biases


# --- time


def permuted(pixels: Tensor, tubelet: int) -> tuple[Tensor, Tensor]:
    """The clip with its tubelets in another order, and that order."""
    order = torch.tensor([1, 0]) if pixels.shape[1] // tubelet == 2 else torch.tensor([2, 0, 3, 1])
    return pixels.unflatten(1, (-1, tubelet))[:, order].flatten(1, 2), order


@pytest.mark.parametrize("values", DIFFERENT, ids=name_of)
def test_what_knows_the_order_of_the_frames(values: dict[str, Any]) -> None:
    encoder = wake(build(values), num_updates=2)
    pixels = clips()
    shuffled, order = permuted(pixels, encoder.config.tubelet_size)
    with torch.no_grad():
        difference = (encoder(shuffled) - encoder(pixels)[:, order]).abs().max()
    if encoder.config.kind in DIRECTED or encoder.config.time_embedding != "none":
        assert difference > 1e-3
    else:
        assert difference < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_what_looks_at_other_frames(kind: str) -> None:
    encoder = wake(build({"kind": kind}))
    pixels, other = clips(), clips()
    other[:, 2] = clips(seed=9)[:, 2]
    with torch.no_grad():
        difference = (encoder(other) - encoder(pixels)).abs().amax(dim=(0, 2, 3))
    assert difference[2] > 1e-3
    if kind == "frames":
        assert difference[[0, 1, 3]].max() == 0
    else:
        assert difference[1] > 1e-5 and difference[3] > 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_frames", [2, 6])
def test_other_lengths_than_built(kind: str, num_frames: int) -> None:
    encoder = build({"kind": kind, "tubelet_size": 2, "time_embedding": "sinusoidal"})
    pixels = clips(num_frames=1).expand(-1, num_frames, -1, -1, -1)
    with torch.no_grad():
        expected = image().forward_features(pixels[:, 0])[:, None].expand(-1, num_frames // 2, -1, -1)
        torch.testing.assert_close(encoder(pixels), expected, rtol=1e-5, atol=1e-5)


def test_frames_that_no_tubelets_fill_are_refused_with_the_mend() -> None:
    with pytest.raises(ConfigError, match="5 frames per clip are no multiple of tubelet_size=2; use 4 or 6 frames"):
        build({"kind": "joint", "tubelet_size": 2}, num_frames=5)
    encoder = build({"kind": "joint", "tubelet_size": 3}, num_frames=6)
    with pytest.raises(ConfigError, match="use 3 or 6 frames"):
        encoder(clips(num_frames=4))
    with pytest.raises(ConfigError, match="use 3 or 6 frames"):
        encoder(clips(num_frames=2))


# --- dropped tokens


def tubes(num_steps: int) -> Tensor:
    keep = torch.tensor([[True, False, True, False], [False, True, True, False]])
    return keep[:, None].expand(-1, num_steps, -1)


@pytest.mark.parametrize("tubelet", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_dropped_token_cannot_influence_the_output(kind: str, tubelet: int) -> None:
    encoder = wake(build({"kind": kind, "tubelet_size": tubelet}))
    keep = tubes(FRAMES // tubelet)
    pixels, other = clips(), clips()
    # The right upper patch of the first clip and the lower right patch of the second.
    other[0, :, :, :8, 8:] = float("nan")
    other[1, :, :, 8:, 8:] = 1e6
    with torch.no_grad():
        tokens = encoder(pixels, keep=keep)
        assert torch.equal(encoder(other, keep=keep), tokens)
        assert not torch.equal(encoder(other), encoder(pixels))
    assert tokens.shape == (2, FRAMES // tubelet, 2 + 2, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_keeping_every_token_changes_nothing(kind: str) -> None:
    encoder = wake(build({"kind": kind}))
    with torch.no_grad():
        kept = encoder(clips(), keep=torch.ones(2, FRAMES, 4, dtype=torch.bool))
        assert torch.equal(kept, encoder(clips()))


@pytest.mark.parametrize("kind", KINDS)
def test_masks_that_differ_between_frames_need_a_kind_that_allows_it(kind: str) -> None:
    encoder = wake(build({"kind": kind}))
    keep = tubes(FRAMES).clone()
    keep[0, 1] = torch.tensor([False, False, True, True])
    if kind not in ANY_MASK:
        with pytest.raises(ConfigError, match="use tubes, or kind: frames, joint or factorised"):
            encoder(clips(), keep=keep)
        return
    with torch.no_grad():
        tokens = encoder(clips(), keep=keep)
        alone = encoder(clips()[:1], keep=keep[:1])
    torch.testing.assert_close(tokens[:1], alone, rtol=1e-5, atol=1e-5)


def test_joint_attention_on_kept_tokens_equals_a_masked_one() -> None:
    # With one block, an additive mask on the keys of dropped tokens is the same as leaving them out.
    model = vit(depth=1)
    encoder = build({"kind": "joint"}, model=model)
    pixels, keep = clips(), tubes(FRAMES)
    with torch.no_grad():
        tokens = encoder(pixels, keep=keep)
        x = torch.cat([model.patch_embed(pixels[:, t]) for t in range(FRAMES)], dim=1).unflatten(1, (FRAMES, 4))
        x = torch.cat([model.cls_token[None].expand(2, FRAMES, -1, -1), x], dim=2) + model.pos_embed
        allowed = torch.cat([torch.ones(2, FRAMES, 1, dtype=torch.bool), keep], dim=2).flatten(1)
        full = model.norm(model.blocks[0](x.flatten(1, 2), attn_mask=allowed[:, None, None].expand(-1, 1, 20, -1)))
    torch.testing.assert_close(tokens.flatten(0, 2), full[allowed], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (torch.ones(2, FRAMES, 3, dtype=torch.bool), r"must be bool \(B, T', patches\) = \(2, 4, 4\)"),
        (torch.ones(2, FRAMES, 4), "got torch.float32"),
        (torch.zeros(2, FRAMES, 4, dtype=torch.bool), "at least one"),
        (torch.tensor([[[True] * 4] * 4, [[True] * 3 + [False]] * 4]), "keeps between 3 and 4"),
    ],
    ids=["shape", "dtype", "none", "unequal"],
)
def test_masks_that_do_not_fit_are_refused(keep: Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"kind": "frames"})(clips(), keep=keep)


# --- bad input


def test_other_image_models_are_refused() -> None:
    ensure_torchvision()
    import timm

    config = VideoConfig()
    refused: list[tuple[nn.Module, str]] = [
        (timm.create_model("test_convnext"), "starts from timm.models.vision_transformer.VisionTransformer"),
        (nn.Linear(2, 2), "got torch.nn.modules.linear.Linear"),
        (vit(dynamic_img_size=True), "dynamic_img_size=False"),
        (vit(patch_drop_rate=0.5), "PatchDropout where a video encoder expects Identity"),
        (vit(proj_drop_rate=0.5), "parts that a video encoder does not support"),
        (vit(drop_path_rate=0.5), "drop_path"),
        (vit(norm_layer="rmsnorm"), "does not support"),
    ]
    for model, message in refused:
        with pytest.raises(ConfigError, match=message):
            build_video_encoder(config, model, 4, seed=0)


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 4, 1, 16, 16), (2, 4, 3, 16, 24)])
def test_pixels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"must be \(B, T, 3, H=16, W=16\)"):
        build({"kind": "frames"})(torch.zeros(shape))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "divided", "depth": 3}, "kind='divided' does not read depth=3"),
        ({"kind": "frames", "adapter_width": 3}, "use kind='st_adapter' or 'aim'"),
        ({"kind": "joint", "divided_residual": "input"}, "use kind='divided'"),
        ({"kind": "joint", "freeze_space": True, "time_embedding": "none"}, "leaves nothing to train"),
    ],
)
def test_options_that_nothing_reads_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        VideoConfig.model_validate(values)
