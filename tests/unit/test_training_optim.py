"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vlmvid.config.alignment import AlignConfig, OptimConfig
from vlmvid.config.encoders import PoolingConfig
from vlmvid.models.alignment import AlignmentModel
from vlmvid.training.optim import Lion, averaged, build_adamw, build_optimizer, lr_at, set_lr

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


def two_parameters(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in ((3, 4), (5,))]


def test_lion_follows_the_papers_algorithm_number_by_number() -> None:
    parameters = two_parameters(0)
    lr, betas, decay = 0.03, (0.9, 0.95), 0.2
    optimizer = Lion([{"params": parameters[:1], "weight_decay": decay}, {"params": parameters[1:]}], lr, betas)
    values = [parameter.detach().clone().flatten().tolist() for parameter in parameters]
    momenta = [[0.0] * len(value) for value in values]
    for step in range(6):
        for number, grad in enumerate(two_parameters(step + 1)):
            parameters[number].grad = grad.detach() if step != 2 else None
        optimizer.step()
        for number, grad in enumerate(two_parameters(step + 1)):
            if step == 2:  # without a gradient nothing moves
                continue
            for place, g in enumerate(grad.detach().flatten().tolist()):
                m = momenta[number][place]
                c = betas[0] * m + (1 - betas[0]) * g
                sign = (c > 0) - (c < 0)
                wd = decay if number == 0 else 0.0
                values[number][place] -= lr * (sign + wd * values[number][place])
                momenta[number][place] = betas[1] * m + (1 - betas[1]) * g
        for parameter, value in zip(parameters, values, strict=True):
            torch.testing.assert_close(parameter.detach().flatten(), torch.tensor(value, dtype=torch.float64))


def test_the_config_names_the_optimiser() -> None:
    assert isinstance(build_optimizer(model(), OPTIM), torch.optim.AdamW)
    lion = build_optimizer(model(), OPTIM.model_copy(update={"optimizer": "lion", "betas": (0.8, 0.7)}))
    assert isinstance(lion, Lion)
    assert [group["weight_decay"] for group in lion.param_groups] == [0.1, 0.0]
    assert all(group["betas"] == (0.8, 0.7) for group in lion.param_groups)


def test_fused_adamw_is_adamw() -> None:
    weights: list[list[Tensor]] = []
    for fused in (True, False):
        aligned = model()
        optimizer = build_adamw(aligned, OPTIM)
        assert optimizer.defaults["fused"]
        optimizer = optimizer if fused else torch.optim.AdamW(optimizer.param_groups, fused=False)
        for group in optimizer.param_groups:
            group["fused"] = fused
        for step in range(3):
            for number, parameter in enumerate(aligned.parameters()):
                parameter.grad = torch.full_like(parameter, 0.1 * number - 0.05 * step)
            optimizer.step()
        weights.append([parameter.detach().clone() for parameter in aligned.parameters()])
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)


def test_averaged_weights_follow_the_formula_and_forget_the_start() -> None:
    aligned = model()
    average = averaged(aligned, decay=0.5)
    expected = 0.0
    for step in range(8):
        with torch.no_grad():
            aligned.logit_bias.fill_(float(step))
        average.update_parameters(aligned)
        decay = min(0.5, (1 + step) / (10 + step)) if step else 0.0
        expected = decay * expected + (1 - decay) * step
        assert average.module.logit_bias.item() == pytest.approx(expected, rel=1e-6)  # type: ignore[operator,union-attr]
    assert not any(parameter is other for parameter in aligned.parameters() for other in average.parameters())


def test_lion_has_its_state_before_its_first_step() -> None:
    layer = torch.nn.Linear(3, 2)
    state = Lion(layer.parameters()).state
    for parameter in layer.parameters():
        assert torch.equal(state[parameter]["exp_avg"], torch.zeros_like(parameter))
