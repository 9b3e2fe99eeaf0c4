"""Contrastive training of an image or video encoder, end to end, against frozen text features.

A step is a pure function of (seed, step, state), like in `vlmvid.training.align`: its clips, captions and dropped
tokens come from generators seeded with both. Arithmetic is float32; there are no checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from vlmvid.config.alignment import AlignConfig, OptimConfig
from vlmvid.errors import ConfigError, DatasetError
from vlmvid.models.alignment import AlignmentModel
from vlmvid.models.backbones.base import Preprocessing
from vlmvid.models.masking import tube_mask
from vlmvid.models.runtime import resolve_device
from vlmvid.models.video.encoder import VideoEncoder
from vlmvid.training.align import AlignmentData, FeatureRows, batch_at, captions_at
from vlmvid.training.optim import build_adamw
from vlmvid.training.update import contrastive_update

# First words of generators' seeds; 0 to 2 are those of vlmvid.training.align.
_MASK_STREAM, _DROPOUT_STREAM = 3, 4
_CLIPS_PER_BATCH = 64


@dataclass(frozen=True)
class VideoTrainingData:
    """Frames of clips and features of their captions.

    Attributes:
        clips: uint8 (N, T, 3, H, W), RGB; T = 1 trains an image encoder.
        text_features: float16 or float32 (M, Dt).
        captions_of: per clip row, the rows of its captions in `text_features`.

    Raises DatasetError when they do not fit together or a clip has no caption.
    """

    clips: NDArray[np.uint8]
    text_features: NDArray[np.floating]
    captions_of: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if self.clips.dtype != np.uint8 or self.clips.ndim != 5 or self.clips.shape[2] != 3:
            raise DatasetError(f"clips must be uint8 (N, T, 3, H, W); got {self.clips.dtype} {self.clips.shape}")
        # The captions must fit as they must for features; no feature is needed to see that.
        AlignmentData(np.broadcast_to(np.float32(0), (len(self.clips), 1, 1)), self.text_features, self.captions_of)


class ContrastiveEncoder(nn.Module):
    """A video encoder with the heads of an alignment: clips and text features to one space.

    What reaches the pooling are, per time step, the patch tokens averaged to `grid_size` x `grid_size` cells, as a
    backbone with ``feature: grid`` gives them (1 is ``feature: mean``), or the patch tokens where the pooling
    reads them.

    Attributes:
        encoder: clips to tokens.
        heads: pooling, projections, scale and bias.
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        preprocessing: Preprocessing,
        config: AlignConfig,
        *,
        text_dim: int,
        num_frames: int,
        grid_size: int = 1,
    ) -> None:
        super().__init__()
        if grid_size > min(encoder.grid_size) or grid_size < 1:
            raise ConfigError(f"grid_size={grid_size} does not fit a map of {encoder.grid_size} patches; use less")
        self.encoder = encoder
        self.preprocessing = preprocessing
        self.grid_size = grid_size
        reads_tokens = config.pooling.reads == "tokens"
        video_dim = encoder.embed_dim * (1 if reads_tokens else grid_size**2)
        self.heads = AlignmentModel(video_dim, text_dim, encoder.num_steps(num_frames), config)

    def embed_frames(self, clips: Tensor, keep: Tensor | None = None) -> Tensor:
        """Clips uint8 (B, T, 3, H, W) to embeddings float32 (B, P), L2-normalised; `keep` as in `VideoEncoder`."""
        return self.embed_tokens(self.image_tokens(clips, keep))

    def image_tokens(self, clips: Tensor, keep: Tensor | None = None) -> Tensor:
        """Clips uint8 (B, T, 3, H, W) to `VideoEncoder.image_tokens` (B, T', N, D)."""
        pixels = self.preprocessing.apply(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])  # type: ignore[no-untyped-call]
        return self.encoder.image_tokens(pixels, None if keep is None else keep.to(clips.device))

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens of `image_tokens` to embeddings float32 (B, P), L2-normalised."""
        patches = self.encoder.behind(tokens)[:, :, self.encoder.num_prefix_tokens :]
        if self.heads.config.pooling.reads == "tokens":
            return self.heads.embed_video(patches)
        return self.heads.embed_video(patches.mean(dim=2) if self.grid_size == 1 else self._cells(patches))

    def _cells(self, patches: Tensor) -> Tensor:
        """Patch tokens (B, T', S, D) to (B, T', grid_size**2 * D), the channels of a cell together."""
        maps = rearrange(patches, "b t (h w) d -> (b t) d h w", h=self.encoder.grid_size[0])
        cells = F.adaptive_avg_pool2d(maps, self.grid_size)
        return rearrange(cells, "(b t) d h w -> b t (h w d)", b=len(patches))

    def embed_clips(self, clips: NDArray[np.uint8], batch_size: int = _CLIPS_PER_BATCH) -> NDArray[np.float32]:
        """Clips uint8 (N, T, 3, H, W) to embeddings float32 (N, P), without gradient."""
        device = self.heads.logit_bias.device
        with torch.inference_mode():
            parts = [
                self.embed_frames(torch.from_numpy(clips[start : start + batch_size]).to(device)).cpu().numpy()
                for start in range(0, len(clips), batch_size)
            ]
        return np.concatenate(parts)

    def embed_texts(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Text features (M, Dt) to embeddings float32 (M, P), without gradient."""
        with torch.inference_mode():
            values = torch.from_numpy(features.astype(np.float32)).to(self.heads.logit_bias.device)
            embeds: NDArray[np.float32] = self.heads.embed_text(values).cpu().numpy()
        return embeds


