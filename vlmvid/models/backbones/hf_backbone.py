"""Any Hugging Face vision model as a frozen backbone, from a local folder, the local cache or a named config.

For a two-tower model (CLIP, SigLIP) the vision tower is taken. ViT-MAE runs without masking. SigLIP 2's NaFlex
models get square images. VideoMAE sees windows of as many frames as it was trained on.
"""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from vlmvid.config.encoders import VisionConfig
from vlmvid.errors import ConfigError
from vlmvid.models import sources
from vlmvid.models.backbones.base import FrozenBackbone, Interpolation, Preprocessing, map_to_tokens, per_channel
from vlmvid.models.runtime import seeded
from vlmvid.models.transformers_loading import (
    clean_config,
    config_of_folder,
    config_of_type,
    model_from_config,
    pretrained_model,
)

# PIL's resampling codes, as preprocessor_config.json stores them.
_RESAMPLE: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}
_HALF = (0.5, 0.5, 0.5)
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
# A DINOv3 ConvNeXt puts the mean of its map before the patch tokens, as its class token.
_MEAN_FIRST = "dinov3_convnext"
_NAFLEX = "siglip2_vision_model"


class HFBackbone(FrozenBackbone):
    """A transformers vision model.

    `layer=None` takes ``last_hidden_state``. `layer=i` takes the output of block or stage i,
    before the final norm (``hidden_states[1:][i]``).
    """

    family = "hf"

    def __init__(self, module: nn.Module, config: VisionConfig, preprocessing: Preprocessing) -> None:
        model_config: Any = module.config
        self._model_config = model_config
        self._window: int | None = None
        if hasattr(model_config, "tubelet_size"):
            self.tubelet_size = int(model_config.tubelet_size)
            self._window = int(model_config.num_frames)
        self._options = _forward_options(module, preprocessing.image_size)
        last, levels = _probe_outputs(module.eval(), self._inputs(self._blank(preprocessing.image_size)), config)
        self.num_layers = len(levels) - 1
        selected = last if config.layer is None or not levels else levels[-1]
        num_prefix_tokens = 0
        if self._window is None and selected.ndim == 3:
            num_prefix_tokens = _num_prefix_tokens(last, model_config, preprocessing.image_size, config.backbone)
        super().__init__(module, config, preprocessing, num_prefix_tokens)

    @property
    def probe_frames(self) -> int:
        """Frames of the blank clip that is encoded when the backbone is loaded."""
        return self._window or 1

    def window(self, num_frames: int) -> int:
        """One frame; for VideoMAE its own number of frames, of which a clip must be a multiple."""
        if self._window is None:
            return super().window(num_frames)
        name, window = self.config.backbone, self._window
        if num_frames < 1 or num_frames % self.tubelet_size:
            raise ConfigError(
                f"backbone {name!r}: a clip of {num_frames} frames is not divisible by its tubelet_size="
                f"{self.tubelet_size}; set decode.sampling.num_frames to {window} or a multiple of it"
            )
        if num_frames % window:
            raise ConfigError(
                f"backbone {name!r} was trained on {window} frames, got a clip of {num_frames}; its time embedding is "
                f"not stretched: set decode.sampling.num_frames to {window} or a multiple of it (windows of {window})"
            )
        return window

    def architecture(self) -> dict[str, Any]:
        """The model's config without paths."""
        return clean_config(self._model_config)

    def _tokens(self, pixels: Tensor) -> Tensor:
        return map_to_tokens(self._level(pixels)) if self._window is None else super()._tokens(pixels)

    def _clip_tokens(self, pixels: Tensor) -> Tensor:
        if self._window is None:
            return super()._clip_tokens(pixels)
        return rearrange(self._level(pixels), "b (s n) d -> b s n d", s=pixels.shape[1] // self.tubelet_size)

    def _level(self, pixels: Tensor) -> Tensor:
        layer = self.config.layer
        output = self.module(output_hidden_states=layer is not None, **self._inputs(pixels))
        level: Tensor = output.last_hidden_state if layer is None else output.hidden_states[1:][layer]
        return level

    def _blank(self, image_size: int) -> Tensor:
        size = (3, image_size, image_size)
        return torch.zeros(1, *size) if self._window is None else torch.zeros(1, self._window, *size)

    def _inputs(self, pixels: Tensor) -> dict[str, Any]:
        """Arguments of the model's forward for normalised pixels (B, 3, H, W) or, for clips, (B, T, 3, H, W)."""
        if self._model_config.model_type == _NAFLEX:
            return _naflex_inputs(pixels, int(self._model_config.patch_size))
        options = dict(self._options)
        if "noise" in options:
            options["noise"] = options["noise"].to(pixels.device).expand(len(pixels), -1)
        return {"pixel_values": pixels, **options}


def _forward_options(module: nn.Module, image_size: int) -> dict[str, Any]:
    config: Any = module.config
    options: dict[str, Any] = {}
    known = inspect.signature(module.forward).parameters
    if image_size != getattr(config, "image_size", image_size) and "interpolate_pos_encoding" in known:
        options["interpolate_pos_encoding"] = True
    if config.model_type == "vit_mae":
        # The masking sorts patches by noise; rising noise keeps them all in their own order.
        num_patches = (image_size // int(config.patch_size)) ** 2
        options["noise"] = torch.arange(num_patches, dtype=torch.float32)[None]
    return options


def _naflex_inputs(pixels: Tensor, patch_size: int) -> dict[str, Any]:
    """A NaFlex model takes flattened patches (B, N, P * P * 3) in row-major order, channels last in each."""
    side = pixels.shape[-1] // patch_size
    patches = rearrange(pixels, "b c (h p) (w q) -> b (h w) (p q c)", p=patch_size, q=patch_size)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.long, device=pixels.device),
        "spatial_shapes": torch.tensor([[side, side]], device=pixels.device).expand(len(pixels), -1),
    }


