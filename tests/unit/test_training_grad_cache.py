"""Chunked updates are those of the whole batch, in less memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.training_fixtures import toy_config, toy_data
from vlmvid.losses import sigmoid_loss
from vlmvid.training.alignment_step import AlignmentTrainer
from vlmvid.training.batches import Batch, BatchPlanner, BatchReader
from vlmvid.training.grad_cache import CachedEmbeds

CPU = torch.device("cpu")
FALSE = tuple((2 * ((i + 1) % 23),) for i in range(23))
WORDS = (np.random.default_rng(0).integers(4, 9, (46, 5)), 9)
RICH: dict[str, Any] = {
    "captions_per_clip": 2,
    "hard_negatives": {"captions": 1, "reversed_clips": 0.5, "shuffled_clips": 0.3},
}


def trainer_and_batch(micro_batch_size: int | None, **changes: Any) -> tuple[AlignmentTrainer, Batch]:
    optim = {"global_batch_size": 11, "micro_batch_size": micro_batch_size, "grad_clip_norm": None}
    config = toy_config(**{"dropout": 0.0} | changes, optim=optim)
    data = toy_data(counterfactuals_of=FALSE, caption_ids=WORDS)
    return AlignmentTrainer(config, data, CPU), BatchReader(data, CPU).read(BatchPlanner(config, data).at(3))


def gradients(trainer: AlignmentTrainer) -> dict[str, Tensor]:
    found = {}
    for module_name, module in trainer.modules.items():
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            found[f"{module_name}.{name}"] = parameter.grad
    return found


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 7, 8])
def test_gradients_in_float64_are_those_of_one_graph(chunk_size: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(7, 5, dtype=torch.float64, generator=generator)
    weight = torch.randn(5, 4, dtype=torch.float64, generator=generator).requires_grad_()
    other = torch.randn(7, 4, dtype=torch.float64, generator=generator)

    def embed(number: int, part: slice) -> Tensor:
        return (rows[part] @ weight).tanh()

    embeds = CachedEmbeds(embed, 7, chunk_size)
    # What the loss reads is float32, as in training; the oracle rounds at the same place.
    (embeds.leaf.double() @ other.T).logsumexp(dim=0).sum().backward()  # type: ignore[no-untyped-call]
    embeds.backward()
    chunked = weight.grad
    weight.grad = None
    ((rows @ weight).tanh().float().double() @ other.T).logsumexp(dim=0).sum().backward()  # type: ignore[no-untyped-call]
    assert chunked is not None and weight.grad is not None
    torch.testing.assert_close(chunked, weight.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("micro_batch_size", [1, 4, 10, 11])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": "info_nce", "tile_size": 4},
        {**RICH, "tile_size": 3},
        {
            **RICH,
            "auxiliary": [
                {"kind": kind, "weight": 0.5} for kind in ("structure", "matching", "frame_order", "captioning")
            ],
        },
    ],
    ids=["sigmoid", "tiled InfoNCE", "negatives", "objectives"],
)
def test_an_update_in_chunks_is_that_of_the_whole_batch(micro_batch_size: int, changes: dict[str, Any]) -> None:
    whole, batch = trainer_and_batch(None, **changes)
    chunked, same = trainer_and_batch(micro_batch_size, **changes)
    reports = [whole.update(3, batch), chunked.update(3, same)]
    assert reports[0] == pytest.approx(reports[1], rel=1e-4, abs=1e-6)
    expected, found = gradients(whole), gradients(chunked)
    assert expected.keys() == found.keys()
    scale = max(float(grad.abs().max()) for grad in expected.values())
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=2e-4, atol=2e-6 * scale, msg=name)


def test_dropout_is_the_same_in_both_passes() -> None:
    trainer, batch = trainer_and_batch(4, dropout=0.4)
    slow, same = trainer_and_batch(4, dropout=0.4)
    trainer.update(3, batch)
    # The oracle keeps the graph of every chunk.
    model = slow.model
    sides = []
    for side, features in enumerate((same.video, same.text)):
        rows = [slice(start, min(11, start + 4)) for start in range(0, 11, 4)]
        sides.append(torch.cat([slow._embed(3, side, features, i, part) for i, part in enumerate(rows)]))
    loss = sigmoid_loss(*sides, logit_scale=model.logit_scale, logit_bias=model.logit_bias)
    loss.backward()  # type: ignore[no-untyped-call]
    for name, grad in gradients(trainer).items():
        expected = dict(model.named_parameters())[name.removeprefix("model.")].grad
        assert expected is not None
        torch.testing.assert_close(grad, expected, rtol=2e-4, atol=1e-5, msg=name)
    undropped, batch = trainer_and_batch(4, dropout=0.0)
    undropped.update(3, batch)
    name = "model.video_head.g.weight"
    assert not torch.allclose(gradients(undropped)[name], gradients(trainer)[name])


class Kept:
    """Numbers of a given width that wait for the backward pass, and the most there were."""

    def __init__(self, width: int) -> None:
        self.width, self.now, self.most, self.rows = width, 0, 0, 0

    def pack(self, tensor: Tensor) -> Any:
        kept = self

        class Held:
            def __init__(self) -> None:
                self.tensor = tensor
                self.count = tensor.numel() if tensor.ndim == 2 and tensor.shape[1] == kept.width else 0
                kept.now += self.count
                kept.most = max(kept.most, kept.now)
                kept.rows = max(kept.rows, len(tensor) if self.count else 0)

            def __del__(self) -> None:
                kept.now -= self.count

        return Held()


@pytest.mark.parametrize("micro_batch_size", [None, 4])
def test_no_hidden_row_of_another_chunk_is_kept(micro_batch_size: int | None) -> None:
    # A width that no other tensor has: 7 times the 6 channels of the texts.
    head = {"kind": "gated", "width_factor": 7}
    trainer, batch = trainer_and_batch(micro_batch_size, text_head=head)
    kept = Kept(42)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda held: held.tensor):
        trainer.update(0, batch)
    rows = 11 if micro_batch_size is None else 4
    # The two layers before it keep their weights, 6 x 42 each.
    assert kept.rows == max(rows, 6)
    # Inputs of ReLU6, of the product (two) and of the last layer.
    assert kept.most <= 42 * (4 * rows + 2 * 6)
    assert kept.most >= 42 * 3 * rows
