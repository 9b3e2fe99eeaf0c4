"""The families of vision backbones, and which modules and files decide each one's result.

Light: torch is imported only when something is loaded. The backbones' own modules must not import
this one: it names every family, and the code digest of a family holds that family alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmvid.config.encoders import VisionConfig
from vlmvid.errors import ConfigError
from vlmvid.models import sources
from vlmvid.models.digests import check_digest
from vlmvid.models.sources import NamedFiles
from vlmvid.models.video.folder import video_files
from vlmvid.registry import Registry

if TYPE_CHECKING:
    from vlmvid.models.backbones.base import FrozenBackbone

_PREPROCESSING_FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)


@dataclass(frozen=True, slots=True)
class BackboneFamily:
    """One way to name a vision backbone.

    Attributes:
        load: (config, name after the colon) -> backbone on the CPU.
        files: (config, name) -> the files that decide its weights and preprocessing, each with
            the name that enters the digest; a None path is a name alone.
        module: dotted name of the module whose import closure decides its features.
        takes_name: whether ``FAMILY:NAME`` is expected instead of ``FAMILY``.
    """

    load: Callable[[VisionConfig, str], FrozenBackbone]
    files: Callable[[VisionConfig, str], NamedFiles]
    module: str
    takes_name: bool


def split_backbone(spec: str) -> tuple[BackboneFamily, str]:
    """The family of a `VisionConfig.backbone` string and the name after its colon.

    Raises ConfigError for an unknown family, and for a name missing or too many.
    """
    family_name, colon, name = spec.partition(":")
    try:
        family = VISION_BACKBONES.get(family_name)
    except ConfigError as error:
        raise ConfigError(f"{error}; a timm model is written timm:NAME, a Hugging Face one hf:REPO") from None
    if family.takes_name and not name:
        raise ConfigError(f"backbone {spec!r} names no model; expected {family_name}:NAME")
    if colon and not family.takes_name:
        raise ConfigError(f"backbone {spec!r}: {family_name} takes no name after a colon; write {family_name!r}")
    return family, name


def backbone_module(config: VisionConfig) -> str:
    """Dotted name of the module that decides a vision backbone's features; raises ConfigError like `split_backbone`."""
    return split_backbone(config.backbone)[0].module


def vision_files(config: VisionConfig) -> NamedFiles:
    """The files that decide a vision backbone; raises ConfigError when they are not here."""
    family, name = split_backbone(config.backbone)
    return family.files(config, name)


def check_vision_digest(config: VisionConfig) -> None:
    """Raise CheckpointError when `config.sha256` is set and the files are others; see `digests`."""
    if config.sha256 is not None:
        check_digest(config.backbone, config.sha256, vision_files(config))


def _load_efficientnet_lite(config: VisionConfig, name: str) -> FrozenBackbone:
    from vlmvid.models.backbones.efficientnet_lite import load_efficientnet_lite

    return load_efficientnet_lite(config)


def _efficientnet_lite_files(config: VisionConfig, name: str) -> NamedFiles:
    if not config.pretrained:
        return [(sources.efficientnet_lite_architecture(config.backbone), None)]
    path = sources.efficientnet_lite_file(config.backbone)
    return [(path.name, path)]


def _load_timm(config: VisionConfig, name: str) -> FrozenBackbone:
    from vlmvid.models.backbones.timm_backbone import load_timm

    return load_timm(config, name)


def _timm_files(config: VisionConfig, name: str) -> NamedFiles:
    local = sources.local_timm_folder(name)
    if local is not None:
        weights = sources.weight_files(local) if config.pretrained else []
        return [("config.json", local / "config.json"), *((path.name, path) for path in weights)]
    if not config.pretrained:
        return [(f"timm:{name}", None)]
    tagged, folder = sources.timm_folder(name)
    return [(f"timm:{tagged}", None), *((path.name, path) for path in sources.weight_files(folder))]


def _load_hf(config: VisionConfig, name: str) -> FrozenBackbone:
    from vlmvid.models.backbones.hf_backbone import load_hf

    return load_hf(config, name)


def _hf_files(config: VisionConfig, name: str) -> NamedFiles:
    folder = sources.model_folder_or_type(name, pretrained=config.pretrained)
    if folder is None:
        return [(f"hf:{name}", None)]
    named: NamedFiles = [(path.name, path) for path in sources.weight_files(folder)] if config.pretrained else []
    return named + [(name, folder / name) for name in _PREPROCESSING_FILES if (folder / name).is_file()]


def _load_video(config: VisionConfig, name: str) -> FrozenBackbone:
    from vlmvid.models.backbones.video_backbone import load_video

    return load_video(config, name)


def _video_files(config: VisionConfig, name: str) -> NamedFiles:
    return [(path.name, path) for path in video_files(name, pretrained=config.pretrained)]


VISION_BACKBONES: Registry[BackboneFamily] = Registry("vision backbone family (FAMILY or FAMILY:NAME)")
_EFFICIENTNET_LITE = BackboneFamily(
    _load_efficientnet_lite,
    _efficientnet_lite_files,
    module="vlmvid.models.backbones.efficientnet_lite",
    takes_name=False,
)
VISION_BACKBONES.register("efficientnet-lite0", _EFFICIENTNET_LITE)
VISION_BACKBONES.register("efficientnet-lite1", _EFFICIENTNET_LITE)
VISION_BACKBONES.register("efficientnet-lite2", _EFFICIENTNET_LITE)
VISION_BACKBONES.register(
    "timm", BackboneFamily(_load_timm, _timm_files, module="vlmvid.models.backbones.timm_backbone", takes_name=True)
)
VISION_BACKBONES.register(
    "hf", BackboneFamily(_load_hf, _hf_files, module="vlmvid.models.backbones.hf_backbone", takes_name=True)
)
VISION_BACKBONES.register(
    "video", BackboneFamily(_load_video, _video_files, module="vlmvid.models.backbones.video_backbone", takes_name=True)
)