def _probe_outputs(module: nn.Module, inputs: dict[str, Any], config: VisionConfig) -> tuple[Tensor, tuple[Any, ...]]:
    """The last hidden state and all hidden states for a blank input; raises ConfigError where there are none."""
    try:
        with torch.inference_mode():
            output = module(output_hidden_states=True, **inputs)
        return output.last_hidden_state, tuple(output.hidden_states or ())
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        shape = tuple(inputs["pixel_values"].shape)
        raise ConfigError(
            f"backbone {config.backbone!r} ({type(module).__name__}) does not turn pixels of shape {shape} into "
            f"tokens: {error}"
        ) from error


def _num_prefix_tokens(tokens: Tensor, model_config: Any, image_size: int, name: str) -> int:
    if model_config.model_type == _MEAN_FIRST:
        return 1
    count, patch_size = int(tokens.shape[1]), getattr(model_config, "patch_size", None)
    if isinstance(patch_size, int) and count >= (image_size // patch_size) ** 2:
        return count - (image_size // patch_size) ** 2
    if math.isqrt(count) ** 2 == count:
        return 0
    raise ConfigError(f"backbone {name!r}: cannot tell class tokens from patch tokens among {count} tokens")


def load_hf(config: VisionConfig, name: str) -> HFBackbone:
    """The backbone ``hf:REPO_OR_FOLDER``; `pretrained=False` needs only the folder's config.json.

    Without weights the name may also be that of a model type of transformers, e.g. ``hf:dinov2``: its default
    config is taken.
    """
    folder = sources.model_folder_or_type(name, pretrained=config.pretrained)
    full_config = config_of_type(name) if folder is None else config_of_folder(folder)
    model_config = getattr(full_config, "vision_config", full_config)
    if model_config.model_type == "vit_mae":
        model_config.mask_ratio = 0.0
    if config.pretrained and folder is not None:
        model = pretrained_model(folder, model_config)
    else:
        with seeded(config.seed):
            model = model_from_config(clean_config(model_config))
    return HFBackbone(model, config, read_preprocessing(folder, config, model_config))


def read_preprocessing(folder: Path | None, config: VisionConfig, model_config: Any) -> Preprocessing:
    """The preprocessing that a model folder states; without a folder or a statement, the halves of most ViTs.

    Raises ConfigError when pretrained weights come without one: a guessed normalisation would
    lower every result in silence.
    """
    values = None if folder is None else _processor_values(folder)
    model_size = getattr(model_config, "image_size", None)
    if model_config.model_type == _NAFLEX:
        model_size = math.isqrt(int(model_config.num_patches)) * int(model_config.patch_size)
    if folder is None or values is None:
        if config.pretrained:
            raise ConfigError(
                f"{folder} has no preprocessor_config.json, so its normalisation is unknown; add the file"
            )
        size = config.image_size or model_size
        if not isinstance(size, int):
            raise ConfigError(f"backbone {config.backbone!r} states no image size; set vision.image_size")
        return Preprocessing(size, _HALF, _HALF, "bicubic")
    if abs(values.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6 or not values.get("do_rescale", True):
        raise ConfigError(f"{folder}: pixels scaled other than by 1/255 are not supported")
    normalise = values.get("do_normalize", True)
    resample = values.get("resample", 3)
    if resample not in _RESAMPLE:
        raise ConfigError(f"{folder}: resample={resample} is not supported; expected 2 (bilinear) or 3 (bicubic)")
    return Preprocessing(
        image_size=config.image_size or _stated_size(values, model_size, folder),
        mean=_stated_channels(values, "image_mean", folder) if normalise else (0.0, 0.0, 0.0),
        std=_stated_channels(values, "image_std", folder) if normalise else (1.0, 1.0, 1.0),
        interpolation=_RESAMPLE[resample],
    )


def _processor_values(folder: Path) -> dict[str, Any] | None:
    for name in _PROCESSOR_FILES:
        if (folder / name).is_file():
            values = sources.read_json(folder / name)
            # A file of a whole processor holds that of the images as one of its parts.
            part: dict[str, Any] = values.get("image_processor", values.get("video_processor", values))
            return {key: value for key, value in part.items() if value is not None}
    return None


def _stated_channels(values: dict[str, Any], key: str, folder: Path) -> tuple[float, float, float]:
    if not isinstance(values.get(key), list):
        raise ConfigError(
            f"{folder}: the preprocessing states {key}={values.get(key)!r}, so its normalisation is unknown; expected "
            "one number per RGB channel, or do_normalize: false"
        )
    return per_channel(values[key])


def _stated_size(values: dict[str, Any], model_size: Any, folder: Path) -> int:
    # The crop is what the weights see; the larger resize before it only trims a margin, which
    # decoding has already done.
    if "max_num_patches" in values:
        return math.isqrt(int(values["max_num_patches"])) * int(values["patch_size"])
    for key in ("crop_size", "size"):
        size = values.get(key)
        if key == "crop_size" and not values.get("do_center_crop", size is not None):
            continue
        if isinstance(size, int):
            return size
        if isinstance(size, dict):
            side = size.get("height", size.get("shortest_edge"))
            if isinstance(side, int):
                return side
    if isinstance(model_size, int):
        return model_size
    raise ConfigError(f"{folder} states no image size; set vision.image_size")
