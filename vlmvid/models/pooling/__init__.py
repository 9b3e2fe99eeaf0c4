"""Poolings: the features or tokens of T frames to one video feature, or to fewer tokens.

One line per pooling; its definition, weights and counts are in the module of its family. Which kinds
read tokens is also told, without torch, by `vlmvid.config.encoders.PoolingConfig.reads`.
"""

from __future__ import annotations

from torch import nn

from vlmvid.config.encoders import POOLING_OPTIONS, PoolingConfig
from vlmvid.errors import ConfigError
from vlmvid.models.pooling.frames import FRAME_MAX, FRAME_MEAN, TEMPORAL_DIFFERENCE, frame_mean
from vlmvid.models.pooling.grids import ADAPTIVE_3D, SLOW_FAST, SPACE_TIME
from vlmvid.models.pooling.merging import TESTA, TOME
from vlmvid.models.pooling.queries import ATTENTIVE, PERCEIVER
from vlmvid.models.pooling.spec import PoolingSpec
from vlmvid.models.pooling.stc import STC
from vlmvid.models.pooling.transformer import TRANSFORMER
from vlmvid.registry import Registry

__all__ = ["POOLINGS", "PoolingSpec", "build_pooling", "check_reads", "frame_mean"]

POOLINGS: Registry[PoolingSpec] = Registry("pooling")
POOLINGS.register("frame_mean", FRAME_MEAN)
POOLINGS.register("frame_max", FRAME_MAX)
POOLINGS.register("temporal_difference", TEMPORAL_DIFFERENCE)
POOLINGS.register("transformer", TRANSFORMER)
POOLINGS.register("attentive", ATTENTIVE)
POOLINGS.register("perceiver", PERCEIVER)
POOLINGS.register("space_time", SPACE_TIME)
POOLINGS.register("adaptive_3d", ADAPTIVE_3D)
POOLINGS.register("stc", STC)
POOLINGS.register("slow_fast", SLOW_FAST)
POOLINGS.register("tome", TOME)
POOLINGS.register("testa", TESTA)


def build_pooling(config: PoolingConfig, feature_dim: int, num_frames: int, dropout: float = 0.0) -> nn.Module:
    """The pooling of a config; its weights come from torch's current CPU generator.

    Raises ConfigError for a kind that is not known, and when more frames are asked for than there are.
    """
    spec = POOLINGS.get(config.kind)
    if config.kind in POOLING_OPTIONS["output_frames"] and config.output_frames > num_frames:
        raise ConfigError(
            f"pooling {config.kind}: output_frames={config.output_frames}, but clips have num_frames={num_frames}; "
            "set output_frames to at most that"
        )
    return spec.build(config, feature_dim, num_frames, dropout)


def check_reads(config: PoolingConfig, num_dimensions: int) -> None:
    """Raise ConfigError when a pooling of tokens meets frame features (3 dimensions), or the other way round (4)."""
    reads = POOLINGS.get(config.kind).reads
    if reads == "tokens" and num_dimensions == 3:
        raise ConfigError(
            f"pooling {config.kind} reads patch tokens (clips, T, N, D), but these are frame features (clips, T, D); "
            "encode with encode.keep_tokens: true, or choose a pooling of frame features: "
            + ", ".join(name for name in POOLINGS if POOLINGS.get(name).reads == "frames")
        )
    if reads == "frames" and num_dimensions == 4:
        raise ConfigError(
            f"pooling {config.kind} reads frame features (clips, T, D), but these are patch tokens (clips, T, N, D); "
            "hand it one feature per frame, or choose a pooling of tokens: "
            + ", ".join(name for name in POOLINGS if POOLINGS.get(name).reads == "tokens")
        )
