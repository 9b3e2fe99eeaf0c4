"""Gradients of a large batch through a network that sees a chunk of it at a time (GradCache, arXiv 2101.06983).

The loss needs all embeddings at once, but only them. So a first pass makes them without a graph, the loss gives the
gradient of each, and a second pass makes each chunk again, with its graph, and sends its gradients on. What a head
keeps for its backward pass is never more than one chunk's: with 32,768 texts of 4,096 channels and a gated head eight
times as wide, one hidden tensor is 4.3 GB in float32 and the head keeps four of them, 17 GB; in chunks of 1,024
they are 0.5 GB. The price is one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class CachedEmbeds:
    """Embeddings of `num_rows` rows, made `chunk_size` at a time; one chunk alone is made only once.

    Args:
        embed: (number of the chunk, its rows) -> embeddings (rows, P). It is called twice for each of several chunks
            and must draw the same dropout both times.
        chunk_size: None = all rows are one chunk.

    Attributes:
        leaf: float32 (num_rows, P), to make the loss of; its gradient is what `backward` sends on.
    """

    def __init__(self, embed: Callable[[int, slice], Tensor], num_rows: int, chunk_size: int | None) -> None:
        self._embed = embed
        size = max(1, num_rows if chunk_size is None else chunk_size)
        self._chunks = [slice(start, min(num_rows, start + size)) for start in range(0, max(1, num_rows), size)]
        self._whole: Tensor | None = None
        if len(self._chunks) == 1:
            self._whole = embed(0, self._chunks[0])
            self.leaf = self._whole.detach().float().requires_grad_()
        else:
            with torch.no_grad():
                parts = [embed(number, rows).float() for number, rows in enumerate(self._chunks)]
            self.leaf = torch.cat(parts).requires_grad_()

    def backward(self) -> None:
        """Add the gradients of what made the embeddings, from the gradient of `leaf`; once only."""
        grad = self.leaf.grad
        if grad is None:
            return
        for number, rows in enumerate(self._chunks):
            embeds = self._embed(number, rows) if self._whole is None else self._whole
            if embeds.requires_grad:  # a head without weights has nothing to learn
                embeds.backward(grad[rows].to(embeds.dtype))  # type: ignore[no-untyped-call]
        self._whole = None
