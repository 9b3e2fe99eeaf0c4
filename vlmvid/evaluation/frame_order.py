"""The same frames in another order: what a model that sees time must notice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def shuffle_frames(features: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """The frame features (N, T, ...) of every clip in another order, drawn per clip from `seed`."""
    orders = np.random.default_rng(seed).permuted(np.tile(np.arange(features.shape[1]), (len(features), 1)), axis=1)
    return np.take_along_axis(features, orders.reshape(*orders.shape, *[1] * (features.ndim - 2)), axis=1)
