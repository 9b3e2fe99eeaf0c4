"""Any timm image model as a frozen backbone; convolution maps become tokens in row-major order."""

from __future__ import annotations

import difflib
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmvid.config.encoders import VisionConfig
from vlmvid.errors import CheckpointError, ConfigError
from vlmvid.models import sources
from vlmvid.models.backbones.base import FrozenBackbone, Preprocessing, map_to_tokens, per_channel
from vlmvid.models.module_files import DAMAGED_WEIGHTS, unreadable
from vlmvid.models.runtime import seeded
from vlmvid.models.torchvision_compat import ensure_torchvision


class TimmBackbone(FrozenBackbone):
    """A timm model without its classifier.

    `layer=None` takes ``forward_features``, with the model's final norm. A `layer` takes that
    level of ``forward_intermediates`` (a ViT's block, a CNN's stage), without the final norm.
    """

    family = "timm"

    def __init__(
        self, module: nn.Module, config: VisionConfig, preprocessing: Preprocessing, arguments: dict[str, Any]
    ) -> None:
        self._arguments = arguments
        # On a CPU convolutions are about twice as fast in this layout; a ViT runs as fast in either.
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        class_tokens = [name for name, _ in module.named_parameters() if _is_class_token(name)]
        prefix = getattr(module, "num_prefix_tokens", None)
        if prefix is None and class_tokens and config.layer is None:
            raise ConfigError(
                f"backbone {config.backbone!r} ({type(module).__name__}) has {class_tokens[0]} but states no "
                "num_prefix_tokens, so its class token cannot be told from patches; use another model"
            )
        if config.layer is not None:
            self.num_layers = _count_levels(module.eval(), preprocessing.image_size, config.backbone)
        super().__init__(module, config, preprocessing, int(prefix or 0), bool(class_tokens))

    def architecture(self) -> dict[str, Any]:
        """The arguments of `create_timm`."""
        return self._arguments

    def _tokens(self, pixels: Tensor) -> Tensor:
        if self.config.layer is not None:
            return self._intermediate(pixels, self.config.layer)
        output = self.module.forward_features(pixels)  # type: ignore[operator]
        if not isinstance(output, Tensor):
            raise ConfigError(
                f"backbone {self.config.backbone!r} ({type(self.module).__name__}) gives a {type(output).__name__} of "
                "several outputs; expected one tensor of tokens or one map; use another model"
            )
        if output.ndim == 4 and getattr(self.module, "output_fmt", "NCHW") == "NHWC":
            return output.flatten(1, 2)
        return map_to_tokens(output)

    def _intermediate(self, pixels: Tensor, layer: int) -> Tensor:
        options = {"return_prefix_tokens": True} if self._num_prefix_tokens else {}
        level = self.module.forward_intermediates(  # type: ignore[operator]
            pixels, indices=[layer], intermediates_only=True, stop_early=True, **options
        )[0]
        if isinstance(level, Tensor):
            return map_to_tokens(level)
        patches, prefix = level
        return torch.cat([prefix, map_to_tokens(patches)], dim=1)


def _is_class_token(parameter: str) -> bool:
    # cls_token of most models, cls_token1 of CoaT, cls_token_0 of CrossViT.
    return parameter.rpartition(".")[2].startswith("cls_token")


def _count_levels(module: nn.Module, image_size: int, name: str) -> int:
    """How many intermediate levels a timm model gives; raises ConfigError where it gives none."""
    blank = torch.zeros(1, 3, image_size, image_size)
    try:
        with torch.inference_mode():
            return len(module.forward_intermediates(blank, intermediates_only=True))  # type: ignore[operator]
    except (AttributeError, RuntimeError, TypeError, AssertionError) as error:
        raise ConfigError(f"backbone {name!r} has no intermediate levels; leave out vision.layer ({error})") from error


def create_timm(name: str, image_size: int | None = None, **options: Any) -> nn.Module:
    """A timm model by name; `image_size` is passed to models whose input size is fixed when built.

    Raises ConfigError for an unknown name, with the nearest known ones, and CheckpointError for weights, asked for
    by `options`, that do not fit.
    """
    ensure_torchvision()
    import timm
    from timm.models import get_pretrained_cfg

    if not timm.is_model(name):
        close = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=5)
        hint = f"; nearest: {', '.join(close)}" if close else ""
        raise ConfigError(f"timm has no model {name!r}{hint} (timm.list_models() shows all)")
    try:
        defaults = get_pretrained_cfg(name)
        if image_size is not None and defaults is not None and defaults.fixed_input_size:
            options["img_size"] = image_size
        model: nn.Module = timm.create_model(name, **options)
    except (TypeError, *DAMAGED_WEIGHTS) as error:
        if options.get("pretrained"):
            # timm loads strictly: the message lists the tensors that are missing, too many or of another shape.
            file = options["pretrained_cfg_overlay"]["file"]
            if isinstance(error.__cause__, pickle.UnpicklingError):
                raise unreadable(Path(file), error) from error
            raise CheckpointError(f"{file}: the weights do not fit timm:{name}: {error}") from error
        raise ConfigError(f"timm cannot build {name!r} with {options}: {error}") from error
    return model


def without_classifier(model: nn.Module) -> nn.Module:
    """The same model with its classifier removed in place."""
    model.reset_classifier(0)  # type: ignore[operator]
    return model


def load_timm(config: VisionConfig, name: str) -> TimmBackbone:
    """The backbone ``timm:NAME``, or ``timm:/folder`` in the layout of timm's repositories on the hub.

    Pretrained weights come from the local Hugging Face cache or the folder, from safetensors or from a pickle that
    torch reads with ``weights_only=True``.
    """
    local = sources.local_timm_folder(name)
    arguments: dict[str, Any] = {"name": name, "image_size": config.image_size}
    options: dict[str, Any] = {}
    if local is not None:
        stated = sources.read_json(local / "config.json")
        stated_arguments = {key: stated[key] for key in ("num_classes",) if key in stated} | stated.get(
            "model_args", {}
        )
        if config.image_size is not None:
            stated_arguments.pop("img_size", None)
        arguments |= {"name": str(stated["architecture"]), **stated_arguments}
        options["pretrained_cfg"] = dict(stated.get("pretrained_cfg", {}))
    if config.pretrained:
        arguments["name"], folder = (arguments["name"], local) if local is not None else sources.timm_folder(name)
        files = sources.weight_files(folder)
        if len(files) != 1:
            raise ConfigError(f"timm:{name}: expected one weight file in {folder}, found {len(files)}")
        options |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(files[0]), "source": ""}}
    # The classifier stays until the weights are in, so that timm loads them strictly.
    with seeded(config.seed):
        model = create_timm(**arguments, **options)
    defaults: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    preprocessing = Preprocessing(
        image_size=config.image_size or int(defaults["input_size"][-1]),
        mean=per_channel(defaults["mean"]),
        std=per_channel(defaults["std"]),
        interpolation=defaults["interpolation"],
    )
    return TimmBackbone(without_classifier(model), config, preprocessing, arguments)
