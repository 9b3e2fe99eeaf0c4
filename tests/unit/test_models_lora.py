"""Adapters: nothing changes at the start, only they learn, and merged they are plain weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.models_fixtures import random_frames, small_copy, tiny_clip, tiny_siglip, tiny_vision
from tests.unit.test_models_video import vit
from vlmvid.config.alignment import LoraConfig
from vlmvid.config.encoders import TextConfig, VideoConfig, VisionConfig
from vlmvid.errors import ConfigError
from vlmvid.models.backbones import load_vision_backbone
from vlmvid.models.backbones.base import FrozenBackbone, Preprocessing
from vlmvid.models.backbones.hf_backbone import HFBackbone
from vlmvid.models.backbones.video_backbone import VideoBackbone
from vlmvid.models.lora import Adapters, adapt_text, adapt_vision
from vlmvid.models.saving import load_text, load_vision, save_text, save_vision
from vlmvid.models.text import load_text_encoder
from vlmvid.models.video.encoder import build_video_encoder

HALF = Preprocessing(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
BACKBONES = ("timm:test_vit", "vit", "clip", "dinov2", "dinov3_vit", "aimv2", "videomae", "video")


def backbone_of(kind: str, **settings: Any) -> FrozenBackbone:
    if kind.startswith("timm:"):
        return load_vision_backbone(VisionConfig(backbone=kind, pretrained=False, image_size=32, **settings))
    config = VisionConfig(backbone=f"hf:{kind}", feature="mean", **settings)
    if kind == "video":
        encoder = build_video_encoder(VideoConfig(kind="joint"), vit(img_size=32), 4, seed=0)
        return VideoBackbone(encoder, config, HALF)
    return HFBackbone(tiny_vision(kind), config, HALF)


def randomise(adapters: Adapters) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapters.parameters.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("kind", BACKBONES)
def test_contract_of_a_vision_backbone(kind: str, use_dora: bool, tmp_path: Path) -> None:
    backbone = backbone_of(kind)
    clips = random_frames(2 * 4, 32).reshape(2, 4, 3, 32, 32)
    names = [name for name, _ in backbone.module.named_parameters()]
    before = backbone.encode_clips(clips)["mean"]
    adapters = adapt_vision(backbone, LoraConfig(rank=2, alpha=3.0, use_dora=use_dora), seed=0)
    np.testing.assert_allclose(backbone.encode_clips(clips)["mean"], before, rtol=1e-5, atol=1e-6)

    randomise(adapters)
    pixels = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    backbone.features(backbone.clip_tokens(pixels, with_grad=True)).square().sum().backward()
    assert adapters.parameters and all(p.grad is not None and p.grad.any() for p in adapters.parameters.values())
    rest = [p for name, p in backbone.module.named_parameters() if name not in adapters.parameters]
    assert not any(p.requires_grad or p.grad is not None for p in rest)

    unmerged = backbone.encode_clips(clips)["mean"]
    assert np.abs(unmerged - before).max() > 1e-3
    adapters.merge()
    merged = backbone.encode_clips(clips)["mean"]
    np.testing.assert_allclose(merged, unmerged, rtol=1e-3, atol=1e-4)
    assert [name for name, _ in backbone.module.named_parameters()] == names
    assert not any(p.requires_grad for p in backbone.module.parameters()) and not adapters.parameters

    save_vision(backbone, tmp_path)
    assert np.array_equal(load_vision(tmp_path).encode_clips(clips)["mean"], merged)


@pytest.mark.parametrize("use_dora", [False, True])
def test_merged_weights_are_those_of_the_papers(use_dora: bool) -> None:
    backbone = backbone_of("timm:test_vit")
    plain = backbone.module.get_submodule("blocks.0.attn.qkv").weight.clone()
    adapters = adapt_vision(backbone, LoraConfig(rank=2, alpha=3.0, use_dora=use_dora), seed=0)
    randomise(adapters)
    here = {name: p.detach() for name, p in adapters.parameters.items() if name.startswith("blocks.0.attn.qkv.")}
    down = next(p for name, p in here.items() if "lora_A" in name)
    up = next(p for name, p in here.items() if "lora_B" in name)
    expected = plain + 3.0 / 2 * up @ down
    if use_dora:
        magnitude = next(p for name, p in here.items() if "magnitude" in name)
        expected *= (magnitude / expected.norm(dim=1))[:, None]
    adapters.merge()
    torch.testing.assert_close(backbone.module.get_submodule("blocks.0.attn.qkv").weight, expected)


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("kind", ["bert", "clip", "siglip"])
def test_contract_of_a_text_encoder(kind: str, use_dora: bool, tmp_path: Path) -> None:
    folder = small_copy(tmp_path / "model") if kind == "bert" else two_towers(kind, tmp_path / "model")
    encoder = load_text_encoder(TextConfig(encoder=f"hf:{folder}"))
    texts = ["a red bar", "a bar that moves to the left", "blue"]
    before = encoder.encode(texts)
    adapters = adapt_text(encoder, LoraConfig(rank=2, use_dora=use_dora), seed=0)
    np.testing.assert_allclose(encoder.encode(texts), before, rtol=1e-5, atol=1e-6)
    randomise(adapters)
    encoder.features(encoder.tokenize(texts)).square().sum().backward()
    assert adapters.parameters and all(p.grad is not None and p.grad.any() for p in adapters.parameters.values())
    unmerged = encoder.encode(texts)
    assert np.abs(unmerged - before).max() > 1e-3
    adapters.merge()
    merged = encoder.encode(texts)
    np.testing.assert_allclose(merged, unmerged, rtol=1e-3, atol=1e-4)
    save_text(encoder, tmp_path / "saved")
    assert np.array_equal(load_text(tmp_path / "saved").encode(texts), merged)


def two_towers(kind: str, folder: Path) -> Path:
    from tests.unit.models_fixtures import copy_tokenizer, save_model

    save_model(tiny_clip() if kind == "clip" else tiny_siglip(kind), folder)
    copy_tokenizer(folder)
    return folder


def test_only_dropout_of_adapters_is_turned_on() -> None:
    backbone = backbone_of("vit")
    pixels = torch.randn(1, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    adapters = adapt_vision(backbone, LoraConfig(rank=2, dropout=0.5), seed=0)
    randomise(adapters)
    calm = backbone.clip_tokens(pixels)
    adapters.train()
    assert not torch.equal(backbone.clip_tokens(pixels), calm)
    assert not backbone.module.training
    adapters.train(False)
    assert torch.equal(backbone.clip_tokens(pixels), calm)


def test_the_seed_alone_decides_the_start() -> None:
    starts = []
    for noise, seed in ((1, 4), (2, 4), (2, 5)):
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        adapters = adapt_vision(backbone_of("vit"), LoraConfig(rank=2), seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        starts.append(torch.cat([p.detach().flatten() for p in adapters.parameters.values()]))
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])


def test_levels_behind_the_chosen_one_get_no_adapter() -> None:
    adapters = adapt_vision(backbone_of("vit", layer=0), LoraConfig(rank=2), seed=0)
    assert {name.partition("layer")[2].split(".")[1] for name in adapters.parameters} == {"0"}


def test_named_layers_are_taken() -> None:
    adapters = adapt_vision(backbone_of("timm:test_vit"), LoraConfig(rank=2, target_modules=("mlp.fc1",)), seed=0)
    assert {name.partition(".lora")[0].split(".", 2)[2] for name in adapters.parameters} == {"mlp.fc1"}


def test_bad_targets_name_the_linear_layers() -> None:
    with pytest.raises(ConfigError, match=r"no linear layer named 'atn\.qkv'; its linear .*blocks\.\*\.attn\.qkv"):
        adapt_vision(backbone_of("timm:test_vit"), LoraConfig(target_modules=("attn.proj", "atn.qkv")), seed=0)
    with pytest.raises(ConfigError, match="no linear layer at all: leave it frozen"):
        adapt_vision(backbone_of("resnet"), LoraConfig(), seed=0)
    # SigLIP's pooling head is behind the tokens.
    with pytest.raises(ConfigError, match=r"does not call its layers .*head\.mlp\.fc1"):
        adapt_vision(backbone_of("siglip"), LoraConfig(target_modules=("head.mlp.fc1",)), seed=0)


def test_float16_is_refused() -> None:
    backbone = backbone_of("vit")
    backbone.config = backbone.config.model_copy(update={"precision": "float16"})
    with pytest.raises(ConfigError, match="small gradients vanish; set encode.vision.precision"):
        adapt_vision(backbone, LoraConfig(), seed=0)


def test_bfloat16_backbones_learn_too() -> None:
    backbone = backbone_of("vit", precision="bfloat16")
    adapters = adapt_vision(backbone, LoraConfig(rank=2), seed=0)
    pixels = torch.randn(1, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = backbone.clip_tokens(pixels, with_grad=True)
    assert not torch.equal(tokens, backbone_of("vit").clip_tokens(pixels))
    backbone.features(tokens).sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in adapters.parameters.values())
