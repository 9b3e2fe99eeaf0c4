"""Poolings without weights that merge similar tokens: ToMe in space, TESTA in time and space.

Both merge in rounds. In a round the items at even places (set A) each choose the most similar item at an
odd place (set B, the first of equals), and the r items of A with the highest similarity (the first
of equals) join their choice; the means are weighted by how many tokens an item already stands for. What
is left keeps its order. A round removes at most half of the items, so several may follow.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmvid.config.encoders import PoolingConfig
from vlmvid.errors import ConfigError
from vlmvid.models.pooling.spec import PoolingSpec

# B clips or frames, T frames, N patches, D feature_dim; K items before and L items after a round, C channels of an item


def merge_in_space(tokens: Tensor, sizes: Tensor, num_kept: int) -> tuple[Tensor, Tensor]:
    """Merge similar tokens until `num_kept` are left (ToMe, arXiv 2210.09461, outside of a ViT).

    Args:
        tokens: float32 (B, N, D). Similarity is the cosine of the tokens themselves; ToMe, inside of
            a ViT's blocks, takes the attention's keys.
        sizes: float32 (B, N), how many tokens each one stands for.
        num_kept: in [1, N].

    Returns tokens (B, num_kept, D) and sizes (B, num_kept); the sum of the sizes stays.
    """
    for _, num_left in _rounds(tokens.shape[1], num_kept):
        normal = F.normalize(tokens, dim=-1)
        scores = normal[:, 0::2] @ normal[:, 1::2].transpose(1, 2)
        tokens, sizes = _merge_round(tokens, sizes, scores, tokens.shape[1] - num_left)
    return tokens, sizes


def merge_in_time(tokens: Tensor, num_kept: int) -> tuple[Tensor, Tensor]:
    """Merge similar adjacent frames until `num_kept` are left (after TESTA, arXiv 2310.19060).

    The similarity of two frames is the mean over patches of the cosine of their tokens at the same
    place. A frame may join only the frame before or after it, so that the frames stay in the order
    of time; TESTA lets it join any frame of the other set, and lets its patches vote.

    Args:
        tokens: float32 (B, T, N, D).
        num_kept: in [1, T].

    Returns tokens (B, num_kept, N, D) and how many frames each one stands for, float32 (B, num_kept).
    """
    shape = tokens.shape
    flat = tokens.flatten(2)
    sizes = flat.new_ones(flat.shape[:2])
    for _, num_left in _rounds(shape[1], num_kept):
        normal = F.normalize(torch.unflatten(flat, 2, shape[2:]), dim=-1).flatten(2)
        # Sums over patches, which rank as their means do.
        scores = normal[:, 0::2] @ normal[:, 1::2].transpose(1, 2)
        place = torch.arange(flat.shape[1], device=flat.device)
        is_beside = (place[0::2, None] - place[None, 1::2]).abs() == 1
        flat, sizes = _merge_round(flat, sizes, scores.masked_fill(~is_beside, -torch.inf), flat.shape[1] - num_left)
    return torch.unflatten(flat, 2, shape[2:]), sizes


def _merge_round(items_BKC: Tensor, sizes_BK: Tensor, scores: Tensor, num_merged: int) -> tuple[Tensor, Tensor]:
    """One round: scores (B, items of A, items of B) decide which `num_merged` items of A join which of B."""
    with torch.no_grad():
        best, choice = scores.max(dim=2)
        merged = best.argsort(dim=1, descending=True, stable=True)[:, :num_merged]
        num_items = items_BKC.shape[1]
        goes_to = torch.arange(num_items, device=items_BKC.device).repeat(len(items_BKC), 1)
        goes_to.scatter_(1, 2 * merged, 2 * choice.gather(1, merged) + 1)
        is_left = torch.ones_like(goes_to, dtype=torch.bool).scatter_(1, 2 * merged, False)
        place_BK = (is_left.cumsum(dim=1) - 1).gather(1, goes_to)
        # A matrix product instead of index_add: the same bytes on a GPU in every run.
        member_BLK = F.one_hot(place_BK, num_items - num_merged).to(items_BKC.dtype).transpose(1, 2)
    weight_BLK = member_BLK * sizes_BK[:, None]
    sizes_BL = weight_BLK.sum(dim=2)
    return (weight_BLK @ items_BKC) / sizes_BL[..., None], sizes_BL


def _rounds(num_items: int, num_kept: int) -> Iterator[tuple[int, int]]:
    """The numbers of items before and after each round."""
    while num_items > num_kept:
        num_left = max(num_kept, num_items - num_items // 2)
        yield num_items, num_left
        num_items = num_left


class SpaceMerging(nn.Module):
    """Each frame's tokens merged to `keep_fraction` of them (rounded, at least one)."""

    def __init__(self, keep_fraction: float) -> None:
        super().__init__()
        self.keep_fraction = keep_fraction

    def forward(self, tokens: Tensor) -> Tensor:
        """Patch tokens (B, T, N, D) to tokens (B, T * kept, D), frame after frame."""
        frames = tokens.flatten(0, 1).float()
        merged, _ = merge_in_space(frames, frames.new_ones(frames.shape[:2]), _kept(self.keep_fraction, len(frames[0])))
        return torch.unflatten(merged.to(tokens.dtype), 0, tokens.shape[:2]).flatten(1, 2)


