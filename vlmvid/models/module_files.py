"""A module as a safetensors file and its description as JSON, strict in both directions."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vlmvid.errors import CheckpointError

FORMAT_VERSION = 1


def save_module(module: nn.Module, path: Path) -> None:
    """A module's state dict as safetensors; tied tensors are written once each."""
    # A copy per tensor: safetensors refuses views of one storage.
    state = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a pickle that torch reads with ``weights_only=True``.

    Raises CheckpointError for a file that cannot be read so.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise unreadable(path, error) from error
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise CheckpointError(f"{path} holds more than named tensors; expected a state dict")
    return stored


def unreadable(path: Path, error: BaseException) -> CheckpointError:
    """The error for weights that cannot be read; torch's advice to trust a pickle is not passed on."""
    if isinstance(error, pickle.UnpicklingError) or isinstance(error.__cause__, pickle.UnpicklingError):
        return CheckpointError(
            f"{path} cannot be read: the pickle is damaged or holds more than tensors, and what else it holds could "
            "run code; get the weights as safetensors"
        )
    return CheckpointError(f"{path} cannot be read: {error}")


def load_module(module: nn.Module, path: Path) -> None:
    """Load `save_module`'s file strictly; raises CheckpointError for anything missing or left over."""
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
    expected = module.state_dict()
    problems = [f"missing {name}" for name in expected.keys() - state.keys()]
    problems += [f"unexpected {name}" for name in state.keys() - expected.keys()]
    problems += [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected.keys() & state.keys()
        if state[name].shape != expected[name].shape
    ]
    if problems:
        raise CheckpointError(
            f"{path} does not fit {type(module).__name__}: {len(problems)} problems, e.g. {min(problems)}"
        )
    module.load_state_dict(state, strict=True)


def write_json(values: dict[str, Any], path: Path) -> None:
    """Write JSON with sorted keys, so that the same values give the same bytes."""
    path.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_description(path: Path) -> dict[str, Any]:
    """A JSON description written by this module; raises CheckpointError when it cannot be used."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a readable model description: {error!r}") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path} has format version {version}; this vlmvid reads {FORMAT_VERSION}")
    return dict(values)
