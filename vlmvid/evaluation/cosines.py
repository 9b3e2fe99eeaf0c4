"""Cosines of normalised rows, equal for equal rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_BLOCK_ENTRIES = 1 << 24  # similarities held at once: 64 MiB of float32


def similarity(queries: NDArray[np.float32], gallery: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines (Q, G) of normalised rows.

    Summed in float64 and rounded to float32: BLAS adds in another order at the edges of its tiles,
    and without the rounding two equal rows would differ in the last bit and hide their tie.
    """
    product: NDArray[np.float64] = queries.astype(np.float64) @ gallery.astype(np.float64).T
    return product.astype(np.float32)


def pair_similarity(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines (N,) of row i of `left` with row i of `right`; rounded like `similarity`."""
    cosines: NDArray[np.float64] = (left.astype(np.float64) * right.astype(np.float64)).sum(axis=1)
    return cosines.astype(np.float32)


def similarity_blocks(
    queries: NDArray[np.float32], gallery: NDArray[np.float32]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """`similarity` by blocks of queries that hold about 64 MiB, with the rows of each block."""
    step = max(1, _BLOCK_ENTRIES // len(gallery))
    for start in range(0, len(queries), step):
        rows = slice(start, min(start + step, len(queries)))
        yield rows, similarity(queries[rows], gallery)
