"""Alignment training on frozen features (SAIL, arXiv 2412.04616), resumable at any step.

A step is a pure function of (seed, step, state): its batch, its captions, its hard negatives and its dropout come
from generators seeded with both, so a run that was killed and resumed ends in the same bytes.

Under torchrun (`vlmvid.training.distributed`) every process takes its share of each batch, and the loss, the gradients
and so the weights are those of one process, to the rounding of float additions. Dropout is drawn for each process, and
the auxiliary objectives look at the clips of one process at a time.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlmvid.artifacts.arrays import dtype_name
from vlmvid.config.alignment import AlignConfig
from vlmvid.errors import CheckpointError, DatasetError, StageError
from vlmvid.models.alignment import AlignmentModel
from vlmvid.models.pooling import check_reads
from vlmvid.models.runtime import resolve_device
from vlmvid.training.alignment_step import AlignmentTrainer
from vlmvid.training.batches import Batch, BatchPlan, BatchPlanner, BatchReader, batch_at, captions_at
from vlmvid.training.checkpoint import TrainingState, restore_checkpoint, save_checkpoint, shared_checkpoint
from vlmvid.training.data import (
    AlignmentData,
    FeatureRows,
    Features,
    refuse_constant_features,
    refuse_not_finite,
    take_rows,
)
from vlmvid.training.distributed import from_first, num_ranks, rank
from vlmvid.training.early_stopping import EarlyStopping
from vlmvid.training.interruption import HeldSignals
from vlmvid.training.prefetch import Prefetch

__all__ = ["AlignmentData", "FeatureRows", "batch_at", "captions_at", "train_alignment"]

OnStep = Callable[[int, dict[str, float]], None]
OnCheckpoint = Callable[[int], None]
_FINGERPRINT_ROWS = 1024
_log = logging.getLogger(__name__)


def train_alignment(
    config: AlignConfig,
    data: AlignmentData,
    *,
    work_dir: Path,
    validation: AlignmentData | None = None,
    on_step: OnStep | None = None,
    on_checkpoint: OnCheckpoint | None = None,
    device: str = "cpu",
) -> AlignmentModel:
    """Train the heads and the pooling on frozen features.

    Checkpoints go to `work_dir` every `config.checkpoint_every` updates, after the last, and when SIGTERM or Ctrl-C
    ends the training (`HeldSignals`); a second call with the same config and data continues from the newest valid one
    and returns a model with the same bytes as an uninterrupted run on the same machine and thread count.

    Args:
        validation: clips for `config.early_stopping`, which are not trained on; not read without it.
        on_step: called after every update, before its checkpoint, with the number of updates done
            (from 1) and loss, logit_scale, logit_bias, lr, grad_norm (before clipping), loss_KIND of each auxiliary
            objective and, after a look at `validation`, what it saw. No update
            that a checkpoint holds goes unreported. After a resume, the updates since the last
            checkpoint are done, and reported, again. What it raises ends training.
        on_checkpoint: called with the number of updates done when their checkpoint is on disk; not
            called again for it after a resume. What it raises ends training.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.

    Of several processes all return the model, and only the first writes and reports.

    Returns the model in eval mode: the averaged weights with `optim.ema_decay`, those of the best look with early
    stopping. Raises CheckpointError when `work_dir` belongs to another config or other data, with what differs,
    ConfigError when the pooling reads tokens and the data are frame features, or the other way round, or the config
    asks for what the data lacks, DatasetError for features that are not finite or do not vary, StageError when loss
    or gradient stops being finite; nothing is written then.
    """
    target = resolve_device(device)
    check_reads(config.pooling, len(data.video_features.shape))
    planner = BatchPlanner(config, data)
    stopping = EarlyStopping(config, validation)
    _check_channels(data)
    identity = _identity(config, data, validation)
    run = _Run(data, planner, AlignmentTrainer(config, data, target), stopping, work_dir, identity)
    first_step = run.resume()
    if first_step < config.optim.num_steps and not stopping.should_stop:
        plans = (planner.at(step).share(rank(), num_ranks()) for step in range(first_step, config.optim.num_steps))
        with HeldSignals() as held, Prefetch(BatchReader(data, target).batches(plans), depth=1) as batches:
            run.train(batches, first_step, on_step or _ignore, on_checkpoint or _ignore, held)
    model = run.trainer.result
    stopping.to_best(model)
    return model.eval()


@dataclass(frozen=True)
class _Run:
    data: AlignmentData
    planner: BatchPlanner
    trainer: AlignmentTrainer
    stopping: EarlyStopping
    work_dir: Path
    identity: dict[str, Any]

    @property
    def state(self) -> TrainingState:
        trainer = self.trainer
        values = self.stopping.values | trainer.values
        return TrainingState(trainer.modules, trainer.optimizer, self.identity, self.stopping.tensors, values)

    def resume(self) -> int:
        checkpoint = shared_checkpoint(self.work_dir)
        if checkpoint is not None:
            try:
                restore_checkpoint(checkpoint, self.state)
            except CheckpointError as error:
                raise CheckpointError(f"{self.work_dir}: {error}") from error
            self.stopping.restore(checkpoint.extra, checkpoint.values)
            self.trainer.restore_values(checkpoint.values)
        return 0 if checkpoint is None else checkpoint.step

    def train(
        self,
        batches: Iterable[Batch],
        first_step: int,
        on_step: OnStep,
        on_checkpoint: OnCheckpoint,
        held: HeldSignals,
    ) -> None:
        config, trainer, stopping, planner = self.trainer.config, self.trainer, self.stopping, self.planner
        num_steps, last_saved = config.optim.num_steps, first_step
        for done, batch in enumerate(batches, start=first_step + 1):
            try:
                report = trainer.update(done - 1, batch)
            except StageError as error:
                raise self._diverged(error, planner.at(done - 1), last_saved) from error
            if stopping.is_due(done, num_steps):
                value, loss = from_first(stopping.look(trainer.result) if rank() == 0 else (0.0, 0.0))
                stopping.add(done, value, loss, trainer.result)
                report[stopping.name] = value
            # Reported before it is saved: a kill in between then repeats a report instead of losing it.
            if rank() == 0:
                on_step(done, report)
            is_last = done == num_steps or stopping.should_stop
            if done % config.checkpoint_every == 0 or is_last or held.arrived:
                last_saved = done
                if rank() == 0:
                    save_checkpoint(self.work_dir, done, self.state)
                    on_checkpoint(done)
                held.deliver_if_arrived()
            if is_last:
                return

    def _diverged(self, error: StageError, plan: BatchPlan, last_saved: int) -> StageError | DatasetError:
        """What to raise for an update that was not finite: the features' fault where they are not finite themselves.

        `plan` is that of all processes, so that each of them says the same.
        """
        refuse_not_finite(self.data, plan.clips, plan.texts)
        kept = f"the checkpoint of step {last_saved} in {self.work_dir} is good" if last_saved else "there is none yet"
        return StageError(f"{error}. The batch held {self.data.names(plan.clips.tolist())}; last checkpoint: {kept}")


def _ignore(*_: object) -> None:
    return None


def _check_channels(data: AlignmentData) -> None:
    refuse_constant_features(data)
    for side, count in data.constant_columns.items():
        if count:
            _log.warning("%d channels of the %s features are the same in every row and carry nothing", count, side)


def _identity(config: AlignConfig, data: AlignmentData, validation: AlignmentData | None) -> dict[str, Any]:
    """What the training is of. How often state is saved changes nothing about the state, so it is left out.

    Dropout and objectives draw in each process for itself, so another number of processes is another training.
    """
    return {
        "num_processes": num_ranks(),
        "config": config.model_dump(mode="json", exclude={"checkpoint_every"}),
        "data": _identity_of(data),
        "validation": _identity_of(validation) if validation is not None and config.early_stopping else None,
    }


def _identity_of(data: AlignmentData) -> dict[str, Any]:
    lists = json.dumps([data.captions_of, data.counterfactuals_of])
    return {
        "encoders": dict(data.encoders),
        "video_features": _sample(data.video_features),
        "text_features": _sample(data.text_features),
        "captions": hashlib.sha256(lists.encode()).hexdigest()[:16],
        "caption_ids": None if data.caption_ids is None else _sample(data.caption_ids[0]),
    }


def _sample(features: Features) -> dict[str, Any]:
    # A sample of rows tells data sets apart without reading a memory map in full.
    count = features.shape[0]
    rows = np.unique(np.linspace(0, count - 1, min(count, _FINGERPRINT_ROWS)).astype(np.int64))
    digest = hashlib.sha256(np.ascontiguousarray(take_rows(features, rows)).tobytes()).hexdigest()[:16]
    return {"shape": list(features.shape), "dtype": dtype_name(features.dtype), "sample": digest}
