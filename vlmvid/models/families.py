"""The families of backbones and text encoders, and which files decide each one's result.

Light: torch is imported only when something is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlmvid.config.schema import TextConfig, VisionConfig
from vlmvid.errors import ConfigError
from vlmvid.models import sources
from vlmvid.registry import Registry

if TYPE_CHECKING:
    from vlmvid.models.backbones.base import FrozenBackbone

NamedFiles = list[tuple[str, Path | None]]

_PREPROCESSING_FILES = ("config.json", "preprocessor_config.json", "processor_config.json")
_TEXT_FILES = (
    "config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)


@dataclass(frozen=True, slots=True)
class BackboneFamily:
    """One way to name a vision backbone.

    Attributes:
        load: (config, name after the colon) -> backbone on the CPU.
        files: (config, name) -> the files that decide its weights and preprocessing, each with
            the name that enters the digest; a None path is a name alone.
        takes_name: whether ``FAMILY:NAME`` is expected instead of ``FAMILY``.
    """

    load: Callable[[VisionConfig, str], FrozenBackbone]
    files: Callable[[VisionConfig, str], NamedFiles]
    takes_name: bool


def split_backbone(spec: str) -> tuple[BackboneFamily, str]:
    """The family of a `VisionConfig.backbone` string and the name after its colon.

    Raises ConfigError for an unknown family, and for a name missing or too many.
    """
    family_name, colon, name = spec.partition(":")
    family = VISION_BACKBONES.get(family_name)
    if family.takes_name and not name:
        raise ConfigError(f"backbone {spec!r} names no model; expected {family_name}:NAME")
    if colon and not family.takes_name:
        raise ConfigError(f"backbone {spec!r}: {family_name} takes no name after a colon; write {family_name!r}")
    return family, name


def vision_files(config: VisionConfig) -> NamedFiles:
    """The files that decide a vision backbone; raises ConfigError when they are not here."""
    family, name = split_backbone(config.backbone)
    return family.files(config, name)


def text_folder(config: TextConfig) -> Path:
    """The folder of a text encoder; raises ConfigError for an unknown family or a missing folder."""
    family, colon, name = config.encoder.partition(":")
    finder = TEXT_ENCODERS.get(family)
    if (family == "minilm") == bool(colon) or (colon and not name):
        raise ConfigError(
            f"text encoder {config.encoder!r} is not complete; expected minilm, st:/FOLDER or hf:REPO_OR_FOLDER"
        )
    return finder(name)


def text_files(config: TextConfig) -> NamedFiles:
    """The files that decide a text encoder: weights, configs and tokenizer."""
    folder = text_folder(config)
    named: NamedFiles = [(path.name, path) for path in sources.weight_files(folder)]
    return named + [(name, folder / name) for name in _TEXT_FILES if (folder / name).is_file()]


def _load_efficientnet_lite0(config: VisionConfig, name: str) -> FrozenBackbone:
    from vlmvid.models.backbones.efficientnet_lite import load_efficientnet_lite0

    return load_efficientnet_lite0(config)


def _efficientnet_lite0_files(config: VisionConfig, name: str) -> NamedFiles:
    if not config.pretrained:
        return [("tf_efficientnet_lite0", None)]
    path = sources.efficientnet_lite0_file()
    return [(path.name, path)]


def _load_timm(config: VisionConfig, name: str) -> FrozenBackbone:
    from vlmvid.models.backbones.timm_backbone import load_timm

    return load_timm(config, name)


def _timm_files(config: VisionConfig, name: str) -> NamedFiles:
    if not config.pretrained:
        return [(f"timm:{name}", None)]
    tagged, folder = sources.timm_folder(name)
    return [(f"timm:{tagged}", None), *((path.name, path) for path in sources.weight_files(folder))]


def _load_hf(config: VisionConfig, name: str) -> FrozenBackbone:
    from vlmvid.models.backbones.hf_backbone import load_hf

    return load_hf(config, name)


def _hf_files(config: VisionConfig, name: str) -> NamedFiles:
    folder = sources.model_folder(name)
    named: NamedFiles = [(path.name, path) for path in sources.weight_files(folder)] if config.pretrained else []
    return named + [(name, folder / name) for name in _PREPROCESSING_FILES if (folder / name).is_file()]


VISION_BACKBONES: Registry[BackboneFamily] = Registry("vision backbone family (FAMILY or FAMILY:NAME)")
VISION_BACKBONES.register(
    "efficientnet-lite0", BackboneFamily(_load_efficientnet_lite0, _efficientnet_lite0_files, takes_name=False)
)
VISION_BACKBONES.register("timm", BackboneFamily(_load_timm, _timm_files, takes_name=True))
VISION_BACKBONES.register("hf", BackboneFamily(_load_hf, _hf_files, takes_name=True))

TEXT_ENCODERS: Registry[Callable[[str], Path]] = Registry("text encoder family")
TEXT_ENCODERS.register("minilm", lambda name: sources.minilm_folder())
TEXT_ENCODERS.register("st", sources.model_folder)
TEXT_ENCODERS.register("hf", sources.model_folder)
