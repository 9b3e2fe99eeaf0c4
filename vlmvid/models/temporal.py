"""From the features of T frames to one feature of the clip."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmvid.config.encoders import PoolingConfig

# B clips, T frames, D feature_dim, W width, H heads


def frame_mean(features_BTD: Tensor) -> Tensor:
    """The mean over frames (B, T, D) -> (B, D), summed in float64.

    So the order of the frames changes nothing beyond float32 rounding.
    """
    # Apple's GPUs have no float64.
    wide = torch.float32 if features_BTD.device.type == "mps" else torch.float64
    return features_BTD.mean(dim=1, dtype=wide).to(features_BTD.dtype)


class FrameMean(nn.Module):
    """The mean of the frame features; blind to their order."""

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, T, D) to (B, D)."""
        return frame_mean(features)


class TemporalBlock(nn.Module):
    """One pre-norm transformer block over frames (attention and a GELU MLP of ratio 4)."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = nn.Dropout(dropout)
        self.norm_1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x_BTW: Tensor) -> Tensor:
        """States (B, T, W) to (B, T, W)."""
        x_BTW = x_BTW + self.dropout(self._attend(self.norm_1(x_BTW)))
        update_BTW: Tensor = self.dropout(self.mlp(self.norm_2(x_BTW)))
        return x_BTW + update_BTW

    def _attend(self, x_BTW: Tensor) -> Tensor:
        qkv_BTHC = self.qkv(x_BTW).unflatten(-1, (3 * self.num_heads, -1))
        query, key, value = qkv_BTHC.transpose(1, 2).chunk(3, dim=1)
        attended_BHTC = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out(attended_BHTC.transpose(1, 2).flatten(2))
        return out


class TemporalTransformer(nn.Module):
    """The frame mean plus what a small transformer reads from the order of the frames.

    ``mean(x) + rms(mean(x)) * up(pool(blocks(down(LayerNorm(x)) + time_embed)))``. `up` starts
    at zero, so that the module starts as `FrameMean`. The factor rms makes the sum independent
    of the scale of the features, which differs by orders of magnitude between backbones.

    Args:
        feature_dim: D of the frame features.
        num_frames: T; other lengths raise ValueError.
        width, depth, num_heads: of the transformer.
        dropout: on the residual branches, in [0, 1).
    """

    def __init__(
        self, feature_dim: int, num_frames: int, width: int, depth: int, num_heads: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.norm_in = nn.LayerNorm(feature_dim)
        self.down = nn.Linear(feature_dim, width)
        self.time_embed_TW = nn.Parameter(torch.empty(num_frames, width))
        self.blocks = nn.ModuleList(TemporalBlock(width, num_heads, dropout) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width)
        self.up = nn.Linear(width, feature_dim)
        # As large as the normalised features: with the usual 0.02 the order of frames is hardly there, and
        # training on the synthetic world stayed at chance on temporal pairs (with 1.0 it reaches 100 %).
        nn.init.normal_(self.time_embed_TW, std=1.0)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, T, D) to (B, D)."""
        if features.shape[1] != self.num_frames:
            raise ValueError(f"expected {self.num_frames} frames per clip, got {features.shape[1]}")
        x_BTW = self.down(self.norm_in(features)) + self.time_embed_TW
        for block in self.blocks:
            x_BTW = block(x_BTW)
        mean_BD = frame_mean(features)
        rms_B1 = mean_BD.detach().pow(2).mean(dim=-1, keepdim=True).sqrt()
        update_BD: Tensor = self.up(self.norm_out(x_BTW).mean(dim=1))
        return mean_BD + rms_B1 * update_BD


def build_temporal(config: PoolingConfig, feature_dim: int, num_frames: int, dropout: float = 0.0) -> nn.Module:
    """The temporal module of a config; its weights come from torch's current CPU generator."""
    match config.kind:
        case "frame_mean":
            return FrameMean()
        case "transformer":
            return TemporalTransformer(
                feature_dim, num_frames, config.width, config.depth, config.num_heads, dropout=dropout
            )
