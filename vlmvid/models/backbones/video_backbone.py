"""A video encoder that vlmvid trained, as a frozen backbone: ``video:/folder``.

::

    folder/video.json   video.safetensors
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from vlmvid.config.encoders import VideoConfig, VisionConfig
from vlmvid.errors import CheckpointError, ConfigError
from vlmvid.models.backbones.base import FrozenBackbone, Preprocessing, per_channel
from vlmvid.models.module_files import FORMAT_VERSION, load_module, read_description, save_module, write_json
from vlmvid.models.video.encoder import VideoEncoder, empty_video_encoder
from vlmvid.models.video.folder import DESCRIPTION, WEIGHTS, video_files


class VideoBackbone(FrozenBackbone):
    """A `VideoEncoder` whose features are one per time step; all frames of a clip see one another.

    Clips may have another length than those of training: the time embedding is interpolated.
    """

    family = "video"

    def __init__(self, module: VideoEncoder, config: VisionConfig, preprocessing: Preprocessing) -> None:
        if config.layer is not None:
            raise ConfigError(
                f"backbone {config.backbone!r}: only the last level is there; leave layer={config.layer} out"
            )
        if config.image_size not in (None, preprocessing.image_size):
            raise ConfigError(
                f"backbone {config.backbone!r} was trained at {preprocessing.image_size} px, got image_size="
                f"{config.image_size}; leave image_size out"
            )
        self._encoder = module
        self.tubelet_size = module.config.tubelet_size
        super().__init__(module, config, preprocessing, module.num_prefix_tokens, module.cls_token is not None)

    @property
    def probe_frames(self) -> int:
        """One tubelet."""
        return self.tubelet_size

    def window(self, num_frames: int) -> int:
        """The whole clip; raises ConfigError when its frames fill no tubelets."""
        self._encoder.num_steps(num_frames)
        return num_frames

    def architecture(self) -> dict[str, Any]:
        """The arguments of `encoder_of`."""
        return architecture_of(self._encoder)

    def _clip_tokens(self, pixels: Tensor) -> Tensor:
        tokens: Tensor = self._encoder(pixels)
        return tokens


def architecture_of(encoder: VideoEncoder) -> dict[str, Any]:
    """Everything of an encoder but its weights, as JSON values."""
    return {
        "config": encoder.config.model_dump(mode="json"),
        "image": encoder.architecture,
        "num_frames": encoder.num_frames,
    }


def encoder_of(architecture: dict[str, Any], seed: int = 0) -> VideoEncoder:
    """The encoder of `architecture_of` with random weights; raises CheckpointError when the values describe none."""
    try:
        config = VideoConfig.model_validate(architecture["config"])
        return empty_video_encoder(config, architecture["image"], int(architecture["num_frames"]), seed)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise CheckpointError(f"these values describe no video encoder: {error!r}") from error


def save_video_encoder(encoder: VideoEncoder, preprocessing: Preprocessing, folder: Path) -> None:
    """Write ``video.json`` and ``video.safetensors`` into `folder`, which then is the backbone ``video:FOLDER``.

    Raises ConfigError when the preprocessing gives frames of another size than the encoder takes.
    """
    size = preprocessing.image_size
    if encoder.image_size != (size, size):
        raise ConfigError(
            f"the preprocessing gives {size} x {size} pixels and the encoder takes {encoder.image_size}; "
            "a backbone needs both to be the same square"
        )
    folder.mkdir(parents=True, exist_ok=True)
    save_module(encoder, folder / WEIGHTS)
    values = {
        "format_version": FORMAT_VERSION,
        "architecture": architecture_of(encoder),
        "preprocessing": asdict(preprocessing),
    }
    write_json(values, folder / DESCRIPTION)


def load_video_encoder(folder: Path, *, pretrained: bool = True, seed: int = 0) -> tuple[VideoEncoder, Preprocessing]:
    """The encoder that `save_video_encoder` wrote, in eval mode, and its preprocessing.

    `pretrained=False` keeps random weights from `seed`. Raises CheckpointError, with what is missing or left
    over, when the files do not fit.
    """
    path = folder / DESCRIPTION
    values = read_description(path)
    try:
        stated, architecture = values["preprocessing"], values["architecture"]
        preprocessing = Preprocessing(
            int(stated["image_size"]), per_channel(stated["mean"]), per_channel(stated["std"]), stated["interpolation"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a saved video encoder: {error!r}") from error
    encoder = encoder_of(architecture, seed)
    if pretrained:
        load_module(encoder, folder / WEIGHTS)
    return encoder.eval(), preprocessing


def load_video(config: VisionConfig, name: str) -> VideoBackbone:
    """The backbone ``video:FOLDER``; `pretrained=False` needs only the folder's video.json."""
    folder = video_files(name, pretrained=config.pretrained)[0].parent
    encoder, preprocessing = load_video_encoder(folder, pretrained=config.pretrained, seed=config.seed)
    return VideoBackbone(encoder, config, preprocessing)
