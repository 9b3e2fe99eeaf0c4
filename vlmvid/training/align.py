"""Alignment training on frozen features (SAIL, arXiv 2412.04616), resumable at any step.

A step is a pure function of (seed, step, state): its batch, its captions and its dropout come
from generators seeded with both, so a run that was killed and resumed ends in the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlmvid.config.schema import AlignConfig
from vlmvid.errors import CheckpointError, DatasetError
from vlmvid.models.alignment import AlignmentModel
from vlmvid.models.pooling import check_reads
from vlmvid.models.runtime import resolve_device
from vlmvid.training.checkpoint import latest_checkpoint, restore_checkpoint, save_checkpoint
from vlmvid.training.optim import build_adamw
from vlmvid.training.update import contrastive_update

OnStep = Callable[[int, dict[str, float]], None]
OnCheckpoint = Callable[[int], None]
IN_MEMORY_BYTES = 2 * 1024**3
_FINGERPRINT_ROWS = 1024
# First word of a generator's seed, so that the three streams never meet.
_EPOCH_STREAM, _CAPTION_STREAM, _DROPOUT_STREAM = 0, 1, 2


@dataclass(frozen=True)
class AlignmentData:
    """Features of clips and of their captions.

    Attributes:
        video_features: float16 or float32 (N, T, D), or patch tokens (N, T, P, D) without prefix tokens
            for a pooling that reads tokens; may be a memory map.
        text_features: float16 or float32 (M, Dt); may be a memory map.
        captions_of: per clip row, the rows of its captions in `text_features`.

    Raises DatasetError when they do not fit together or a clip has no caption.
    """

    video_features: NDArray[np.floating]
    text_features: NDArray[np.floating]
    captions_of: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if self.video_features.ndim not in (3, 4) or self.text_features.ndim != 2:
            raise DatasetError(
                f"expected video features (N, T, D) or (N, T, P, D) and text features (M, D); "
                f"got {self.video_features.shape} and {self.text_features.shape}"
            )
        if not len(self.video_features) or len(self.captions_of) != len(self.video_features):
            raise DatasetError(
                f"{len(self.captions_of)} caption lists for {len(self.video_features)} clips; expected one each"
            )
        silent = [row for row, captions in enumerate(self.captions_of) if not captions]
        if silent:
            raise DatasetError(
                f"{len(silent)} clips have no caption, the first in row {silent[0]}; leave such clips out"
            )
        used = [index for captions in self.captions_of for index in captions]
        if min(used) < 0 or max(used) >= len(self.text_features):
            raise DatasetError(
                f"caption rows {min(used)}..{max(used)} are outside of {len(self.text_features)} text features"
            )


class FeatureRows:
    """Rows of a feature array as float32 tensors on a device.

    An array under `IN_MEMORY_BYTES` as float32 is held on the device; a larger one is read row
    by row where it lies. Raises DatasetError for a row that is not finite: at once when held,
    when read otherwise.
    """

    def __init__(self, array: NDArray[np.floating], device: torch.device, name: str) -> None:
        self._array = array
        self._device = device
        self._name = name
        self._held: Tensor | None = None
        if array.size * 4 < IN_MEMORY_BYTES:
            self._held = self._checked(np.arange(len(array)), np.array(array, dtype=np.float32)).to(device)

    def __call__(self, rows: NDArray[np.int64]) -> Tensor:
        """The rows as float32 (len(rows), ...)."""
        if self._held is not None:
            return self._held[torch.from_numpy(rows).to(self._device)]
        return self._checked(rows, self._array[rows].astype(np.float32)).to(self._device)

    def _checked(self, rows: NDArray[np.int64], values: NDArray[np.float32]) -> Tensor:
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if not finite.all():
            raise DatasetError(
                f"{self._name}: row {rows[int(np.argmin(finite))]} holds NaN or infinity; encode it again"
            )
        return torch.from_numpy(values)


def batch_at(step: int, num_clips: int, batch_size: int, seed: int) -> NDArray[np.int64]:
    """The clip rows of update number `step`: int64 (min(batch_size, num_clips),), no row twice.

    Each epoch is its own permutation; the rest of an epoch that fills no batch is dropped, so
    that a clip is never its own negative.
    """
    batch_size = min(batch_size, num_clips)
    epoch, index = divmod(step, num_clips // batch_size)
    order = np.random.default_rng([_EPOCH_STREAM, seed, epoch]).permutation(num_clips)
    return order[index * batch_size : (index + 1) * batch_size].astype(np.int64)


def captions_at(
    step: int, rows: NDArray[np.int64], captions_of: tuple[tuple[int, ...], ...], seed: int
) -> NDArray[np.int64]:
    """One caption row per clip of the batch, drawn evenly: int64 (len(rows),)."""
    draws = np.random.default_rng([_CAPTION_STREAM, seed, step]).random(len(rows))
    chosen = [captions_of[row][int(draw * len(captions_of[row]))] for row, draw in zip(rows, draws, strict=True)]
    return np.asarray(chosen, dtype=np.int64)


def train_alignment(
    config: AlignConfig,
    data: AlignmentData,
    *,
    work_dir: Path,
    on_step: OnStep | None = None,
    on_checkpoint: OnCheckpoint | None = None,
    device: str = "cpu",
) -> AlignmentModel:
    """Train the heads and the pooling on frozen features.

    Checkpoints go to `work_dir` every `config.checkpoint_every` updates and after the last; a
    second call with the same config and data continues from the newest valid one and returns a
    model with the same bytes as an uninterrupted run on the same machine and thread count.

    Args:
        on_step: called after every update, before its checkpoint, with the number of updates done
            (from 1) and loss, logit_scale, logit_bias, lr, grad_norm (before clipping). No update
            that a checkpoint holds goes unreported. After a resume, the updates since the last
            checkpoint are done, and reported, again. What it raises ends training.
        on_checkpoint: called with the number of updates done when their checkpoint is on disk; not
            called again for it after a resume. What it raises ends training.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.

    Returns the model in eval mode. A batch larger than the number of clips is cut to it. Raises
    CheckpointError when `work_dir` belongs to another config or other data, ConfigError when the
    pooling reads tokens and the data are frame features, or the other way round, DatasetError for
    features that are not finite, StageError when loss or gradient stops being finite.
    """
    target = resolve_device(device)
    video_shape = data.video_features.shape
    check_reads(config.pooling, len(video_shape))
    fingerprint = _fingerprint(config, data)
    model = AlignmentModel(video_shape[-1], data.text_features.shape[1], video_shape[1], config)
    model.to(target).train()
    optimizer = build_adamw(model, config.optim)
    first_step = _resume(work_dir, fingerprint, model, optimizer)
    video_rows = FeatureRows(data.video_features, target, "video features")
    text_rows = FeatureRows(data.text_features, target, "text features")
    for step in range(first_step, config.optim.num_steps):
        rows = batch_at(step, len(data.captions_of), config.optim.global_batch_size, config.seed)
        captions = captions_at(step, rows, data.captions_of, config.seed)
        embed = partial(_embed, model, video_rows(rows), text_rows(captions))
        report = contrastive_update(
            step, model, optimizer, embed, model=model, dropout_seed=_dropout_seed(config.seed, step)
        )
        done = step + 1
        # Reported before it is saved: a kill in between then repeats a report instead of losing it.
        if on_step is not None:
            on_step(done, report)
        if done % config.checkpoint_every == 0 or done == config.optim.num_steps:
            save_checkpoint(work_dir, done, model, optimizer, fingerprint)
            if on_checkpoint is not None:
                on_checkpoint(done)
    return model.eval()


def _embed(model: AlignmentModel, video: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    return model.embed_video(video), model.embed_text(text)


def _dropout_seed(seed: int, step: int) -> int:
    return int(np.random.default_rng([_DROPOUT_STREAM, seed, step]).integers(2**63))


def _resume(work_dir: Path, fingerprint: str, model: AlignmentModel, optimizer: torch.optim.Optimizer) -> int:
    checkpoint = latest_checkpoint(work_dir)
    if checkpoint is None:
        return 0
    if checkpoint.fingerprint != fingerprint:
        raise CheckpointError(
            f"{work_dir} holds step {checkpoint.step} of another alignment (its config or its features differ); "
            "use another folder or delete this one"
        )
    restore_checkpoint(checkpoint, model, optimizer)
    return checkpoint.step


def _fingerprint(config: AlignConfig, data: AlignmentData) -> str:
    values = config.model_dump(mode="json")
    # How often state is saved changes nothing about the state.
    del values["checkpoint_every"]
    digest = hashlib.sha256(json.dumps([values, data.captions_of], sort_keys=True).encode())
    for array in (data.video_features, data.text_features):
        digest.update(repr((array.shape, array.dtype.str)).encode())
        # A sample of rows tells data sets apart without reading a memory map in full.
        rows = np.unique(np.linspace(0, len(array) - 1, min(len(array), _FINGERPRINT_ROWS)).astype(np.int64))
        digest.update(np.ascontiguousarray(array[rows]).tobytes())
    return digest.hexdigest()
