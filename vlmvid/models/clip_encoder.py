"""Clips to per-frame features with a frozen image backbone."""

from __future__ import annotations

from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from vlmvid.models.backbones.base import FrozenBackbone


def encode_clips(backbone: FrozenBackbone, frames: NDArray[np.generic], *, dtype: str = "float32") -> NDArray[Any]:
    """Features of every frame of every clip.

    Time is kept, because every pooling can then be tried without encoding again.

    Args:
        backbone: the frozen image backbone.
        frames: uint8 (N, T, 3, H, W), RGB.
        dtype: ``"float32"`` or ``"float16"`` of the result.

    Returns:
        (N, T, D) in `dtype`, D = ``backbone.feature_dim``.
    """
    flat = rearrange(np.asarray(frames, dtype=np.uint8), "n t c h w -> (n t) c h w")
    features = backbone.encode_frames(flat)
    return rearrange(features, "(n t) d -> n t d", n=len(frames)).astype(dtype)
