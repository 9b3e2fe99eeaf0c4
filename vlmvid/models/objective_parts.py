"""The networks behind the auxiliary objectives, one class each.

A class that reads single clips (`ClipObjective`) gives a mean over clips from draws that were made for each clip; one
that compares clips (`BatchObjective`) reads the whole batch. Their losses are in `vlmvid.losses`.

Objectives of single clips read the states of frames that the alignment trains (`AlignmentModel.frame_states`). Those
that ask about frames have a small MLP for each state and nothing that looks from one frame to another, so that what
must be known of the others has to be in the state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from vlmvid.config.alignment import AuxiliaryConfig
from vlmvid.errors import ConfigError
from vlmvid.losses.auxiliary import (
    IGNORE_INDEX,
    draw_hard_negatives,
    frame_order_loss,
    masked_frames_loss,
    matching_loss,
    token_cross_entropy,
)
from vlmvid.losses.structure import structure_loss
from vlmvid.models.caption_ids import FIRST_WORD, MASK, PADDING
from vlmvid.models.video.time_embedding import sinusoids

# B clips of a chunk, N clips of the batch, T frames, L places of a caption, D channels of a feature,
# E channels of a state, W width, P projection_dim
States = Callable[[Tensor], Tensor]
_NUM_HEADS = 4
# ALBEF's first temperature; the learnt one belongs to the contrastive loss.
_NEGATIVES_TEMPERATURE = 0.07
_ROWS_PER_DRAW = 1024


@dataclass(frozen=True)
class ObjectiveSizes:
    """What the objectives must know of the data.

    Attributes:
        video_dim: D of a frame's feature.
        state_dim: of a frame's state; 0 where no objective reads clips.
        text_dim: D of a text's feature.
        projection_dim: of the embeddings.
        num_frames: T, frames per clip.
        vocabulary_size: ids of captions (``len`` of a `CaptionVocabulary`); 0 where no objective reads captions.
    """

    video_dim: int
    state_dim: int
    text_dim: int
    projection_dim: int
    num_frames: int
    vocabulary_size: int


@dataclass(frozen=True)
class EmbeddedBatch:
    """One update's clips, each with one caption; row i belongs to row i.

    Attributes:
        video_inputs: (N, Dv), frozen features, one per clip.
        text_inputs: (N, Dt), frozen features of the captions.
        video_embeds, text_embeds: (N, P), L2-normalised.
    """

    video_inputs: Tensor
    text_inputs: Tensor
    video_embeds: Tensor
    text_embeds: Tensor


class ClipObjective(nn.Module, ABC):
    """A loss of single clips."""

    reads_captions: ClassVar[bool] = False

    @abstractmethod
    def num_draws(self, num_frames: int, caption_length: int) -> int:
        """How many random numbers in [0, 1) one clip needs."""

    @abstractmethod
    def loss(self, features: Tensor, caption_ids: Tensor, draws: Tensor, states: States) -> Tensor:
        """The mean over B clips.

        Features (B, T, D), caption ids int64 (B, L), L = 0 where none are given, draws (B, num_draws); `states` makes
        states (B, T, E) of features (B, T, D).
        """


class BatchObjective(nn.Module, ABC):
    """A loss among the clips of a batch."""

    @abstractmethod
    def loss(self, batch: EmbeddedBatch, generator: torch.Generator) -> Tensor:
        """The loss of the batch, N >= 1."""


class FrameOrder(ClipObjective):
    """Frames in random order, each with the time embedding of where it is shown: which place had it (HERO)?

    HERO (arXiv 2005.00200) shows 15 % of the frames at wrong places, with the others as anchors. Here all frames change
    places, so content alone tells; equal frames stay at log T, and a clip that could as well run backwards cannot get
    to 0.
    """

    def __init__(self, config: AuxiliaryConfig, sizes: ObjectiveSizes) -> None:
        super().__init__()
        self.place = _frame_head(config, sizes.state_dim, sizes.num_frames)

    def forward(self, states: Tensor) -> Tensor:
        """States (B, T, E) to the scores of their frames' places (B, T, T)."""
        scores: Tensor = self.place(states)
        return scores

    def num_draws(self, num_frames: int, caption_length: int) -> int:
        """One for each frame."""
        return num_frames

    def loss(self, features: Tensor, caption_ids: Tensor, draws: Tensor, states: States) -> Tensor:
        """`frame_order_loss` of all frames, shown in the order of their draws."""
        places_BT = draws.argsort(dim=1, stable=True)
        shown_BTD = features.gather(1, places_BT[..., None].expand_as(features))
        return frame_order_loss(self(states(shown_BTD)), places_BT)


