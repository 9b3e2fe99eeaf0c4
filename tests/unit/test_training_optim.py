"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

import pytest

from vlmvid.config.encoders import PoolingConfig
from vlmvid.config.schema import AlignConfig, OptimConfig
from vlmvid.models.alignment import AlignmentModel
from vlmvid.training.optim import build_adamw, lr_at, set_lr

OPTIM = OptimConfig(num_steps=10, global_batch_size=4, lr=0.5, warmup_steps=4, weight_decay=0.1)


def model() -> AlignmentModel:
    pooling = PoolingConfig(kind="transformer", width=8, depth=1, num_heads=2)
    return AlignmentModel(6, 5, 3, AlignConfig(pooling=pooling, projection_dim=4, optim=OPTIM))


def test_only_matrices_decay() -> None:
    aligned = model()
    optimizer = build_adamw(aligned, OPTIM)
    decay_of = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    by_name = {name: decay_of[id(p)] for name, p in aligned.named_parameters()}
    assert len(decay_of) == len(list(aligned.parameters()))
    for name in ("log_logit_scale", "logit_bias", "video_head.norm.weight", "text_head.project.bias"):
        assert by_name[name] == 0.0, name
    for name in ("text_head.project.weight", "pooling.up.weight", "pooling.blocks.0.qkv.weight"):
        assert by_name[name] == 0.1, name


def test_frozen_parameters_are_left_out() -> None:
    aligned = model()
    aligned.text_head.requires_grad_(False)
    optimizer = build_adamw(aligned, OPTIM)
    optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert optimised.isdisjoint(id(p) for p in aligned.text_head.parameters())


def test_schedule_is_linear_then_cosine() -> None:
    rates = [lr_at(step, OPTIM) for step in range(10)]
    assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    # Half a cosine over six steps, by hand: 0.5 * (1 + cos(pi * k / 6)) * 0.5
    assert rates[4:] == pytest.approx([0.5, 0.466506, 0.375, 0.25, 0.125, 0.033494], abs=1e-6)
    assert lr_at(10, OPTIM) == 0.0


def test_a_warm_up_longer_than_the_training_never_ends() -> None:
    config = OptimConfig(num_steps=3, global_batch_size=4, lr=1.0, warmup_steps=10)
    assert [lr_at(step, config) for step in range(3)] == pytest.approx([0.1, 0.2, 0.3])


def test_set_lr_reaches_every_group() -> None:
    optimizer = build_adamw(model(), OPTIM)
    assert len(optimizer.param_groups) == 2
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
