"""Which patch tokens stay in training (VideoMAE, arXiv 2203.12602; FLIP, arXiv 2212.00794)."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmvid.errors import ConfigError

# B clips, T time steps, S patches per time step, K kept patches per time step


def kept_patches(keep: Tensor, shape: tuple[int, int, int], *, tubes: bool) -> Tensor:
    """Indices of the patches that a mask keeps, in their order: int64 (B, T, K).

    Args:
        keep: bool (B, T, S), True = keep; the same number K >= 1 in every time step of every clip.
        shape: (B, T, S) of the clip.
        tubes: whether the mask must be the same in all time steps of a clip.

    Raises ConfigError when the mask does not fit.
    """
    if keep.dtype != torch.bool or tuple(keep.shape) != shape:
        raise ConfigError(
            f"a mask of kept patches must be bool (B, T', patches) = {shape}; got {keep.dtype} {tuple(keep.shape)}"
        )
    counts = keep.sum(dim=2)
    num_kept = int(counts.max())
    if num_kept < 1 or bool((counts != num_kept).any()):
        raise ConfigError(
            f"a mask must keep the same number of patches, at least one, in every time step; it keeps between "
            f"{int(counts.min())} and {num_kept}; use tubes, or draw as many patches in each time step"
        )
    if tubes and bool((keep != keep[:, :1]).any()):
        raise ConfigError(
            "this kind of video encoder mixes the tokens of one place over time, so the mask must keep the same "
            "patches in all time steps of a clip; use tubes, or kind: frames, joint or factorised"
        )
    # A stable sort of kept before dropped leaves the kept ones in their order.
    order = (~keep).to(torch.uint8).argsort(dim=2, stable=True)
    return order[:, :, :num_kept]
