"""A temporal transformer behind the image encoder (ViViT, arXiv 2103.15691, model 2)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vlmvid.models.video.blocks import zero_

# B clips, T time steps, N tokens per time step (prefix first), D channels


class TemporalEncoder(nn.Module):
    """What a transformer reads from the sequence of frame summaries, added to every token of each frame.

    A frame's summary is its class token, or the mean of its tokens where there is none. ViViT keeps only the
    summaries' transformer output; as a residual with a zero output layer it starts as the image encoder and keeps
    the patch tokens. With a frozen image encoder this is the cheap variant of arXiv 2306.04822.

    Args:
        block_type: timm's Block.
        embed_dim, num_heads: of the image encoder.
        depth: blocks.
        class_token: whether the first token of a frame is its class token.
        time_embedding: steps -> (T, D), added to the summaries; None leaves the transformer blind to order.
    """

    def __init__(
        self,
        block_type: Any,
        embed_dim: int,
        *,
        num_heads: int,
        depth: int,
        class_token: bool,
        time_embedding: nn.Module | None,
    ) -> None:
        super().__init__()
        self.class_token = class_token
        self.time_embedding = time_embedding
        self.blocks = nn.Sequential(*(block_type(embed_dim, num_heads, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)
        zero_(self.out)

    def forward(self, x_BTND: Tensor) -> Tensor:
        """Tokens (B, T, N, D) to (B, T, N, D)."""
        summary_BTD = x_BTND[:, :, 0] if self.class_token else x_BTND.mean(dim=2)
        if self.time_embedding is not None:
            summary_BTD = summary_BTD + self.time_embedding(x_BTND.shape[1])
        update_BTD: Tensor = self.out(self.norm(self.blocks(summary_BTD)))
        return x_BTND + update_BTD.unsqueeze(2)
