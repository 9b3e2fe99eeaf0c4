"""Stored features to aligned embeddings, in batches."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from vlmvid.models.alignment import AlignmentModel

CLIPS_PER_BATCH = 256


def embed_videos(model: AlignmentModel, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Embeddings (N, P), L2-normalised, of frame features (N, T, D)."""
    device = model.log_logit_scale.device
    with torch.inference_mode():
        parts = [
            model.embed_video(torch.from_numpy(np.ascontiguousarray(features[i : i + CLIPS_PER_BATCH])).to(device))
            for i in range(0, len(features), CLIPS_PER_BATCH)
        ]
        return np.asarray(torch.cat(parts).cpu().numpy())


def embed_texts(model: AlignmentModel, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Embeddings (M, P), L2-normalised, of text features (M, D)."""
    with torch.inference_mode():
        embeds = model.embed_text(torch.from_numpy(features).to(model.log_logit_scale.device))
        return np.asarray(embeds.cpu().numpy())
