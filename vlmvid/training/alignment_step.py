"""One update of alignment: chunks through the heads, the contrastive loss, the objectives beside it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlmvid.config.alignment import AlignConfig
from vlmvid.errors import ConfigError, StageError
from vlmvid.models.alignment import AlignmentModel
from vlmvid.models.objectives import Objectives, ObjectiveSizes
from vlmvid.models.runtime import autocast, require_precision, seeded
from vlmvid.training.batches import DROPOUT_STREAM, OBJECTIVE_STREAM, Batch
from vlmvid.training.data import AlignmentData
from vlmvid.training.distributed import rank, summed
from vlmvid.training.grad_cache import CachedEmbeds
from vlmvid.training.optim import averaged, build_optimizer
from vlmvid.training.update import Updater, contrastive_loss, report

_VIDEO, _TEXT, _STATES = 0, 1, 2


class AlignmentTrainer:
    """What is trained and what trains it, for one config on one device.

    Attributes:
        model: the heads and the pooling.
        objectives: those of `config.auxiliary`; their weights are trained too and are no part of the result.
        average: the averaged weights; None without `optim.ema_decay`.

    Raises ConfigError for a precision in which the device should not compute, and for an objective that predicts
    words where the data has no `caption_ids`.
    """

    def __init__(self, config: AlignConfig, data: AlignmentData, device: torch.device) -> None:
        require_precision(device, config.optim.precision)
        video_shape, text_dim = data.video_features.shape, data.text_features.shape[1]
        self.config = config
        self.device = device
        self.model = AlignmentModel(video_shape[-1], text_dim, video_shape[1], config).to(device).train()
        vocabulary_size = 0 if data.caption_ids is None else data.caption_ids[1]
        sizes = ObjectiveSizes(
            video_dim=video_shape[-1],
            state_dim=self.model.frame_state_dim,
            text_dim=text_dim,
            projection_dim=config.projection_dim,
            num_frames=video_shape[1],
            vocabulary_size=vocabulary_size,
        )
        self.objectives = Objectives(config.auxiliary, sizes, config.seed).to(device).train()
        if self.objectives.needs_caption_ids and data.caption_ids is None:
            raise ConfigError(
                "the auxiliary objectives captioning and masked_language predict words; give AlignmentData.caption_ids"
            )
        both = nn.ModuleDict({"model": self.model, "objectives": self.objectives})
        self.optimizer = build_optimizer(both, config.optim)
        halves = config.optim.precision == "float16"
        scaler = torch.amp.GradScaler(device.type) if halves else None
        self.updater = Updater.of(config.optim, self.optimizer, [self.model, self.objectives], scaler)
        self.average = None if config.optim.ema_decay is None else averaged(self.model, config.optim.ema_decay)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """All that has state, by name."""
        found: dict[str, nn.Module] = {"model": self.model}
        if len(self.objectives.configs):
            found["objectives"] = self.objectives
        if self.average is not None:
            found["average"] = self.average
        return found

    @property
    def values(self) -> dict[str, Any]:
        """State beside the modules, as JSON values: the factor by which float16 losses are scaled."""
        return {} if self.updater.scaler is None else {"scaler": self.updater.scaler.state_dict()}

    def restore_values(self, values: Mapping[str, Any]) -> None:
        """Go on from `values` of a checkpoint."""
        if self.updater.scaler is not None:
            self.updater.scaler.load_state_dict(dict(values["scaler"]))

    @property
    def result(self) -> AlignmentModel:
        """The model that training is for: the averaged one, where there is one."""
        model = self.model if self.average is None else self.average.module
        assert isinstance(model, AlignmentModel)
        return model

    def update(self, step: int, batch: Batch) -> dict[str, float]:
        """Update number `step`, from 0, on this process's share of its batch.

        Returns what `vlmvid.training.update.report` does, and the value of every objective as loss_KIND. ``loss`` is
        the contrastive loss alone. Raises StageError when it, or a gradient, stops being finite; the weights are then
        those before the update.
        """
        lr = self.updater.begin(step)
        chunk_size = self.config.optim.micro_batch_size
        videos = CachedEmbeds(partial(self._embed, step, _VIDEO, batch.video), len(batch.video), chunk_size)
        texts = CachedEmbeds(partial(self._embed, step, _TEXT, batch.text), len(batch.text), chunk_size)
        loss = contrastive_loss(self.model, videos.leaf, texts.leaf, batch.video_of_text)
        total, found = self._with_batch_objectives(step, batch, videos.leaf, texts.leaf, loss)
        torch.autograd.backward(self.updater.scaled(total))
        videos.backward()
        texts.backward()
        found |= self._clip_objectives(step, batch)
        told = self._told(found, batch)
        broken = [kind for kind, value in told.items() if not np.isfinite(value)]
        if broken:
            raise StageError(f"training diverged at update {step + 1}: {broken[0]}={told[broken[0]]}, lr={lr:g}")
        loss_value, norm = self.updater.finish(step, loss)
        self.model.clamp_logit_scale()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return report(self.model, loss_value, norm, lr) | told

    def _embed(self, step: int, side: int, features: Tensor, chunk: int, rows: slice) -> Tensor:
        seed = _seed_of(DROPOUT_STREAM, self.config.seed, step, side, chunk, rank())
        embed = self.model.embed_video if side == _VIDEO else self.model.embed_text
        with seeded(seed, self.device), autocast(self.device, self.config.optim.precision):
            return embed(features[rows])

    def _with_batch_objectives(
        self, step: int, batch: Batch, video: Tensor, text: Tensor, loss: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss with the objectives among clips, each weighted, and their values."""
        if not len(self.objectives.configs):
            return loss, {}
        plan = batch.plan
        first = torch.from_numpy(plan.first_texts).to(self.device)
        clips = batch.video[: len(plan.clips)].float()
        found = self.objectives.of_batch(
            clips.flatten(1, -2).mean(dim=1),
            batch.text[first].float(),
            video[: len(plan.clips)],
            text[first],
            self._generator(step, 0),
        )
        return loss + self._weighted(step, found, len(plan.clips) / plan.num_global), found

    def _clip_objectives(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Add the gradients of the objectives of single clips, chunk by chunk; their means over the share."""
        values: dict[str, Tensor] = {}
        if not self.objectives.reads_clips:
            return values
        plan = batch.plan
        num_clips = len(plan.clips)
        size = self.config.optim.micro_batch_size or max(1, num_clips)
        generator = self._generator(step, 1)
        for chunk, start in enumerate(range(0, num_clips, size)):
            rows = slice(start, min(num_clips, start + size))
            clips = batch.video[rows].float()
            ids = None if batch.caption_ids is None else batch.caption_ids[rows]
            with seeded(_seed_of(DROPOUT_STREAM, self.config.seed, step, _STATES, chunk, rank()), self.device):
                found = self.objectives.of_clips(clips, ids, generator, states=self._states)
            total = self._weighted(step, found, len(clips) / plan.num_global)
            torch.autograd.backward(self.updater.scaled(total))
            for kind, value in found.items():
                values[kind] = values.get(kind, 0.0) + value.detach() * (len(clips) / num_clips)
        return values

    def _states(self, features: Tensor) -> Tensor:
        with autocast(self.device, self.config.optim.precision):
            return self.model.frame_states(features)

    def _weighted(self, step: int, found: Mapping[str, Tensor], share: float) -> Tensor:
        total = torch.zeros((), device=self.device)
        for kind in self.objectives.configs:
            if kind in found:
                total = total + self.objectives.weight_at(kind, step) * share * found[kind]
        return total

    def _told(self, found: Mapping[str, Tensor], batch: Batch) -> dict[str, float]:
        """The values of the objectives, as means over the clips of all processes."""
        names = sorted(self.objectives.configs)
        if not names:
            return {}
        share = len(batch.plan.clips) / batch.plan.num_global
        own = torch.zeros(len(names), device=self.device)
        for place, kind in enumerate(names):
            if kind in found:
                own[place] = found[kind].detach() * share
        return {f"loss_{kind}": value for kind, value in zip(names, summed(own).tolist(), strict=True)}

    def _generator(self, step: int, which: int) -> torch.Generator:
        return torch.Generator().manual_seed(_seed_of(OBJECTIVE_STREAM, self.config.seed, step, which, rank()))


def _seed_of(*words: int) -> int:
    return int(np.random.default_rng(words).integers(2**63))
