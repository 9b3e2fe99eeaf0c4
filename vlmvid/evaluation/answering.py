"""What evaluations ask of a vision-language model: answers in words, and the log-probabilities of given ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.cosines import similarity_blocks
from vlmvid.evaluation.frame_order import ALL
from vlmvid.types import Conversation


def other_clips(video_ids: Sequence[str], clusters: Mapping[str, str], seed: int) -> dict[str, str] | None:
    """For each clip another one, each of them once: what a model says without having seen the clip that is asked about.

    The clips are shuffled, laid out cluster by cluster and moved on by the largest cluster's size, so that the other
    clip is of another cluster wherever no cluster holds more than half of all. None for a single clip.
    """
    if len(video_ids) < 2:
        return None
    drawn = np.random.default_rng(seed).permutation(len(video_ids))
    by_cluster: dict[str, list[str]] = {}
    for place in drawn:
        by_cluster.setdefault(clusters[video_ids[place]], []).append(video_ids[place])
    order = [name for some in by_cluster.values() for name in some]
    step = max(map(len, by_cluster.values())) % len(order) or 1
    return {name: order[(place + step) % len(order)] for place, name in enumerate(order)}


class Answerer(Protocol):
    """A vision-language model with the clips that it can be asked about.

    Conversations end with a user's message; `Visual.media` names a clip. `condition` is one of
    `vlmvid.evaluation.frame_order`, applied to every clip that is shown; black frames make the model blind. `seed` is
    of conditions that draw. Equal calls give equal results.
    """

    def answer(self, conversations: Sequence[Conversation], condition: str = ALL, seed: int = 0) -> list[str]:
        """What the model says, one text for each conversation."""
        ...

    def rank(
        self,
        conversations: Sequence[Conversation],
        choices: Sequence[Sequence[str]],
        condition: str = ALL,
        seed: int = 0,
    ) -> list[NDArray[np.float32]]:
        """The log-probability of each choice as the answer, float32 (C,) for each conversation."""
        ...


@dataclass(frozen=True, eq=False)
class TrainingClips:
    """Captioned training clips, from which a caption can be copied: the baseline of captioning.

    Attributes:
        features: float32 (M, D), the mean of each clip's stored features.
        captions: the captions of each, one at least.
        nearest_to: float32 (N, D), the same features of the evaluated clips.
    """

    features: NDArray[np.float32]
    captions: tuple[tuple[str, ...], ...]
    nearest_to: NDArray[np.float32]

    def __post_init__(self) -> None:
        if len(self.features) != len(self.captions) or not len(self.captions):
            raise EvaluationError(
                f"expected captions for each training clip, at least one; got {len(self.features)} features and "
                f"{len(self.captions)} captions"
            )

    def copied(self) -> list[str]:
        """For each evaluated clip the first caption of the training clip with the highest cosine (N texts).

        Of equally near ones the first.
        """
        found: list[str] = []
        for _, cosines in similarity_blocks(_unit(self.nearest_to), _unit(self.features)):
            found += [self.captions[row][0] for row in cosines.argmax(axis=1)]
        return found


def _unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = features / np.maximum(norms, np.finfo(np.float32).tiny)
    return scaled
