"""The objectives of a recipe that stand beside the contrastive loss, under one roof.

They train their own weights and what made the tensors that they read: the embeddings (structure, matching), so both
heads and the pooling, or the states of frames (all others), so the pooling.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from vlmvid.config.alignment import AuxiliaryConfig, AuxiliaryKind
from vlmvid.errors import ConfigError
from vlmvid.models.objective_parts import (
    BatchObjective,
    Captioning,
    ClipObjective,
    EmbeddedBatch,
    FrameOrder,
    MaskedLanguage,
    MaskedVideo,
    Matching,
    ObjectiveSizes,
    States,
    Structure,
)
from vlmvid.models.runtime import seeded
from vlmvid.registry import Registry

__all__ = ["OBJECTIVES", "ObjectiveSizes", "Objectives"]

Build = Callable[[AuxiliaryConfig, ObjectiveSizes], ClipObjective | BatchObjective]
OBJECTIVES: Registry[Build] = Registry("auxiliary objective")
OBJECTIVES.register("captioning", Captioning)
OBJECTIVES.register("frame_order", FrameOrder)
OBJECTIVES.register("masked_language", MaskedLanguage)
OBJECTIVES.register("masked_video", MaskedVideo)
OBJECTIVES.register("matching", Matching)
OBJECTIVES.register("structure", Structure)


class Objectives(nn.Module):
    """The auxiliary objectives that `configs` name.

    Their weights are drawn from `seed` and their own kind alone: naming one more changes none of the others'.

    Args:
        configs: at most one of each kind; may be empty.
        sizes: of the data.
        seed: at least 0.

    Raises ConfigError for a kind named twice, and for one that reads captions where there is no vocabulary.
    """

    def __init__(self, configs: tuple[AuxiliaryConfig, ...], sizes: ObjectiveSizes, seed: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.configs = {config.kind: config for config in configs}
        if len(self.configs) != len(configs):
            raise ConfigError(f"each auxiliary objective may be named once; got {[config.kind for config in configs]}")
        self.parts = nn.ModuleDict()
        for config in sorted(configs, key=lambda config: config.kind):
            with seeded(int(np.random.default_rng([seed, *config.kind.encode()]).integers(2**63))):
                self.parts[config.kind] = OBJECTIVES.get(config.kind)(config, sizes)

    @property
    def reads_clips(self) -> bool:
        """Whether `of_clips` gives any loss."""
        return bool(self._clip_parts())

    @property
    def needs_caption_ids(self) -> bool:
        """Whether `of_clips` reads caption ids."""
        return any(part.reads_captions for part in self._clip_parts().values())

    def of_clips(
        self, video_features: Tensor, caption_ids: Tensor | None, generator: torch.Generator, *, states: States
    ) -> dict[str, Tensor]:
        """The losses of single clips, each a mean over the b clips.

        A batch may come in chunks of whole clips, in order and with one generator: the mean of the chunks' losses,
        weighted by their clips, is then the loss of the batch, with the same draws.

        Args:
            video_features: (b, T, D). b = 0 gives zeros.
            caption_ids: int64 (b, L) with L >= 2, as `CaptionVocabulary.encode` gives them, on the features' device;
                None where `needs_caption_ids` is False.
            generator: of the CPU; decides all draws.
            states: features (b, T, D) to states (b, T, D') with D' of the sizes, each clip by itself and knowing the
                place of a frame, as `AlignmentModel.frame_states` does. Called once by each kind, with the clips'
                features, with their frames in another order (frame_order) or some hidden (masked_video); what it
                computes with is what the losses train.

        Returns loss by kind. Raises ValueError for other shapes or missing ids.
        """
        self._check_clips(video_features, caption_ids)
        num_clips, num_frames = video_features.shape[:2]
        ids = caption_ids
        if ids is None:
            ids = torch.zeros(num_clips, 0, dtype=torch.int64, device=video_features.device)
        parts = self._clip_parts()
        counts = [part.num_draws(num_frames, ids.shape[1]) for part in parts.values()]
        # All numbers of a clip in one row: so chunks draw what the whole batch would.
        draws = torch.rand((num_clips, sum(counts)), generator=generator).to(video_features.device)
        if num_clips == 0:
            return dict.fromkeys(parts, video_features.sum())
        own_draws = torch.split(draws, counts, dim=1)
        return {
            kind: part.loss(video_features, ids, own, states)
            for (kind, part), own in zip(parts.items(), own_draws, strict=True)
        }

    def of_batch(
        self,
        video_inputs: Tensor,
        text_inputs: Tensor,
        video_embeds: Tensor,
        text_embeds: Tensor,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """The losses among clips, once per update, on one caption per clip.

        Args:
            video_inputs: (N, Dv), frozen features, one per clip. N = 0 gives zeros.
            text_inputs: (N, Dt), frozen features of the captions.
            video_embeds, text_embeds: (N, P), L2-normalised, with the gradients wanted.
            generator: of the CPU; decides all draws.

        Returns loss by kind. Raises ValueError for other shapes.
        """
        parts = {kind: part for kind, part in self.parts.items() if isinstance(part, BatchObjective)}
        sizes, num_clips = self.sizes, len(video_inputs)
        expected = [(num_clips, dim) for dim in (sizes.video_dim, sizes.text_dim, *[sizes.projection_dim] * 2)]
        got = [tuple(tensor.shape) for tensor in (video_inputs, text_inputs, video_embeds, text_embeds)]
        if got != expected:
            raise ValueError(f"expected video inputs, text inputs, video and text embeds {expected}; got {got}")
        if num_clips == 0:
            return dict.fromkeys(parts, video_embeds.sum() + text_embeds.sum())
        batch = EmbeddedBatch(video_inputs, text_inputs, video_embeds, text_embeds)
        return {kind: part.loss(batch, generator) for kind, part in parts.items()}

    def weight_at(self, kind: AuxiliaryKind, step: int) -> float:
        """What the loss of `kind` is multiplied by in update number `step`, counted from 0.

        With `warmup_steps` the weight grows linearly from 0 in the first update, as in STRUCTURE's released code.
        """
        config = self.configs[kind]
        share = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
        return config.weight * share

    def _clip_parts(self) -> dict[str, ClipObjective]:
        return {kind: part for kind, part in self.parts.items() if isinstance(part, ClipObjective)}

    def _check_clips(self, video_features: Tensor, caption_ids: Tensor | None) -> None:
        num_frames, video_dim = self.sizes.num_frames, self.sizes.video_dim
        if video_features.ndim != 3 or video_features.shape[1:] != (num_frames, video_dim):
            raise ValueError(
                f"video features must be (b, T={num_frames}, D={video_dim}); got {tuple(video_features.shape)}"
            )
        if caption_ids is None:
            if self.needs_caption_ids:
                raise ValueError("captioning and masked_language read captions; give caption_ids int64 (b, L)")
            return
        num_clips = len(video_features)
        if caption_ids.ndim != 2 or len(caption_ids) != num_clips or caption_ids.shape[1] < 2:
            raise ValueError(f"caption_ids must be ({num_clips}, L) with L >= 2; got {tuple(caption_ids.shape)}")