class TimeSpaceMerging(nn.Module):
    """Frames merged to `output_frames`, then each frame's tokens to `keep_fraction` of them.

    Raises ConfigError when there are fewer than `output_frames` frames.
    """

    def __init__(self, output_frames: int, keep_fraction: float) -> None:
        super().__init__()
        self.output_frames = output_frames
        self.keep_fraction = keep_fraction

    def forward(self, tokens: Tensor) -> Tensor:
        """Patch tokens (B, T, N, D) to tokens (B, output_frames * kept, D), in the order of time."""
        batch, num_frames, num_patches, _ = tokens.shape
        if self.output_frames > num_frames:
            raise ConfigError(
                f"pooling testa: output_frames={self.output_frames}, but there are {num_frames} frames; "
                "set output_frames to at most that"
            )
        frames, num_merged = merge_in_time(tokens.float(), self.output_frames)
        sizes = num_merged.flatten()[:, None].expand(-1, num_patches)
        merged, _ = merge_in_space(frames.flatten(0, 1), sizes, _kept(self.keep_fraction, num_patches))
        return torch.unflatten(merged.to(tokens.dtype), 0, (batch, self.output_frames)).flatten(1, 2)


def _kept(keep_fraction: float, num_patches: int) -> int:
    return max(1, round(keep_fraction * num_patches))


def _build_tome(config: PoolingConfig, feature_dim: int, num_frames: int, dropout: float) -> nn.Module:
    return SpaceMerging(config.keep_fraction)


def _build_testa(config: PoolingConfig, feature_dim: int, num_frames: int, dropout: float) -> nn.Module:
    return TimeSpaceMerging(config.output_frames, config.keep_fraction)


def _tome_tokens(config: PoolingConfig, num_frames: int, num_patches: int) -> int:
    return num_frames * _kept(config.keep_fraction, num_patches)


def _testa_tokens(config: PoolingConfig, num_frames: int, num_patches: int) -> int:
    return config.output_frames * _kept(config.keep_fraction, num_patches)


def _merge_flops(num_items: int, num_kept: int, channels: int) -> int:
    # The similarities of A and B, and the weighted sums.
    return sum(2 * channels * ((k - k // 2) * (k // 2) + left * k) for k, left in _rounds(num_items, num_kept))


def _tome_flops(config: PoolingConfig, num_frames: int, num_patches: int, feature_dim: int) -> int:
    return num_frames * _merge_flops(num_patches, _kept(config.keep_fraction, num_patches), feature_dim)


def _testa_flops(config: PoolingConfig, num_frames: int, num_patches: int, feature_dim: int) -> int:
    in_time = _merge_flops(num_frames, config.output_frames, num_patches * feature_dim)
    return in_time + _tome_flops(config, config.output_frames, num_patches, feature_dim)


TOME = PoolingSpec(
    build=_build_tome,
    reads="tokens",
    gives="tokens",
    is_order_blind=True,
    num_tokens_out=_tome_tokens,
    flops=_tome_flops,
    flops_formula="T Σ over rounds of 2 D (⌈K/2⌉ ⌊K/2⌋ + K L), K items before and L after the round",
    definition="similar tokens of a frame merged (bipartite, size-weighted means) until keep_fraction of them are left",
    source="ToMe, arXiv 2210.09461",
)
TESTA = PoolingSpec(
    build=_build_testa,
    reads="tokens",
    gives="tokens",
    is_order_blind=False,
    num_tokens_out=_testa_tokens,
    flops=_testa_flops,
    flops_formula="that of tome for output_frames frames + Σ over rounds of 2 N D (⌈K/2⌉ ⌊K/2⌋ + K L) over frames",
    definition="similar adjacent frames merged until output_frames are left, then each frame's tokens as in tome",
    source="after TESTA, arXiv 2310.19060",
)
