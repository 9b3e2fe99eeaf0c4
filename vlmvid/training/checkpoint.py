"""Checkpoints of a running training: safetensors for tensors, JSON for the rest.

``step_00000100.safetensors`` is written first, ``step_00000100.json`` with its sha256 last; both
through a temporary name, fsync and rename. A checkpoint without a matching JSON does not exist,
so a process killed at any instant leaves the previous one in force.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from vlmvid.artifacts.files import write_bytes
from vlmvid.errors import CheckpointError

FORMAT_VERSION = 1
NUM_KEPT = 2


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that has been read and verified.

    Attributes:
        step: updates done.
        fingerprint: what the training was of; a resume with another one must be refused.
        tensors: ``model.NAME`` and ``optim.NAME.STATE``.
    """

    step: int
    fingerprint: str
    tensors: Mapping[str, Tensor]


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str
) -> Path:
    """Write the state after `step` updates; keeps the newest two. Returns the JSON's path."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optim.{name}.{key}"] = torch.as_tensor(value)
    data = save({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()})
    base = folder / f"step_{step:08d}"
    write_bytes(base.with_suffix(".safetensors"), data)
    record = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "fingerprint": fingerprint,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    path = base.with_suffix(".json")
    write_bytes(path, json.dumps(record, sort_keys=True).encode())
    for old in _records(folder)[:-NUM_KEPT]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)
    return path


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose tensors have the recorded sha256; None when there is none."""
    for path in reversed(_records(folder)):
        checkpoint = _read(path)
        if checkpoint is not None:
            return checkpoint
    return None


def restore_checkpoint(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the state of a checkpoint into a model and its optimiser, exactly.

    Raises CheckpointError, naming a tensor, when anything is missing, left over or of another shape.
    """
    left = dict(checkpoint.tensors)
    state = {}
    for name, tensor in model.state_dict().items():
        state[name] = _take(left, f"model.{name}", tensor.shape)
    restored: dict[nn.Parameter, dict[str, Tensor]] = {}
    for name, parameter in model.named_parameters():
        prefix = f"optim.{name}."
        keys = [key for key in left if key.startswith(prefix)]
        if parameter.requires_grad and checkpoint.step > 0 and not keys:
            raise CheckpointError(f"the checkpoint of step {checkpoint.step} has no optimiser state of {name}")
        restored[parameter] = {}
        for key in keys:
            # AdamW keeps its step count on the CPU and its moments beside the parameter.
            value = left.pop(key)
            if value.ndim and value.shape != parameter.shape:
                raise CheckpointError(f"{key} is {tuple(value.shape)}, expected {tuple(parameter.shape)}")
            scalar_count = key == f"{prefix}step"
            restored[parameter][key.removeprefix(prefix)] = value if scalar_count else value.to(parameter.device)
    if left:
        raise CheckpointError(f"the checkpoint has {len(left)} tensors that the model lacks, e.g. {min(left)}")
    model.load_state_dict(state, strict=True)
    for parameter, values in restored.items():
        if values:
            optimizer.state[parameter] = values


def _records(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*.json"))


def _read(path: Path) -> Checkpoint | None:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        data = path.with_suffix(".safetensors").read_bytes()
    except (OSError, ValueError):
        return None
    if record.get("format_version") != FORMAT_VERSION or hashlib.sha256(data).hexdigest() != record.get("sha256"):
        return None
    return Checkpoint(step=int(record["step"]), fingerprint=str(record["fingerprint"]), tensors=load(data))


def _take(left: dict[str, Tensor], name: str, shape: torch.Size) -> Tensor:
    if name not in left:
        raise CheckpointError(f"the checkpoint lacks {name}")
    tensor = left.pop(name)
    if tensor.shape != shape:
        raise CheckpointError(f"the checkpoint's {name} is {tuple(tensor.shape)}, expected {tuple(shape)}")
    return tensor
