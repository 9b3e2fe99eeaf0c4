"""A dual encoder ready for use: paths and texts in, comparable embeddings out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vlmvid.config.schema import DecodeConfig
from vlmvid.models.alignment import AlignmentModel, load_alignment
from vlmvid.models.backbones.base import FrozenBackbone
from vlmvid.models.saving import load_text, load_vision
from vlmvid.models.text import TextEncoder
from vlmvid.serving.model_folder import read_decode, verify_model_folder
from vlmvid.video.clip_decoder import decode_clip
from vlmvid.video.options import ClipJob

_CLIPS_PER_BATCH = 64


class VideoTextModel:
    """Videos and texts in one space.

    Attributes:
        decode: how a video becomes frames; the same as in training.
        info: what `model.json` says about the model, e.g. the recipe's name.
    """

    def __init__(
        self,
        vision: FrozenBackbone,
        text: TextEncoder,
        alignment: AlignmentModel,
        decode: DecodeConfig,
        info: Mapping[str, Any],
    ) -> None:
        self._vision = vision
        self._text = text
        self._alignment = alignment
        self.decode = decode
        self.info = dict(info)

    @classmethod
    def from_folder(cls, folder: Path, device: str = "auto") -> VideoTextModel:
        """The model in `folder`, after checking its hashes; raises ArtifactError for a damaged one."""
        manifest = verify_model_folder(folder)
        return cls(
            load_vision(folder / "vision", device),
            load_text(folder / "text", device),
            load_alignment(folder / "alignment", device),
            read_decode(folder),
            manifest["info"],
        )

    @property
    def embed_dim(self) -> int:
        """D, the size of the shared space."""
        return self._alignment.config.projection_dim

    @property
    def reads(self) -> Literal["frames", "tokens"]:
        """What the pooling reads: one feature per time step, or patch tokens."""
        return self._alignment.config.pooling.reads

    def encode_video(self, paths: Sequence[str | Path]) -> NDArray[np.float32]:
        """Embed whole video files.

        Args:
            paths: N files; the frames are sampled over the file's whole length.

        Returns:
            float32 (N, D), L2-normalised, in the order of `paths`.

        Raises:
            DecodeError: a file cannot be read.
        """
        parts = [np.empty((0, self.embed_dim), np.float32)]
        for start in range(0, len(paths), _CLIPS_PER_BATCH):
            features = [self._features(Path(path)) for path in paths[start : start + _CLIPS_PER_BATCH]]
            parts.append(self.embed_video_features(np.stack(features)))
        return np.concatenate(parts)

    def embed_video_features(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """What the vision backbone made of N clips to embeddings (N, D), L2-normalised.

        Frame features (N, S, C), or patch tokens (N, S, P, C) where `reads` is ``tokens``.
        """
        with torch.inference_mode():
            return self._to_numpy(self._alignment.embed_video(self._to_tensor(features)))

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed M texts; float32 (M, D), L2-normalised, in the order of `texts`."""
        if not texts:
            return np.empty((0, self.embed_dim), np.float32)
        with torch.inference_mode():
            return self._to_numpy(self._alignment.embed_text(self._to_tensor(self._text.encode(list(texts)))))

    def similarity(self, video: NDArray[np.float32], text: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cosine of every video (N, D) with every text (M, D): float32 (N, M) in [-1, 1]."""
        return np.asarray(video @ text.T, dtype=np.float32)

    def _features(self, path: Path) -> NDArray[np.float32]:
        frames = decode_clip(ClipJob(str(path)), self.decode).frames[None]
        if self.reads == "frames":
            return np.asarray(self._vision.encode_clips(frames)[self._vision.config.feature][0])
        tokens = self._vision.encode_clips(frames, keep_tokens=True)["tokens"][0]
        return np.asarray(tokens[:, self._vision.num_prefix_tokens :])

    def _to_tensor(self, values: NDArray[np.floating[Any]]) -> torch.Tensor:
        device = self._alignment.log_logit_scale.device
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)

    @staticmethod
    def _to_numpy(values: torch.Tensor) -> NDArray[np.float32]:
        return np.asarray(values.float().cpu().numpy(), dtype=np.float32)
