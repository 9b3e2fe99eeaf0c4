"""Any Hugging Face vision model as a frozen backbone, from a local folder or the local cache.

For a two-tower model (CLIP, SigLIP) the vision tower is taken. ViT-MAE runs without masking.
"""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmvid.config.encoders import VisionConfig
from vlmvid.errors import ConfigError
from vlmvid.models import sources
from vlmvid.models.backbones.base import FrozenBackbone, Interpolation, Preprocessing, map_to_tokens, per_channel
from vlmvid.models.runtime import seeded
from vlmvid.models.torchvision_compat import ensure_torchvision
from vlmvid.models.transformers_loading import clean_config, model_from_config, pretrained_model

# PIL's resampling codes, as preprocessor_config.json stores them.
_RESAMPLE: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}
_HALF = (0.5, 0.5, 0.5)


class HFBackbone(FrozenBackbone):
    """A transformers vision model.

    `layer=None` takes ``last_hidden_state``. `layer=i` takes the output of block or stage i,
    before the final norm (``hidden_states[1:][i]``).
    """

    family = "hf"

    def __init__(self, module: nn.Module, config: VisionConfig, preprocessing: Preprocessing) -> None:
        self._model_config: Any = module.config
        self._options = _forward_options(module, preprocessing.image_size)
        num_prefix_tokens = _num_prefix_tokens(module, self._options, preprocessing.image_size, config.backbone)
        super().__init__(module, config, preprocessing, num_prefix_tokens)

    def architecture(self) -> dict[str, Any]:
        """The model's config without paths."""
        return clean_config(self._model_config)

    def _tokens(self, pixels: Tensor) -> Tensor:
        layer = self.config.layer
        output = self.module(
            pixel_values=pixels, output_hidden_states=layer is not None, **_on_batch(self._options, pixels)
        )
        return map_to_tokens(output.last_hidden_state if layer is None else output.hidden_states[1:][layer])


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


def _on_batch(options: dict[str, Any], pixels: Tensor) -> dict[str, Any]:
    if "noise" not in options:
        return options
    return options | {"noise": options["noise"].to(pixels.device).expand(len(pixels), -1)}


def _num_prefix_tokens(module: nn.Module, options: dict[str, Any], image_size: int, name: str) -> int:
    blank = torch.zeros(1, 3, image_size, image_size)
    module.eval()
    try:
        with torch.inference_mode():
            output = module(pixel_values=blank, **options)
        tokens = output.last_hidden_state
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"backbone {name!r} ({type(module).__name__}) does not turn a {image_size} px image into tokens: {error}"
        ) from error
    if tokens.ndim == 4:
        return 0
    patch_size = getattr(module.config, "patch_size", None)
    if isinstance(patch_size, int) and tokens.shape[1] >= (image_size // patch_size) ** 2:
        return int(tokens.shape[1]) - (image_size // patch_size) ** 2
    if math.isqrt(tokens.shape[1]) ** 2 == tokens.shape[1]:
        return 0
    raise ConfigError(f"backbone {name!r}: cannot tell class tokens from patch tokens among {tokens.shape[1]} tokens")


def load_hf(config: VisionConfig, name: str) -> HFBackbone:
    """The backbone ``hf:REPO_OR_FOLDER``; `pretrained=False` needs only the folder's config.json."""
    ensure_torchvision()
    from transformers import AutoConfig

    folder = sources.model_folder(name)
    full_config = AutoConfig.from_pretrained(folder)
    model_config = getattr(full_config, "vision_config", full_config)
    if model_config.model_type == "vit_mae":
        model_config.mask_ratio = 0.0
    if config.pretrained:
        model = pretrained_model(folder, model_config)
    else:
        with seeded(config.seed):
            model = model_from_config(clean_config(model_config))
    return HFBackbone(model, config, read_preprocessing(folder, config, model_config))


def read_preprocessing(folder: Path, config: VisionConfig, model_config: Any) -> Preprocessing:
    """The preprocessing that a model folder states.

    Raises ConfigError when pretrained weights come without one: a guessed normalisation would
    lower every result in silence.
    """
    values = _processor_values(folder)
    model_size = getattr(model_config, "image_size", None)
    if values is None:
        if config.pretrained:
            raise ConfigError(
                f"{folder} has no preprocessor_config.json, so its normalisation is unknown; add the file"
            )
        size = config.image_size or model_size
        if not isinstance(size, int):
            raise ConfigError(f"{folder} states no image size; set vision.image_size")
        return Preprocessing(size, _HALF, _HALF, "bicubic")
    if abs(values.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6 or not values.get("do_rescale", True):
        raise ConfigError(f"{folder}: pixels scaled other than by 1/255 are not supported")
    normalise = values.get("do_normalize", True)
    resample = values.get("resample", 3)
    if resample not in _RESAMPLE:
        raise ConfigError(f"{folder}: resample={resample} is not supported; expected 2 (bilinear) or 3 (bicubic)")
    return Preprocessing(
        image_size=config.image_size or _stated_size(values, model_size, folder),
        mean=per_channel(values["image_mean"]) if normalise else (0.0, 0.0, 0.0),
        std=per_channel(values["image_std"]) if normalise else (1.0, 1.0, 1.0),
        interpolation=_RESAMPLE[resample],
    )


def _processor_values(folder: Path) -> dict[str, Any] | None:
    if (folder / "preprocessor_config.json").is_file():
        return sources.read_json(folder / "preprocessor_config.json")
    if (folder / "processor_config.json").is_file():
        values: dict[str, Any] | None = sources.read_json(folder / "processor_config.json").get("image_processor")
        return values
    return None


def _stated_size(values: dict[str, Any], model_size: Any, folder: Path) -> int:
    # The crop is what the weights see; the larger resize before it only trims a margin, which
    # decoding has already done.
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
