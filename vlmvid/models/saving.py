"""Frozen models as folders: safetensors and JSON only, loadable without a hub or a PyPI package.

::

    folder/vision.json   vision.safetensors
    folder/text.json     text.safetensors     tokenizer/

Loading gives bit-equal features on the same machine and package versions.
"""

from __future__ import annotations

from pathlib import Path

from vlmvid.config.encoders import VisionConfig
from vlmvid.errors import CheckpointError
from vlmvid.models.backbones.base import FrozenBackbone, Preprocessing, per_channel
from vlmvid.models.backbones.hf_backbone import HFBackbone
from vlmvid.models.backbones.timm_backbone import TimmBackbone, create_timm, without_classifier
from vlmvid.models.module_files import FORMAT_VERSION, load_module, read_description, save_module, write_json
from vlmvid.models.runtime import resolve_device, seeded
from vlmvid.models.text import TextEncoder, load_tokenizer
from vlmvid.models.transformers_loading import model_from_config


def save_vision(backbone: FrozenBackbone, folder: Path) -> None:
    """Write ``vision.json`` and ``vision.safetensors`` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"format_version": FORMAT_VERSION, "name": _public_name(backbone.config.backbone), **backbone.describe()}
    save_module(backbone.module, folder / "vision.safetensors")
    write_json(values, folder / "vision.json")


def load_vision(folder: Path, device: str = "cpu") -> FrozenBackbone:
    """The backbone that `save_vision` wrote; raises CheckpointError when the files do not fit."""
    values = read_description(folder / "vision.json")
    try:
        stated, architecture = values["preprocessing"], dict(values["architecture"])
        preprocessing = Preprocessing(
            int(stated["image_size"]), per_channel(stated["mean"]), per_channel(stated["std"]), stated["interpolation"]
        )
        config = VisionConfig(backbone=values["name"], image_size=preprocessing.image_size, **values["features"])
        family = values["family"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'vision.json'} is not a saved vision backbone: {error!r}") from error
    backbone: FrozenBackbone
    with seeded(0):
        match family:
            case "timm":
                module = without_classifier(create_timm(**architecture))
                load_module(module, folder / "vision.safetensors")
                backbone = TimmBackbone(module, config, preprocessing, architecture)
            case "hf":
                module = model_from_config(architecture)
                load_module(module, folder / "vision.safetensors")
                backbone = HFBackbone(module, config, preprocessing)
            case _:
                raise CheckpointError(f"{folder / 'vision.json'}: unknown family {family!r}; expected timm or hf")
    if backbone.feature_dim != values["feature_dim"]:
        raise CheckpointError(f"{folder}: features of length {backbone.feature_dim}, expected {values['feature_dim']}")
    return backbone.to(resolve_device(device))


def save_text(encoder: TextEncoder, folder: Path) -> None:
    """Write ``text.json``, ``text.safetensors`` and the folder ``tokenizer`` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_module(encoder.module, folder / "text.safetensors")
    encoder.tokenizer.save_pretrained(folder / "tokenizer")
    write_json({"format_version": FORMAT_VERSION, **encoder.describe()}, folder / "text.json")


def load_text(folder: Path, device: str = "cpu") -> TextEncoder:
    """The encoder that `save_text` wrote; raises CheckpointError when the files do not fit."""
    values = read_description(folder / "text.json")
    try:
        with seeded(0):
            module = model_from_config(values["architecture"])
        pooling, max_length = values["pooling"], int(values["max_length"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'text.json'} is not a saved text encoder: {error!r}") from error
    load_module(module, folder / "text.safetensors")
    encoder = TextEncoder(module, load_tokenizer(folder / "tokenizer"), pooling, max_length)
    encoder.module.to(resolve_device(device))
    return encoder


def _public_name(backbone: str) -> str:
    # A folder's path says nothing on another machine, and may say too much.
    family, colon, name = backbone.partition(":")
    return f"{family}{colon}{Path(name).name}" if Path(name).is_dir() else backbone
