"""Poolings without weights that average patch tokens over parts of space and time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmvid.config.encoders import PoolingConfig
from vlmvid.errors import ConfigError
from vlmvid.models.pooling.spec import PoolingSpec, from_grid, grid_side, to_grid

# B clips, T frames, N patches, D feature_dim


class SpaceTime(nn.Module):
    """The mean over space of each frame (T tokens), then the mean over time of each patch (N tokens)."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Patch tokens (B, T, N, D) to tokens (B, T + N, D)."""
        return torch.cat([tokens.mean(dim=2), tokens.mean(dim=1)], dim=1)


class Adaptive3D(nn.Module):
    """The means of output_frames x output_side x output_side boxes of the clip.

    Box i of k along an axis of length n covers ``floor(i n / k)`` up to ``ceil((i + 1) n / k)``, so boxes
    overlap where k does not divide n. Raises ConfigError when more boxes are asked for than there
    are frames, or cells a side.
    """

    def __init__(self, output_frames: int, output_side: int) -> None:
        super().__init__()
        self.output_frames = output_frames
        self.output_side = output_side

    def forward(self, tokens: Tensor) -> Tensor:
        """Patch tokens (B, T, N, D) to tokens (B, output_frames * output_side ** 2, D)."""
        maps = to_grid(tokens, "adaptive_3d")
        _refuse_more_than("adaptive_3d", "output_frames", self.output_frames, tokens.shape[1], "frames")
        _refuse_more_than("adaptive_3d", "output_side", self.output_side, maps.shape[-1], "patches a side")
        return from_grid(F.adaptive_avg_pool3d(maps, (self.output_frames, self.output_side, self.output_side)))


class SlowFast(nn.Module):
    """All tokens of the frames 0, slow_stride, 2 slow_stride, ... (slow), then every frame as a small grid (fast).

    The fast path averages each frame to output_side x output_side cells, with the boxes of
    `Adaptive3D`. SlowFast-LLaVA chooses a number of slow frames and thins their tokens too; here
    a stride gives the frames, and slow frames keep everything. Raises ConfigError when
    output_side exceeds the grid.
    """

    def __init__(self, slow_stride: int, output_side: int) -> None:
        super().__init__()
        self.slow_stride = slow_stride
        self.output_side = output_side

    def forward(self, tokens: Tensor) -> Tensor:
        """Patch tokens (B, T, N, D) to tokens (B, ceil(T / slow_stride) * N + T * output_side ** 2, D)."""
        maps = to_grid(tokens, "slow_fast")
        _refuse_more_than("slow_fast", "output_side", self.output_side, maps.shape[-1], "patches a side")
        fast = F.adaptive_avg_pool3d(maps, (tokens.shape[1], self.output_side, self.output_side))
        slow = tokens[:, :: self.slow_stride].flatten(1, 2)
        return torch.cat([slow, from_grid(fast)], dim=1)


def _refuse_more_than(kind: str, field: str, asked: int, there: int, unit: str) -> None:
    if asked > there:
        raise ConfigError(f"pooling {kind}: {field}={asked}, but there are {there} {unit}; set {field} to at most that")


def _build_space_time(config: PoolingConfig, feature_dim: int, num_frames: int, dropout: float) -> nn.Module:
    return SpaceTime()


def _build_adaptive(config: PoolingConfig, feature_dim: int, num_frames: int, dropout: float) -> nn.Module:
    return Adaptive3D(config.output_frames, config.output_side)


def _build_slow_fast(config: PoolingConfig, feature_dim: int, num_frames: int, dropout: float) -> nn.Module:
    return SlowFast(config.slow_stride, config.output_side)


def _space_time_tokens(config: PoolingConfig, num_frames: int, num_patches: int) -> int:
    return num_frames + num_patches


def _adaptive_tokens(config: PoolingConfig, num_frames: int, num_patches: int) -> int:
    return config.output_frames * config.output_side**2


def _slow_fast_tokens(config: PoolingConfig, num_frames: int, num_patches: int) -> int:
    return math.ceil(num_frames / config.slow_stride) * num_patches + num_frames * config.output_side**2


def _space_time_flops(config: PoolingConfig, num_frames: int, num_patches: int, feature_dim: int) -> int:
    return 2 * num_frames * num_patches * feature_dim


def _covered(length: int, num_boxes: int) -> int:
    """The lengths of all boxes of `Adaptive3D` along one axis, added."""
    return sum(-(-(i + 1) * length // num_boxes) - i * length // num_boxes for i in range(num_boxes))


def _adaptive_flops(config: PoolingConfig, num_frames: int, num_patches: int, feature_dim: int) -> int:
    side = _covered(grid_side(num_patches, "adaptive_3d"), config.output_side)
    return _covered(num_frames, config.output_frames) * side**2 * feature_dim


def _slow_fast_flops(config: PoolingConfig, num_frames: int, num_patches: int, feature_dim: int) -> int:
    return num_frames * _covered(grid_side(num_patches, "slow_fast"), config.output_side) ** 2 * feature_dim


SPACE_TIME = PoolingSpec(
    build=_build_space_time,
    reads="tokens",
    gives="tokens",
    is_order_blind=True,
    num_tokens_out=_space_time_tokens,
    flops=_space_time_flops,
    flops_formula="2 T N D",
    definition="the mean over space of each frame (T tokens), then the mean over time of each patch (N tokens)",
    source="Video-ChatGPT, arXiv 2306.05424",
)
ADAPTIVE_3D = PoolingSpec(
    build=_build_adaptive,
    reads="tokens",
    gives="tokens",
    needs_grid=True,
    is_order_blind=True,
    num_tokens_out=_adaptive_tokens,
    flops=_adaptive_flops,
    flops_formula="T N D, and more where boxes overlap",
    definition="the means of output_frames x output_side x output_side boxes of the clip",
    source="PLLaVA, arXiv 2404.16994",
)
SLOW_FAST = PoolingSpec(
    build=_build_slow_fast,
    reads="tokens",
    gives="tokens",
    needs_grid=True,
    is_order_blind=False,
    num_tokens_out=_slow_fast_tokens,
    flops=_slow_fast_flops,
    flops_formula="T N D, and more where boxes overlap",
    definition="all tokens of every slow_stride-th frame, then every frame averaged to output_side x output_side cells",
    source="SlowFast-LLaVA, arXiv 2407.15841",
)