class MaskedVideo(ClipObjective):
    """Hidden frames from the others (VideoMAE's target on whole frames, arXiv 2203.12602).

    A learnt vector stands for hidden frames. Hides `mask_fraction` of the frames, at least one and never all: a clip
    of one frame hides none and counts as 0.
    """

    def __init__(self, config: AuxiliaryConfig, sizes: ObjectiveSizes) -> None:
        super().__init__()
        self.mask_fraction = config.mask_fraction
        self.mask_D = nn.Parameter(torch.empty(sizes.video_dim))
        # Poolings begin with a LayerNorm, whose gradient grows as its input shrinks; so not near 0.
        nn.init.normal_(self.mask_D)
        self.feature = _frame_head(config, sizes.state_dim, sizes.video_dim)

    def forward(self, states: Tensor) -> Tensor:
        """States (B, T, E) to predictions of their frames' features (B, T, D)."""
        predictions: Tensor = self.feature(states)
        return predictions

    def num_draws(self, num_frames: int, caption_length: int) -> int:
        """One for each frame."""
        return num_frames

    def loss(self, features: Tensor, caption_ids: Tensor, draws: Tensor, states: States) -> Tensor:
        """`masked_frames_loss` of frames hidden by their draws."""
        num_frames = features.shape[1]
        everywhere = torch.ones_like(draws, dtype=torch.bool)
        hidden_BT = hide(draws, everywhere, self.mask_fraction, most=num_frames - 1)
        seen_BTD = torch.where(hidden_BT[..., None], self.mask_D.to(features.dtype), features)
        return masked_frames_loss(self(states(seen_BTD)), features, hidden_BT)


class WordDecoder(ClipObjective):
    """Words from other words and the frames: self-attention over words, cross-attention to the frames' states."""

    reads_captions: ClassVar[bool] = True
    causal: ClassVar[bool]

    def __init__(self, config: AuxiliaryConfig, sizes: ObjectiveSizes) -> None:
        super().__init__()
        if sizes.vocabulary_size <= FIRST_WORD:
            raise ConfigError(
                f"auxiliary objective {config.kind!r} needs words to predict; the vocabulary has "
                f"{sizes.vocabulary_size} ids, of which the first {FIRST_WORD} are no words; give the clips captions"
            )
        width = config.width
        self.words = nn.Embedding(sizes.vocabulary_size, width)
        # Without an embedding of time: that is in the states.
        self.frames = nn.Sequential(nn.LayerNorm(sizes.state_dim), nn.Linear(sizes.state_dim, width))
        self.blocks = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width, _NUM_HEADS, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(config.depth)
        )
        self.norm_out = nn.LayerNorm(width)
        self.word = nn.Linear(width, sizes.vocabulary_size)

    def forward(self, states: Tensor, caption_ids: Tensor) -> Tensor:
        """States (B, T, E) and ids (B, L) to the scores of all ids at each place (B, L, V)."""
        length = caption_ids.shape[1]
        places = torch.arange(length, device=caption_ids.device, dtype=torch.float32)
        embedded_BLW = self.words(caption_ids)
        states_BLW = embedded_BLW + sinusoids(places, embedded_BLW.shape[-1]).to(embedded_BLW.dtype)
        frames_BTW = self.frames(states)
        later_LL = torch.ones(length, length, dtype=torch.bool, device=caption_ids.device).triu(1)
        for block in self.blocks:
            states_BLW = block(
                states_BLW,
                frames_BTW,
                tgt_mask=later_LL if self.causal else None,
                tgt_key_padding_mask=caption_ids == PADDING,
            )
        scores: Tensor = self.word(self.norm_out(states_BLW))
        return scores


class Captioning(WordDecoder):
    """The caption, each word from those before it and the frames (CoCa, arXiv 2205.01917).

    A word without an id is read as a gap and not asked for.
    """

    causal = True

    def num_draws(self, num_frames: int, caption_length: int) -> int:
        """None."""
        return 0

    def loss(self, features: Tensor, caption_ids: Tensor, draws: Tensor, states: States) -> Tensor:
        """`token_cross_entropy` of the next word, end included."""
        next_BL = caption_ids[:, 1:]
        labels_BL = next_BL.masked_fill((next_BL == PADDING) | (next_BL == MASK), IGNORE_INDEX)
        return token_cross_entropy(self(states(features), caption_ids[:, :-1]), labels_BL, reduction="per_clip")


class MaskedLanguage(WordDecoder):
    """Hidden words from all others and the frames (BERT, arXiv 1810.04805; FLAVA, arXiv 2112.04482).

    Hides `mask_fraction` of a caption's words, at least one. All hidden words become the mask; BERT leaves a tenth as
    they are and puts random words for another, because its mask never occurs in later use.
    """

    causal = False

    def __init__(self, config: AuxiliaryConfig, sizes: ObjectiveSizes) -> None:
        super().__init__(config, sizes)
        self.mask_fraction = config.mask_fraction

    def num_draws(self, num_frames: int, caption_length: int) -> int:
        """One for each place."""
        return caption_length

    def loss(self, features: Tensor, caption_ids: Tensor, draws: Tensor, states: States) -> Tensor:
        """`token_cross_entropy` of words hidden by their draws."""
        hidden_BL = hide(draws, caption_ids >= FIRST_WORD, self.mask_fraction)
        seen_BL = caption_ids.masked_fill(hidden_BL, MASK)
        labels_BL = caption_ids.masked_fill(~hidden_BL, IGNORE_INDEX)
        return token_cross_entropy(self(states(features), seen_BL), labels_BL, reduction="per_clip")


