"""One update of contrastive training: loss, gradients, clipping, step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vlmvid.errors import StageError
from vlmvid.losses import sigmoid_loss
from vlmvid.models.alignment import AlignmentModel
from vlmvid.models.runtime import seeded
from vlmvid.training.optim import lr_at, set_lr


def contrastive_update(
    step: int,
    heads: AlignmentModel,
    optimizer: torch.optim.Optimizer,
    embed: Callable[[], tuple[Tensor, Tensor]],
    *,
    model: nn.Module,
    dropout_seed: int,
) -> dict[str, float]:
    """Update number `step` (from 0) by the sigmoid loss of `heads.config`.

    Args:
        heads: its config, logit scale and bias make the loss.
        embed: gives the batch's video and text embeddings (B, P); called with torch's generators seeded.
        model: what is trained, for clipping; `heads` itself or what holds it.
        dropout_seed: of this update.

    Returns loss, logit_scale, logit_bias, lr and grad_norm (before clipping). Raises StageError when loss or
    gradient stops being finite; the weights are then those before the update.
    """
    config = heads.config
    lr = lr_at(step, config.optim)
    set_lr(optimizer, lr)
    with seeded(dropout_seed, heads.logit_bias.device):
        video_embeds, text_embeds = embed()
        loss = sigmoid_loss(
            video_embeds,
            text_embeds,
            logit_scale=heads.logit_scale,
            logit_bias=heads.logit_bias,
            reduction=config.reduction,
        )
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    grad_norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.grad_clip_norm))
    if not (math.isfinite(loss.item()) and math.isfinite(grad_norm)):
        raise StageError(
            f"training diverged at update {step + 1} of {config.optim.num_steps}: loss={loss.item()}, "
            f"grad_norm={grad_norm}, lr={lr:g}; lower optim.lr or raise optim.warmup_steps"
        )
    optimizer.step()
    heads.clamp_logit_scale()
    return {
        "loss": loss.item(),
        "logit_scale": heads.logit_scale.item(),
        "logit_bias": heads.logit_bias.item(),
        "lr": lr,
        "grad_norm": grad_norm,
    }
