"""A module as a safetensors file and its description as JSON, strict in both directions."""

from __future__ import annotations

import errno
import json
import os
import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vlmvid.errors import CheckpointError

FORMAT_VERSION = 1
# What torch, pickle and safetensors raise on damaged bytes, for calls that do more than read.
DAMAGED_WEIGHTS = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    LookupError,
    AssertionError,
    struct.error,
    pickle.UnpicklingError,
    SafetensorError,
)


def save_module(module: nn.Module, path: Path) -> None:
    """A module's state dict as safetensors; tied tensors are written once each.

    Raises OSError where the disk is full, as other writes do.
    """
    # A copy per tensor: safetensors refuses views of one storage.
    state = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in module.state_dict().items()}
    try:
        save_file(state, path)
    except SafetensorError as error:
        if f"os error {errno.ENOSPC}" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a pickle that torch reads with ``weights_only=True``.

    Raises CheckpointError for a file that cannot be read so.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # The unpickler follows whatever the bytes say, so damaged ones raise almost any class; nothing else runs here.
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
    return CheckpointError(f"{path} cannot be read: {str(error) or type(error).__name__}")


def load_module(module: nn.Module, path: Path, old_prefixes: Mapping[str, str] | None = None) -> None:
    """Load `save_module`'s file strictly; raises CheckpointError for anything missing or left over.

    `old_prefixes` gives the present start of tensor names for one that older files use.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
    for old, new in (old_prefixes or {}).items():
        for name in [name for name in state if name.startswith(old)]:
            state.setdefault(new + name.removeprefix(old), state.pop(name))
    expected = module.state_dict()
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "too many": sorted(state.keys() - expected.keys()),
        "of another shape": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in sorted(expected.keys() & state.keys())
            if state[name].shape != expected[name].shape
        ],
    }
    if any(problems.values()):
        raise CheckpointError(f"{path} does not fit {type(module).__name__}: {list_problems(problems)}")
    module.load_state_dict(state, strict=True)


def list_problems(problems: Mapping[str, Sequence[str]], most: int = 8) -> str:
    """``"2 tensors missing: a, b; 1 too many: c"``: kinds of misfits with their names, the first `most` of each."""
    found = []
    for kind, names in problems.items():
        if names:
            more = f" and {len(names) - most} more" if len(names) > most else ""
            found.append(f"{len(names)} {kind}: {', '.join(names[:most])}{more}")
    return "; ".join(found)


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
