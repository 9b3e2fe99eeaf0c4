"""The trained part of a dual encoder: temporal module, two projection heads, scale and bias."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmvid.config.schema import AlignConfig
from vlmvid.errors import CheckpointError
from vlmvid.models.heads import build_head
from vlmvid.models.module_files import FORMAT_VERSION, load_module, read_description, save_module, write_json
from vlmvid.models.runtime import resolve_device, seeded
from vlmvid.models.temporal import build_temporal

# B clips or texts, T frames, D feature channels, P projection_dim
MAX_LOG_LOGIT_SCALE = math.log(100.0)


class AlignmentModel(nn.Module):
    """Frozen features of clips and texts to one shared space.

    The weights are drawn from `config.seed` alone; the global generators stay untouched.

    Args:
        video_dim: D of one frame's feature.
        text_dim: D of one text's feature.
        num_frames: T, frames per clip.
        config: heads, temporal module, initial scale and bias.

    Attributes:
        log_logit_scale: scalar parameter; ``exp`` of it multiplies the cosine, at most 100.
        logit_bias: scalar parameter, added to the logits of the sigmoid loss.
    """

    def __init__(self, video_dim: int, text_dim: int, num_frames: int, config: AlignConfig) -> None:
        super().__init__()
        self.video_dim = video_dim
        self.text_dim = text_dim
        self.num_frames = num_frames
        self.config = config
        with seeded(config.seed):
            self.temporal = build_temporal(config.pooling, video_dim, num_frames, config.dropout)
            self.video_head = build_head(config.video_head, video_dim, config.projection_dim, config.dropout)
            self.text_head = build_head(config.text_head, text_dim, config.projection_dim, config.dropout)
        self.log_logit_scale = nn.Parameter(torch.tensor(math.log(config.logit_scale_init)))
        self.logit_bias = nn.Parameter(torch.tensor(config.logit_bias_init))
        self.clamp_logit_scale()

    @property
    def logit_scale(self) -> Tensor:
        """The multiplier of the cosine, in [1, 100]."""
        return self.log_logit_scale.exp()

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep log_logit_scale in [0, ln 100], as SAIL does after every step."""
        self.log_logit_scale.clamp_(0.0, MAX_LOG_LOGIT_SCALE)

    def embed_video(self, features: Tensor) -> Tensor:
        """Frame features (B, T, video_dim) to float32 embeddings (B, P), L2-normalised.

        Raises ValueError for another shape.
        """
        if features.ndim != 3 or features.shape[1:] != (self.num_frames, self.video_dim):
            raise ValueError(
                f"video features must be (B, T={self.num_frames}, D={self.video_dim}); got {tuple(features.shape)}"
            )
        return F.normalize(self.video_head(self.temporal(features.float())), dim=-1)

    def embed_text(self, features: Tensor) -> Tensor:
        """Text features (B, text_dim) to float32 embeddings (B, P), L2-normalised.

        Raises ValueError for another shape.
        """
        if features.ndim != 2 or features.shape[1] != self.text_dim:
            raise ValueError(f"text features must be (B, D={self.text_dim}); got {tuple(features.shape)}")
        return F.normalize(self.text_head(features.float()), dim=-1)


def save_alignment(model: AlignmentModel, folder: Path) -> None:
    """Write ``alignment.json`` (sizes and config) and ``alignment.safetensors`` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_module(model, folder / "alignment.safetensors")
    values = {
        "format_version": FORMAT_VERSION,
        "video_dim": model.video_dim,
        "text_dim": model.text_dim,
        "num_frames": model.num_frames,
        "config": model.config.model_dump(mode="json"),
    }
    write_json(values, folder / "alignment.json")


def load_alignment(folder: Path, device: str = "cpu") -> AlignmentModel:
    """The model that `save_alignment` wrote, in eval mode; raises CheckpointError when it does not fit."""
    path = folder / "alignment.json"
    values = read_description(path)
    try:
        config = AlignConfig.model_validate(values["config"])
        model = AlignmentModel(int(values["video_dim"]), int(values["text_dim"]), int(values["num_frames"]), config)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a saved alignment: {error!r}") from error
    load_module(model, folder / "alignment.safetensors")
    return model.eval().to(resolve_device(device))
