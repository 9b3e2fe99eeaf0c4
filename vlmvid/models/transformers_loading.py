"""Small helpers around transformers, shared by the vision and text sides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlmvid.errors import CheckpointError
from vlmvid.models import sources
from vlmvid.models.runtime import seeded
from vlmvid.models.torchvision_compat import ensure_torchvision

# What from_pretrained adds about the place and the version, not about the model.
_NOT_ARCHITECTURE = ("_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures")


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


def model_from_config(values: dict[str, Any]) -> nn.Module:
    """A transformers base model with random weights from the values of `clean_config`."""
    ensure_torchvision()
    import transformers

    auto_model: Any = transformers.AutoModel
    values = dict(values)
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    model: nn.Module = auto_model.from_config(config)
    return model


def pretrained_model(folder: Path, config: Any) -> nn.Module:
    """The transformers base model of a folder in float32, read from local files only.

    `config` may be that of one tower of a two-tower model. Raises ConfigError for a folder
    without weights and CheckpointError when the weights leave a tensor of the model unset.
    """
    ensure_torchvision()
    import transformers

    sources.weight_files(folder)
    auto_model: Any = transformers.AutoModel
    # Seeded, because a pooler that the weights lack is drawn at random and saved with the rest.
    with quiet_transformers(), seeded(0):
        model, report = auto_model.from_pretrained(
            folder, config=config, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    # A pooler is never read here, and several published models come without one.
    missing = [str(key) for key in report["missing_keys"] if "pooler" not in key]
    missing += [str(key) for key in report["mismatched_keys"]]
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} tensors of the model are not in its weights, e.g. {min(missing)}"
        )
    loaded: nn.Module = model
    return loaded
