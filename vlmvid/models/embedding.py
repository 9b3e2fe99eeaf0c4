"""Stored features to aligned embeddings, in batches."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from vlmvid.models.alignment import AlignmentModel

CLIPS_PER_BATCH = 256
# 256 MiB as float32; clips of patch tokens reach it, clips of frame features do not.
VALUES_PER_BATCH = 2**26


def embed_videos(model: AlignmentModel, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Embeddings (N, P), L2-normalised, of frame features (N, T, D) or patch tokens (N, T, P, D).

    Raises ConfigError when the model's pooling reads the other kind.
    """
    device = model.log_logit_scale.device
    clips = min(CLIPS_PER_BATCH, max(1, VALUES_PER_BATCH // max(1, math.prod(features.shape[1:]))))
    with torch.inference_mode():
        parts = [
            model.embed_video(torch.from_numpy(np.ascontiguousarray(features[i : i + clips])).to(device))
            for i in range(0, len(features), clips)
        ]
        return np.asarray(torch.cat(parts).cpu().numpy())


def embed_texts(model: AlignmentModel, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Embeddings (M, P), L2-normalised, of text features (M, D)."""
    with torch.inference_mode():
        embeds = model.embed_text(torch.from_numpy(features).to(model.log_logit_scale.device))
        return np.asarray(embeds.cpu().numpy())
