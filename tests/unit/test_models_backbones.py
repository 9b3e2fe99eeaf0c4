"""Vision backbones: tokens, features, preprocessing and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from tests.unit.models_fixtures import PREPROCESSOR, hub_cache, random_frames, save_model, tiny_clip, tiny_vision
from vlmvid.config.encoders import VisionConfig
from vlmvid.errors import CheckpointError, ConfigError
from vlmvid.models import sources
from vlmvid.models.backbones import load_vision_backbone
from vlmvid.models.backbones.base import FrozenBackbone, Preprocessing, map_to_tokens
from vlmvid.models.backbones.efficientnet_lite import IMAGE_SIZES, load_efficientnet_lite
from vlmvid.models.backbones.timm_backbone import create_timm
from vlmvid.models.families import VISION_BACKBONES, backbone_module

LITE = "efficientnet-lite0"
VIT = "timm:test_vit"


def load(backbone: str, **settings: object) -> FrozenBackbone:
    return load_vision_backbone(VisionConfig.model_validate({"backbone": backbone, **settings}))


def normalised(backbone: FrozenBackbone, frames: np.ndarray) -> torch.Tensor:
    return backbone.preprocessing.apply(torch.from_numpy(frames))


def test_torchvision_imports_in_a_fresh_process_and_its_operators_stay_defined() -> None:
    code = (
        "import gc, torch\n"
        "from vlmvid.models.torchvision_compat import ensure_torchvision\n"
        "ensure_torchvision(); ensure_torchvision(); gc.collect()\n"
        "import torchvision, timm\n"
        "assert hasattr(torch.ops.torchvision, 'nms') and hasattr(torch.ops.torchvision, 'qnms')\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("name", IMAGE_SIZES)
def test_lite_recognises_a_photograph(name: str) -> None:
    """Grace Hopper in uniform, which matplotlib ships: ImageNet class 652, military uniform."""
    photo = Path(matplotlib.__file__).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg"
    frame = np.asarray(Image.open(photo).convert("RGB")).transpose(2, 0, 1)[None].copy()
    backbone = load(name)
    stored = torch.load(sources.efficientnet_lite_file(name), weights_only=True)
    features = torch.from_numpy(backbone.encode_frames(frame))
    logits = features @ stored["_fc.weight"].T + stored["_fc.bias"]
    assert logits.argmax().item() == 652
    assert logits.softmax(-1).max() > (0.3 if name == LITE else 0.05)


def test_lite0_states_its_own_preprocessing() -> None:
    backbone = load(LITE)
    assert backbone.preprocessing == Preprocessing(224, (0.498,) * 3, (0.502,) * 3, "bicubic")
    assert (backbone.image_size, backbone.feature_dim, backbone.num_prefix_tokens) == (224, 1280, 0)
    assert load(LITE, image_size=64).image_size == 64
    assert [load(name, pretrained=False).image_size for name in IMAGE_SIZES] == [224, 240, 260]


def test_lite0_refuses_weights_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = torch.load(sources.efficientnet_lite_file(LITE), weights_only=True)
    names = list(stored)
    swapped = dict(stored, **{names[1]: stored[names[3]], names[3]: stored[names[1]][:5]})
    for changed, message in [
        ({name: stored[name] for name in names[1:]}, "holds 295 tensors"),
        (swapped, "does not fit bn1.running_mean"),
    ]:
        torch.save(changed, tmp_path / "w.pth")
        monkeypatch.setattr(sources, "efficientnet_lite_file", lambda name: tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match=message):
            load_efficientnet_lite(VisionConfig(backbone=LITE))


def test_tokens_of_a_convolution_map_are_in_row_major_order() -> None:
    maps = torch.arange(2 * 3 * 2 * 4).view(2, 3, 2, 4)
    tokens = map_to_tokens(maps)
    assert tokens.shape == (2, 8, 3)
    assert torch.equal(tokens[1, 4 * 1 + 2], maps[1, :, 1, 2])


def test_mean_and_grid_are_averages_of_the_tokens() -> None:
    frames = random_frames(3, 128)
    grid = load(LITE, image_size=128, feature="grid", grid_size=2)
    tokens = grid.tokens(normalised(grid, frames)).numpy()
    assert tokens.shape == (3, 16, 1280)
    maps = tokens.reshape(3, 4, 4, 1280)
    cells = [maps[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(axis=(1, 2)) for i in range(2) for j in range(2)]
    features = grid.encode_frames(frames)
    assert features.dtype == np.float32 and grid.feature_dim == 4 * 1280
    np.testing.assert_allclose(features, np.concatenate(cells, axis=1), rtol=1e-5, atol=1e-5)
    mean = load(LITE, image_size=128).encode_frames(frames)
    np.testing.assert_allclose(mean, tokens.mean(axis=1), rtol=1e-5, atol=1e-5)


def test_a_level_of_a_cnn_is_the_map_of_that_stage() -> None:
    frames = random_frames(2, 64)
    for layer, level in [(3, 3), (-2, 3), (0, 0)]:
        backbone = load(LITE, image_size=64, layer=layer)
        pixels = normalised(backbone, frames)
        with torch.inference_mode():
            maps = backbone.module.forward_intermediates(pixels, intermediates_only=True)  # type: ignore[operator]
        expected = maps[level].mean(dim=(2, 3)).numpy()
        np.testing.assert_allclose(backbone.encode_frames(frames), expected, rtol=1e-4, atol=1e-5)


def test_class_token_and_patches_of_a_timm_vit() -> None:
    frames = random_frames(2, 160)
    settings: dict[str, object] = {"pretrained": False}
    both = load(VIT, feature="cls_mean", **settings)
    assert both.num_prefix_tokens == 1
    tokens = both.tokens(normalised(both, frames)).numpy()
    cls = load(VIT, feature="cls", **settings).encode_frames(frames)
    mean = load(VIT, feature="mean", **settings).encode_frames(frames)
    np.testing.assert_allclose(cls, tokens[:, 0], atol=1e-6)
    np.testing.assert_allclose(mean, tokens[:, 1:].mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(both.encode_frames(frames), np.concatenate([cls, mean], axis=1), atol=1e-6)
    last_block = load(VIT, layer=-1, **settings)
    inner = last_block.tokens(normalised(last_block, frames))
    # The last block without the final norm; the norm is all that lies between the two.
    with torch.inference_mode():
        normed = last_block.module.norm(inner).numpy()  # type: ignore[operator]
    np.testing.assert_allclose(normed, tokens, atol=1e-5)


def test_a_vit_takes_another_image_size() -> None:
    backbone = load(VIT, pretrained=False, image_size=64)
    assert backbone.tokens(torch.zeros(1, 3, 64, 64)).shape[1] == 1 + 16
    assert backbone.encode_frames(random_frames(2, 64)).shape == (2, backbone.feature_dim)


def test_channels_last_models_of_timm_become_tokens() -> None:
    backbone = load("timm:test_convnext", pretrained=False)
    tokens = backbone.tokens(torch.zeros(1, 3, backbone.image_size, backbone.image_size))
    assert tokens.ndim == 3 and backbone.num_prefix_tokens == 0


@pytest.mark.parametrize("backbone", [LITE, VIT])
def test_random_weights_follow_the_seed_and_nothing_else(backbone: str) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = load(backbone, pretrained=False, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    again, other = load(backbone, pretrained=False, seed=1), load(backbone, pretrained=False, seed=2)
    mine = first.module.state_dict()
    assert all(torch.equal(tensor, again.module.state_dict()[name]) for name, tensor in mine.items())
    assert not all(torch.equal(tensor, other.module.state_dict()[name]) for name, tensor in mine.items())


def test_a_backbone_is_frozen_and_in_eval_mode() -> None:
    backbone = load(VIT, pretrained=False)
    assert not backbone.module.training
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())
    assert backbone.tokens(torch.zeros(1, 3, 160, 160)).is_inference()


def test_features_do_not_depend_on_the_batch() -> None:
    backbone = load(LITE, image_size=64)
    frames = random_frames(9, 64)
    together = backbone.encode_frames(frames)
    alone = np.concatenate([backbone.encode_frames(frames[i : i + 1]) for i in range(9)])
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-5 * np.abs(together).max())
    assert backbone.encode_frames(frames[:0]).shape == (0, 1280)


def test_read_only_and_strided_frames_are_accepted() -> None:
    backbone = load(LITE, image_size=64)
    frames = random_frames(4, 64)
    frozen = frames.copy()
    frozen.setflags(write=False)
    np.testing.assert_array_equal(backbone.encode_frames(frozen), backbone.encode_frames(frames))
    np.testing.assert_array_equal(backbone.encode_frames(frames[::2]), backbone.encode_frames(frames[::2].copy()))


@pytest.mark.parametrize("bad", [np.zeros((2, 64, 64, 3), np.uint8), np.zeros((2, 3, 64, 64), np.float32)])
def test_other_frames_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"frames must be uint8 \(B, 3, H, W\)"):
        load(LITE, image_size=64).encode_frames(bad)


def test_preprocessing_scales_and_normalises() -> None:
    preprocessing = Preprocessing(8, (0.1, 0.2, 0.3), (0.5, 0.25, 2.0), "bicubic")
    frames = random_frames(2, 8)
    expected = (frames / 255.0 - np.array([0.1, 0.2, 0.3])[:, None, None]) / np.array([0.5, 0.25, 2.0])[:, None, None]
    np.testing.assert_allclose(preprocessing.apply(torch.from_numpy(frames)).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 40), (20, 40), (40, 20), (5, 5)])
def test_preprocessing_resizes_like_pillow(shape: tuple[int, int]) -> None:
    """Against Pillow's bicubic, the reference of the weights' authors; one grey level of rounding.

    The picture keeps away from 0 and 255, where Pillow cuts off between its two passes and
    vlmvid only at the end.
    """
    height, width = shape
    smooth = np.linspace(80, 200, height)[:, None] * np.linspace(0.5, 1, width)[None]
    frame = np.repeat(smooth.astype(np.uint8)[None], 3, axis=0)
    size = 10
    scale = size / min(height, width)
    resized = Image.fromarray(frame.transpose(1, 2, 0)).resize(
        (round(width * scale), round(height * scale)), Image.Resampling.BICUBIC
    )
    top, left = (resized.height - size) // 2, (resized.width - size) // 2
    expected = np.asarray(resized)[top : top + size, left : left + size].transpose(2, 0, 1)
    pixels = Preprocessing(size, (0.0,) * 3, (1.0,) * 3, "bicubic").apply(torch.from_numpy(frame[None]))[0]  # type: ignore[arg-type]
    assert np.abs(255 * pixels.numpy() - expected).max() <= 1.0


def test_preprocessing_never_leaves_the_range_of_pixels() -> None:
    edges = np.zeros((1, 3, 6, 6), np.uint8)
    edges[..., 3:] = 255
    pixels = Preprocessing(12, (0.0,) * 3, (1.0,) * 3, "bicubic").apply(torch.from_numpy(edges))  # type: ignore[arg-type]
    assert pixels.min() == 0 and pixels.max() == 1


def test_an_unknown_family_lists_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match="known: efficientnet-lite0, efficientnet-lite1, efficientnet-lite2, hf, timm, video"
    ):
        load("resnet50")
    for words in ("unknown vision backbone family", "a timm model is written timm:NAME, a Hugging Face one hf:REPO$"):
        with pytest.raises(ConfigError, match=words):
            load("resnet50")
    with pytest.raises(ConfigError, match="did you mean 'timm'.*known: .*timm:NAME"):
        backbone_module(VisionConfig(backbone="tim:resnet50"))
    assert VISION_BACKBONES.names() == [*IMAGE_SIZES, "hf", "timm", "video"]


@pytest.mark.parametrize(
    ("backbone", "settings", "message"),
    [
        ("timm:", {}, "expected timm:NAME"),
        (f"{LITE}:b", {}, "takes no name after a colon"),
        ("timm:resnet5000", {"pretrained": False}, "nearest: .*resnet50"),
        ("timm:test_vit.bogus", {"pretrained": False}, "Invalid pretrained tag"),
        (LITE, {"feature": "cls"}, "has no class token"),
        (LITE, {"feature": "cls_mean"}, "has no class token"),
        (LITE, {"layer": 5, "image_size": 64}, "layer=5.*out of range"),
        (LITE, {"feature": "grid", "grid_size": 3, "image_size": 64}, "at least grid_size=3 a side"),
        ("hf:/no/such/folder", {}, "does not exist"),
        ("timm:coat_lite_tiny", {"pretrained": False}, "cls_token1 but .* class token cannot be told from patches"),
        ("timm:pit_xs_distilled_224", {"pretrained": False}, "class token cannot be told from patches"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_load(
    backbone: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(backbone, **settings)


def test_a_timm_model_of_several_outputs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_timm("test_convnext")
    forward = model.forward_features
    # As CoaT and CrossViT do, in a fraction of their time.
    monkeypatch.setattr(type(model), "forward_features", lambda _, pixels: [forward(pixels), forward(pixels)])
    with pytest.raises(ConfigError, match=r"\(ConvNeXt\) gives a list of several outputs; expected one tensor"):
        load("timm:test_convnext", pretrained=False)


def test_pretrained_timm_weights_come_from_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    source = create_timm("test_vit", None, pretrained=False)
    weights = save({name: tensor.contiguous() for name, tensor in source.state_dict().items()})
    files = {"config.json": b"{}", "model.safetensors": weights}
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"not in the Hugging Face cache .*hf download timm/test_vit.TAG"):
        load(VIT)
    hub_cache(tmp_path, "timm/test_vit.r160_in1k", files)
    for name in (VIT, "timm:test_vit.r160_in1k"):
        loaded = load(name).module.state_dict()
        assert all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in loaded.items())
    hub_cache(tmp_path, "timm/test_vit.other", files)
    with pytest.raises(ConfigError, match=r"name one of: test_vit.other, test_vit.r160_in1k"):
        load(VIT)


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [("clip", 1), ("siglip", 0), ("vit", 1), ("dinov2", 1), ("dinov2_registers", 5), ("vit_mae", 1), ("resnet", 0)],
)
def test_hugging_face_vision_models_give_their_tokens(tmp_path: Path, kind: str, prefix: int) -> None:
    model = tiny_vision(kind)
    folder = save_model(model, tmp_path / kind)
    backbone = load(f"hf:{folder}", feature="mean")
    assert backbone.num_prefix_tokens == prefix and backbone.image_size == 32
    assert backbone.preprocessing == Preprocessing(32, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bicubic")
    pixels = normalised(backbone, random_frames(2, 32))
    if kind == "vit_mae":
        model.config.mask_ratio = 0.0
        noise = torch.linspace(0, 1, 16).repeat(2, 1)
        expected = model(pixel_values=pixels, noise=noise).last_hidden_state
    else:
        expected = map_to_tokens(model(pixel_values=pixels).last_hidden_state)
    torch.testing.assert_close(backbone.tokens(pixels), expected.detach(), rtol=1e-4, atol=1e-5)
    # The first block or stage, straight from the hidden states.
    level = load(f"hf:{folder}", feature="mean", layer=0)
    noise_or_nothing = {"noise": noise} if kind == "vit_mae" else {}
    hidden = model(pixel_values=pixels, output_hidden_states=True, **noise_or_nothing).hidden_states[1]
    torch.testing.assert_close(level.tokens(pixels), map_to_tokens(hidden).detach(), rtol=1e-4, atol=1e-5)


def test_mae_tokens_keep_the_order_of_the_patches(tmp_path: Path) -> None:
    backbone = load(f"hf:{save_model(tiny_vision('vit_mae'), tmp_path / 'mae')}", layer=0)
    black = torch.zeros(1, 3, 32, 32)
    for patch in (0, 5, 15):
        row, column = divmod(patch, 4)
        marked = black.clone()
        marked[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 3.0
        moved = (backbone.tokens(marked) - backbone.tokens(black))[0, 1:].norm(dim=1)
        assert moved.argmax().item() == patch


def test_the_vision_tower_of_clip_is_taken(tmp_path: Path) -> None:
    clip = tiny_clip()
    folder = save_model(clip, tmp_path / "clip")
    backbone = load(f"hf:{folder}", feature="cls_mean")
    pixels = normalised(backbone, random_frames(2, 32))
    expected = clip.vision_model(pixel_values=pixels).last_hidden_state.detach()
    torch.testing.assert_close(backbone.tokens(pixels), expected, rtol=1e-4, atol=1e-5)
    assert not any("text" in name for name in backbone.module.state_dict())


def test_hugging_face_models_take_another_image_size(tmp_path: Path) -> None:
    for kind, prefix in [("clip", 1), ("dinov2", 1), ("siglip", 0)]:
        folder = save_model(tiny_vision(kind), tmp_path / kind)
        backbone = load(f"hf:{folder}", image_size=64, feature="grid")
        assert backbone.num_prefix_tokens == prefix
        assert backbone.tokens(torch.zeros(1, 3, 64, 64)).shape == (1, prefix + 64, 16)


def test_a_local_config_alone_gives_a_random_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_vision("vit").config.to_dict()))
    first, again = (load(f"hf:{tmp_path}", pretrained=False, seed=4, feature="cls") for _ in range(2))
    frames = random_frames(2, 32)
    np.testing.assert_array_equal(first.encode_frames(frames), again.encode_frames(frames))
    assert first.preprocessing == Preprocessing(32, (0.5,) * 3, (0.5,) * 3, "bicubic")
    with pytest.raises(ConfigError, match="has no weights"):
        load(f"hf:{tmp_path}")


def test_a_hub_repository_is_read_from_the_cache_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_model(tiny_vision("vit"), tmp_path / "vit")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="hf download me/vit"):
        load("hf:me/vit")
    hub_cache(tmp_path / "cache", "me/vit", files)
    frames = random_frames(2, 32)
    np.testing.assert_array_equal(load("hf:me/vit").encode_frames(frames), load(f"hf:{folder}").encode_frames(frames))
    with pytest.raises(ConfigError, match="neither a folder nor a Hugging Face repository name"):
        load("hf:not//a-name")


def test_pretrained_weights_need_their_preprocessing(tmp_path: Path) -> None:
    folder = save_model(tiny_vision("vit"), tmp_path / "vit", preprocessor=None)
    with pytest.raises(ConfigError, match="has no preprocessor_config.json"):
        load(f"hf:{folder}")
    for values, message in [
        ({"resample": 0}, "resample=0"),
        ({"rescale_factor": 1.0}, "other than by 1/255"),
        ({"image_mean": None}, "image_mean=None, so its normalisation is unknown"),
        ({"image_std": 0.5}, "image_std=0.5, so its"),
    ]:
        (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR | values))
        with pytest.raises(ConfigError, match=message):
            load(f"hf:{folder}")


def test_weights_that_leave_tensors_unset_are_refused(tmp_path: Path) -> None:
    model = tiny_vision("vit")
    folder = save_model(model, tmp_path / "vit")
    state = {name: tensor for name, tensor in model.state_dict().items() if "layernorm" not in name}
    assert len(state) < len(model.state_dict())
    (folder / "model.safetensors").write_bytes(save(state, metadata={"format": "pt"}))
    with pytest.raises(CheckpointError, match="14 missing: layernorm.bias"):
        load(f"hf:{folder}")


@pytest.mark.parametrize(("name", "num_tensors", "num_weights"), [(LITE, 296, 247), ("efficientnet-lite1", 386, 322)])
def test_lite_architecture_has_the_tensors_of_the_package(name: str, num_tensors: int, num_weights: int) -> None:
    stored = torch.load(sources.efficientnet_lite_file(name), weights_only=True)
    architecture = sources.efficientnet_lite_architecture(name)
    assert len(stored) == len(create_timm(architecture).state_dict()) == num_tensors
    assert sum("num_batches_tracked" not in name for name in stored) == num_weights
