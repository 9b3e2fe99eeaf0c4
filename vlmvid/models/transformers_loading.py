"""Small helpers around transformers, shared by the vision and text sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlmvid.errors import CheckpointError, ConfigError
from vlmvid.models import sources
from vlmvid.models.module_files import DAMAGED_WEIGHTS, list_problems, unreadable
from vlmvid.models.runtime import seeded
from vlmvid.models.torchvision_compat import ensure_torchvision
from vlmvid.registry import nearest

# What from_pretrained adds about the place and the version, not about the model.
_NOT_ARCHITECTURE = ("_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures")
_WITHOUT_AUTO_CLASS = {"siglip_text_model": "SiglipTextModel", "siglip2_text_model": "Siglip2TextModel"}


def clean_config(config: Any) -> dict[str, Any]:
    """A transformers config as JSON values without paths, dtypes and versions."""
    values: dict[str, Any] = config.to_dict()
    values["model_type"] = config.model_type
    return {key: value for key, value in values.items() if key not in _NOT_ARCHITECTURE}


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no reports about unused tensors inside the block.

    A tower taken out of a larger model always leaves tensors unused; what is missing is checked
    by the caller.
    """
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging

    level = logging.get_verbosity()
    had_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()


def config_of_folder(folder: Path) -> Any:
    """The transformers config in a folder; code that comes with a model is never run.

    Raises ConfigError when this version of transformers cannot read it.
    """
    ensure_torchvision()
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{folder / 'config.json'} is not a config that transformers knows without the model's own code: {error}"
        ) from error


def config_of_type(model_type: str) -> Any:
    """The default config of a model type of transformers, e.g. ``dinov2``; raises ConfigError for an unknown one."""
    ensure_torchvision()
    from transformers import CONFIG_MAPPING, AutoConfig

    if model_type not in CONFIG_MAPPING:
        hint = nearest(model_type, sorted(CONFIG_MAPPING))
        raise ConfigError(
            f"{model_type!r} is neither a folder, nor a repository in the Hugging Face cache, nor a model type of "
            f"transformers{hint}"
        )
    return AutoConfig.for_model(model_type)


def model_from_config(values: dict[str, Any]) -> nn.Module:
    """A transformers base model with random weights from the values of `clean_config`.

    Raises ConfigError when transformers has no model for them.
    """
    ensure_torchvision()
    import transformers

    values = dict(values)
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    try:
        model: nn.Module = _built(config)
    except ValueError as error:
        raise ConfigError(f"transformers cannot build a model of type {config.model_type!r}: {error}") from error
    return model


def pretrained_model(folder: Path, config: Any) -> nn.Module:
    """The transformers base model of a folder in float32, read from local files only.

    `config` may be that of one tower of a two-tower model. Weights are safetensors, or pickles that torch reads
    with ``weights_only=True``. Top-level names that the model does not have (heads, other towers) are left out; within
    its own parts a tensor that is missing, too many or of another shape is an error. Raises ConfigError for a folder
    without weights and CheckpointError for weights that do not fit.
    """
    ensure_torchvision()
    files = sources.weight_files(folder)
    # Seeded, because a pooler that the weights lack is drawn at random and saved with the rest.
    with quiet_transformers(), seeded(0):
        try:
            model, report = _model_class(config).from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=False,
                weights_only=True,
                use_safetensors=files[0].suffix == ".safetensors",
                ignore_mismatched_sizes=True,
            )
        except DAMAGED_WEIGHTS as error:
            raise unreadable(files[0], error) from error
    # A pooler is never read here, and several published models come without one.
    missing = sorted(str(key) for key in report["missing_keys"] if "pooler" not in key)
    shapes = [f"{key} {tuple(stored)} instead of {tuple(own)}" for key, stored, own in report["mismatched_keys"]]
    problems = {
        "missing": missing,
        "too many": _extra_tensors(model, [str(key) for key in report["unexpected_keys"]]),
        "of another shape": sorted(shapes),
    }
    if any(problems.values()):
        raise CheckpointError(f"{folder}: the weights do not fit its config.json: {list_problems(problems)}")
    loaded: nn.Module = model
    return loaded


def _model_class(config: Any) -> Any:
    import transformers

    # AutoModel knows no text towers of SigLIP.
    name = _WITHOUT_AUTO_CLASS.get(config.model_type)
    return transformers.AutoModel if name is None else getattr(transformers, name)


def _built(config: Any) -> nn.Module:
    made = _model_class(config)
    model: nn.Module = made.from_config(config) if hasattr(made, "from_config") else made(config)
    return model


def _extra_tensors(model: Any, unexpected: Sequence[str]) -> list[str]:
    """Stored tensors that belong to a part of `model` without having a place in it.

    Heads, decoders and other towers have names of their own at the top level. Buffers that newer versions of a
    model compute for themselves are no loss.
    """
    parts = {name for name, _ in model.named_children()}
    buffers = {name for name, _ in model.named_buffers()}
    prefix = f"{model.base_model_prefix}."
    plain = sorted({key.removeprefix(prefix): key for key in unexpected}.items())
    return [key for name, key in plain if name.partition(".")[0] in parts and name not in buffers]
