from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.unit.test_models_video import image, vit, wake
from vlmvid.config.encoders import VideoConfig, VisionConfig
from vlmvid.errors import CheckpointError, ConfigError
from vlmvid.models.backbones import load_vision_backbone
from vlmvid.models.backbones.base import Preprocessing
from vlmvid.models.backbones.video_backbone import load_video_encoder, save_video_encoder
from vlmvid.models.families import backbone_module, vision_files
from vlmvid.models.saving import load_vision, save_vision
from vlmvid.models.video.encoder import VideoEncoder, build_video_encoder

PREPROCESSING = Preprocessing(16, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bilinear")


def encoder(kind: str = "divided", tubelet_size: int = 2) -> VideoEncoder:
    config = VideoConfig.model_validate({"kind": kind, "tubelet_size": tubelet_size})
    return wake(build_video_encoder(config, image(), 4, seed=0)).eval()


def clips(num_clips: int = 3, num_frames: int = 4, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_clips, num_frames, 3, size, size), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["frames", "divided", "factorised", "temporal_shift", "st_adapter", "aim"])
def test_a_saved_encoder_is_a_backbone(tmp_path: Path, kind: str) -> None:
    trained = encoder(kind)
    save_video_encoder(trained, PREPROCESSING, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["video.json", "video.safetensors"]
    config = VisionConfig(backbone=f"video:{tmp_path}", feature="cls_mean")
    backbone = load_vision_backbone(config)
    pixels = torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = trained(pixels)
    assert torch.equal(backbone.clip_tokens(pixels), expected)
    found = backbone.encode_clips(clips(), features=("cls_mean", "mean", "grid"), keep_tokens=True)
    assert {name: values.shape for name, values in found.items()} == {
        "cls_mean": (3, 2, 32), "mean": (3, 2, 16), "grid": (3, 2, 64), "tokens": (3, 2, 6, 16)
    }  # fmt: skip
    pixels = PREPROCESSING.apply(torch.from_numpy(clips()).flatten(0, 1)).unflatten(0, (3, 4))
    with torch.no_grad():
        tokens = trained(pixels).numpy()
    np.testing.assert_allclose(found["tokens"], tokens, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["mean"], tokens[:, :, 2:].mean(axis=2), rtol=1e-5, atol=1e-5)
    assert (backbone.tubelet_size, backbone.num_prefix_tokens, backbone.num_steps(6)) == (2, 2, 3)
    assert backbone.has_class_token


def test_frames_of_a_clip_see_one_another(tmp_path: Path) -> None:
    save_video_encoder(encoder(), PREPROCESSING, tmp_path)
    backbone = load_vision_backbone(VisionConfig(backbone=f"video:{tmp_path}"))
    frames, other = clips(), clips()
    other[:, 3] = 0
    difference = np.abs(backbone.encode_clips(frames)["mean"] - backbone.encode_clips(other)["mean"])
    assert difference[:, 0].max() > 1e-4


def test_a_saved_model_folder_holds_a_video_backbone(tmp_path: Path) -> None:
    save_video_encoder(encoder(), PREPROCESSING, tmp_path / "encoder")
    backbone = load_vision_backbone(VisionConfig(backbone=f"video:{tmp_path / 'encoder'}", feature="grid"))
    save_vision(backbone, tmp_path / "model")
    loaded = load_vision(tmp_path / "model")
    np.testing.assert_array_equal(loaded.encode_clips(clips())["grid"], backbone.encode_clips(clips())["grid"])
    assert str(tmp_path) not in (tmp_path / "model" / "vision.json").read_text()


def test_saving_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_video_encoder(encoder(), PREPROCESSING, tmp_path / name)
    for file in ("video.json", "video.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_both_files_enter_the_digest(tmp_path: Path) -> None:
    save_video_encoder(encoder(), PREPROCESSING, tmp_path)
    config = VisionConfig(backbone=f"video:{tmp_path}")
    named = [("video.json", tmp_path / "video.json"), ("video.safetensors", tmp_path / "video.safetensors")]
    assert vision_files(config) == named
    assert vision_files(config.model_copy(update={"pretrained": False})) == named[:1]
    assert backbone_module(config) == "vlmvid.models.backbones.video_backbone"


def test_random_weights_come_from_the_seed(tmp_path: Path) -> None:
    save_video_encoder(encoder(), PREPROCESSING, tmp_path)
    (tmp_path / "video.safetensors").unlink()
    config = VisionConfig(backbone=f"video:{tmp_path}", pretrained=False)
    first, again, other = (
        load_vision_backbone(config.model_copy(update={"seed": seed})).encode_clips(clips())["mean"]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save_video_encoder(encoder(), PREPROCESSING, tmp_path)
    path = tmp_path / "video.safetensors"
    good = load_file(path)
    for change, message in [
        ({name: tensor for name, tensor in good.items() if name != "cls_token"}, "1 missing: cls_token"),
        ({**good, "other": torch.zeros(1)}, "1 too many: other"),
        (
            {**good, "cls_token": torch.zeros(1, 1, 3)},
            r"1 of another shape: cls_token \(1, 1, 3\) instead of \(1, 1, 16\)",
        ),
    ]:
        save_file(change, path)
        with pytest.raises(CheckpointError, match=message):
            load_video_encoder(tmp_path)
    save_file(good, path)
    description = json.loads((tmp_path / "video.json").read_text())
    for values, message in [
        ({**description, "format_version": 99}, "format version 99"),
        ({**description, "preprocessing": {}}, "not a saved video encoder"),
        ({**description, "architecture": {}}, "describe no video encoder"),
        ({**description, "architecture": {**description["architecture"], "num_frames": 3}}, "no multiple of tubelet"),
    ]:
        (tmp_path / "video.json").write_text(json.dumps(values))
        with pytest.raises(CheckpointError, match=message):
            load_video_encoder(tmp_path)


def test_bad_requests_are_refused_when_the_backbone_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"video\.json and video\.safetensors missing"):
        load_vision_backbone(VisionConfig(backbone=f"video:{tmp_path}"))
    save_video_encoder(encoder(), PREPROCESSING, tmp_path)
    for options, message in [
        ({"layer": 1}, "leave layer=1 out"),
        ({"image_size": 32}, "trained at 16 px"),
        ({"feature": "grid", "grid_size": 3}, "grid"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_vision_backbone(VisionConfig.model_validate({"backbone": f"video:{tmp_path}", **options}))
    backbone = load_vision_backbone(VisionConfig(backbone=f"video:{tmp_path}"))
    with pytest.raises(ConfigError, match="5 frames per clip are no multiple of tubelet_size=2"):
        backbone.encode_clips(clips(num_frames=5))


def test_a_backbone_takes_squares_of_one_size(tmp_path: Path) -> None:
    wide = build_video_encoder(VideoConfig(), vit(img_size=(16, 24)), 4, seed=0)
    with pytest.raises(ConfigError, match="the same square"):
        save_video_encoder(wide, PREPROCESSING, tmp_path)
