"""Contrastive losses between paired embeddings: the sigmoid loss of SigLIP and SAIL, and InfoNCE.

Row i of the video embeddings belongs to row i of the text embeddings; every other pair is a
negative. With `tile_size` the N x N logits are computed in tiles of that many video rows and
recomputed in the backward pass, so that the memory is O(tile_size * N) and value and gradients
stay those of the plain loss up to the order of float additions.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# N pairs, R rows of a tile, D projection_dim
Reduction = Literal["per_sample", "per_pair"]


def sigmoid_loss(
    video_embeds: Tensor,
    text_embeds: Tensor,
    *,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    reduction: Reduction = "per_sample",
    tile_size: int | None = None,
) -> Tensor:
    """The pairwise sigmoid loss: softplus(-z) for a pair, softplus(z) for all others.

    z = logit_scale * <video, text> + logit_bias.

    Args:
        video_embeds, text_embeds: (N, D), L2-normalised; computed in float32 or wider.
        logit_scale: multiplier of the cosine, after exp.
        logit_bias: added to every logit.
        reduction: ``per_sample`` = sum over the N * N pairs / N (SigLIP, arXiv 2303.15343);
            ``per_pair`` = mean over the N * N pairs (SAIL, arXiv 2412.04616).
        tile_size: video rows per tile; None computes all logits at once.

    Returns a scalar. Raises ValueError for other shapes, N = 0, or an unknown reduction.
    """
    video, text = _checked(video_embeds, text_embeds, tile_size)
    num_pairs = len(video)
    if reduction not in ("per_sample", "per_pair"):
        raise ValueError(f"unknown reduction {reduction!r}; expected 'per_sample' or 'per_pair'")
    scale, bias = torch.as_tensor(logit_scale).to(video), torch.as_tensor(logit_bias).to(video)
    if tile_size is None:
        total = _sigmoid_rows(video, text, scale, bias, 0)
    else:
        total = video.new_zeros(())
        for start in range(0, num_pairs, tile_size):
            rows = video[start : start + tile_size]
            total = total + cast(Tensor, _recomputed(_sigmoid_rows, rows, text, scale, bias, start))
    return total / (num_pairs if reduction == "per_sample" else num_pairs**2)


def info_nce(
    video_embeds: Tensor, text_embeds: Tensor, *, logit_scale: Tensor | float, tile_size: int | None = None
) -> Tensor:
    """The symmetric InfoNCE loss of CLIP (arXiv 2103.00020).

    The mean of two cross-entropies, each a mean over N: a video among all texts and a text among
    all videos, on logits logit_scale * <video, text>.

    Args:
        video_embeds, text_embeds: (N, D), L2-normalised; computed in float32 or wider.
        logit_scale: multiplier of the cosine, after exp.
        tile_size: video rows per tile; None computes all logits at once.

    Returns a scalar. Raises ValueError for other shapes or N = 0.
    """
    video, text = _checked(video_embeds, text_embeds, tile_size)
    scale = torch.as_tensor(logit_scale).to(video)
    if tile_size is None:
        row_sum, columns_N = _log_partitions(video, text, scale)
    else:
        row_sum = video.new_zeros(())
        tiles: list[Tensor] = []
        for start in range(0, len(video), tile_size):
            tile = _recomputed(_log_partitions, video[start : start + tile_size], text, scale)
            tile_sum, tile_columns_N = cast("tuple[Tensor, Tensor]", tile)
            row_sum = row_sum + tile_sum
            tiles.append(tile_columns_N)
        columns_N = torch.stack(tiles).logsumexp(dim=0)
    positives = scale * (video * text).sum()
    return (0.5 * (row_sum + columns_N.sum()) - positives) / len(video)


def _sigmoid_rows(video_RD: Tensor, text_ND: Tensor, scale: Tensor, bias: Tensor, start: int) -> Tensor:
    logits_RN = scale * (video_RD @ text_ND.T) + bias
    rows = torch.arange(len(video_RD), device=video_RD.device)
    signs_RN = -torch.ones_like(logits_RN)
    signs_RN[rows, rows + start] = 1.0
    # logsigmoid, because softplus switches to a straight line above 20.
    return -F.logsigmoid(signs_RN * logits_RN).sum()


def _log_partitions(video_RD: Tensor, text_ND: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    logits_RN = scale * (video_RD @ text_ND.T)
    return logits_RN.logsumexp(dim=1).sum(), logits_RN.logsumexp(dim=0)


def _recomputed(function: object, *arguments: object) -> object:
    # No randomness inside, so there is no generator state to save.
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)


def _checked(video_embeds: Tensor, text_embeds: Tensor, tile_size: int | None) -> tuple[Tensor, Tensor]:
    if video_embeds.ndim != 2 or video_embeds.shape != text_embeds.shape or len(video_embeds) == 0:
        raise ValueError(
            "video_embeds and text_embeds must both be (N, D) with N >= 1; "
            f"got {tuple(video_embeds.shape)} and {tuple(text_embeds.shape)}"
        )
    if tile_size is not None and tile_size < 1:
        raise ValueError(f"tile_size must be at least 1, got {tile_size}")
    dtype = torch.promote_types(torch.promote_types(video_embeds.dtype, text_embeds.dtype), torch.float32)
    return video_embeds.to(dtype), text_embeds.to(dtype)
