"""Features of videos, and texts, to embeddings in one space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlmvid.models.alignment import AlignmentModel
from vlmvid.models.text import TextEncoder
from vlmvid.serving.visual_features import Reads


class DualEncoder:
    """A text encoder, and an alignment of its features with those of a vision backbone."""

    def __init__(self, text: TextEncoder, alignment: AlignmentModel) -> None:
        self._text = text
        self._alignment = alignment

    @property
    def embed_dim(self) -> int:
        """D, the size of the shared space."""
        return self._alignment.config.projection_dim

    @property
    def reads(self) -> Reads:
        """What the pooling reads: one feature per time step, or patch tokens."""
        return self._alignment.config.pooling.reads

    def describe(self) -> dict[str, str]:
        """The text encoder, the pooling and the heads in words, by part."""
        text, config = self._text, self._alignment.config
        pooled = " + ".join(text.settings.poolings) or "its own"
        return {
            "text": f"{text.describe()['architecture']['model_type']}, {pooled} pooling, {text.embed_dim} values",
            "pooling": f"{config.pooling.kind} over {'patch tokens' if self.reads == 'tokens' else 'time steps'}",
            "heads": f"{config.video_head.kind} for videos, {config.text_head.kind} for texts",
            "embedding": f"{self.embed_dim} values",
        }

    def embed_features(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Features (N, S, C), or patch tokens (N, S, P, C), to embeddings (N, D), L2-normalised."""
        with torch.inference_mode():
            return self._to_numpy(self._alignment.embed_video(self._to_tensor(features)))

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """M texts to embeddings (M, D), L2-normalised."""
        if not texts:
            return np.empty((0, self.embed_dim), np.float32)
        with torch.inference_mode():
            return self._to_numpy(self._alignment.embed_text(self._to_tensor(self._text.encode(list(texts)))))

    def _to_tensor(self, values: NDArray[np.floating[Any]]) -> torch.Tensor:
        device = self._alignment.log_logit_scale.device
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)

    @staticmethod
    def _to_numpy(values: torch.Tensor) -> NDArray[np.float32]:
        return np.asarray(values.float().cpu().numpy(), dtype=np.float32)
