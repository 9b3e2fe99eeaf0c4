"""Losses beside the contrastive one: captioning, masked words, masked frames, matching, frame order.

Pure functions of predictions and targets; the networks that predict are in `vlmvid.models.objective_parts`. All
compute in float32 or wider. Where nothing is counted (nothing hidden, no pair) the loss is 0 with zero gradients,
never NaN.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmvid.losses.precision import at_least_float32

# B clips, T frames, L words of a caption, V words of the vocabulary, D channels, R rows, M candidates
Reduction = Literal["per_token", "per_clip"]
IGNORE_INDEX = -100
_REDUCTIONS = ("per_token", "per_clip")
# Of VideoMAE; keeps the target of a constant frame finite.
_VARIANCE_FLOOR = 1e-6


def token_cross_entropy(logits: Tensor, labels: Tensor, *, reduction: Reduction = "per_token") -> Tensor:
    """Cross-entropy of the words at the places that count.

    With labels shifted by one it is CoCa's captioning loss (arXiv 2205.01917). With labels at hidden
    places only it is masked language modelling (BERT, arXiv 1810.04805, section 3.1; FLAVA, arXiv 2112.04482).

    Args:
        logits: (B, L, V).
        labels: int64 (B, L), in [0, V), or `IGNORE_INDEX` where a place does not count.
        reduction: ``per_token`` = mean over all places that count (BERT, CoCa); ``per_clip`` = mean over the clips
            of the mean over a clip's own places, a clip without any counting as 0, so that the loss of a batch is
            the weighted mean of the losses of its chunks.

    Returns a scalar. Raises ValueError for other shapes or an unknown reduction.
    """
    if logits.ndim != 3 or labels.shape != logits.shape[:2]:
        raise ValueError(
            f"expected logits (B, L, V) and labels (B, L); got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    losses = F.cross_entropy(
        at_least_float32(logits).flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    return _mean_where(losses.view(labels.shape), labels != IGNORE_INDEX, reduction)


def normalised_frames(features: Tensor) -> Tensor:
    """Each frame's feature (B, T, D) less its mean over channels, divided by its standard deviation.

    The targets of `masked_frames_loss`: VideoMAE (arXiv 2203.12602, after MAE, arXiv 2111.06377, section 3) does
    the same to the pixels of each patch. The deviation is the unbiased one, and a feature of equal channels becomes 0.
    """
    wide = at_least_float32(features)
    centred = wide - wide.mean(dim=-1, keepdim=True)
    variance = centred.square().sum(dim=-1, keepdim=True) / max(1, features.shape[-1] - 1)
    return centred / (variance + _VARIANCE_FLOOR).sqrt()


def masked_frames_loss(predictions: Tensor, features: Tensor, hidden: Tensor) -> Tensor:
    """Squared error between predictions and normalised features at the hidden frames.

    Regression, as VideoMAE does to pixels (arXiv 2203.12602). FLAVA (arXiv 2112.04482) instead classifies
    which entry of an image tokenizer's codebook a hidden patch has; features of an arbitrary backbone have no codebook,
    and fitting one would be a stage of its own.

    Args:
        predictions: (B, T, D).
        features: (B, T, D), before `normalised_frames`; they are targets and get no gradient.
        hidden: bool (B, T), True where a frame was hidden from the predictor.

    Returns a scalar: the mean over channels, then over a clip's hidden frames, then over clips; a clip that hides
    nothing counts as 0. Raises ValueError for other shapes.
    """
    if predictions.ndim != 3 or predictions.shape != features.shape or hidden.shape != predictions.shape[:2]:
        raise ValueError(
            "expected predictions and features (B, T, D) and hidden (B, T); "
            f"got {tuple(predictions.shape)}, {tuple(features.shape)} and {tuple(hidden.shape)}"
        )
    targets = normalised_frames(features.detach())
    return _mean_where((at_least_float32(predictions) - targets).pow(2).mean(dim=-1), hidden, "per_clip")


def frame_order_loss(logits: Tensor, places: Tensor) -> Tensor:
    """Cross-entropy over the place that each frame had before shuffling (HERO, arXiv 2005.00200).

    Args:
        logits: (B, T, T); row t holds the scores of the places of the frame that is shown t-th.
        places: int64 (B, T), the place that frame had, or `IGNORE_INDEX` for a frame that is not asked for. HERO
            shuffles 15 % of the frames and asks for those alone.

    Returns a scalar: the mean over a clip's frames, then over clips; log T for a guess. Raises ValueError for other
    shapes.
    """
    if logits.ndim != 3 or logits.shape[1] != logits.shape[2]:
        raise ValueError(f"expected logits (B, T, T), a score for each place; got {tuple(logits.shape)}")
    return token_cross_entropy(logits, places, reduction="per_clip")


def matching_loss(positive_logits: Tensor, negative_logits: Tensor) -> Tensor:
    """Binary cross-entropy: does this text belong to this clip (ALBEF, arXiv 2107.07651, section 3.2; FLAVA)?

    Args:
        positive_logits: (P,), scores of pairs that belong together.
        negative_logits: (K,), scores of pairs that do not. P and K may be 0.

    Returns a scalar, the mean over all P + K pairs. Raises ValueError for other shapes.
    """
    if positive_logits.ndim != 1 or negative_logits.ndim != 1:
        raise ValueError(
            f"expected one score per pair, (P,) and (K,); got {tuple(positive_logits.shape)} and "
            f"{tuple(negative_logits.shape)}"
        )
    # logsigmoid, because softplus switches to a straight line above 20.
    total = (
        F.logsigmoid(at_least_float32(positive_logits)).sum() + F.logsigmoid(-at_least_float32(negative_logits)).sum()
    )
    return -total / max(1, len(positive_logits) + len(negative_logits))


@torch.no_grad()
def draw_hard_negatives(similarity: Tensor, is_positive: Tensor, generator: torch.Generator) -> Tensor:
    """For each row one candidate that is not its own, drawn in proportion to exp(similarity).

    ALBEF (arXiv 2107.07651, section 3.2) draws so one wrong text per image and one wrong image per text for
    `matching_loss`. It excludes the row's own partner alone; `is_positive` may exclude more, such as equal captions.

    Args:
        similarity: (R, M), already divided by the temperature.
        is_positive: bool (R, M), True where a candidate must not be drawn.
        generator: decides the draws, one float64 per row; may lie on another device than the tensors.

    Returns int64 (R,), or -1 for a row that has no candidate left. Raises ValueError for other shapes.
    """
    if similarity.ndim != 2 or similarity.shape != is_positive.shape or is_positive.dtype != torch.bool:
        raise ValueError(
            "expected similarity (R, M) and a bool is_positive (R, M); "
            f"got {tuple(similarity.shape)} and {is_positive.dtype} {tuple(is_positive.shape)}"
        )
    num_rows, num_candidates = similarity.shape
    draws = torch.rand(num_rows, generator=generator, dtype=torch.float64, device=generator.device)
    none_left = is_positive.all(dim=1)
    if num_candidates == 0:
        return torch.full_like(none_left, -1, dtype=torch.int64)
    scores = at_least_float32(similarity).masked_fill(is_positive, -torch.inf)
    cumulative = scores.softmax(dim=1).cumsum(dim=1)
    thresholds = draws.to(cumulative) * cumulative[:, -1]
    drawn = torch.searchsorted(cumulative, thresholds[:, None], right=True).clamp(max=num_candidates - 1)
    # Rounding may push a draw onto an excluded candidate at the edge; the likeliest one stands in.
    strays = is_positive.gather(1, drawn)
    drawn = torch.where(strays, scores.argmax(dim=1, keepdim=True), drawn)[:, 0]
    return drawn.masked_fill(none_left, -1)


def _mean_where(losses: Tensor, counted: Tensor, reduction: Reduction) -> Tensor:
    if reduction not in _REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}; expected 'per_token' or 'per_clip'")
    counted_losses = torch.where(counted, losses, 0.0)
    if reduction == "per_token":
        return counted_losses.sum() / counted.sum().clamp(min=1)
    per_clip = counted_losses.sum(dim=1) / counted.sum(dim=1).clamp(min=1)
    return per_clip.sum() / max(1, len(per_clip))
