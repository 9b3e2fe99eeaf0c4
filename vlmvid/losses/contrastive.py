"""Contrastive losses between clips and texts: the sigmoid loss of SigLIP and SAIL, and InfoNCE.

A clip may have several texts (SAIL, arXiv 2412.04616, trains on two captions per image), and the batch may hold hard
negatives: texts of no clip (NegCLIP, arXiv 2210.01936, adds captions with words exchanged) and clips of no text. With
`tile_size` the logits are made and thrown away tile by tile (`vlmvid.losses.tiled`), which gives the same
numbers in memory O(tile_size^2 + (N + M) * D) instead of O(N * M). `vlmvid.losses.distributed` has both losses for
a batch that lies on several processes.

N clips, M texts, P texts that belong to a clip, D projection_dim.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmvid.losses.closed_form import closed_form
from vlmvid.losses.positives import Positives, computing_dtype, positives_of
from vlmvid.losses.tiled import STRAIGHT_LINE_ABOVE, TiledInfoNce, TiledSigmoid

Reduction = Literal["per_sample", "per_pair"]


def sigmoid_loss(
    video_embeds: Tensor,
    text_embeds: Tensor,
    *,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    reduction: Reduction = "per_sample",
    tile_size: int | None = None,
    video_of_text: Tensor | None = None,
) -> Tensor:
    """The pairwise sigmoid loss: softplus(-z) for a positive pair, softplus(z) for all others.

    z = logit_scale * <video, text> + logit_bias. Each of the N * M pairs counts once.

    Args:
        video_embeds, text_embeds: (N, D) and (M, D), L2-normalised; computed in float32 or wider.
        logit_scale: multiplier of the cosine, after exp.
        logit_bias: added to every logit.
        reduction: ``per_sample`` = sum over all pairs / number of positive pairs, which is SigLIP's sum / N when
            every clip has one text (arXiv 2303.15343), and with K texts for each clip the mean of the K losses;
            ``per_pair`` = sum / (N * M), as SAIL's released loss (arXiv 2412.04616), which with a second caption per
            image takes one mean over both N x N matrices.
        tile_size: clips and texts per tile of logits; None computes all logits at once. About 1,024 is fastest on
            a CPU. With it the loss can be differentiated once.
        video_of_text: int64 (M,), the clip that a text belongs to, -1 = none (a hard negative caption). None = text
            i belongs to clip i. Clips that no text names are hard negatives.

    Returns a scalar. Raises ValueError for other shapes, no rows, no positive pair, a clip number outside -1..N - 1,
    or an unknown reduction.
    """
    check_reduction(reduction)
    positives = _checked(video_embeds, text_embeds, video_of_text, tile_size)
    scale, bias = scalars(video_embeds, text_embeds, logit_scale, logit_bias)
    divisor = positives.num_texts if reduction == "per_sample" else len(video_embeds) * len(text_embeds)
    with torch.autocast(video_embeds.device.type, enabled=False):
        if tile_size is not None:
            loss = TiledSigmoid(positives, tile_size, divisor)
            return closed_form(loss, video_embeds, text_embeds, scale, bias)
        logits_NM = scale * (video_embeds.to(scale) @ text_embeds.to(scale).T) + bias
        signs_NM = torch.ones_like(logits_NM)
        signs_NM[positives.clips_P, positives.texts_P] = -1.0
        return F.softplus(signs_NM * logits_NM, threshold=STRAIGHT_LINE_ABOVE).sum() / divisor


def info_nce(
    video_embeds: Tensor,
    text_embeds: Tensor,
    *,
    logit_scale: Tensor | float,
    tile_size: int | None = None,
    video_of_text: Tensor | None = None,
) -> Tensor:
    """The symmetric InfoNCE loss of CLIP (arXiv 2103.00020), for any number of texts per clip.

    Half the mean over the texts that have a clip of -log softmax of it over all N clips, plus half the mean over
    the clips that have texts of the mean over these of -log softmax over all M texts (the L_out of SupCon,
    arXiv 2004.11362), on logits logit_scale * <video, text>. Hard negatives are in the softmaxes and in no mean.

    Args:
        video_embeds, text_embeds: (N, D) and (M, D), L2-normalised; computed in float32 or wider.
        logit_scale: multiplier of the cosine, after exp.
        tile_size: clips and texts per tile of logits; None computes all logits at once. With it the loss can be
            differentiated once.
        video_of_text: as in `sigmoid_loss`.

    Returns a scalar. Raises ValueError for other shapes, no rows, no positive pair, or a clip number outside
    -1..N - 1.
    """
    positives = _checked(video_embeds, text_embeds, video_of_text, tile_size)
    scale, no_bias = scalars(video_embeds, text_embeds, logit_scale, 0.0)
    with torch.autocast(video_embeds.device.type, enabled=False):
        if tile_size is not None:
            return closed_form(TiledInfoNce(positives, tile_size), video_embeds, text_embeds, scale, no_bias)
        logits_NM = scale * (video_embeds.to(scale) @ text_embeds.to(scale).T)
        logits_P = logits_NM[positives.clips_P, positives.texts_P]
        rows_N, columns_M = logits_NM.logsumexp(dim=1), logits_NM.logsumexp(dim=0)
        return positives.info_nce(rows_N, columns_M, logits_P, positives.num_clips, positives.num_texts)


def check_reduction(reduction: str) -> None:
    """Raise ValueError for an unknown reduction."""
    if reduction not in ("per_sample", "per_pair"):
        raise ValueError(f"unknown reduction {reduction!r}; expected 'per_sample' or 'per_pair'")


def check_tile_size(tile_size: int | None) -> None:
    """Raise ValueError for a tile of no size."""
    if tile_size is not None and tile_size < 1:
        raise ValueError(f"tile_size must be at least 1, got {tile_size}")


def scalars(video: Tensor, text: Tensor, scale: Tensor | float, bias: Tensor | float) -> tuple[Tensor, Tensor]:
    """Scale and bias as 0-d tensors of the dtype that is computed in, on the device of `video`."""
    dtype, device = computing_dtype(video, text), video.device
    return (
        torch.as_tensor(scale).to(device, dtype).reshape(()),
        torch.as_tensor(bias).to(device, dtype).reshape(()),
    )


def _checked(video: Tensor, text: Tensor, video_of_text: Tensor | None, tile_size: int | None) -> Positives:
    check_tile_size(tile_size)
    positives = positives_of(video, text, video_of_text)
    if len(video) == 0 or len(text) == 0:
        raise ValueError(f"video_embeds (N, D) and text_embeds (M, D) need rows; got N = {len(video)}, M = {len(text)}")
    if positives.num_texts == 0:
        raise ValueError("no text of the batch belongs to a clip: video_of_text is -1 everywhere")
    return positives
