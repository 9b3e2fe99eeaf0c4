"""The trained part of a dual encoder: pooling, two projection heads, scale and bias."""

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
from vlmvid.models.pooling import POOLINGS, build_pooling, check_reads, frame_mean
from vlmvid.models.runtime import resolve_device, seeded

# B clips or texts, T frames, N patches, M tokens after pooling, D feature channels, P projection_dim
MAX_LOG_LOGIT_SCALE = math.log(100.0)
# The pooling was called temporal at first, in the config and in the names of tensors.
_OLD_PREFIXES = {"temporal.": "pooling."}
_DIMENSIONS = {"frames": 3, "tokens": 4}


class AlignmentModel(nn.Module):
    """Frozen features of clips and texts to one shared space.

    A pooling that gives several tokens is followed by their mean. The weights are drawn from
    `config.seed` alone; the global generators stay untouched.

    Args:
        video_dim: D of one frame's feature, or of one patch token.
        text_dim: D of one text's feature.
        num_frames: T, frames per clip.
        config: pooling, heads, initial scale and bias.

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
            self.pooling = build_pooling(config.pooling, video_dim, num_frames, config.dropout)
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
        """Video features to float32 embeddings (B, P), L2-normalised.

        Features are (B, T, video_dim), or patch tokens (B, T, N, video_dim) without prefix tokens where
        the pooling reads tokens. Raises ConfigError when the pooling reads the other kind, ValueError for
        another shape.
        """
        spec = POOLINGS.get(self.config.pooling.kind)
        check_reads(self.config.pooling, features.ndim)
        sizes = (features.shape[1], features.shape[-1]) if features.ndim == _DIMENSIONS[spec.reads] else None
        if sizes != (self.num_frames, self.video_dim):
            patches = "N, " if spec.reads == "tokens" else ""
            raise ValueError(
                f"video features must be (B, T={self.num_frames}, {patches}D={self.video_dim}); "
                f"got {tuple(features.shape)}"
            )
        pooled = self.pooling(features.float())
        return F.normalize(self.video_head(frame_mean(pooled) if spec.gives == "tokens" else pooled), dim=-1)

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
    """The model that `save_alignment` wrote, in eval mode; raises CheckpointError when it does not fit.

    Reads models too that were saved while ``pooling`` was called ``temporal``.
    """
    path = folder / "alignment.json"
    values = read_description(path)
    try:
        stated = dict(values["config"])
        if "temporal" in stated and "pooling" not in stated:
            stated["pooling"] = stated.pop("temporal")
        config = AlignConfig.model_validate(stated)
        model = AlignmentModel(int(values["video_dim"]), int(values["text_dim"]), int(values["num_frames"]), config)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a saved alignment: {error!r}") from error
    load_module(model, folder / "alignment.safetensors", _OLD_PREFIXES)
    return model.eval().to(resolve_device(device))
