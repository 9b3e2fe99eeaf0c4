"""Poolings without weights over the features of T frames: mean, maximum, weights from change."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlmvid.config.encoders import PoolingConfig
from vlmvid.models.pooling.spec import PoolingSpec, one_token

# B clips, T frames, D feature_dim


def frame_mean(features_BTD: Tensor) -> Tensor:
    """The mean over frames (B, T, D) -> (B, D), summed in float64.

    So the order of the frames changes nothing beyond float32 rounding.
    """
    return features_BTD.mean(dim=1, dtype=_wide(features_BTD)).to(features_BTD.dtype)


class FrameMean(nn.Module):
    """The mean of the frame features; blind to their order."""

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, T, D) to (B, D)."""
        return frame_mean(features)


class FrameMax(nn.Module):
    """The largest value of each channel over the frames; blind to their order."""

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, T, D) to (B, D)."""
        return features.amax(dim=1)


class TemporalDifference(nn.Module):
    """The weighted mean of the frame features, in which frames that differ from their neighbours count more.

    ``c_t`` is the mean Euclidean distance of frame t to the frames beside it (one at the ends), and the
    weights are ``softmax_t(c_t / mean_s c_s)``, so that they do not depend on the scale of the features.
    On a still clip, and for one frame, it is the frame mean. CLIP2Video (arXiv 2106.11097) adds tokens
    made of the differences of adjacent frames to a temporal transformer; here their size alone is
    used, and nothing is trained.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, T, D) to (B, D)."""
        wide_BTD = features.to(_wide(features))
        weights_BT = frame_weights(wide_BTD)
        return (weights_BT[..., None] * wide_BTD).sum(dim=1).to(features.dtype)


def frame_weights(features_BTD: Tensor) -> Tensor:
    """The weights (B, T) of `TemporalDifference`; they sum to 1."""
    batch, num_frames, _ = features_BTD.shape
    if num_frames == 1:
        return features_BTD.new_ones(batch, 1)
    steps_BT = torch.linalg.vector_norm(features_BTD.diff(dim=1), dim=-1)
    change_BT = torch.cat([steps_BT[:, :1], (steps_BT[:, 1:] + steps_BT[:, :-1]) / 2, steps_BT[:, -1:]], dim=1)
    mean_B1 = change_BT.mean(dim=1, keepdim=True).clamp_min(torch.finfo(features_BTD.dtype).tiny)
    return (change_BT / mean_B1).softmax(dim=1)


def _wide(features: Tensor) -> torch.dtype:
    # Apple's GPUs have no float64.
    return torch.float32 if features.device.type == "mps" else torch.float64


def _build_mean(config: PoolingConfig, feature_dim: int, num_frames: int, dropout: float) -> nn.Module:
    return FrameMean()


def _build_max(config: PoolingConfig, feature_dim: int, num_frames: int, dropout: float) -> nn.Module:
    return FrameMax()


def _build_difference(config: PoolingConfig, feature_dim: int, num_frames: int, dropout: float) -> nn.Module:
    return TemporalDifference()


def _one_pass(config: PoolingConfig, num_frames: int, num_patches: int, feature_dim: int) -> int:
    return num_frames * feature_dim


def _difference_flops(config: PoolingConfig, num_frames: int, num_patches: int, feature_dim: int) -> int:
    # A difference, its square and their sum per step; a product and a sum per frame.
    return 3 * (num_frames - 1) * feature_dim + 2 * num_frames * feature_dim


FRAME_MEAN = PoolingSpec(
    build=_build_mean,
    reads="frames",
    gives="feature",
    is_order_blind=True,
    num_tokens_out=one_token,
    flops=_one_pass,
    flops_formula="T D",
    definition="the mean over frames",
    source="CLIP4Clip meanP, arXiv 2104.08860",
)
FRAME_MAX = PoolingSpec(
    build=_build_max,
    reads="frames",
    gives="feature",
    is_order_blind=True,
    num_tokens_out=one_token,
    flops=_one_pass,
    flops_formula="T D",
    definition="the largest value of each channel over frames",
    source="Beyond Short Snippets, arXiv 1503.08909",
)
TEMPORAL_DIFFERENCE = PoolingSpec(
    build=_build_difference,
    reads="frames",
    gives="feature",
    is_order_blind=False,
    num_tokens_out=one_token,
    flops=_difference_flops,
    flops_formula="3 (T-1) D + 2 T D",
    definition="the mean over frames with weights softmax(c / mean c), c the mean distance to the frames beside it",
    source="after the differences of CLIP2Video, arXiv 2106.11097",
)
