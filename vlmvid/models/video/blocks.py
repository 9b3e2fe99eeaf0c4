"""A ViT block on clips: every frame alone, all frames at once, time then space, or with channels shifted in time.

Each holds the image model's own block. Every time step has prefix tokens (class, registers) of its own, which are
treated like further places of the frame. TimeSformer differs: its one class token per clip takes no part in
attention over time, is copied to all frames for attention over space, and the copies are averaged.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

# B clips, T time steps, N tokens per time step (prefix first), D channels


def attend_space(attention: Any, x_BTND: Tensor) -> Tensor:
    """Self-attention among the tokens of each time step, without norm and residual; (B, T, N, D) to the same."""
    out: Tensor = attention(rearrange(x_BTND, "b t n d -> (b t) n d"))
    return rearrange(out, "(b t) n d -> b t n d", b=len(x_BTND))


def attend_time(attention: Any, x_BTND: Tensor) -> Tensor:
    """Self-attention over time among the tokens of one place; (B, T, N, D) to the same."""
    out: Tensor = attention(rearrange(x_BTND, "b t n d -> (b n) t d"))
    return rearrange(out, "(b n) t d -> b t n d", b=len(x_BTND))


def attend_all(attention: Any, x_BTND: Tensor) -> Tensor:
    """Self-attention among all tokens of a clip; (B, T, N, D) to the same."""
    out: Tensor = attention(rearrange(x_BTND, "b t n d -> b (t n) d"))
    return rearrange(out, "b (t n) d -> b t n d", t=x_BTND.shape[1])


def shift_in_time(x_BTND: Tensor, fraction: float) -> Tensor:
    """Temporal shift (TSM, arXiv 1811.08383, section 3): a share of the channels comes from the neighbouring steps.

    The first `fraction` of the channels comes from the step before, the next `fraction` from the step after. At the
    ends of the clip, where TSM puts zeros, the end's own values stay: so a still clip is left as it is.
    """
    num_channels = int(x_BTND.shape[-1] * fraction)
    past, future = x_BTND[..., :num_channels], x_BTND[..., num_channels : 2 * num_channels]
    past = torch.cat([past[:, :1], past[:, :-1]], dim=1)
    future = torch.cat([future[:, 1:], future[:, -1:]], dim=1)
    return torch.cat([past, future, x_BTND[..., 2 * num_channels :]], dim=-1)


class FrameBlock(nn.Module):
    """The image model's block on every time step alone: ``x + attn(norm(x))``, then ``x + mlp(norm(x))``."""

    image: Any

    def __init__(self, image_block: nn.Module) -> None:
        super().__init__()
        self.image = image_block

    def forward(self, x_BTND: Tensor) -> Tensor:
        """Tokens (B, T, N, D) to (B, T, N, D)."""
        return self.mlp_residual(x_BTND + self.space(x_BTND))

    def space(self, x_BTND: Tensor) -> Tensor:
        """The attention branch of each time step, without its residual."""
        out: Tensor = self.image.ls1(attend_space(self.image.attn, self.image.norm1(x_BTND)))
        return out

    def mlp_residual(self, x_BTND: Tensor) -> Tensor:
        """The MLP branch with its residual."""
        out: Tensor = x_BTND + self.image.ls2(self.image.mlp(self.image.norm2(x_BTND)))
        return out


class JointBlock(FrameBlock):
    """Attention among all tokens of the clip (ViViT, arXiv 2103.15691, model 1).

    On a still clip the T copies of a key share the weight that it has in the image model, which gives the same average.
    """

    def space(self, x_BTND: Tensor) -> Tensor:
        """The attention branch over space and time at once, without its residual."""
        out: Tensor = self.image.ls1(attend_all(self.image.attn, self.image.norm1(x_BTND)))
        return out


class ShiftBlock(FrameBlock):
    """Temporal shift inside the residual branch, before attention (TSM, arXiv 1811.08383, section 3.3)."""

    def __init__(self, image_block: nn.Module, fraction: float) -> None:
        super().__init__(image_block)
        self.fraction = fraction

    def space(self, x_BTND: Tensor) -> Tensor:
        """The attention branch on shifted tokens, without its residual."""
        shifted = shift_in_time(self.image.norm1(x_BTND), self.fraction)
        out: Tensor = self.image.ls1(attend_space(self.image.attn, shifted))
        return out


class DividedBlock(FrameBlock):
    """Attention over time, then space (TimeSformer, arXiv 2102.05095, section 3, "divided").

    The temporal attention starts as a copy of the spatial one with a zero output projection. Prefix tokens
    attend over time to their own kind in the other time steps.

    Args:
        image_block: the image model's block.
        residual: what the spatial branch is added to: ``time``, the sum after the temporal branch (TimeSformer), or
            ``input``, the block's input, so that time acts only through space (Frozen in Time, arXiv 2104.00650).
    """

    time_norm: Any
    time_attn: Any

    def __init__(self, image_block: Any, residual: Literal["time", "input"] = "time") -> None:
        super().__init__(image_block)
        self.residual = residual
        self.time_norm = copy.deepcopy(image_block.norm1)
        self.time_attn = copy.deepcopy(image_block.attn)
        zero_(self.time_attn.proj)

    def forward(self, x_BTND: Tensor) -> Tensor:
        """Tokens (B, T, N, D) to (B, T, N, D)."""
        timed = x_BTND + attend_time(self.time_attn, self.time_norm(x_BTND))
        return self.mlp_residual((timed if self.residual == "time" else x_BTND) + self.space(timed))


def zero_(layer: nn.Linear) -> None:
    """Set the weight, and the bias where there is one, to zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
