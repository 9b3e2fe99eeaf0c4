"""One stage of a vision-language model's training, resumable at any step.

A step is a pure function of (seed, step, state): its rows, their order and its dropout come from generators seeded
with both, so a run that was killed and resumed ends in the same bytes. The loss of an update is the sum over its
answer tokens (or preferences) divided by their number, so no cut into micro-batches and processes changes it, but for
rounding and the dropout of each.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlmvid.config.vlm import CUT_OF_UPDATES, VlmStageConfig
from vlmvid.errors import CheckpointError, StageError
from vlmvid.models.vlm.model import VisionLanguageModel
from vlmvid.training.checkpoint import save_checkpoint, shared_checkpoint
from vlmvid.training.distributed import num_ranks, rank
from vlmvid.training.interruption import HeldSignals
from vlmvid.training.prefetch import Prefetch
from vlmvid.training.vlm_objectives import FeatureReader, StageObjective, Unit
from vlmvid.training.vlm_plan import StagePlan
from vlmvid.training.vlm_step import Inputs, StageTrainer, checkpointed_activations

OnStep = Callable[[int, dict[str, float]], None]
OnCheckpoint = Callable[[int], None]
# A sample of every frozen tensor tells models apart without reading all of a large one.
_FINGERPRINT_VALUES = 256
_CHUNKS_AHEAD = 2
# How often state is saved, what it is checked by and how an update is cut change nothing about it; what the stage
# starts from and which samples it leaves out show in the model and the data, whatever names they have.
_NOT_OF_THE_RESULT: Any = {
    "checkpoint_every": True,
    "num_trained": True,
    "start": True,
    "too_long": True,
    "optim": set(CUT_OF_UPDATES),
}


@dataclass(frozen=True)
class VlmData:
    """What a stage learns from.

    Attributes:
        samples: single samples for ``next_token``, which the trainer puts into rows; pairs for preferences.
        features: reads the features of the clips and images that samples name; called in a thread of its own.
        identity: what samples and features are, as JSON values; a checkpoint of other data is refused.
    """

    samples: Sequence[Unit]
    features: FeatureReader
    identity: Mapping[str, Any]


def train_vlm_stage(
    stage: VlmStageConfig | StagePlan,
    model: VisionLanguageModel,
    data: VlmData,
    *,
    trained: Mapping[str, nn.Parameter],
    objective: StageObjective,
    work_dir: Path,
    on_step: OnStep | None = None,
    on_checkpoint: OnCheckpoint | None = None,
) -> None:
    """Train some parameters of a model, and the objective's modules, in place.

    Checkpoints, of what learns and no more, go to `work_dir` every `stage.checkpoint_every` updates, after the last,
    and when SIGTERM or Ctrl-C ends the training (`HeldSignals`); a second call with the same arguments, the model as
    it was before the first, goes on from the newest valid one and ends in the bytes of an uninterrupted run on the
    same machine and thread count. It may do so in another number of processes and with another strategy, to rounding.
    It computes where the model is, which is in eval mode afterwards.

    Args:
        stage: its config, or its plan where the caller has made one, of `data.samples` and `objective`.
        trained: parameters of `model` that learn, by name; all others are frozen.
        on_step: called by the first process after every update, before its checkpoint, with the number of updates done
            (from 1) and loss, lr, grad_norm (before clipping), tokens (seen so far, over all processes, padding not
            counted), tokens_per_second, padding_fraction, and what the objective tells. What it raises ends training.
        on_checkpoint: called by the first process when a checkpoint is on disk. What it raises ends training.

    Under torchrun every process takes its share of each update's rows (`stage.optim.strategy`: whole weights in each,
    or FSDP2), and all end with the whole model.

    Raises ConfigError for a sample that is too long or has nothing to learn, and for a precision or strategy that does
    not fit; CheckpointError when `work_dir` belongs to another stage, other data or another model; StageError when
    loss or gradient stops being finite, with the samples of the update.
    """
    plan = stage if isinstance(stage, StagePlan) else StagePlan(stage, data.samples, objective)
    identity = _identity(plan.stage, model, data, trained)
    with checkpointed_activations(model.language, plan.stage.optim.gradient_checkpointing):
        run = _Run(plan, StageTrainer(plan, model, trained, objective), work_dir, identity)
        first_step = run.resume()
        ahead = Prefetch(_inputs(plan, data.features, first_step), depth=_CHUNKS_AHEAD)
        with HeldSignals() as held, ahead as inputs:
            run.train(iter(inputs), first_step, on_step or _ignore, on_checkpoint or _ignore, held)
        run.trainer.finish()


@dataclass(frozen=True)
class _Run:
    plan: StagePlan
    trainer: StageTrainer
    work_dir: Path
    identity: dict[str, Any]

    def resume(self) -> int:
        checkpoint = shared_checkpoint(self.work_dir)
        if checkpoint is not None:
            try:
                self.trainer.restore(checkpoint, self.identity)
            except CheckpointError as error:
                raise CheckpointError(f"{self.work_dir}: {error}") from error
        return 0 if checkpoint is None else checkpoint.step

    def train(
        self,
        inputs: Iterator[Inputs],
        first_step: int,
        on_step: OnStep,
        on_checkpoint: OnCheckpoint,
        held: HeldSignals,
    ) -> None:
        updates, last_saved = self.plan.updates, first_step
        for done, update in enumerate(updates[first_step:], start=first_step + 1):
            started = time.perf_counter()
            own = (next(inputs) for _ in range(self.plan.num_chunks(update, num_ranks())))
            try:
                report = self.trainer.update(done - 1, update, own)
            except StageError as error:
                kept = f"the checkpoint of step {last_saved} in {self.work_dir} is good" if last_saved else "none yet"
                raise StageError(
                    f"{error}. The update held {self.plan.names(update)}; last checkpoint: {kept}"
                ) from error
            report["tokens"] = float(update.tokens_seen)
            report["tokens_per_second"] = update.num_tokens / (time.perf_counter() - started)
            report["padding_fraction"] = self.plan.padding_fraction(update, num_ranks())
            # Reported before it is saved: a kill in between then repeats a report instead of losing it.
            if rank() == 0:
                on_step(done, report)
            if done % self.plan.stage.checkpoint_every == 0 or done == len(updates) or held.arrived:
                last_saved = done
                state = self.trainer.state(self.identity)
                if rank() == 0:
                    save_checkpoint(self.work_dir, done, state)
                    on_checkpoint(done)
                held.deliver_if_arrived()


def _inputs(plan: StagePlan, features: FeatureReader, first_step: int) -> Iterator[Inputs]:
    for update in plan.updates[first_step:]:
        for chunk in plan.chunks(update, rank(), num_ranks()):
            yield Inputs.read(chunk, features)


def _ignore(*_: object) -> None:
    return None


def _identity(
    stage: VlmStageConfig, model: VisionLanguageModel, data: VlmData, trained: Mapping[str, nn.Parameter]
) -> dict[str, Any]:
    """What a checkpoint belongs to. Trained weights change, so only their shapes are part of it."""
    learns = {id(parameter) for parameter in trained.values()}
    frozen = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if id(parameter) not in learns:
            frozen.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
            some = parameter.detach().flatten()[:_FINGERPRINT_VALUES]
            frozen.update(some.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return {
        "stage": stage.model_dump(mode="json", exclude=_NOT_OF_THE_RESULT),
        "data": dict(data.identity),
        "num_samples": len(data.samples),
        "mask": model.mask,
        "frozen": frozen.hexdigest()[:16],
        "trained": {name: list(parameter.shape) for name, parameter in sorted(trained.items())},
    }
