"""When to stop: looks at clips that are not trained on, and the weights of the best look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlmvid.config.alignment import AlignConfig, EarlyStoppingConfig
from vlmvid.errors import ConfigError, DatasetError
from vlmvid.metrics import ranks, recall_at_k
from vlmvid.models.alignment import AlignmentModel
from vlmvid.models.embedding import CLIPS_PER_BATCH
from vlmvid.models.runtime import Precision, autocast
from vlmvid.training.data import AlignmentData, Features, as_tensor, take_rows
from vlmvid.training.update import contrastive_loss

K = 10


class EarlyStopping:
    """The looks at a validation split so far, their best, and whether training should end.

    Args:
        config: of the training.
        validation: clips with captions that training does not see; None where `config.early_stopping` is None.

    A look that equals the best in the metric is better when its loss is lower: R@10 of a small split is often 1.

    Raises ConfigError when early stopping is asked for without clips to look at, or with so few that R@10 is always 1.
    """

    def __init__(self, config: AlignConfig, validation: AlignmentData | None) -> None:
        if config.early_stopping is not None and validation is None:
            raise ConfigError(
                "align.early_stopping looks at the split 'val', and there are no captioned clips in it; give the "
                "dataset such clips or leave early_stopping out"
            )
        self._settings = config.early_stopping or EarlyStoppingConfig()
        if config.early_stopping is not None and validation is not None:
            _check_size(validation, self._settings)
        self._is_on = config.early_stopping is not None
        self._validation = validation
        self._precision = config.optim.precision
        self._looks: list[tuple[int, float, float]] = []  # updates, metric, loss
        self._best: dict[str, Tensor] = {}

    @property
    def name(self) -> str:
        """What is looked at, e.g. ``val_loss``."""
        return f"val_{self._settings.metric}"

    def is_due(self, step: int, num_steps: int) -> bool:
        """Whether to look after `step` updates."""
        return self._is_on and (step % self._settings.every == 0 or step == num_steps)

    def look(self, model: AlignmentModel) -> tuple[float, float]:
        """Metric and loss of a model, as it is now; its mode stays. Raises DatasetError when one is not finite."""
        assert self._validation is not None  # the constructor has looked
        training = model.training
        found = measure(model.eval(), self._validation, self._precision)
        model.train(training)
        for metric in (self._settings.metric, "loss"):
            if not np.isfinite(found[metric]):
                raise DatasetError(
                    f"val_{metric} is {found[metric]}: the features of split 'val' hold NaN or infinity; encode them "
                    "again"
                )
        return found[self._settings.metric], found["loss"]

    def add(self, step: int, value: float, loss: float, model: AlignmentModel) -> None:
        """Keep a look, and the weights if it is the best."""
        self._looks.append((step, value, loss))
        if self.best_step == step:
            self._best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @property
    def best_step(self) -> int:
        """Updates before the best look, by lower loss among equal ones, then the first; 0 before any."""
        if not self._looks:
            return 0
        sign = 1 if self._settings.metric == "loss" else -1
        return min(self._looks, key=lambda look: (sign * look[1], look[2], look[0]))[0]

    @property
    def should_stop(self) -> bool:
        """Whether the last `patience` looks brought nothing better."""
        return sum(step > self.best_step for step, _, _ in self._looks) >= self._settings.patience

    def to_best(self, model: AlignmentModel) -> None:
        """Give a model the weights of the best look, if there was any."""
        if self._best:
            model.load_state_dict(self._best, strict=True)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """State for a checkpoint: the best weights."""
        return self._best

    @property
    def values(self) -> dict[str, Any]:
        """State for a checkpoint: the looks."""
        return {"looks": self._looks}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from the state of a checkpoint."""
        self._best = dict(tensors)
        self._looks = [(int(step), float(value), float(loss)) for step, value, loss in values.get("looks", [])]


def _check_size(validation: AlignmentData, settings: EarlyStoppingConfig) -> None:
    if settings.metric == "mean_recall_at_10" and len(validation) <= K:
        raise ConfigError(
            f"align.early_stopping.metric='mean_recall_at_10' is always 1 with the {len(validation)} captioned clips "
            f"of the split 'val'; give it more than {K}, or use metric: loss"
        )


def measure(model: AlignmentModel, data: AlignmentData, precision: Precision = "float32") -> dict[str, float]:
    """``mean_recall_at_10``, the mean of T2V and V2T R@10 in [0, 1], and the ``loss`` of the model's config.

    Every caption of every clip counts; the similarities of all clips with all captions are held in memory.
    """
    captions = [caption for rows in data.captions_of for caption in rows]
    owners = np.repeat(np.arange(len(data)), [len(rows) for rows in data.captions_of])
    with torch.inference_mode():
        video = _embeds(model, data.video_features, np.arange(len(data)), precision)
        text = _embeds(model, data.text_features, np.array(captions), precision)
        # The first process looks alone; the others wait for what it saw.
        loss = float(contrastive_loss(model, video, text, torch.from_numpy(owners).to(video.device), alone=True))
        similarity = (text @ video.T).float().cpu().numpy()
    if not np.isfinite(similarity).all():
        return {"mean_recall_at_10": float("nan"), "loss": float("nan")}
    of_clip = np.split(np.arange(len(captions)), np.flatnonzero(np.diff(owners)) + 1)
    recall = 0.5 * (recall_at_k(ranks(similarity, owners), K) + recall_at_k(ranks(similarity.T, of_clip), K))
    return {"mean_recall_at_10": recall, "loss": loss}


def _embeds(model: AlignmentModel, features: Features, rows: NDArray[np.int64], precision: Precision) -> Tensor:
    embed = model.embed_text if len(features.shape) == 2 else model.embed_video
    device = model.logit_bias.device
    parts = []
    for start in range(0, len(rows), CLIPS_PER_BATCH):
        values = as_tensor(take_rows(features, rows[start : start + CLIPS_PER_BATCH])).to(device)
        with autocast(device, precision):
            parts.append(embed(values))
    return torch.cat(parts)
