"""Pixels as the libraries' own processors make them, for a frame that has the right size already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.models_fixtures import random_frames, tiny_vision
from vlmvid.config.encoders import VisionConfig
from vlmvid.models.backbones import load_vision_backbone
from vlmvid.models.backbones.hf_backbone import read_preprocessing
from vlmvid.models.torchvision_compat import ensure_torchvision
from vlmvid.models.transformers_loading import quiet_transformers

# Both compute in float32; a normalised pixel is at most about 3.
TOLERANCE = 1e-6
# Model of `tiny_vision`, its published processor's class, what the processor is told besides its defaults.
PROCESSORS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "clip": ("clip", "CLIPImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": 32}),
    "siglip": ("siglip", "SiglipImageProcessor", {"size": {"height": 32, "width": 32}}),
    "siglip2": ("siglip2", "Siglip2ImageProcessor", {"patch_size": 8, "max_num_patches": 16}),
    "dinov2": ("dinov2", "BitImageProcessor", {"size": {"shortest_edge": 36}, "crop_size": 32}),
    "dinov3 vit": ("dinov3_vit", "DINOv3ViTImageProcessor", {"size": {"height": 32, "width": 32}}),
    "dinov3 convnext": ("dinov3_convnext", "DINOv3ViTImageProcessor", {"size": {"height": 64, "width": 64}}),
    "vit mae": ("vit_mae", "ViTImageProcessor", {"size": {"height": 32, "width": 32}}),
    "aimv2": ("aimv2", "CLIPImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": 32}),
    "videomae": ("videomae", "VideoMAEImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": 32}),
    "videomae video": ("videomae", "VideoMAEVideoProcessor", {"size": {"shortest_edge": 32}, "crop_size": 32}),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_equal_those_of_the_processor_of_transformers(name: str, tmp_path: Path) -> None:
    ensure_torchvision()
    import transformers

    kind, class_name, options = PROCESSORS[name]
    with quiet_transformers():
        processor = getattr(transformers, class_name)(**options)
        processor.save_pretrained(tmp_path)
    config = VisionConfig(backbone=f"hf:{tmp_path}")
    preprocessing = read_preprocessing(tmp_path, config, tiny_vision(kind).config)
    size = 64 if name == "dinov3 convnext" else 32
    assert preprocessing.image_size == size
    frame = torch.from_numpy(random_frames(1, size)[0])
    # With the margin that the processor would crop away it would resize first: the frame is cropped already.
    resizes = options.get("size", {}).get("shortest_edge") == 36
    asked = {"do_resize": False} if resizes else {}
    with quiet_transformers():
        if class_name.endswith("VideoProcessor"):
            expected = processor(videos=[frame[None]], return_tensors="pt")["pixel_values"][0, 0]
        else:
            expected = processor(images=frame, return_tensors="pt", **asked)["pixel_values"][0]
    pixels = preprocessing.apply(frame[None])[0]
    if kind == "siglip2":
        patches = pixels.reshape(3, 4, 8, 4, 8).permute(1, 3, 2, 4, 0)  # rows, columns, then pixels, then channels
        pixels = patches.reshape(16, -1)
    elif expected.ndim == 4:
        expected = expected[0]
    torch.testing.assert_close(pixels, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet"])
def test_pixels_equal_those_of_timms_transform(name: str) -> None:
    backbone = load_vision_backbone(VisionConfig(backbone=f"timm:{name}", pretrained=False))
    from timm.data import create_transform, resolve_data_config

    # Without the crop: the frame has the size that the model sees.
    settings = resolve_data_config({"crop_pct": 1.0}, model=backbone.module)
    frame = random_frames(1, backbone.image_size)[0]
    expected = create_transform(**settings)(Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0))))
    pixels = backbone.preprocessing.apply(torch.from_numpy(frame[None]))[0]
    torch.testing.assert_close(pixels, expected, rtol=0, atol=TOLERANCE)
