"""Token states to one vector per text: poolings as pure functions, each by its definition."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

# B texts of a batch, L tokens, D channels
TextPooling = Literal["mean", "cls", "last", "eos", "max", "mean_sqrt_length", "weighted_mean"]
# CLIP configs from before transformers' pull request 24773 name token 2, which is not their end-of-text token.
_LEGACY_EOS = 2


def pool_tokens(tokens_BLD: Tensor, mask_BL: Tensor, pooling: TextPooling, end_BL: Tensor | None = None) -> Tensor:
    """Tokens (B, L, D), of which those with mask 1 count, to features (B, D).

    ``mean``, ``max``: over the tokens. ``cls``: first token. ``last``: last token. ``eos``: first
    end-of-text token. ``mean_sqrt_length``: sum over the square root of their number. ``weighted_mean``:
    weights 1, 2, 3, ... by position (SGPT, arXiv 2202.08904).

    Args:
        tokens_BLD: padded on the right.
        mask_BL: 0 or 1; every row has a 1.
        pooling: which of the above.
        end_BL: bool, where the end-of-text tokens are; read by ``eos`` alone.
    """
    weights_BL1 = mask_BL.unsqueeze(-1).to(tokens_BLD.dtype)
    rows = torch.arange(len(tokens_BLD), device=tokens_BLD.device)
    match pooling:
        case "mean":
            return (tokens_BLD * weights_BL1).sum(dim=1) / weights_BL1.sum(dim=1)
        case "mean_sqrt_length":
            return (tokens_BLD * weights_BL1).sum(dim=1) / weights_BL1.sum(dim=1).sqrt()
        case "weighted_mean":
            positions = torch.arange(1, mask_BL.shape[1] + 1, device=mask_BL.device, dtype=tokens_BLD.dtype)
            weights_BL1 = weights_BL1 * positions[None, :, None]
            return (tokens_BLD * weights_BL1).sum(dim=1) / weights_BL1.sum(dim=1)
        case "max":
            return tokens_BLD.masked_fill(weights_BL1 == 0, float("-inf")).amax(dim=1)
        case "cls":
            return tokens_BLD[rows, mask_BL.int().argmax(dim=1)]
        case "last":
            return tokens_BLD[rows, mask_BL.shape[1] - 1 - mask_BL.flip(1).int().argmax(dim=1)]
        case "eos":
            if end_BL is None:
                raise ValueError("pooling 'eos' needs to know where the end-of-text tokens are")
            return tokens_BLD[rows, end_BL.int().argmax(dim=1)]


def end_of_text(ids: list[int], eos_ids: tuple[int, ...]) -> int | None:
    """The position at which CLIP reads a text: of the first end-of-text token; None where there is none.

    CLIP configs that name token 2 come from a time when it was the token with the highest id that ended a
    text; they are read that way (transformers' CLIPTextModel, which does the same).
    """
    if eos_ids == (_LEGACY_EOS,) and _LEGACY_EOS not in ids:
        return ids.index(max(ids))
    return next((position for position, token in enumerate(ids) if token in eos_ids), None)
