"""Vision backbones: uint8 frames to features, frozen. `load_vision_backbone` builds one from its config.

The families are registered in `vlmvid.models.families`, which is light; one module here per family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlmvid.config.encoders import VisionConfig
    from vlmvid.models.backbones.base import FrozenBackbone

__all__ = ["load_vision_backbone"]


def load_vision_backbone(config: VisionConfig, device: str = "cpu") -> FrozenBackbone:
    """The frozen backbone of `config` on `device` (``auto``, ``cpu``, ``cuda``, ``cuda:INDEX``, ``mps``).

    Random weights (`pretrained=False`) are the same bytes for the same config on every machine
    with the same package versions. Raises ConfigError for an unknown or unavailable backbone and
    for a feature or layer that the backbone does not have.
    """
    from vlmvid.models.families import check_vision_digest, split_backbone
    from vlmvid.models.runtime import resolve_device

    target = resolve_device(device)
    check_vision_digest(config)
    family, name = split_backbone(config.backbone)
    return family.load(config, name).to(target)
