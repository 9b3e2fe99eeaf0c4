"""What every vision backbone does: preprocessing, tokens, and features out of tokens.

Tokens are per patch, prefix tokens (class, registers) first. Features are one vector per time step: a frame
for image backbones, a tubelet of frames for video backbones.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from vlmvid.config.encoders import FrameFeature, VisionConfig
from vlmvid.errors import ConfigError
from vlmvid.models.runtime import BatchLimit, autocast, require_precision, run_in_batches

# B clips or frames, T frames, S time steps, N tokens, D channels, F length of a feature, H W pixels
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


class FrozenBackbone(ABC):
    """A frozen torch module that turns clips into tokens and features.

    An image family implements `_tokens`. A clip family implements `_clip_tokens` and `window`, and states
    `tubelet_size` and `probe_frames`.

    Features do not depend on the clips beside them beyond rounding (relative 1e-5 in float32), because the
    kernels that torch picks may differ with the batch size.

    Attributes:
        family: the name under which `saving` finds the class again.
        tubelet_size: frames per time step; T frames give S = T / tubelet_size time steps.
        num_layers: levels that `VisionConfig.layer` can name; None where the family has none.
    """

    family: str
    tubelet_size: int = 1
    num_layers: int | None = None

    def __init__(
        self,
        module: nn.Module,
        config: VisionConfig,
        preprocessing: Preprocessing,
        num_prefix_tokens: int,
        has_class_token: bool = True,
    ) -> None:
        self.module = module.eval().requires_grad_(False).to(torch.float32)
        self.config = config
        self._preprocessing = preprocessing
        self._num_prefix_tokens = num_prefix_tokens
        self._has_class_token = has_class_token and num_prefix_tokens > 0
        self._forward: Callable[[Tensor], Tensor] = self._clip_tokens
        self._batch_limit = BatchLimit()
        self._require_layer()
        self._num_tokens, self._token_dim = self._probe()
        self._feature_dim = self.dim_of(config.feature)

    @property
    def image_size(self) -> int:
        """Side in pixels of the square input."""
        return self._preprocessing.image_size

    @property
    def num_prefix_tokens(self) -> int:
        """Class and register tokens before the patch tokens."""
        return self._num_prefix_tokens

    @property
    def has_class_token(self) -> bool:
        """Whether the first prefix token is a class token; registers alone are none."""
        return self._has_class_token

    @property
    def num_patches(self) -> int:
        """Patch tokens per time step."""
        return self._num_tokens - self._num_prefix_tokens

    @property
    def grid_side(self) -> int | None:
        """Side of the square map that the patch tokens form in row-major order; None where they form none."""
        side = math.isqrt(self.num_patches)
        return side if side and side * side == self.num_patches else None

    @property
    def token_dim(self) -> int:
        """Length D of a token."""
        return self._token_dim

    @property
    def feature_dim(self) -> int:
        """Length of the feature vector that `config.feature` gives per time step."""
        return self._feature_dim

    @property
    def preprocessing(self) -> Preprocessing:
        """The weights' own preprocessing."""
        return self._preprocessing

    @property
    def probe_frames(self) -> int:
        """Frames of the blank clip that is encoded when the backbone is loaded."""
        return 1

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    def to(self, device: torch.device) -> Self:
        """Move the weights to `device`; returns the backbone itself.

        Raises ConfigError when the device cannot compute in `config.precision`.
        """
        require_precision(device, self.config.precision)
        self.module.to(device)
        return self

    def compile(self) -> Self:
        """Compile the forward pass with torch.compile at its first use; returns the backbone itself.

        Weights and saved files stay as they are; results differ by rounding.
        """
        self._forward = torch.compile(self._clip_tokens)
        return self

    def window(self, num_frames: int) -> int:
        """How many frames see one another in clips of `num_frames`; a clip is cut into such windows.

        Image backbones see one frame at a time. Raises ConfigError for a clip length that cannot work.
        """
        if num_frames < 1:
            raise ConfigError(f"backbone {self.config.backbone!r}: a clip needs at least one frame, got {num_frames}")
        return 1

    def num_steps(self, num_frames: int) -> int:
        """Time steps S that a clip of `num_frames` gives; raises ConfigError like `window`."""
        self.window(num_frames)
        return num_frames // self.tubelet_size

    def available_features(self) -> tuple[FrameFeature, ...]:
        """The features that this backbone can give."""
        found: list[FrameFeature] = ["mean"]
        if self._has_class_token:
            found += ["cls", "cls_mean"]
        if self.grid_side is not None and self.config.grid_size <= self.grid_side:
            found.append("grid")
        return tuple(found)

    def dim_of(self, feature: FrameFeature) -> int:
        """Length F of `feature`; raises ConfigError, with the features there are, for one that is not."""
        self._require_feature(feature)
        factors = {"mean": 1, "cls": 1, "cls_mean": 2, "grid": self.config.grid_size**2}
        return factors[feature] * self._token_dim

    def tokens(self, pixels: Tensor) -> Tensor:
        """Tokens (B, N, D) of normalised pixels float32 (B, 3, H, W), prefix tokens first; images alone."""
        return self.clip_tokens(pixels[:, None])[:, 0]

    def clip_tokens(self, pixels: Tensor, with_grad: bool = False) -> Tensor:
        """Tokens (B, S, N, D) of normalised pixels float32 (B, T, 3, H, W), prefix tokens first.

        Computed in `config.precision`; `with_grad` is for adapters. Raises ConfigError for a T that cannot work.
        """
        num_clips, num_frames = pixels.shape[:2]
        window = self.window(num_frames)
        with nullcontext() if with_grad else torch.inference_mode(), autocast(self.device, self.config.precision):
            cut = pixels.to(self.device).reshape(-1, window, *pixels.shape[2:])
            tokens = self._forward(cut)
            return tokens.reshape(num_clips, num_frames // self.tubelet_size, *tokens.shape[2:])

    def features(self, tokens: Tensor, feature: FrameFeature | None = None) -> Tensor:
        """Features float32 (..., F) of tokens (..., N, D); None = `config.feature`.

        ``cls_mean`` is SAIL's (arXiv 2412.04616): class token and mean patch token, concatenated. ``grid``
        averages the map to grid_size x grid_size cells, in row-major order, all channels of a cell together.
        Raises ConfigError for a feature that the backbone does not have.
        """
        name = feature or self.config.feature
        self._require_feature(name)
        # In float32, because a mean over many tokens loses digits in less.
        tokens = tokens.to(torch.float32)
        patches = tokens[..., self._num_prefix_tokens :, :]
        match name:
            case "mean":
                return patches.mean(dim=-2)
            case "cls":
                return tokens[..., 0, :]
            case "cls_mean":
                return torch.cat([tokens[..., 0, :], patches.mean(dim=-2)], dim=-1)
            case "grid":
                maps = rearrange(patches, "... (h w) d -> (...) d h w", h=self.grid_side)
                cells = rearrange(F.adaptive_avg_pool2d(maps, self.config.grid_size), "b d h w -> b (h w d)")
                return cells.reshape(*tokens.shape[:-2], -1)

    def encode_frames(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Frames uint8 (B, 3, H, W), each by itself, to features float32 (B, feature_dim).

        Raises ValueError for another dtype or shape and ConfigError for a backbone that needs clips.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1] != 3:
            raise ValueError(f"frames must be uint8 (B, 3, H, W); got {frames.dtype} {frames.shape}")
        return self.encode_clips(frames[:, None])[self.config.feature][:, 0]

    def encode_clips(
        self, frames: NDArray[np.uint8], features: Sequence[FrameFeature] = (), keep_tokens: bool = False
    ) -> dict[str, NDArray[np.float32]]:
        """Several features of whole clips from one forward pass.

        A batch that the device's memory cannot hold is halved, and later calls begin with what fitted.

        Args:
            frames: uint8 (B, T, 3, H, W), RGB.
            features: names of features; none = `config.feature` alone.
            keep_tokens: whether the tokens are returned too.

        Returns:
            float32 (B, S, F) under each feature's name and, if asked, (B, S, N, D) under ``"tokens"``.

        Raises:
            ValueError: another dtype or shape.
            ConfigError: a feature that the backbone does not have, a T that cannot work, or one clip that is
                too large for the device.
        """
        if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[2] != 3:
            raise ValueError(f"frames must be uint8 (B, T, 3, H, W); got {frames.dtype} {frames.shape}")
        names = tuple(dict.fromkeys(features or (self.config.feature,)))
        num_clips, num_frames = frames.shape[:2]
        num_steps = self.num_steps(num_frames)
        widths: dict[str, tuple[int, ...]] = {name: (self.dim_of(name),) for name in names}
        if keep_tokens:
            widths["tokens"] = (self._num_tokens, self._token_dim)
        if num_clips == 0:
            return {name: np.zeros((0, num_steps, *width), np.float32) for name, width in widths.items()}
        window = self.window(num_frames)
        cut = frames.reshape(num_clips * num_frames // window, window, *frames.shape[2:])
        parts = run_in_batches(
            lambda some: self._encode_windows(some, names, keep_tokens), cut, len(cut), self._batch_limit
        )
        return {
            name: np.concatenate([part[name] for part in parts]).reshape(num_clips, num_steps, *width)
            for name, width in widths.items()
        }

    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """JSON values from which `saving` rebuilds the module without its weights."""

    def describe(self) -> dict[str, Any]:
        """Everything but the weights, as JSON values."""
        config = self.config
        settings = {
            "feature": config.feature,
            "grid_size": config.grid_size,
            "layer": config.layer,
            "precision": config.precision,
        }
        return {
            "family": self.family,
            "architecture": self.architecture(),
            "preprocessing": asdict(self._preprocessing),
            "features": settings,
            "feature_dim": self.feature_dim,
            "num_prefix_tokens": self.num_prefix_tokens,
        }

    def _tokens(self, pixels: Tensor) -> Tensor:
        """Tokens (B, N, D) of images (B, 3, H, W); called in inference mode and autocast."""
        raise ConfigError(f"backbone {self.config.backbone!r} encodes clips, not single frames; use encode_clips")

    def _clip_tokens(self, pixels: Tensor) -> Tensor:
        """Tokens (B, S, N, D) of windows (B, T, 3, H, W); called in inference mode and autocast."""
        tokens = self._tokens(pixels.flatten(0, 1))
        return tokens.reshape(*pixels.shape[:2], *tokens.shape[1:])

    def _encode_windows(
        self, frames: NDArray[np.uint8], names: Sequence[FrameFeature], keep_tokens: bool
    ) -> dict[str, NDArray[np.float32]]:
        with torch.inference_mode():
            # A copy where the array is read-only: torch tensors cannot share such memory.
            array = torch.from_numpy(np.require(frames, requirements=["C", "W"])).to(self.device)
            pixels = self._preprocessing.apply(array.flatten(0, 1))
            tokens = self.clip_tokens(pixels.reshape(*array.shape[:2], *pixels.shape[1:]))
            found: dict[str, NDArray[np.float32]] = {name: _to_numpy(self.features(tokens, name)) for name in names}
            if keep_tokens:
                found["tokens"] = _to_numpy(tokens)
            return found

    def _require_feature(self, feature: FrameFeature) -> None:
        known = self.available_features()
        if feature in known:
            return
        if feature == "grid":
            why = (
                f"gives {self.num_patches} patch tokens at {self.image_size} px; feature: grid needs a square map of "
                f"at least grid_size={self.config.grid_size} a side; use a smaller grid_size, a larger image_size or"
            )
        else:
            why = f"has no class token, so feature: {feature} is not defined; use"
        raise ConfigError(f"backbone {self.config.backbone!r} {why} one of feature: {', '.join(known)}")

    def _require_layer(self) -> None:
        layer, known = self.config.layer, self.num_layers
        if layer is not None and known is not None and not -known <= layer < known:
            raise ConfigError(
                f"backbone {self.config.backbone!r}: layer={layer} is out of range; it has {known} layers, "
                f"0 to {known - 1}, or -{known} to -1 counted from the end"
            )

    def _probe(self) -> tuple[int, int]:
        # One blank clip finds the shape of the tokens and every setting that cannot work, at load
        # time, before an hour of decoding. Model code raises whatever it likes.
        size = (1, self.probe_frames, 3, self.image_size, self.image_size)
        try:
            with torch.inference_mode():
                tokens = self._clip_tokens(torch.zeros(size, device=self.device))
        except (ValueError, RuntimeError, IndexError, TypeError, AssertionError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"backbone {self.config.backbone!r} does not work with image_size={self.image_size}, "
                f"layer={self.config.layer}: {error}"
            ) from error
        if tokens.ndim != 4 or tokens.shape[2] <= self._num_prefix_tokens:
            raise ConfigError(
                f"backbone {self.config.backbone!r} gives an output of shape {tuple(tokens.shape)}; expected tokens "
                f"(1, S, N, D) with more than {self._num_prefix_tokens} tokens"
            )
        return int(tokens.shape[2]), int(tokens.shape[3])


def _to_numpy(values: Tensor) -> NDArray[np.float32]:
    # Moved first: half as many bytes leave a GPU where it computes in half precision.
    return cast("NDArray[np.float32]", values.cpu().to(torch.float32).numpy())
