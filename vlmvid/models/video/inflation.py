"""Patches in space become patches in space and time (tubelets)."""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

# B clips, T frames, C colours, H W pixels, P patch side, D channels, S patches per time step, K kept patches


def inflate_weight(weight_DCPP: Tensor, tubelet_size: int, inflation: Literal["central", "mean"]) -> Tensor:
    """A 2D patch weight (D, C, P, P) as a 3D one (D, C, tubelet_size, P, P).

    ``mean``: each frame has weight / tubelet_size (I3D, arXiv 1705.07750, section 2.4).
    ``central``: frame tubelet_size // 2 has the weight, the others zero (ViViT, arXiv 2103.15691, section 3.4).
    Both give a tubelet of equal frames exactly the token that the image encoder gives the frame.
    """
    if inflation == "mean":
        return weight_DCPP.unsqueeze(2).repeat(1, 1, tubelet_size, 1, 1) / tubelet_size
    inflated = weight_DCPP.new_zeros(*weight_DCPP.shape[:2], tubelet_size, *weight_DCPP.shape[2:])
    inflated[:, :, tubelet_size // 2] = weight_DCPP
    return inflated


class TubeletEmbedding(nn.Module):
    """Tubelets without overlap to tokens: what Conv3d with stride = kernel computes, as one matrix product.

    As a product it can leave dropped patches out before it computes anything.

    Args:
        patch_embed: timm's PatchEmbed, whose weight is inflated; its norm is reused.
        tubelet_size: frames per token.
        inflation: see `inflate_weight`.
    """

    norm: Any

    def __init__(self, patch_embed: Any, tubelet_size: int, inflation: Literal["central", "mean"]) -> None:
        super().__init__()
        weight = patch_embed.proj.weight.detach()
        self.weight = nn.Parameter(inflate_weight(weight, tubelet_size, inflation).contiguous())
        bias = patch_embed.proj.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.norm = patch_embed.norm

    def forward(self, pixels: Tensor, index: Tensor | None = None) -> Tensor:
        """Pixels (B, T, C, H, W) to tokens (B, T / tubelet_size, S, D), rows of patches one after the other.

        With `index`, int64 (B, T / tubelet_size, K), only those patches: (B, T / tubelet_size, K, D).
        """
        tubelet_size, height, width = self.weight.shape[2:]
        patches = rearrange(pixels, "b (t a) c (h p) (w q) -> b t (h w) (c a p q)", a=tubelet_size, p=height, q=width)
        if index is not None:
            patches = patches.gather(2, index.unsqueeze(-1).expand(-1, -1, -1, patches.shape[-1]))
        tokens = F.linear(patches, self.weight.flatten(1), self.bias)
        out: Tensor = self.norm(tokens)
        return out
