"""Tiny local model folders, in the layout of the Hugging Face hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.models import sources
from vlmvid.models.runtime import seeded
from vlmvid.models.torchvision_compat import ensure_torchvision
from vlmvid.models.transformers_loading import quiet_transformers

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
PREPROCESSOR: dict[str, Any] = {
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    "size": {"shortest_edge": 36},
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.4],
    "resample": 3,
    "rescale_factor": 1 / 255,
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def random_frames(num_frames: int, size: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, 3, size, size), dtype=np.uint8)


def save_model(model: Any, folder: Path, preprocessor: dict[str, Any] | None = PREPROCESSOR) -> Path:
    with quiet_transformers():
        model.save_pretrained(folder)
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def tiny_vision(kind: str) -> Any:
    """A vision model of transformers with random weights."""
    ensure_torchvision()
    import transformers as t

    with seeded(5):
        match kind:
            case "clip":
                return t.CLIPVisionModel(t.CLIPVisionConfig(**SMALL)).eval()
            case "siglip":
                return t.SiglipVisionModel(t.SiglipVisionConfig(**SMALL)).eval()
            case "vit":
                return t.ViTModel(t.ViTConfig(**SMALL)).eval()
            case "dinov2":
                return t.Dinov2Model(t.Dinov2Config(**SMALL, mlp_ratio=2)).eval()
            case "dinov2_registers":
                config = t.Dinov2WithRegistersConfig(**SMALL, mlp_ratio=2, num_register_tokens=4)
                return t.Dinov2WithRegistersModel(config).eval()
            case "vit_mae":
                return t.ViTMAEModel(t.ViTMAEConfig(**SMALL)).eval()
            case "dinov3_vit":
                return t.DINOv3ViTModel(t.DINOv3ViTConfig(**SMALL, num_register_tokens=4)).eval()
            case "dinov3_convnext":
                config = t.DINOv3ConvNextConfig(hidden_sizes=[4, 8, 8, 16], depths=[1, 1, 1, 1], image_size=64)
                return t.DINOv3ConvNextModel(config).eval()
            case "aimv2":
                return t.Aimv2VisionModel(t.Aimv2VisionConfig(**SMALL)).eval()
            case "siglip2":
                sizes = {key: value for key, value in SMALL.items() if key != "image_size"}
                return t.Siglip2VisionModel(t.Siglip2VisionConfig(**sizes, num_patches=16)).eval()
            case "videomae":
                return t.VideoMAEModel(t.VideoMAEConfig(**SMALL, num_frames=4, tubelet_size=2)).eval()
            case "resnet":
                config = t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
                return t.ResNetModel(config).eval()
    raise ValueError(kind)


def tiny_clip() -> Any:
    """A two-tower CLIP with random weights; its text tower fits MiniLM's vocabulary."""
    ensure_torchvision()
    import transformers as t

    text = dict(SMALL, vocab_size=30522, max_position_embeddings=40, eos_token_id=102)
    text = {key: value for key, value in text.items() if key not in ("image_size", "patch_size")}
    with seeded(6):
        return t.CLIPModel(t.CLIPConfig(vision_config=dict(SMALL), text_config=text, projection_dim=8)).eval()


def copy_tokenizer(folder: Path) -> None:
    for name in TOKENIZER_FILES:
        shutil.copy(sources.minilm_folder() / name, folder / name)


def small_copy(folder: Path, **files: object) -> Path:
    """The MiniLM folder with a model of two tiny layers and the given JSON files."""
    ensure_torchvision()
    from transformers import BertConfig, BertModel

    with seeded(2):
        config = BertConfig(
            vocab_size=30522, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
        )
        save_model(BertModel(config), folder, preprocessor=None)
    copy_tokenizer(folder)
    for name, values in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(values))
    return folder


def tiny_siglip(kind: str) -> Any:
    """A two-tower SigLIP with random weights, texts of 12 tokens of MiniLM's vocabulary, text features of 10."""
    ensure_torchvision()
    import transformers as t

    text = {key: value for key, value in SMALL.items() if key not in ("image_size", "patch_size")}
    text |= {"vocab_size": 30522, "max_position_embeddings": 12, "projection_size": 10, "pad_token_id": 0}
    text |= {"bos_token_id": 101, "eos_token_id": 102}
    with seeded(7):
        if kind == "siglip":
            return t.SiglipModel(t.SiglipConfig(vision_config=dict(SMALL), text_config=text)).eval()
        vision = {key: value for key, value in SMALL.items() if key != "image_size"} | {"num_patches": 16}
        return t.Siglip2Model(t.Siglip2Config(vision_config=vision, text_config=text)).eval()


def hub_cache(root: Path, repo: str, files: dict[str, bytes]) -> Path:
    """A Hugging Face cache that holds one snapshot of `repo`; returns the cache folder."""
    base = root / f"models--{repo.replace('/', '--')}"
    snapshot = base / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text("0123abcd")
    for name, data in files.items():
        (snapshot / name).write_bytes(data)
    return root
