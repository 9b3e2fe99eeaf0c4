"""Masks over patch tokens for training on a part of them: which are kept, taking them, putting them back.

A mask is bool (B, T, N), True where a token is kept. The draws come from the generator alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

# B clips, T frames, N patches, K kept tokens of a clip, D channels


def tube_mask(shape: tuple[int, int, int], keep_fraction: float, generator: torch.Generator) -> Tensor:
    """The same patches in all frames of a clip (VideoMAE, arXiv 2203.12602).

    Each clip keeps ``max(1, round(keep_fraction * N))`` patches in every frame; VideoMAE keeps 0.1.
    Without it a patch dropped in one frame is seen almost unchanged in the next.

    Args:
        shape: (B, T, N).
        keep_fraction: in (0, 1].
        generator: decides the draw; the mask lies on its device.

    Raises ValueError for a fraction out of range.
    """
    batch, num_frames, num_patches = shape
    return _draw((batch, 1, num_patches), keep_fraction, generator).repeat(1, num_frames, 1)


def frame_mask(shape: tuple[int, int, int], keep_fraction: float, generator: torch.Generator) -> Tensor:
    """Patches drawn anew for each frame, ``max(1, round(keep_fraction * N))`` in every one.

    It is what FLIP (arXiv 2212.00794) does to an image, done to each frame; FLIP keeps 0.5 or 0.25. What VideoMAE
    calls frame masking drops whole frames, and is something else. Arguments and errors are those of `tube_mask`.
    """
    return _draw(shape, keep_fraction, generator)


def clip_mask(shape: tuple[int, int, int], keep_fraction: float, generator: torch.Generator) -> Tensor:
    """Tokens drawn over the whole clip, ``max(1, round(keep_fraction * T * N))`` in each.

    It is the masking that is agnostic of space and time in arXiv 2205.09113, which keeps 0.1. A frame may
    keep none. Arguments and errors are those of `tube_mask`.
    """
    batch, num_frames, num_patches = shape
    return _draw((batch, num_frames * num_patches), keep_fraction, generator).reshape(shape)


def keep_tokens(tokens: Tensor, mask: Tensor) -> Tensor:
    """The kept tokens of (B, T, N, D) as (B, K, D), by frame and then by place.

    After a tube or frame mask, ``.unflatten(1, (T, -1))`` gives them per frame. A dropped token decides
    nothing: its gradient is zero, and its value may be NaN. Raises ValueError when the shapes do not fit or
    the clips keep different numbers of tokens.
    """
    if tokens.ndim != 4 or mask.shape != tokens.shape[:3] or mask.dtype != torch.bool:
        raise ValueError(
            f"expected tokens (B, T, N, D) and a bool mask (B, T, N); "
            f"got {tuple(tokens.shape)} and {mask.dtype} {tuple(mask.shape)}"
        )
    return tokens[mask].reshape(len(tokens), _num_kept(mask), tokens.shape[3])


def restore_tokens(kept: Tensor, mask: Tensor, mask_token: Tensor) -> Tensor:
    """Kept tokens (B, K, D) back at their places (B, T, N, D), `mask_token` (D,) everywhere else.

    Raises ValueError when the shapes do not fit or the clips keep different numbers of tokens.
    """
    num_kept = _num_kept(mask)
    if kept.ndim != 3 or kept.shape[:2] != (len(mask), num_kept) or mask_token.shape != kept.shape[2:]:
        raise ValueError(
            f"expected kept tokens ({len(mask)}, {num_kept}, D) and a mask token (D,); "
            f"got {tuple(kept.shape)} and {tuple(mask_token.shape)}"
        )
    restored = mask_token.to(kept.dtype).expand(*mask.shape, -1)
    return restored.masked_scatter(mask[..., None], kept)


def _draw(shape: tuple[int, ...], keep_fraction: float, generator: torch.Generator) -> Tensor:
    """A mask that keeps the same number of items along the last axis, at places drawn evenly."""
    if not 0.0 < keep_fraction <= 1.0:
        raise ValueError(f"keep_fraction must be above 0 and at most 1; got {keep_fraction}")
    num_kept = max(1, round(keep_fraction * shape[-1]))
    draws = torch.rand(shape, generator=generator, device=generator.device)
    # Stable, so that equal draws decide nothing by chance.
    chosen = draws.argsort(dim=-1, stable=True)[..., :num_kept]
    return torch.zeros(shape, dtype=torch.bool, device=draws.device).scatter_(-1, chosen, True)


def _num_kept(mask: Tensor) -> int:
    counts = mask.flatten(1).sum(dim=1)
    if counts.min() != counts.max():
        raise ValueError(
            f"clips keep from {int(counts.min())} to {int(counts.max())} tokens; "
            "expected the same number in each, as the masks of this module give"
        )
    return int(counts[0])
