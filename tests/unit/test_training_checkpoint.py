"""Checkpoints: exact, atomic, strict."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from vlmvid.artifacts.files import write_bytes
from vlmvid.errors import CheckpointError
from vlmvid.models.runtime import seeded
from vlmvid.training.checkpoint import TrainingState, latest_checkpoint, restore_checkpoint, save_checkpoint


def model_and_optimizer(width: int = 3, seed: int = 0) -> tuple[nn.Module, torch.optim.AdamW]:
    with seeded(seed):
        model = nn.Sequential(nn.Linear(4, width), nn.LayerNorm(width), nn.Linear(width, 2))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
    return TrainingState({"model": model}, optimizer, {"of": "f"})


def step(model: nn.Module, optimizer: torch.optim.AdamW, seed: int) -> None:
    optimizer.zero_grad()
    model(torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
    optimizer.step()


def same_state(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_restored_training_continues_in_the_same_bytes(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    for seed in range(3):
        step(model, optimizer, seed)
    save_checkpoint(tmp_path, 3, state_of(model, optimizer))
    restored, restored_optimizer = model_and_optimizer(seed=9)
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None and (checkpoint.step, checkpoint.identity) == (3, {"of": "f"})
    restore_checkpoint(checkpoint, state_of(restored, restored_optimizer))
    assert same_state(model, restored)
    for seed in range(3, 6):
        step(model, optimizer, seed)
        step(restored, restored_optimizer, seed)
    assert same_state(model, restored)


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "missing") is None


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    step(model, optimizer, 0)
    for number in (1, 2, 3, 10):
        save_checkpoint(tmp_path, number, state_of(model, optimizer))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"step_{n:08d}.{kind}" for n in (3, 10) for kind in ("json", "safetensors")]


@pytest.mark.parametrize("damage", ["truncate", "flip", "no tensors", "no json", "broken json"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    model, optimizer = model_and_optimizer()
    for number in (1, 2):
        step(model, optimizer, number)
        save_checkpoint(tmp_path, number, state_of(model, optimizer))
    tensors, record = tmp_path / "step_00000002.safetensors", tmp_path / "step_00000002.json"
    data = tensors.read_bytes()
    match damage:
        case "truncate":
            tensors.write_bytes(data[:-7])
        case "flip":
            tensors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "no tensors":
            tensors.unlink()
        case "no json":
            record.unlink()
        case "broken json":
            record.write_text('{"step": 2')
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.step == 1


def test_a_model_of_another_shape_is_refused(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    step(model, optimizer, 0)
    save_checkpoint(tmp_path, 1, state_of(model, optimizer))
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    with pytest.raises(CheckpointError, match=r"model.0.weight is \(3, 4\), expected \(5, 4\)"):
        restore_checkpoint(checkpoint, state_of(*model_and_optimizer(width=5)))
    deeper = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2), nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match="lacks model.3.weight"):
        restore_checkpoint(checkpoint, state_of(deeper, torch.optim.AdamW(deeper.parameters())))
    shallower = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    with pytest.raises(CheckpointError, match="4 tensors|8 tensors"):
        restore_checkpoint(checkpoint, state_of(shallower, torch.optim.AdamW(shallower.parameters())))


def test_a_checkpoint_without_optimiser_state_is_refused(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    save_checkpoint(tmp_path, 1, state_of(model, optimizer))
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    with pytest.raises(CheckpointError, match="no optimiser state of model.0.weight"):
        restore_checkpoint(checkpoint, state_of(model, optimizer))


def test_write_bytes_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]
