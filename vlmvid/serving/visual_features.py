"""Videos to the features that a model was trained on: decoded, encoded and rounded as the store had them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts.arrays import FloatName, as_float32, as_stored
from vlmvid.artifacts.digests import sha256_file
from vlmvid.config.base import Config
from vlmvid.config.encoders import TilingConfig
from vlmvid.config.schema import DecodeConfig
from vlmvid.errors import DecodeError
from vlmvid.models.backbones.base import FrozenBackbone
from vlmvid.models.clip_encoder import encode_clips, features_of_tokens
from vlmvid.types import FrameBatch
from vlmvid.video.clip_decoder import decode_clip
from vlmvid.video.options import ClipJob

Reads = Literal["frames", "tokens"]


class StoredAs(Config):
    """How the encode stage kept what a model was trained on.

    `dtype` is the format that values were rounded to; `from_tokens` says that tokens were kept, so that features were
    made of rounded tokens; `tiling` how frames were cut into views.
    """

    dtype: FloatName = "float32"
    from_tokens: bool = False
    tiling: TilingConfig | None = None


@dataclass(frozen=True)
class ClipFeatures:
    """What a model is given of one clip.

    Attributes:
        values: float32 (S, C), one feature per time step, or patch tokens (S, P, C).
        seconds: when each time step was shown, from the clip's start.
    """

    values: NDArray[np.float32]
    seconds: tuple[float, ...]

    @property
    def defect(self) -> DecodeError | None:
        """Why a model cannot read them: NaN or infinity."""
        if np.isfinite(self.values).all():
            return None
        return DecodeError("its features hold NaN or infinity", reason_code="not_finite")


class VisualFeatures:
    """A frozen backbone behind a decoder.

    Attributes:
        decode: how a video becomes frames.
        stored: how features were kept in training.
        backbone: frames to features.
    """

    def __init__(self, backbone: FrozenBackbone, decode: DecodeConfig, stored: StoredAs) -> None:
        self.backbone = backbone
        self.decode = decode
        self.stored = stored

    def describe(self) -> dict[str, str]:
        """The backbone and the frames that it sees, in words, by part."""
        backbone, sampling = self.backbone, self.decode.sampling
        size = self.decode.image_size
        return {
            "vision": f"{backbone.config.backbone}, feature {backbone.config.feature}, {backbone.feature_dim} values",
            "frames": f"{sampling.num_frames}, {sampling.policy}, {size} x {size} pixels",
        }

    def job(self, path: str | Path, start_seconds: float = 0.0, end_seconds: float | None = None) -> ClipJob:
        """A clip as the decoder takes it; a policy that draws at random draws as it did in training."""
        draws = self.decode.sampling.policy == "tsn_random" and Path(path).is_file()
        return ClipJob(str(path), start_seconds, end_seconds, identity=sha256_file(Path(path)) if draws else "")

    def of_file(self, path: str | Path, reads: Reads) -> ClipFeatures:
        """Features of a whole video file; raises DecodeError for one that cannot be read or gives no finite ones."""
        (found,) = self.of_clips([decode_clip(self.job(path), self.decode)], [0.0], reads)
        if found.defect is not None:
            raise found.defect
        return found

    def of_clips(self, clips: Sequence[FrameBatch], start_seconds: Sequence[float], reads: Reads) -> list[ClipFeatures]:
        """Features, or patch tokens, of decoded clips, from one forward pass; each clip with its start in its file."""
        if not clips:
            return []
        values = self._values(np.stack([clip.frames for clip in clips]), reads)
        return [
            ClipFeatures(row, self._seconds(clip.pts_seconds - start))
            for row, clip, start in zip(values, clips, start_seconds, strict=True)
        ]

    def _values(self, frames: NDArray[np.uint8], reads: Reads) -> NDArray[np.float32]:
        name, dtype, tiling = self.backbone.config.feature, self.stored.dtype, self.stored.tiling
        if reads == "frames" and not self.stored.from_tokens:
            found = encode_clips(self.backbone, frames, features=(name,), tiling=tiling)[name]
            return as_float32(as_stored(found, dtype))
        found = encode_clips(self.backbone, frames, keep_tokens=True, tiling=tiling)["tokens"]
        tokens = as_float32(as_stored(found, dtype))
        if reads == "tokens":
            return tokens[:, :, self.backbone.num_prefix_tokens :]
        return as_float32(as_stored(features_of_tokens(self.backbone, tokens, (name,))[name], dtype))

    def _seconds(self, frames: NDArray[np.float64]) -> tuple[float, ...]:
        """One time a step, as the encode stage stores them: a tubelet's mean, the same for all views of a frame."""
        views = 1 if self.stored.tiling is None else self.stored.tiling.views_per_frame
        steps = frames.reshape(-1, self.backbone.tubelet_size).mean(axis=1).repeat(views)
        return tuple(map(float, steps.astype(np.float32)))
