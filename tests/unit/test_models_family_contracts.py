"""What every family of backbones keeps, one row each, on tiny models with random weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange

from tests.unit.models_fixtures import save_model, tiny_vision
from vlmvid.config.encoders import FrameFeature, VisionConfig
from vlmvid.errors import ConfigError
from vlmvid.models.backbones import load_vision_backbone
from vlmvid.models.backbones.base import FrozenBackbone
from vlmvid.models.clip_encoder import encode_clips, features_of_tokens
from vlmvid.models.saving import load_vision, save_vision


@dataclass(frozen=True)
class Row:
    """A family: how it is named, and what its tokens look like for 4 frames of 32 or 64 px."""

    backbone: str  # FAMILY:NAME, or hf:KIND of `tiny_vision`
    prefix: int
    side: int
    levels: int
    size: int = 32
    steps: int = 4
    settings: dict[str, Any] = field(default_factory=dict)
    registers_only: bool = False  # the prefix holds no class token


ROWS = {
    "efficientnet-lite0": Row("efficientnet-lite0", 0, 2, 5, size=64),
    "efficientnet-lite1": Row("efficientnet-lite1", 0, 2, 5, size=64),
    "efficientnet-lite2": Row("efficientnet-lite2", 0, 2, 5, size=64),
    "timm vit": Row("timm:test_vit", 1, 4, 6, size=64, settings={"image_size": 64}),
    "timm vit of registers": Row(
        "timm:vit_wee_patch16_reg1_gap_256", 1, 2, 14, settings={"image_size": 32}, registers_only=True
    ),
    "timm convnext": Row("timm:test_convnext", 0, 2, 4, size=64, settings={"image_size": 64}),
    "timm efficientnet": Row("timm:test_efficientnet", 0, 2, 5, size=64, settings={"image_size": 64}),
    "clip": Row("hf:clip", 1, 4, 3),
    "siglip": Row("hf:siglip", 0, 4, 3),
    "siglip2 naflex": Row("hf:siglip2", 0, 4, 3),
    "vit": Row("hf:vit", 1, 4, 3),
    "dinov2": Row("hf:dinov2", 1, 4, 3),
    "dinov2 registers": Row("hf:dinov2_registers", 5, 4, 3),
    "dinov3 vit": Row("hf:dinov3_vit", 5, 4, 3),
    "dinov3 convnext": Row("hf:dinov3_convnext", 1, 2, 4, size=64),
    "vit mae": Row("hf:vit_mae", 1, 4, 3),
    "aimv2": Row("hf:aimv2", 0, 4, 3),
    "videomae": Row("hf:videomae", 0, 4, 3, steps=2),
    "resnet": Row("hf:resnet", 0, 4, 2),
}
EVERY = pytest.mark.parametrize("name", ROWS)


def config_of(name: str, folder: Path, **settings: Any) -> VisionConfig:
    row = ROWS[name]
    family, _, kind = row.backbone.partition(":")
    backbone, pretrained = row.backbone, False
    if family == "hf":
        preprocessor = {
            "size": {"height": row.size, "width": row.size},
            "image_mean": [0.4] * 3,
            "image_std": [0.3] * 3,
        }
        backbone, pretrained = f"hf:{save_model(tiny_vision(kind), folder, preprocessor)}", True
    values = {"backbone": backbone, "pretrained": pretrained, **row.settings, **settings}
    if row.backbone.startswith("efficientnet-lite"):
        values["image_size"] = row.size
    return VisionConfig.model_validate(values)


def load(name: str, **settings: Any) -> FrozenBackbone:
    with TemporaryDirectory() as folder:
        return load_vision_backbone(config_of(name, Path(folder), **settings))


@cache
def shared(name: str) -> FrozenBackbone:
    return load(name)


def clips(name: str, num_clips: int = 3, num_frames: int = 4) -> np.ndarray:
    size = ROWS[name].size
    rng = np.random.default_rng(len(name))
    return rng.integers(0, 256, (num_clips, num_frames, 3, size, size), dtype=np.uint8)


def expected_feature(tokens: np.ndarray, prefix: int, side: int, feature: FrameFeature) -> np.ndarray:
    """Features (B, S, F) out of tokens (B, S, N, D), written out."""
    patches = tokens[:, :, prefix:]
    match feature:
        case "mean":
            return patches.mean(axis=2)
        case "cls":
            return tokens[:, :, 0]
        case "cls_mean":
            return np.concatenate([tokens[:, :, 0], patches.mean(axis=2)], axis=-1)
        case "grid":
            half = side // 2
            maps = patches.reshape(*patches.shape[:2], side, side, -1)
            cells = [
                maps[:, :, half * i : half * i + half, half * j : half * j + half].mean(axis=(2, 3))
                for i in range(2)
                for j in range(2)
            ]
            return np.concatenate(cells, axis=-1)


@EVERY
def test_tokens_of_clips_have_the_stated_shape(name: str) -> None:
    row, backbone = ROWS[name], shared(name)
    assert (backbone.num_prefix_tokens, backbone.grid_side, backbone.num_patches) == (row.prefix, row.side, row.side**2)
    assert backbone.num_steps(4) == row.steps and backbone.image_size == row.size
    pixels = torch.randn(2, 4, 3, row.size, row.size, generator=torch.Generator().manual_seed(0))
    tokens = backbone.clip_tokens(pixels)
    assert tokens.shape == (2, row.steps, row.prefix + row.side**2, backbone.token_dim)
    assert tokens.dtype == torch.float32 and tokens.is_inference()
    has_class_token = row.prefix > 0 and not row.registers_only
    assert backbone.has_class_token == has_class_token
    assert backbone.available_features() == ("mean", *(("cls", "cls_mean") if has_class_token else ()), "grid")


@EVERY
def test_several_features_come_from_one_forward_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row, backbone = ROWS[name], shared(name)
    passes: list[int] = []
    forward = backbone._forward
    monkeypatch.setattr(backbone, "_forward", lambda pixels: passes.append(len(pixels)) or forward(pixels))
    names = backbone.available_features()
    found = backbone.encode_clips(clips(name), names, keep_tokens=True)
    assert len(passes) == 1 and list(found) == [*names, "tokens"]
    assert all(values.dtype == np.float32 for values in found.values())
    for feature in names:
        expected = expected_feature(found["tokens"], row.prefix, row.side, feature)
        assert found[feature].shape == (3, row.steps, backbone.dim_of(feature))
        np.testing.assert_allclose(found[feature], expected, rtol=1e-5, atol=1e-5)
        alone = backbone.features(torch.from_numpy(found["tokens"]), feature).numpy()
        np.testing.assert_allclose(alone, expected, rtol=1e-5, atol=1e-5)
    assert list(backbone.encode_clips(clips(name))) == ["mean"]


@EVERY
def test_clips_do_not_depend_on_their_batch_and_repeat_exactly(name: str) -> None:
    backbone, frames = shared(name), clips(name)
    together = backbone.encode_clips(frames, keep_tokens=True)["tokens"]
    np.testing.assert_array_equal(backbone.encode_clips(frames, keep_tokens=True)["tokens"], together)
    np.testing.assert_array_equal(load(name).encode_clips(frames, keep_tokens=True)["tokens"], together)
    for i in range(len(frames)):
        alone = backbone.encode_clips(frames[i : i + 1], keep_tokens=True)["tokens"][0]
        np.testing.assert_allclose(alone, together[i], rtol=0, atol=1e-5 * np.abs(together).max())
    empty = backbone.encode_clips(frames[:0], keep_tokens=True)
    assert empty["tokens"].shape == (0, *together.shape[1:]) and empty["mean"].shape[1] == together.shape[1]


@EVERY
def test_a_saved_backbone_gives_bit_equal_tokens(name: str, tmp_path: Path) -> None:
    backbone = load(name, feature="grid", layer=-1)
    save_vision(backbone, tmp_path / "saved")
    loaded = load_vision(tmp_path / "saved")
    first, again = (b.encode_clips(clips(name), ("mean", "grid"), keep_tokens=True) for b in (backbone, loaded))
    assert first.keys() == again.keys()
    for key, values in first.items():
        np.testing.assert_array_equal(again[key], values)
    assert loaded.describe() == backbone.describe() | {"family": loaded.family}


@EVERY
def test_a_level_that_is_not_there_is_refused_with_their_number(name: str) -> None:
    levels = ROWS[name].levels
    for layer in (levels, -levels - 1):
        with pytest.raises(
            ConfigError, match=rf"layer={layer} is out of range; it has {levels} layers, 0 to {levels - 1}"
        ):
            load(name, layer=layer)
    first = load(name, layer=0)
    counted_back = load(name, layer=-levels)
    frames = clips(name, 1)
    np.testing.assert_array_equal(
        first.encode_clips(frames, keep_tokens=True)["tokens"],
        counted_back.encode_clips(frames, keep_tokens=True)["tokens"],
    )


@EVERY
def test_features_that_a_backbone_lacks_are_refused_with_those_it_has(name: str) -> None:
    row, backbone = ROWS[name], shared(name)
    has = ", ".join(backbone.available_features())
    if not row.prefix or row.registers_only:
        with pytest.raises(ConfigError, match=f"has no class token.*one of feature: {has}"):
            backbone.encode_clips(clips(name), ("mean", "cls_mean"))
    with pytest.raises(
        ConfigError, match=f"square map of at least grid_size={row.side + 1} a side.*one of feature: mean"
    ):
        load(name, feature="grid", grid_size=row.side + 1)


@EVERY
def test_every_frame_or_tubelet_is_encoded_in_its_own_place(name: str) -> None:
    """Reversing time reverses the tokens of image backbones; a clip model sees the whole window."""
    row, backbone = ROWS[name], shared(name)
    frames = clips(name, 2)
    forward = backbone.encode_clips(frames, keep_tokens=True)["tokens"]
    if row.steps == 4:
        flat = backbone.encode_frames(rearrange(frames, "b t c h w -> (b t) c h w"))
        mean = backbone.encode_clips(frames)["mean"]
        np.testing.assert_allclose(rearrange(mean, "b t d -> (b t) d"), flat, rtol=1e-4, atol=1e-5)
        backward = backbone.encode_clips(frames[:, ::-1], keep_tokens=True)["tokens"]
        np.testing.assert_allclose(backward[:, ::-1], forward, rtol=1e-4, atol=1e-5 * np.abs(forward).max())
    else:
        changed = frames.copy()
        changed[:, -1] = 0
        moved = np.abs(backbone.encode_clips(changed, keep_tokens=True)["tokens"] - forward).max(axis=(2, 3))
        assert moved.shape == (2, row.steps) and (moved > 1e-6).all()


def test_videomae_equals_transformers_and_takes_windows_of_its_own_length() -> None:
    backbone = shared("videomae")
    frames = clips("videomae", 2, num_frames=8)
    found = backbone.encode_clips(frames, keep_tokens=True)["tokens"]
    assert found.shape == (2, 4, 16, 16)
    for window in range(2):
        cut = torch.from_numpy(frames[:, 4 * window : 4 * window + 4]).float() / 255
        with torch.inference_mode():
            expected = backbone.module(pixel_values=(cut - 0.4) / 0.3).last_hidden_state
        np.testing.assert_allclose(
            found[:, 2 * window : 2 * window + 2].reshape(2, 32, 16), expected.numpy(), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("num_frames", "message"),
    [
        (3, "3 frames is not divisible by its tubelet_size=2; set decode.sampling.num_frames to 4"),
        (6, "was trained on 4 frames, got a clip of 6; .* set decode.sampling.num_frames to 4 or a multiple"),
        (0, "not divisible"),
    ],
)
def test_clip_lengths_that_a_clip_model_cannot_take_are_refused(num_frames: int, message: str) -> None:
    if num_frames:
        with pytest.raises(ConfigError, match=message):
            shared("videomae").encode_clips(clips("videomae", 1, num_frames))
    else:
        with pytest.raises(ConfigError, match=message):
            shared("videomae").num_steps(0)


def test_a_clip_model_refuses_single_frames_and_an_image_model_empty_clips() -> None:
    with pytest.raises(ConfigError, match="not divisible by its tubelet_size=2"):
        shared("videomae").encode_frames(clips("videomae", 2)[:, 0])
    with pytest.raises(ConfigError, match="at least one frame, got 0"):
        shared("clip").encode_clips(clips("clip", 2, num_frames=0))
    for bad in (np.zeros((2, 3, 32, 32), np.uint8), np.zeros((2, 4, 3, 32, 32), np.float32)):
        with pytest.raises(ValueError, match=r"frames must be uint8 \(B, T, 3, H, W\)"):
            shared("clip").encode_clips(bad)


def test_naflex_patches_and_shapes_are_those_of_its_processor() -> None:
    import transformers

    backbone = shared("siglip2 naflex")
    frame = clips("siglip2 naflex", 1, 1)[0, 0]
    processor = transformers.Siglip2ImageProcessor(
        patch_size=8, max_num_patches=16, image_mean=[0.4] * 3, image_std=[0.3] * 3
    )
    values = dict(processor(images=torch.from_numpy(frame), return_tensors="pt"))
    with torch.inference_mode():
        expected = backbone.module(**values).last_hidden_state
    pixels = backbone.preprocessing.apply(torch.from_numpy(frame[None]))
    torch.testing.assert_close(backbone.tokens(pixels), expected, rtol=1e-4, atol=1e-5)


def test_features_of_kept_tokens_equal_those_of_the_clips() -> None:
    frames = clips("vit")
    names: tuple[FrameFeature, ...] = ("cls_mean", "grid")
    found = encode_clips(shared("vit"), frames, features=names, keep_tokens=True)
    again = features_of_tokens(shared("vit"), found["tokens"], names)
    assert list(again) == list(names)
    for name in names:
        np.testing.assert_array_equal(again[name], found[name])
    with pytest.raises(ValueError, match="frames must be uint8"):
        encode_clips(shared("vit"), frames.astype(np.float32))
