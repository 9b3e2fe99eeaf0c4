"""Frozen models as folders: safetensors and JSON only, loadable without a hub or a PyPI package.

::

    folder/vision.json   vision.safetensors
    folder/text.json     text.safetensors     tokenizer/     (tail.safetensors)

Loading gives bit-equal features on the same machine and package versions.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmvid.config.encoders import VisionConfig
from vlmvid.errors import CheckpointError
from vlmvid.models.backbones.base import FrozenBackbone, Preprocessing, per_channel
from vlmvid.models.backbones.hf_backbone import HFBackbone
from vlmvid.models.backbones.timm_backbone import TimmBackbone, create_timm, without_classifier
from vlmvid.models.backbones.video_backbone import VideoBackbone, encoder_of
from vlmvid.models.module_files import FORMAT_VERSION, load_module, read_description, save_module, write_json
from vlmvid.models.runtime import resolve_device, seeded, usable_precision
from vlmvid.models.text import TextEncoder, load_tokenizer
from vlmvid.models.text_settings import TextSettings, build_tail
from vlmvid.models.transformers_loading import model_from_config


def save_vision(backbone: FrozenBackbone, folder: Path) -> None:
    """Write ``vision.json`` and ``vision.safetensors`` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"format_version": FORMAT_VERSION, "name": _public_name(backbone.config.backbone), **backbone.describe()}
    save_module(backbone.module, folder / "vision.safetensors")
    write_json(values, folder / "vision.json")


def load_vision(folder: Path, device: str = "cpu") -> FrozenBackbone:
    """The backbone that `save_vision` wrote, on `device`.

    It computes in the precision it was saved with, or in float32 where the device has no such arithmetic.
    Raises CheckpointError when the files do not fit and ConfigError for a device that is not here.
    """
    values = read_description(folder / "vision.json")
    try:
        stated, architecture = values["preprocessing"], dict(values["architecture"])
        preprocessing = Preprocessing(
            int(stated["image_size"]), per_channel(stated["mean"]), per_channel(stated["std"]), stated["interpolation"]
        )
        features = dict(values["features"])
        target = resolve_device(device)
        features["precision"] = usable_precision(target, features.get("precision", "float32"))
        config = VisionConfig(backbone=values["name"], image_size=preprocessing.image_size, **features)
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
            case "video":
                module = encoder_of(architecture)
                load_module(module, folder / "vision.safetensors")
                backbone = VideoBackbone(module, config, preprocessing)
            case _:
                raise CheckpointError(
                    f"{folder / 'vision.json'}: unknown family {family!r}; expected timm, hf or video"
                )
    if backbone.feature_dim != values["feature_dim"]:
        raise CheckpointError(f"{folder}: features of length {backbone.feature_dim}, expected {values['feature_dim']}")
    return backbone.to(target)


def save_text(encoder: TextEncoder, folder: Path) -> None:
    """Write ``text.json``, ``text.safetensors`` and the folder ``tokenizer`` into `folder`.

    Layers behind the pooling, where there are any with weights, go to ``tail.safetensors``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_module(encoder.module, folder / "text.safetensors")
    if encoder.tail.state_dict():
        save_module(encoder.tail, folder / "tail.safetensors")
    _unused(encoder.tokenizer).save_pretrained(folder / "tokenizer")
    write_json({"format_version": FORMAT_VERSION, **encoder.describe()}, folder / "text.json")


def _unused(tokenizer: Any) -> Any:
    """A copy without the truncation and padding of its last call, which are asked for anew with every call.

    They would be written into the files, whose bytes would then tell what was encoded before.
    """
    fresh = deepcopy(tokenizer)
    backend = getattr(fresh, "backend_tokenizer", None)  # tokenizers written in Python keep no such state
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
    return fresh


def load_text(folder: Path, device: str = "cpu") -> TextEncoder:
    """The encoder that `save_text` wrote, in float32 where the device lacks its precision.

    Raises CheckpointError when the files do not fit.
    """
    target = resolve_device(device)
    values = read_description(folder / "text.json")
    try:
        with seeded(0):
            module = model_from_config(values["architecture"])
            tail = build_tail(values.get("tail", ()))
        settings = _read_settings(values)
        settings = replace(settings, precision=usable_precision(target, settings.precision))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'text.json'} is not a saved text encoder: {error!r}") from error
    load_module(module, folder / "text.safetensors")
    if tail.state_dict():
        load_module(tail, folder / "tail.safetensors")
    return TextEncoder(module, load_tokenizer(folder / "tokenizer"), settings, tail).to(target)


def _read_settings(values: dict[str, Any]) -> TextSettings:
    if "settings" not in values:  # written before encoders had prompts and layers behind the pooling
        return TextSettings((values["pooling"],), int(values["max_length"]))
    stated = dict(values["settings"])
    return TextSettings(poolings=tuple(stated.pop("poolings")), **stated)


def _public_name(backbone: str) -> str:
    # A folder's path says nothing on another machine, and may say too much.
    family, colon, name = backbone.partition(":")
    return f"{family}{colon}{Path(name).name}" if Path(name).is_dir() else backbone
