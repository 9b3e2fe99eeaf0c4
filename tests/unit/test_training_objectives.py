"""Objectives of single clips train the pooling, in a real update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.unit.training_fixtures import states_equal, toy_config, toy_data
from vlmvid.config.alignment import AuxiliaryKind
from vlmvid.models.pooling.transformer import TemporalTransformer
from vlmvid.training.align import AlignmentData, train_alignment
from vlmvid.training.alignment_step import AlignmentTrainer
from vlmvid.training.batches import BatchPlanner, BatchReader

CPU = torch.device("cpu")
CLIP_KINDS: list[AuxiliaryKind] = ["captioning", "frame_order", "masked_language", "masked_video"]


def data_with_words() -> AlignmentData:
    """Frames that drift, and two captions of five words; the first tells the clip."""
    rng = np.random.default_rng(3)
    data = toy_data()
    drift = np.linspace(-100, 100, 4)[:, None] * rng.standard_normal(10)
    words = rng.integers(6, 9, (46, 5))
    words[:, 0], words[:, 1], words[:, -1] = 1, 6 + np.arange(46) // 2 % 3, 2
    return toy_data(video_features=(np.asarray(data.video_features) + drift).astype(np.float32), caption_ids=(words, 9))


def auxiliary(kind: AuxiliaryKind, weight: float = 1.0) -> list[dict[str, Any]]:
    return [{"kind": kind, "weight": weight, "width": 16}]


def step_of(**changes: Any) -> AlignmentTrainer:
    config, data = toy_config(**changes), data_with_words()
    trainer = AlignmentTrainer(config, data, CPU)
    trainer.update(3, BatchReader(data, CPU).read(BatchPlanner(config, data).at(3)))
    return trainer


def grads(trainer: AlignmentTrainer, prefix: str) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad
        for name, parameter in trainer.model.named_parameters()
        if name.startswith(prefix) and parameter.grad is not None
    }


@pytest.mark.parametrize("kind", CLIP_KINDS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_an_update_reaches_the_weights_of_the_pooling(kind: AuxiliaryKind, dropout: float) -> None:
    optim = {"grad_clip_norm": None}
    plain, trainer = (
        step_of(auxiliary=objectives, dropout=dropout, optim=dict(optim)) for objectives in ([], auxiliary(kind))
    )
    before, after = grads(plain, "pooling."), grads(trainer, "pooling.")
    for name, grad in after.items():
        if name.startswith("pooling.up."):
            assert torch.equal(grad, before[name])
        else:
            # The residual starts at zero, so that the contrastive loss alone reaches nothing behind it at first.
            assert not before[name].any() and grad.any(), name
    # The heads have nothing of it, and their dropout is that of a recipe without.
    for name in ("video_head.", "text_head."):
        expected = grads(plain, name)
        assert all(torch.equal(grad, expected[key]) for key, grad in grads(trainer, name).items())
    again = step_of(auxiliary=auxiliary(kind), dropout=dropout, optim=dict(optim))
    assert states_equal(again.model, trainer.model)


@pytest.mark.parametrize("kind", CLIP_KINDS)
def test_dropout_of_the_states_is_drawn_for_every_update(kind: AuxiliaryKind) -> None:
    undropped, dropped = (
        step_of(auxiliary=auxiliary(kind), optim={"grad_clip_norm": None}, dropout=dropout) for dropout in (0.0, 0.3)
    )
    name = "pooling.down.weight"
    assert not torch.allclose(grads(undropped, name)[name], grads(dropped, name)[name])


@pytest.mark.parametrize(
    ("kind", "precision"), [*((kind, "float32") for kind in CLIP_KINDS), ("captioning", "bfloat16")]
)
def test_the_loss_of_the_objective_falls(kind: AuxiliaryKind, precision: str, tmp_path: Path) -> None:
    optim = {"num_steps": 40, "global_batch_size": 16, "micro_batch_size": 9, "precision": precision}
    config = toy_config(auxiliary=auxiliary(kind), optim=optim, checkpoint_every=100, dropout=0.0)
    told: list[float] = []
    model = train_alignment(
        config, data_with_words(), work_dir=tmp_path, on_step=lambda _, values: told.append(values[f"loss_{kind}"])
    )
    assert np.mean(told[-5:]) < 0.8 * np.mean(told[:5])
    assert model.trains_frames and isinstance(model.pooling, TemporalTransformer)


@pytest.mark.parametrize("pooling", ["frame_mean", "temporal_difference", "perceiver"])
@pytest.mark.parametrize("kind", CLIP_KINDS)
def test_a_pooling_without_states_is_refused(kind: AuxiliaryKind, pooling: str) -> None:
    with pytest.raises(ValidationError, match=f"'{kind}' trains .*pooling.kind='{pooling}' .*use .*'transformer'"):
        toy_config(auxiliary=auxiliary(kind), pooling={"kind": pooling})
    assert toy_config(auxiliary=[{"kind": "matching", "weight": 1.0}], pooling={"kind": pooling}).auxiliary


@pytest.mark.parametrize("pooling", ["transformer", "frame_mean"])
def test_end_to_end_is_refused_for_itself(pooling: str) -> None:
    with pytest.raises(ValidationError, match="end_to_end does not go with auxiliary"):
        toy_config(auxiliary=auxiliary("frame_order"), pooling={"kind": pooling}, end_to_end={"vision": {"rank": 2}})
