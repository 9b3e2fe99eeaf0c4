"""The trained part of a dual encoder: pooling, two projection heads, scale and bias."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmvid.config.alignment import AlignConfig
from vlmvid.config.encoders import FRAME_STATE_KINDS
from vlmvid.errors import CheckpointError, ConfigError
from vlmvid.models.heads import build_head
from vlmvid.models.module_files import FORMAT_VERSION, load_module, read_description, save_module, write_json
from vlmvid.models.pooling import POOLINGS, build_pooling, check_reads, frame_mean
from vlmvid.models.pooling.spec import FrameStatePooling
from vlmvid.models.runtime import resolve_device, seeded

# B clips or texts, T frames, N patches, M tokens after pooling, D feature channels, P projection_dim
MAX_LOG_LOGIT_SCALE = math.log(100.0)
# The pooling was called temporal at first, in the config and in the names of tensors.
_OLD_PREFIXES = {"temporal.": "pooling."}
_DIMENSIONS = {"frames": 3, "tokens": 4}
# Poolings without weights that work in any space, so that a head for tokens can map the frames before them.
_POOLED_AFTER_HEAD = ("frame_mean", "frame_max")


class AlignmentModel(nn.Module):
    """Frozen features of clips and texts to one shared space.

    A pooling that gives several tokens is followed by their mean, and then by the head. The head ``token`` comes
    before the mean: it maps every token that the pooling gives, or, where the pooling is ``frame_mean`` or
    ``frame_max``, every frame, and these are pooled in the shared space (freeze-align, arXiv 2409.19425). To map
    every patch token, take the pooling ``adaptive_3d`` with as many frames and cells per side as there are.
    The weights are drawn from `config.seed` alone; the global generators stay untouched. Raises ConfigError for
    a head ``identity`` on features that are not `projection_dim` wide.

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
            width, dropout = config.projection_dim, config.dropout
            self.video_head = build_head(config.video_head, video_dim, width, dropout, name="align.video_head")
            self.text_head = build_head(config.text_head, text_dim, width, dropout, name="align.text_head")
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
        self._check_video(features)
        wide = features.float()
        if self.config.video_head.kind != "token":
            pooled = self.pooling(wide)
            projected = self.video_head(frame_mean(pooled) if spec.gives == "tokens" else pooled)
        elif self.config.pooling.kind in _POOLED_AFTER_HEAD:
            projected = self.pooling(self.video_head(wide))
        else:
            projected = self.video_head(self.pooling(wide))
            projected = frame_mean(projected) if spec.gives == "tokens" else projected
        return F.normalize(projected.float(), dim=-1)

    @property
    def trains_frames(self) -> bool:
        """Whether the pooling trains a state for every frame, which `frame_states` gives."""
        return isinstance(self.pooling, FrameStatePooling)

    @property
    def frame_state_dim(self) -> int:
        """D' of `frame_states`; 0 where there are none."""
        return self.pooling.state_dim if isinstance(self.pooling, FrameStatePooling) else 0

    def frame_states(self, features: Tensor) -> Tensor:
        """Frame features (B, T, video_dim) to what the pooling makes of every frame, float32 (B, T, D').

        With gradients for the pooling's weights, from which auxiliary objectives train it. Raises ConfigError when
        the pooling trains no such states (`trains_frames`), ValueError for another shape.
        """
        if not isinstance(self.pooling, FrameStatePooling):
            raise ConfigError(
                f"the pooling {self.config.pooling.kind!r} trains no states of single frames; "
                f"use pooling.kind {' or '.join(map(repr, FRAME_STATE_KINDS))}"
            )
        self._check_video(features)
        return self.pooling.frame_states(features.float()).float()

    def embed_text(self, features: Tensor) -> Tensor:
        """Text features (B, text_dim) to float32 embeddings (B, P), L2-normalised.

        Raises ValueError for another shape.
        """
        if features.ndim != 2 or features.shape[1] != self.text_dim:
            raise ValueError(f"text features must be (B, D={self.text_dim}); got {tuple(features.shape)}")
        return F.normalize(self.text_head(features.float()).float(), dim=-1)

    def _check_video(self, features: Tensor) -> None:
        check_reads(self.config.pooling, features.ndim)
        reads = self.config.pooling.reads
        sizes = (features.shape[1], features.shape[-1]) if features.ndim == _DIMENSIONS[reads] else None
        if sizes != (self.num_frames, self.video_dim):
            patches = "N, " if reads == "tokens" else ""
            raise ValueError(
                f"video features must be (B, T={self.num_frames}, {patches}D={self.video_dim}); "
                f"got {tuple(features.shape)}"
            )


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

    Reads models too that were saved while ``pooling`` was called ``temporal``, or with a width of a linear head.
    """
    path = folder / "alignment.json"
    values = read_description(path)
    try:
        stated = dict(values["config"])
        if "temporal" in stated and "pooling" not in stated:
            stated["pooling"] = stated.pop("temporal")
        for head in ("video_head", "text_head"):
            if stated[head]["kind"] == "linear":
                stated[head] = {key: value for key, value in stated[head].items() if key != "width_factor"}
        config = AlignConfig.model_validate(stated)
        model = AlignmentModel(int(values["video_dim"]), int(values["text_dim"]), int(values["num_frames"]), config)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a saved alignment: {error!r}") from error
    load_module(model, folder / "alignment.safetensors", _OLD_PREFIXES)
    return model.eval().to(resolve_device(device))
