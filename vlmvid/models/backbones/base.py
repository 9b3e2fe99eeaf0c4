"""What every vision backbone does: preprocessing, tokens, and features out of tokens.

Tokens are per patch, prefix tokens (class, registers) first. Features are one vector per frame.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vlmvid.config.encoders import VisionConfig
from vlmvid.errors import ConfigError

# B frames, N tokens, P patch tokens, D channels, H W pixels
Interpolation = Literal["bicubic", "bilinear"]
_INTERPOLATIONS = ("bicubic", "bilinear")


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How pixels reach a backbone; it belongs to the weights, not to the caller.

    Attributes:
        image_size: side in pixels of the square input.
        mean, std: per RGB channel, for pixels scaled to [0, 1].
        interpolation: ``bicubic`` or ``bilinear``, antialiased.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation

    def __post_init__(self) -> None:
        if self.interpolation not in _INTERPOLATIONS:
            raise ConfigError(f"interpolation {self.interpolation!r} is not supported; expected {_INTERPOLATIONS}")
        if min(self.std) <= 0:
            raise ConfigError(f"expected positive standard deviations, got std={self.std}")

    def apply(self, frames: Tensor) -> Tensor:
        """Frames uint8 (B, 3, H, W) to normalised float32 (B, 3, image_size, image_size).

        The shorter side is resized to `image_size` and the centre cropped, which for square
        frames is a resize alone.
        """
        pixels = frames.to(torch.float32)
        height, width = pixels.shape[-2:]
        if (height, width) != (self.image_size, self.image_size):
            scale = self.image_size / min(height, width)
            size = (max(round(height * scale), self.image_size), max(round(width * scale), self.image_size))
            pixels = F.interpolate(pixels, size=size, mode=self.interpolation, antialias=True, align_corners=False)
            top, left = (size[0] - self.image_size) // 2, (size[1] - self.image_size) // 2
            pixels = pixels[..., top : top + self.image_size, left : left + self.image_size]
            # Bicubic overshoots at edges; the weights never saw values outside the range.
            pixels = pixels.clamp(0.0, 255.0)
        mean = pixels.new_tensor(self.mean).view(3, 1, 1)
        std = pixels.new_tensor(self.std).view(3, 1, 1)
        return (pixels / 255.0 - mean) / std


def per_channel(values: Sequence[float]) -> tuple[float, float, float]:
    """Three numbers, one per RGB channel; raises ConfigError for any other count."""
    if len(values) != 3:
        raise ConfigError(f"expected one number per RGB channel, got {list(values)}")
    return float(values[0]), float(values[1]), float(values[2])


def map_to_tokens(output: Tensor) -> Tensor:
    """A map (B, D, H, W) as tokens (B, H * W, D) in row-major order; tokens pass unchanged."""
    return output.flatten(2).transpose(1, 2) if output.ndim == 4 else output


class VisionBackbone(Protocol):
    """Frames in, one feature vector per frame out, always frozen."""

    @property
    def image_size(self) -> int:
        """Side in pixels of the square input."""

    @property
    def feature_dim(self) -> int:
        """Length of the feature vector of one frame."""

    @property
    def num_prefix_tokens(self) -> int:
        """Class and register tokens before the patch tokens."""

    @property
    def preprocessing(self) -> Preprocessing:
        """The weights' own preprocessing."""

    def tokens(self, pixels: Tensor) -> Tensor:
        """Normalised pixels float32 (B, 3, H, W) to tokens (B, N, D), prefix tokens first."""

    def encode_frames(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Frames uint8 (B, 3, H, W) to features float32 (B, feature_dim)."""


class FrozenBackbone(ABC):
    """A frozen torch module as a `VisionBackbone`; a family implements `_tokens`.

    Features of a frame do not depend on the frames beside it beyond float32 rounding (relative
    1e-5), because the kernels that torch picks may differ with the batch size.
    """

    family: str

    def __init__(
        self, module: nn.Module, config: VisionConfig, preprocessing: Preprocessing, num_prefix_tokens: int
    ) -> None:
        self.module = module.eval().requires_grad_(False).to(torch.float32)
        self.config = config
        self._preprocessing = preprocessing
        self._num_prefix_tokens = num_prefix_tokens
        self._feature_dim = self._probe()

    @property
    def image_size(self) -> int:
        """Side in pixels of the square input."""
        return self._preprocessing.image_size

    @property
    def feature_dim(self) -> int:
        """Length of the feature vector of one frame."""
        return self._feature_dim

    @property
    def num_prefix_tokens(self) -> int:
        """Class and register tokens before the patch tokens."""
        return self._num_prefix_tokens

    @property
    def preprocessing(self) -> Preprocessing:
        """The weights' own preprocessing."""
        return self._preprocessing

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    def to(self, device: torch.device) -> Self:
        """Move the weights to `device`; returns the backbone itself."""
        self.module.to(device)
        return self

    def tokens(self, pixels: Tensor) -> Tensor:
        """Normalised pixels float32 (B, 3, H, W) to tokens (B, N, D), prefix tokens first."""
        with torch.inference_mode():
            return self._tokens(pixels.to(self.device))

    def encode_frames(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Frames uint8 (B, 3, H, W) to features float32 (B, feature_dim); one forward pass.

        Raises ValueError for another dtype or shape.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1] != 3:
            raise ValueError(f"frames must be uint8 (B, 3, H, W); got {frames.dtype} {frames.shape}")
        if frames.shape[0] == 0:
            return np.zeros((0, self.feature_dim), dtype=np.float32)
        with torch.inference_mode():
            # A copy where the array is read-only: torch tensors cannot share such memory.
            array = np.require(frames, requirements=["C", "W"])
            pixels = self._preprocessing.apply(torch.from_numpy(array).to(self.device))
            features = self._features(self._tokens(pixels))
        return cast("NDArray[np.float32]", features.to("cpu", torch.float32).numpy())

    @abstractmethod
    def _tokens(self, pixels: Tensor) -> Tensor:
        """Tokens of one batch, called in inference mode."""

    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """JSON values from which `saving` rebuilds the module without its weights."""

    def describe(self) -> dict[str, Any]:
        """Everything but the weights, as JSON values."""
        settings = {"feature": self.config.feature, "grid_size": self.config.grid_size, "layer": self.config.layer}
        return {
            "family": self.family,
            "architecture": self.architecture(),
            "preprocessing": asdict(self._preprocessing),
            "features": settings,
            "feature_dim": self.feature_dim,
            "num_prefix_tokens": self.num_prefix_tokens,
        }

    def _features(self, tokens: Tensor) -> Tensor:
        patches = tokens[:, self._num_prefix_tokens :]
        match self.config.feature:
            case "mean":
                return patches.mean(dim=1)
            case "cls":
                return self._class_token(tokens)
            case "cls_mean":
                # SAIL (arXiv 2412.04616): class token and mean patch token, concatenated.
                return torch.cat([self._class_token(tokens), patches.mean(dim=1)], dim=-1)
            case "grid":
                return self._grid(patches)

    def _class_token(self, tokens: Tensor) -> Tensor:
        if self._num_prefix_tokens == 0:
            raise ConfigError(
                f"backbone {self.config.backbone!r} has no class token, so feature: {self.config.feature} is not "
                "defined; use feature: mean or grid"
            )
        return tokens[:, 0]

    def _grid(self, patches: Tensor) -> Tensor:
        cells = self.config.grid_size
        side = math.isqrt(patches.shape[1])
        if side * side != patches.shape[1] or cells > side:
            raise ConfigError(
                f"backbone {self.config.backbone!r} gives {patches.shape[1]} patch tokens at {self.image_size} px; "
                f"feature: grid needs a square map of at least grid_size={cells} a side; "
                "use a smaller grid_size, a larger image_size or feature: mean"
            )
        maps = patches.transpose(1, 2).reshape(len(patches), -1, side, side)
        pooled = F.adaptive_avg_pool2d(maps, cells)
        # Cells in row-major order, all channels of a cell together.
        return pooled.flatten(2).transpose(1, 2).flatten(1)

    def _probe(self) -> int:
        # One blank frame finds the feature length and every setting that cannot work, at load
        # time, before an hour of decoding. Model code raises whatever it likes.
        blank = torch.zeros(1, 3, self.image_size, self.image_size, device=self.device)
        try:
            with torch.inference_mode():
                return int(self._features(self._tokens(blank)).shape[-1])
        except (ValueError, RuntimeError, IndexError, TypeError, AssertionError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"backbone {self.config.backbone!r} does not work with image_size={self.image_size}, "
                f"layer={self.config.layer}, feature={self.config.feature!r}: {error}"
            ) from error
