"""Alignment that trains the encoders too, through adapters on pixels and captions; resumable at any step.

A step is a pure function of (seed, step, state), like in `vlmvid.training.align`: its batch, captions, augmentation
and dropout come from generators seeded with both. `optim.micro_batch_size` clips pass the encoders at a time
(`vlmvid.training.grad_cache`), and of one such chunk activations are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vlmvid.config.alignment import AlignConfig
from vlmvid.errors import ConfigError, DatasetError, StageError
from vlmvid.models.alignment import AlignmentModel
from vlmvid.models.backbones.base import FrozenBackbone
from vlmvid.models.lora import Adapters, adapt_text, adapt_vision
from vlmvid.models.pooling import check_reads
from vlmvid.models.runtime import autocast, require_precision, resolve_device, seeded
from vlmvid.models.text import TextEncoder
from vlmvid.training.align import OnCheckpoint, OnStep
from vlmvid.training.batches import BatchPlan, BatchPlanner
from vlmvid.training.checkpoint import TrainingState, latest_checkpoint, restore_checkpoint, save_checkpoint
from vlmvid.training.data import AlignmentData, FeatureRows, Features, take_rows
from vlmvid.training.distributed import num_ranks
from vlmvid.training.grad_cache import CachedEmbeds
from vlmvid.training.interruption import HeldSignals
from vlmvid.training.optim import averaged, build_optimizer
from vlmvid.training.update import Updater, contrastive_loss, report

Augment = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]
# First words of generators' seeds, others than those of vlmvid.training.batches and video_encoder.
_ADAPTER_STREAM, _AUGMENT_STREAM, _DROPOUT_STREAM = 20, 21, 22
_VIDEO, _TEXT = 0, 1
# A sample of rows, and of every weight tensor, tells data sets and encoders apart.
_FINGERPRINT_ROWS, _FINGERPRINT_VALUES = 64, 256


@dataclass(frozen=True)
class EndToEndData:
    """What the encoders that learn read, and the features of the one that does not.

    Attributes:
        video: uint8 (N, T, 3, H, W) clips, RGB, where the vision encoder learns; else features float16 or float32
            (N, T, D), or patch tokens (N, T, P, D) for a pooling that reads tokens. May lie on disk.
        texts: M captions where the text encoder learns, else their features float16 or float32 (M, Dt).
        captions_of: per clip row, the rows of its captions in `texts`.
        counterfactuals_of: per clip row, the rows of texts that say something false of it; empty = no clip has any.
        video_ids: the name of every clip row, for messages; empty = their numbers are used.

    Raises DatasetError when they do not fit together or a clip has no caption.
    """

    video: Features
    texts: Sequence[str] | Features
    captions_of: tuple[tuple[int, ...], ...]
    counterfactuals_of: tuple[tuple[int, ...], ...] = ()
    video_ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.has_clips and (len(self.video.shape) != 5 or self.video.shape[2] != 3):
            raise DatasetError(f"clips must be uint8 (N, T, 3, H, W); got {self.video.dtype} {self.video.shape}")
        _ = self.pairs

    @property
    def has_clips(self) -> bool:
        """Whether `video` holds clips and not features."""
        return self.video.dtype == np.uint8

    @property
    def has_captions(self) -> bool:
        """Whether `texts` are captions and not features."""
        return isinstance(self.texts, Sequence)

    @property
    def pairs(self) -> AlignmentData:
        """Which texts belong to which clips; where an encoder learns, zeros of the right counts stand for features."""
        zero = np.float32(0)
        return AlignmentData(
            np.broadcast_to(zero, (*self.video.shape[:2], 1)) if self.has_clips else self.video,
            np.broadcast_to(zero, (len(self.texts), 1)) if isinstance(self.texts, Sequence) else self.texts,
            self.captions_of,
            self.counterfactuals_of,
            self.video_ids,
        )


@dataclass(frozen=True)
class Encoders:
    """The encoders that learn; None where the other side's features are given."""

    vision: FrozenBackbone | None = None
    text: TextEncoder | None = None

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Their modules, by the name of their section in the config."""
        named = {"vision": self.vision, "text": self.text}
        return {name: encoder.module for name, encoder in named.items() if encoder is not None}


def train_end_to_end(
    config: AlignConfig,
    data: EndToEndData,
    encoders: Encoders,
    *,
    work_dir: Path,
    augment: Augment | None = None,
    on_step: OnStep | None = None,
    on_checkpoint: OnCheckpoint | None = None,
    device: str = "cpu",
) -> AlignmentModel:
    """Train heads, pooling and the adapters that ``config.end_to_end`` asks for, in one process.

    Checkpoints (heads and adapters, not the encoders) and the two callbacks are those of
    `vlmvid.training.align.train_alignment`.

    Args:
        encoders: as they were loaded; changed in place. They end frozen, with the adapters merged into their weights.
        augment: (clips uint8 (B, T, 3, H, W), generator) -> clips of the same kind, of each batch.

    Returns the heads in eval mode. Raises ConfigError when encoders and data are not those that the config asks for,
    when an encoder has no layer for an adapter, or clips have a length that it cannot take, DatasetError for features
    that are not finite, CheckpointError when `work_dir` belongs to another training and StageError when loss or
    gradient stops being finite; the encoders are then left with what was learnt so far, unmerged.
    """
    target = resolve_device(device)
    require_precision(target, config.optim.precision)
    _check_sides(config, data, encoders)
    identity = _identity(config, data, encoders)
    training = _EndToEnd(config, data, encoders, target)
    state = TrainingState(training.modules, training.optimizer, identity)
    found = latest_checkpoint(work_dir)
    if found is not None:
        restore_checkpoint(found, state)
    last_saved = first_step = 0 if found is None else found.step
    with HeldSignals() as held:
        for step in range(first_step, config.optim.num_steps):
            try:
                told = training.update(step, augment)
            except StageError as error:
                kept = (
                    f"the checkpoint of step {last_saved} in {work_dir} is good" if last_saved else "there is none yet"
                )
                raise StageError(f"{error}. {training.batch_names(step)}; last checkpoint: {kept}") from error
            done = step + 1
            # Reported before it is saved, as in train_alignment.
            if on_step is not None:
                on_step(done, told)
            if done % config.checkpoint_every == 0 or done == config.optim.num_steps or held.arrived:
                save_checkpoint(work_dir, done, state)
                last_saved = done
                if on_checkpoint is not None:
                    on_checkpoint(done)
                held.deliver_if_arrived()
    return training.finish()


class _EndToEnd:
    """One training on one device.

    Attributes:
        heads: pooling, projections, scale and bias.
        trained: what learns, and nothing else, so that checkpoints are small: the heads and the adapters' parameters,
            which are those inside the encoders.
        optimizer: of their parameters.
    """

    def __init__(self, config: AlignConfig, data: EndToEndData, encoders: Encoders, device: torch.device) -> None:
        self._config, self._device, self._pairs = config, device, data.pairs
        self._planner = BatchPlanner(config, self._pairs)
        self._vision, self._text = encoders.vision, encoders.text
        self._reads_tokens = config.pooling.reads == "tokens"
        self._adapters: dict[str, Adapters] = {}
        wanted = config.end_to_end
        assert wanted is not None  # _check_sides has seen it
        num_frames, video_dim = data.video.shape[1], data.video.shape[-1]
        if self._vision is not None and wanted.vision is not None:
            self._clips = data.video
            num_frames = self._vision.to(device).num_steps(num_frames)
            video_dim = self._vision.token_dim if self._reads_tokens else self._vision.feature_dim
            self._adapters["vision"] = adapt_vision(
                self._vision, wanted.vision, _seed_of(_ADAPTER_STREAM, config.seed, _VIDEO)
            )
        else:
            check_reads(config.pooling, len(data.video.shape))
            self._video_features = FeatureRows(data.video, device, "video features")
        if self._text is not None and wanted.text is not None:
            assert isinstance(data.texts, Sequence)  # _check_sides has seen it
            self._tokens = self._text.tokenize(data.texts)
            text_dim = self._text.to(device).embed_dim
            self._adapters["text"] = adapt_text(self._text, wanted.text, _seed_of(_ADAPTER_STREAM, config.seed, _TEXT))
        else:
            assert not isinstance(data.texts, Sequence)
            text_dim = data.texts.shape[1]
            self._text_features = FeatureRows(data.texts, device, "text features")
        self.heads = AlignmentModel(video_dim, text_dim, num_frames, config).to(device).train()
        self.trained = nn.ModuleDict({"heads": self.heads})
        for side, adapters in self._adapters.items():
            adapters.train()
            # A module takes no name with a dot in it.
            named = {name.replace(".", "/"): parameter for name, parameter in adapters.parameters.items()}
            self.trained[side] = nn.ParameterDict(named)
        self.optimizer = build_optimizer(self.trained, config.optim)
        self._updater = Updater.of(config.optim, self.optimizer, [self.trained])
        decay = config.optim.ema_decay
        self._average = None if decay is None else averaged(self.trained, decay)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """All that has state, by name."""
        return {"trained": self.trained} | ({} if self._average is None else {"average": self._average})

    def update(self, step: int, augment: Augment | None) -> dict[str, float]:
        """Update number `step`, from 0; returns what `vlmvid.training.update.report` does."""
        plan, lr = self._planner.at(step), self._updater.begin(step)
        size = self._config.optim.micro_batch_size
        inputs = self._videos(step, plan, augment)
        videos = CachedEmbeds(partial(self._embed, step, _VIDEO, inputs), len(inputs), size)
        rows = torch.from_numpy(plan.texts)
        texts = CachedEmbeds(partial(self._embed, step, _TEXT, rows), len(rows), size)
        video_of_text = torch.from_numpy(plan.video_of_text).to(self._device)
        loss = contrastive_loss(self.heads, videos.leaf, texts.leaf, video_of_text)
        torch.autograd.backward(loss)
        videos.backward()
        texts.backward()
        loss_value, norm = self._updater.finish(step, loss)
        self.heads.clamp_logit_scale()
        if self._average is not None:
            self._average.update_parameters(self.trained)
        return report(self.heads, loss_value, norm, lr)

    def batch_names(self, step: int) -> str:
        """Which clips an update had, for a message."""
        return f"The batch held {self._pairs.names(self._planner.at(step).clips.tolist())}"

    def finish(self) -> AlignmentModel:
        """Merge the adapters; returns the heads in eval mode."""
        if self._average is not None:
            self.trained.load_state_dict(self._average.module.state_dict())
        for adapters in self._adapters.values():
            adapters.merge()
        return self.heads.eval()

    def _videos(self, step: int, plan: BatchPlan, augment: Augment | None) -> Tensor:
        """What the video side reads of a batch, hard negatives last: clips uint8 on the CPU, or features float32."""
        if self._vision is None:
            return _with_other_orders(self._video_features(plan.clips), plan)
        clips = take_rows(self._clips, plan.clips)
        if augment is not None:
            clips = augment(clips, np.random.default_rng([_AUGMENT_STREAM, self._config.seed, step]))
        return _with_other_orders(torch.from_numpy(np.require(clips, requirements=["C", "W"])), plan)

    def _embed(self, step: int, side: int, inputs: Tensor, chunk: int, rows: slice) -> Tensor:
        """Embeddings (len(rows), P) of a chunk; the same dropout whenever it is asked for."""
        seed = _seed_of(_DROPOUT_STREAM, self._config.seed, step, side, chunk)
        with seeded(seed, self._device):
            if side == _TEXT:
                features, head = self._text_inputs(inputs[rows]), self.heads.embed_text
            else:
                features, head = self._video_inputs(inputs[rows]), self.heads.embed_video
            with autocast(self._device, self._config.optim.precision):
                return head(features)

    def _video_inputs(self, videos: Tensor) -> Tensor:
        if self._vision is None:
            return videos
        frames = videos.to(self._device)
        pixels = self._vision.preprocessing.apply(frames.flatten(0, 1))
        tokens = self._vision.clip_tokens(pixels.reshape(*frames.shape[:2], *pixels.shape[1:]), with_grad=True)
        if self._reads_tokens:
            return tokens[:, :, self._vision.num_prefix_tokens :]
        return self._vision.features(tokens)

    def _text_inputs(self, rows: Tensor) -> Tensor:
        if self._text is None:
            return self._text_features(rows.numpy())
        return self._text.features([self._tokens[row] for row in rows.tolist()])


def _with_other_orders(videos: Tensor, plan: BatchPlan) -> Tensor:
    """Videos (N, T, ...), then those that the plan shows backwards, then those in another order.

    A clip that is the same in that order is left out: it would be its own negative.
    """
    parts = [videos]
    backwards = np.arange(videos.shape[1])[None, ::-1]
    for positions, orders in ((plan.reversed_clips, backwards), (plan.shuffled_clips, plan.orders)):
        if len(positions):
            rows = torch.from_numpy(positions)
            changed = videos[rows[:, None], torch.from_numpy(np.ascontiguousarray(orders))]
            parts.append(changed[(changed != videos[rows]).flatten(1).any(dim=1)])
    return torch.cat(parts)


def _check_sides(config: AlignConfig, data: EndToEndData, encoders: Encoders) -> None:
    wanted = config.end_to_end
    if wanted is None:
        raise ConfigError("align.end_to_end is not set, so no encoder learns; use train_alignment on features")
    if num_ranks() > 1:
        raise ConfigError(f"end-to-end training runs in one process, and this is one of {num_ranks()}; start one")
    sides = (
        ("vision", wanted.vision, encoders.vision, data.has_clips, "clips, uint8 (N, T, 3, H, W)"),
        ("text", wanted.text, encoders.text, data.has_captions, "captions"),
    )
    for name, settings, encoder, has_inputs, inputs in sides:
        if settings is None and (encoder is not None or has_inputs):
            raise ConfigError(f"align.end_to_end.{name} is not set: give the features of that side and no encoder")
        if settings is not None and (encoder is None or not has_inputs):
            raise ConfigError(f"align.end_to_end.{name} is set: give the {name} encoder, and {inputs} as its data")


def _seed_of(*words: int) -> int:
    return int(np.random.default_rng(words).integers(2**63))


def _identity(config: AlignConfig, data: EndToEndData, encoders: Encoders) -> dict[str, Any]:
    """What a checkpoint belongs to; how often state is saved changes nothing about the state."""
    texts = [repr(list(data.texts)).encode()] if isinstance(data.texts, Sequence) else [_sample(data.texts)]
    pairs = repr((data.captions_of, data.counterfactuals_of)).encode()
    weights = {
        side: _digest(
            [
                part
                for name, tensor in module.state_dict().items()
                for part in (name.encode(), tensor.flatten()[:_FINGERPRINT_VALUES].cpu().numpy().tobytes())
            ]
        )
        for side, module in encoders.modules.items()
    }
    return {
        "config": config.model_dump(mode="json", exclude={"checkpoint_every"}),
        "clips": _digest([_sample(data.video)]),
        "texts": _digest([*texts, pairs]),
        "weights": weights,
    }


def _sample(features: Features) -> bytes:
    rows = np.unique(np.linspace(0, features.shape[0] - 1, _FINGERPRINT_ROWS).astype(np.int64))
    return repr((features.shape, features.dtype.str)).encode() + take_rows(features, rows).tobytes()


def _digest(parts: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]
