"""The neighbourhood regulariser of STRUCTURE: embeddings keep who is near whom among the frozen features.

The definition follows the code that was released with "With Limited Data for Multimodal Alignment, Let the STRUCTURE
Guide You" (arXiv 2506.16895); the paper's own text was not at hand, only its abstract.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmvid.losses.precision import at_least_float32

# N clips or texts, R rows of a tile, D channels
_ROWS_PER_TILE = 512


def structure_loss(inputs: Tensor, embeds: Tensor, *, temperature: float = 0.07, levels: int = 1) -> Tensor:
    """How far the neighbourhoods of the embeddings are from those of the inputs, in [0, ln 2].

    Both sides are L2-normalised row by row, then centred over the batch, in this order. The softmax of the rows of
    their Gram matrix, divided by `temperature`, is for each row a distribution over all rows, itself included: one
    step of a random walk among neighbours. Its l-th power is the walk of l steps, a coarser neighbourhood. The loss
    is ``sum over l of JS_l / l``, divided by `levels`, with JS_l the Jensen-Shannon divergence between the two l-step
    walks, in nats, averaged over the rows.

    The released code defaults to temperature 0.07 and one level; its regulariser has the factors 1 / l, its training
    loss leaves them out unless asked. It takes the divergences from each walk to the mixture with the two sides
    exchanged, KL(mixture || walk), which is no Jensen-Shannon divergence and has no upper bound; here they are
    KL(walk || mixture).

    Args:
        inputs: (N, D), frozen features of one modality. A gradient reaches them where they ask for one.
        embeds: (N, P), the embeddings of the same rows.
        temperature: above 0.
        levels: walks of 1 to so many steps, at least 1.

    Returns a scalar, computed in float32 or wider also under autocast; 0 for one row and for none. One level takes
    memory O(N), in tiles of 512 rows whose gradients are computed with the value, and is differentiable once; more
    levels keep several N x N matrices and cost O(N^3). Raises ValueError for other shapes or values.
    """
    if inputs.ndim != 2 or embeds.ndim != 2 or len(inputs) != len(embeds):
        raise ValueError(
            f"expected inputs (N, D) and embeds (N, P) of the same rows; "
            f"got {tuple(inputs.shape)} and {tuple(embeds.shape)}"
        )
    if temperature <= 0 or levels < 1:
        raise ValueError(f"expected temperature > 0 and levels >= 1; got {temperature} and {levels}")
    if len(inputs) == 0:
        return at_least_float32(embeds).sum()
    with torch.autocast(embeds.device.type, enabled=False):
        inputs_ND, embeds_ND = _centred(inputs), _centred(embeds)
        if levels == 1:
            total = cast(Tensor, _OneStep.apply(inputs_ND, embeds_ND, temperature))  # type: ignore[no-untyped-call]
        else:
            total = _many_steps(inputs_ND, embeds_ND, temperature, levels)
    return total / (len(inputs) * levels)


class _OneStep(torch.autograd.Function):
    """The divergence of one level, summed over the rows.

    With q a row of the walk, m the mixture and JS their divergence, d JS / d q is log(q / m) / 2 up to a constant.
    """

    @staticmethod
    def forward(ctx: Any, inputs_ND: Tensor, embeds_ND: Tensor, temperature: float) -> Tensor:
        sides = inputs_ND, embeds_ND
        gradients = [
            torch.zeros_like(side) if wanted else None
            for side, wanted in zip(sides, ctx.needs_input_grad[:2], strict=True)
        ]
        total = embeds_ND.new_zeros(())
        for start in range(0, len(inputs_ND), _ROWS_PER_TILE):
            rows = slice(start, start + _ROWS_PER_TILE)
            walks = [_neighbours(side_ND[rows], side_ND, temperature) for side_ND in sides]
            log_ratios = _log_ratios(*walks)
            for side_ND, walk_RN, log_ratio_RN, gradient_ND in zip(sides, walks, log_ratios, gradients, strict=True):
                weighted_RN = 0.5 * walk_RN * log_ratio_RN
                row_sums_R1 = weighted_RN.sum(dim=1, keepdim=True)
                total += row_sums_R1.sum()
                if gradient_ND is not None:
                    of_logits_RN = (weighted_RN - walk_RN * row_sums_R1) / temperature
                    gradient_ND[rows] += of_logits_RN @ side_ND
                    gradient_ND += of_logits_RN.T @ side_ND[rows]
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *of_total: Tensor) -> tuple[Tensor | None, ...]:
        # Only create_graph=True leaves gradients on here.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the structure loss of one level can be differentiated once, but create_graph=True asks for second "
                "derivatives; leave out create_graph"
            )
        return *(None if gradient is None else of_total[0] * gradient for gradient in ctx.saved_tensors), None


def _many_steps(inputs_ND: Tensor, embeds_ND: Tensor, temperature: float, levels: int) -> Tensor:
    input_step_NN = input_walk_NN = _neighbours(inputs_ND, inputs_ND, temperature)
    embed_step_NN = embed_walk_NN = _neighbours(embeds_ND, embeds_ND, temperature)
    total = _jensen_shannon(input_walk_NN, embed_walk_NN)
    for level in range(2, levels + 1):
        input_walk_NN, embed_walk_NN = input_walk_NN @ input_step_NN, embed_walk_NN @ embed_step_NN
        total = total + _jensen_shannon(input_walk_NN, embed_walk_NN) / level
    return total


def _centred(rows_ND: Tensor) -> Tensor:
    normalised_ND = F.normalize(at_least_float32(rows_ND), dim=1)
    return normalised_ND - normalised_ND.mean(dim=0)


def _neighbours(centred_RD: Tensor, centred_ND: Tensor, temperature: float) -> Tensor:
    return (centred_RD @ centred_ND.T / temperature).softmax(dim=1)


def _jensen_shannon(p_NN: Tensor, q_NN: Tensor) -> Tensor:
    """Summed over the rows."""
    of_p_NN, of_q_NN = _log_ratios(p_NN, q_NN)
    return 0.5 * (p_NN * of_p_NN + q_NN * of_q_NN).sum()


def _log_ratios(p_RN: Tensor, q_RN: Tensor) -> tuple[Tensor, Tensor]:
    """The logarithms of both over their mean; a probability that underflows counts as the smallest normal number."""
    floor = torch.finfo(p_RN.dtype).tiny
    log_mixture_RN = (0.5 * (p_RN + q_RN)).clamp(min=floor).log()
    return p_RN.clamp(min=floor).log() - log_mixture_RN, q_RN.clamp(min=floor).log() - log_mixture_RN