def train_video_encoder(
    encoder: VideoEncoder,
    config: AlignConfig,
    data: VideoTrainingData,
    preprocessing: Preprocessing,
    *,
    keep_fraction: float = 1.0,
    grid_size: int = 1,
    on_step: Callable[[int, float], None] | None = None,
    device: str = "cpu",
) -> tuple[ContrastiveEncoder, NDArray[np.float64]]:
    """Train an encoder with pooling and heads by the sigmoid loss of `config`; the text features stay as they are.

    Where training changes nothing in the image part (`VideoEncoder.is_image_part_fixed`) and every patch is kept,
    the image tokens of all clips are computed once and held in memory: N T' P D float32 values.

    Args:
        encoder: trained in place; its frozen parameters stay as they are.
        config: pooling, heads, loss, optimiser and seed; `checkpoint_every` is not read.
        data: clips, text features and which belongs to which.
        preprocessing: frames to the encoder's pixels.
        keep_fraction: share of the patches, in (0, 1], that a step sees: tubes drawn for each clip (VideoMAE).
        grid_size: cells per side to which the patches are averaged before the pooling; more than 1 keeps places and
            needs every patch.
        on_step: called with the number of updates done (from 1) and the loss.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.

    Returns:
        The trained model in eval mode and the loss of every update, float64 (num_steps,). The same arguments give
        the same bytes on the same machine and thread count.

    Raises:
        ConfigError: frames that do not fit the encoder, a share out of range, or options that are not known here.
        DatasetError: text features that are not finite.
        StageError: loss or gradient stops being finite.
    """
    _check_arguments(config, keep_fraction, grid_size)
    target = resolve_device(device)
    num_frames, text_dim = data.clips.shape[1], data.text_features.shape[1]
    sizes = {"text_dim": text_dim, "num_frames": num_frames, "grid_size": grid_size}
    model = ContrastiveEncoder(encoder, preprocessing, config, **sizes).to(target).train()
    optimizer = build_adamw(model, config.optim)
    text_rows = FeatureRows(data.text_features, target, "text features")
    losses = np.zeros(config.optim.num_steps)
    fixed = _tokens_of_all(model, data.clips) if encoder.is_image_part_fixed and keep_fraction == 1 else None
    for step in range(config.optim.num_steps):
        rows = batch_at(step, len(data.clips), config.optim.global_batch_size, config.seed)
        captions = captions_at(step, rows, data.captions_of, config.seed)
        if fixed is None:
            keep = _tubes_at(step, len(rows), encoder, num_frames, keep_fraction=keep_fraction, seed=config.seed)
            embed_video = partial(model.embed_frames, torch.from_numpy(data.clips[rows]).to(target), keep)
        else:
            embed_video = partial(model.embed_tokens, fixed[torch.from_numpy(rows)].to(target))
        embed = partial(_embed, model, embed_video, text_rows(captions))
        dropout_seed = _seed_of(_DROPOUT_STREAM, config.seed, step)
        report = contrastive_update(step, model.heads, optimizer, embed, model=model, dropout_seed=dropout_seed)
        losses[step] = report["loss"]
        if on_step is not None:
            on_step(step + 1, float(losses[step]))
    return model.eval(), losses


def _check_arguments(config: AlignConfig, keep_fraction: float, grid_size: int) -> None:
    """Refuse options of alignment that this training does not know, and shares that cannot be."""
    _check_shares(keep_fraction, grid_size)
    plain = AlignConfig(optim=OptimConfig(num_steps=1, global_batch_size=2))
    for name in ("captions_per_clip", "hard_negatives", "auxiliary", "early_stopping", "end_to_end"):
        if getattr(config, name) != getattr(plain, name):
            raise ConfigError(f"training a video encoder does not read {name}={getattr(config, name)!r}; leave it out")
    for name in ("optimizer", "micro_batch_size", "ema_decay", "precision"):
        if getattr(config.optim, name) != getattr(plain.optim, name):
            raise ConfigError(
                f"training a video encoder does not read optim.{name}={getattr(config.optim, name)!r}; leave it out"
            )


def _check_shares(keep_fraction: float, grid_size: int) -> None:
    if not 0 < keep_fraction <= 1:
        raise ConfigError(f"keep_fraction must be above 0 and at most 1, got {keep_fraction}; 1 keeps every token")
    if grid_size != 1 and keep_fraction != 1:
        raise ConfigError(f"grid_size={grid_size} needs every patch; use keep_fraction=1, got {keep_fraction}")


def _tokens_of_all(model: ContrastiveEncoder, clips: NDArray[np.uint8]) -> Tensor:
    """The image tokens of every clip, on the CPU: float32 (N, T', P, D)."""
    with torch.no_grad():
        device = model.heads.logit_bias.device
        parts = [
            model.image_tokens(torch.from_numpy(clips[start : start + _CLIPS_PER_BATCH]).to(device)).cpu()
            for start in range(0, len(clips), _CLIPS_PER_BATCH)
        ]
    return torch.cat(parts)


def _tubes_at(
    step: int, num_clips: int, encoder: VideoEncoder, num_frames: int, *, keep_fraction: float, seed: int
) -> Tensor | None:
    if keep_fraction == 1:
        return None
    shape = (num_clips, encoder.num_steps(num_frames), encoder.grid_size[0] * encoder.grid_size[1])
    # Drawn on the CPU, so that every device drops the same tokens.
    generator = torch.Generator().manual_seed(_seed_of(_MASK_STREAM, seed, step))
    return tube_mask(shape, keep_fraction, generator)


def _embed(model: ContrastiveEncoder, embed_video: Callable[[], Tensor], texts: Tensor) -> tuple[Tensor, Tensor]:
    return embed_video(), model.heads.embed_text(texts)


def _seed_of(stream: int, seed: int, step: int) -> int:
    return int(np.random.default_rng([stream, seed, step]).integers(2**63))
