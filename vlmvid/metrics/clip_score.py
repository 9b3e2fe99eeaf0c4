"""How well a caption fits what is shown, by embeddings: CLIPScore (arXiv 2104.08718) and EMScore (arXiv 2111.08919).

Both depend on the model as much as on the captions: numbers of two models cannot be compared, nor those of an aligned
video model with the tables of the papers, which are CLIP ViT-B/32's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import EvaluationError

WEIGHT = 2.5  # stretches CLIP's cosines of 0 to 0.4 to about [0, 1]
PREFIX = "A photo depicts "  # before every caption, in the paper and its code

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class GreedyMatch:
    """How two sets of embeddings cover one another; cosines in [-1, 1]."""

    precision: float
    recall: float
    f: float


def clip_score(cosines: Floats) -> NDArray[np.float64]:
    """CLIPScore (N,) in [0, 2.5] of the cosines (N,) of pictures or videos with their captions: 2.5 max(cos, 0)."""
    clipped: NDArray[np.float64] = np.maximum(np.asarray(cosines, dtype=np.float64), 0.0)
    return WEIGHT * clipped


def ref_clip_score(scores: Floats, reference_cosines: Floats) -> NDArray[np.float64]:
    """RefCLIPScore (N,): the harmonic mean of CLIPScore (N,) and the highest cosine (N,) with a reference caption.

    A negative cosine counts as 0, as in the paper's formula; its code (jmhessel/clipscore at 1036465276) does not clip
    it. Where either is 0 the score is 0; the code gives NaN where both are.
    """
    left = np.asarray(scores, dtype=np.float64)
    right = np.maximum(np.asarray(reference_cosines, dtype=np.float64), 0.0)
    if left.shape != right.shape:
        raise EvaluationError(f"expected as many reference cosines as scores, got {right.shape} and {left.shape}")
    total = left + right
    means = np.zeros(left.shape)
    np.divide(2 * left * right, total, out=means, where=total > 0)
    return means


def greedy_match(
    words: Floats, frames: Floats, word_weights: Floats | None = None, frame_weights: Floats | None = None
) -> GreedyMatch:
    """EMScore's fine part: every word takes its nearest frame, every frame its nearest word.

    Precision is the weighted mean over words, recall over frames, f their harmonic mean (0 where their sum is 0).

    Args:
        words: (W, D), L2-normalised embeddings of a caption's tokens, the special ones included.
        frames: (T, D), L2-normalised embeddings of frames, or of a reference caption's tokens.
        word_weights: (W,), by default equal; the paper's are inverse document frequencies.
        frame_weights: (T,), by default equal, as for frames.

    Raises:
        EvaluationError: other shapes, or weights that are negative or sum to 0.
    """
    if words.ndim != 2 or frames.ndim != 2 or words.shape[1] != frames.shape[1] or not len(words) or not len(frames):
        raise EvaluationError(
            f"expected embeddings (W, D) and (T, D), at least one each; got {words.shape}, {frames.shape}"
        )
    cosines = words.astype(np.float64) @ frames.astype(np.float64).T
    precision = float(cosines.max(axis=1) @ _weights(word_weights, len(words)))
    recall = float(cosines.max(axis=0) @ _weights(frame_weights, len(frames)))
    total = precision + recall
    return GreedyMatch(precision, recall, 2 * precision * recall / total if total else 0.0)


def coarse_match(sentence: Floats, frames: Floats) -> float:
    """EMScore's coarse part: cosine of the sentence (D,) with the normalised mean of the frames (T, D)."""
    mean = frames.astype(np.float64).mean(axis=0)
    norm = float(np.linalg.norm(mean))
    return float(sentence.astype(np.float64) @ mean) / norm if norm else 0.0


def em_score(coarse: float, fine: GreedyMatch) -> float:
    """EMScore of a caption with a video: the mean of the coarse cosine and of the fine f."""
    return (coarse + fine.f) / 2


def em_score_with_references(with_video: float, with_references: Sequence[float]) -> float:
    """EMScore with references: the mean of that with the video and of the best with a reference caption."""
    if not with_references:
        raise EvaluationError("EMScore with references needs at least one reference caption")
    return (with_video + max(with_references)) / 2


def inverse_document_frequencies(captions: Sequence[Collection[Hashable]]) -> dict[Hashable, float]:
    """log((N + 1) / (n + 1)) of each token, n of N captions holding it; for `greedy_match`.

    A token that is in none has log(N + 1). EMScore gives the end token, which is in all, the mean over the tokens.
    """
    held = Counter(token for tokens in captions for token in set(tokens))
    return {token: math.log((len(captions) + 1) / (count + 1)) for token, count in held.items()}


def _weights(weights: Floats | None, size: int) -> NDArray[np.float64]:
    values = np.ones(size) if weights is None else np.asarray(weights, dtype=np.float64)
    if values.shape != (size,) or not (values >= 0).all() or values.sum() <= 0:
        raise EvaluationError(f"expected {size} weights, not negative and not all 0; got {values.tolist()}")
    shares: NDArray[np.float64] = values / values.sum()
    return shares