class Structure(BatchObjective):
    """STRUCTURE's regulariser (arXiv 2506.16895) on the video side and the text side, averaged."""

    def __init__(self, config: AuxiliaryConfig, sizes: ObjectiveSizes) -> None:
        super().__init__()
        self.levels = config.levels

    def loss(self, batch: EmbeddedBatch, generator: torch.Generator) -> Tensor:
        """`structure_loss`, in [0, ln 2]; 0 for one clip."""
        video = structure_loss(batch.video_inputs, batch.video_embeds, levels=self.levels)
        return 0.5 * (video + structure_loss(batch.text_inputs, batch.text_embeds, levels=self.levels))


class Matching(BatchObjective):
    """Does this text belong to this clip? Scores of (video, text, product, difference) by an MLP.

    Each clip meets its own text and a hard wrong one, each text a hard wrong clip (ALBEF, arXiv 2107.07651), drawn by
    the similarity of the embeddings over ALBEF's first temperature, 0.07. Clips with equal inputs or with equal
    captions never serve as each other's negatives; where no negative is left, as in a batch of one clip, only the
    positive pair counts.
    """

    def __init__(self, config: AuxiliaryConfig, sizes: ObjectiveSizes) -> None:
        super().__init__()
        self.score = _mlp(config, 4 * sizes.projection_dim, 1)

    def forward(self, video_embeds: Tensor, text_embeds: Tensor) -> Tensor:
        """Embeddings (R, P) and (R, P) of R pairs to their scores (R,)."""
        # Of unit length P of them are about 1 / sqrt(P) each, and products of two far smaller.
        scale = video_embeds.shape[1] ** 0.5
        video, text = scale * video_embeds, scale * text_embeds
        scores: Tensor = self.score(torch.cat([video, text, video * text, video - text], dim=1))
        return scores[:, 0]

    def loss(self, batch: EmbeddedBatch, generator: torch.Generator) -> Tensor:
        """`matching_loss` of the pairs of the batch and their hard negatives."""
        video, text = batch.video_embeds, batch.text_embeds
        groups_N2 = torch.stack([_groups(batch.video_inputs), _groups(batch.text_inputs)], dim=1)
        wrong_text_N = _negatives(video, text, groups_N2, generator)
        wrong_video_N = _negatives(text, video, groups_N2, generator)
        # Whom a clip may not meet is mutual, so the same rows lack a wrong text and a wrong clip.
        has_negative_N = wrong_text_N >= 0
        negative_video = torch.cat([video[has_negative_N], video[wrong_video_N[has_negative_N]]])
        negative_text = torch.cat([text[wrong_text_N[has_negative_N]], text[has_negative_N]])
        return matching_loss(self(video, text), self(negative_video, negative_text))


def hide(draws: Tensor, candidates: Tensor, fraction: float, most: int | None = None) -> Tensor:
    """The candidates with the smallest draws of each row, ``max(1, round(fraction * candidates))`` of them.

    Args:
        draws: (B, L), in [0, 1).
        candidates: bool (B, L); a row may have none, then it hides none.
        fraction: in (0, 1).
        most: hide at most so many in a row.

    Returns bool (B, L), True where hidden.
    """
    num_candidates = candidates.sum(dim=1, keepdim=True)
    num_hidden = (num_candidates * fraction).round().long().clamp(min=1).minimum(num_candidates)
    if most is not None:
        num_hidden = num_hidden.clamp(max=most)
    order = draws.masked_fill(~candidates, 2.0).argsort(dim=1, stable=True)
    hidden: Tensor = order.argsort(dim=1) < num_hidden
    return hidden


def _mlp(config: AuxiliaryConfig, num_inputs: int, num_outputs: int) -> nn.Sequential:
    widths = [num_inputs, *[config.width] * config.depth]
    layers: list[nn.Module] = []
    for width_in, width_out in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(width_in, width_out), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(config.width, num_outputs))


def _frame_head(config: AuxiliaryConfig, state_dim: int, num_outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(state_dim), *_mlp(config, state_dim, num_outputs))


def _groups(rows: Tensor) -> Tensor:
    """Equal rows (N, D) get equal numbers, int64 (N,)."""
    numbers: Tensor = torch.unique(rows.detach(), dim=0, return_inverse=True)[1]
    return numbers


def _negatives(queries_NP: Tensor, keys_NP: Tensor, groups_N2: Tensor, generator: torch.Generator) -> Tensor:
    drawn = []
    for start in range(0, len(queries_NP), _ROWS_PER_DRAW):
        rows = slice(start, start + _ROWS_PER_DRAW)
        similarity_RN = queries_NP[rows].detach() @ keys_NP.detach().T / _NEGATIVES_TEMPERATURE
        is_positive_RN = (groups_N2[rows, None] == groups_N2).any(dim=2)
        drawn.append(draw_hard_negatives(similarity_RN, is_positive_RN, generator))
    return torch.cat(drawn)
