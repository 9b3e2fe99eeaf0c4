"""What a video index keeps of a clip: its embedding, and those of its time steps alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts.arrays import as_float32, finite_rows
from vlmvid.serving.visual_features import VisualFeatures

# N clips, S time steps, T frames, V views of a frame, D values of an embedding
CLIPS_PER_BATCH = 256
VALUES_PER_BATCH = 2**25  # 128 MiB as float32
Features = NDArray[np.floating[Any]]


class Embedder(Protocol):
    """The model, as far as it is needed here: `vlmvid.serving.model.VideoTextModel`."""

    @property
    def embed_dim(self) -> int:
        """D."""

    @property
    def vision(self) -> VisualFeatures:
        """What makes the features."""

    def embed_video_features(self, features: Features) -> NDArray[np.float32]:
        """Features (N, S, C), or patch tokens (N, S, P, C), to embeddings (N, D)."""


def embeds_steps(model: Embedder) -> bool:
    """Whether a time step can be embedded alone: the backbone sees no other frame when it makes its feature."""
    return model.vision.backbone.window(model.vision.decode.sampling.num_frames) == 1


def embed_clips(model: Embedder, features: Features) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    """Embeddings float16 (N, D) of the features of N clips, and which of them are finite, (N,)."""
    found = _in_batches(model, features, lambda some: some).astype(np.float16)
    return found, finite_rows(found)


def embed_steps(model: Embedder, features: Features) -> NDArray[np.float16]:
    """Embeddings float16 (N, T, D) of every frame of N clips, each as the only one of a clip that stands still.

    Features are (N, S, ...), S = T * V where every frame was cut into V views.
    """
    views = views_per_frame(model)
    num_frames = features.shape[1] // views

    def alone(frame: int) -> NDArray[np.float32]:
        step = slice(frame * views, (frame + 1) * views)
        return _in_batches(model, features, lambda some: _still(some[:, step], num_frames))

    return np.stack([alone(frame) for frame in range(num_frames)], axis=1).astype(np.float16)


def views_per_frame(model: Embedder) -> int:
    """V, the time steps that one frame gives."""
    tiling = model.vision.stored.tiling
    return 1 if tiling is None else tiling.views_per_frame


def _still(frame: Features, num_frames: int) -> Features:
    """One frame's features (n, V, ...) as those of a clip of nothing else: (n, T * V, ...)."""
    return np.tile(frame, (1, num_frames, *(1,) * (frame.ndim - 2)))


def _in_batches(model: Embedder, features: Features, change: Callable[[Features], Features]) -> NDArray[np.float32]:
    size = min(CLIPS_PER_BATCH, max(1, VALUES_PER_BATCH // max(1, math.prod(features.shape[1:]))))
    parts = [np.empty((0, model.embed_dim), np.float32)]
    for start in range(0, len(features), size):
        parts.append(model.embed_video_features(change(as_float32(features[start : start + size]))))
    return np.concatenate(parts)
