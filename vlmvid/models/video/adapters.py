"""Bottlenecks in a frozen image encoder; what they add is zero at the start."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vlmvid.models.video.blocks import FrameBlock, attend_space, attend_time, zero_

# B clips, T time steps, N tokens per time step (prefix first), S patches, D channels, W bottleneck channels
_AIM_SCALE = 0.5  # of the adapter beside the MLP, as in the authors' ViT configs


class SpaceTimeAdapter(nn.Module):
    """ST-Adapter (arXiv 2206.13559, section 3): down, depthwise 3 x 1 x 1 convolution, up; no activation.

    The kernel is the one of the authors' models: three steps of time, one place. Beyond the clip's ends lie
    zeros. The authors start with a zero convolution; here `up` is zero, which gives the same start.
    """

    def __init__(self, embed_dim: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(embed_dim, width)
        self.conv = nn.Conv1d(width, width, kernel_size=3, padding=1, groups=width)
        self.up = nn.Linear(width, embed_dim)
        zero_(self.up)

    def forward(self, patches_BTSD: Tensor) -> Tensor:
        """Patch tokens (B, T, S, D) to what is added to them, (B, T, S, D)."""
        narrow = rearrange(self.down(patches_BTSD), "b t s w -> (b s) w t")
        mixed = rearrange(self.conv(narrow), "(b s) w t -> b t s w", b=len(patches_BTSD))
        out: Tensor = self.up(mixed)
        return out


class STAdapterBlock(FrameBlock):
    """An ST-Adapter before the attention; prefix tokens, which have no place in the grid, pass it by."""

    def __init__(self, image_block: nn.Module, embed_dim: int, width: int, num_prefix_tokens: int) -> None:
        super().__init__(image_block)
        self.num_prefix_tokens = num_prefix_tokens
        self.adapter = SpaceTimeAdapter(embed_dim, width)

    def forward(self, x_BTND: Tensor) -> Tensor:
        """Tokens (B, T, N, D) to (B, T, N, D)."""
        prefix, patches = x_BTND[:, :, : self.num_prefix_tokens], x_BTND[:, :, self.num_prefix_tokens :]
        adapted = torch.cat([prefix, patches + self.adapter(patches)], dim=2)
        return super().forward(adapted)


class Bottleneck(nn.Module):
    """Down, GELU, up, with `up` zero at the start: (..., D) to (..., D)."""

    def __init__(self, embed_dim: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(embed_dim, width)
        self.up = nn.Linear(width, embed_dim)
        zero_(self.up)

    def forward(self, x: Tensor) -> Tensor:
        """What is added, in the shape of `x`."""
        out: Tensor = self.up(F.gelu(self.down(x)))
        return out


class AIMBlock(FrameBlock):
    """AIM (arXiv 2302.03024, section 3): the frozen attention used over time as well, with three adapters.

    ``x + A_t(attn over time)``, then ``x + (1 + A_s)(attn over space)``, then ``x + mlp + 0.5 * A_m``, the last
    beside the MLP on the same input.
    """

    image: Any

    def __init__(self, image_block: nn.Module, embed_dim: int, width: int) -> None:
        super().__init__(image_block)
        self.time_adapter = Bottleneck(embed_dim, width)
        self.space_adapter = Bottleneck(embed_dim, width)
        self.mlp_adapter = Bottleneck(embed_dim, width)

    def forward(self, x_BTND: Tensor) -> Tensor:
        """Tokens (B, T, N, D) to (B, T, N, D)."""
        image = self.image
        x_BTND = x_BTND + self.time_adapter(attend_time(image.attn, image.norm1(x_BTND)))
        attended = attend_space(image.attn, image.norm1(x_BTND))
        x_BTND = x_BTND + image.ls1(attended + self.space_adapter(attended))
        normed = image.norm2(x_BTND)
        out: Tensor = x_BTND + image.ls2(image.mlp(normed)) + _AIM_SCALE * self.mlp_adapter(normed)
        return out
