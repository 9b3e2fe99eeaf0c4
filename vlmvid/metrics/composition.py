"""Matching pictures and captions within a group: Winoground's text, image and group scores, for any M x T matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError


@dataclass(frozen=True, slots=True)
class GroupScores:
    """Which of N groups are matched right; each (N,) bool.

    Attributes:
        text: every picture that has a caption scores it higher than every other caption.
        image: every caption that has a picture scores it higher than every other picture.
        group: both.
        ties: a right pair scores as high as the best wrong one beside it, in its row or its column.
    """

    text: NDArray[np.bool_]
    image: NDArray[np.bool_]
    group: NDArray[np.bool_]
    ties: NDArray[np.bool_]


def group_scores(scores: ArrayLike, matches: ArrayLike) -> GroupScores:
    """Text, image and group score of Winoground (arXiv 2204.03162, section 3.2), strict: a tie is wrong.

    Args:
        scores: (N, M, T) finite similarities of M pictures or videos with T captions.
        matches: (N, M) column of each picture's own caption; -1 where it has none. No caption has two pictures.

    Raises:
        EvaluationError: other shapes, scores that are not finite, or matches that are no such assignment.
    """
    values, own = np.asarray(scores, dtype=np.float64), np.asarray(matches, dtype=np.intp)
    _check(values, own)
    num_captions = values.shape[2]
    hot = own[:, :, None] == np.arange(num_captions)
    # A caption has one picture, so hiding the right entries leaves each row and column with its wrong ones.
    wrong = np.where(hot, -np.inf, values)
    column = own.clip(0)
    right = np.take_along_axis(values, column[:, :, None], axis=2)[:, :, 0]
    beside = wrong.max(axis=2)
    above = np.take_along_axis(wrong.max(axis=1), column, axis=1)
    unmatched = own < 0
    text = np.asarray(((right > beside) | unmatched).all(axis=1))
    image = np.asarray(((right > above) | unmatched).all(axis=1))
    ties = np.asarray((((right == beside) | (right == above)) & ~unmatched).any(axis=1))
    return GroupScores(text, image, text & image, ties)


def group_chance(num_media: int, num_captions: int, num_matches: int) -> tuple[float, float, float]:
    """Expected text, image and group score of scores that are drawn independently from one continuous distribution.

    Text and image are ``T^-K`` and ``M^-K`` for K right pairs. The group is right when each right entry exceeds all
    others in its row and its column. An entry shared by two right ones must lie below the smaller of them, so with the
    right entries sorted the probability is ``K! * prod_k 1 / sum_{j<=k} (2 (K - j) + M + T - 2 K + 1)``: 1/6 for
    Winoground's 2 x 2.

    Raises:
        EvaluationError: fewer than one or more than min(M, T) right pairs.
    """
    if not 1 <= num_matches <= min(num_media, num_captions):
        raise EvaluationError(
            f"a {num_media} x {num_captions} matrix has 1 to {min(num_media, num_captions)} right pairs, got "
            f"{num_matches}"
        )
    alone = num_media + num_captions - 2 * num_matches  # entries that compete with one right entry only
    exponent, group = 0, float(math.factorial(num_matches))
    for rank in range(1, num_matches + 1):
        exponent += 2 * (num_matches - rank) + alone + 1
        group /= exponent
    return float(num_captions) ** -num_matches, float(num_media) ** -num_matches, group


def first_best_scores(scores: ArrayLike) -> GroupScores:
    """CLIP_benchmark's rule: the i-th picture belongs to the i-th caption, and of equal scores the first is the best.

    So ties favour low indices; with one picture `image` is always right (LAION-AI/CLIP_benchmark at 48de38c168,
    metrics/image_caption_selection.py).

    Args:
        scores: (N, M, T) finite similarities.
    """
    values = np.asarray(scores, dtype=np.float64)
    expected = np.arange(min(values.shape[1:]))
    own = np.full(values.shape[:2], -1)
    own[:, : len(expected)] = expected
    _check(values, own)
    text: NDArray[np.bool_] = (values.argmax(axis=2)[:, : len(expected)] == expected).all(axis=1)
    image: NDArray[np.bool_] = (values.argmax(axis=1)[:, : len(expected)] == expected).all(axis=1)
    return GroupScores(text, image, text & image, group_scores(values, own).ties)


def _check(values: NDArray[np.float64], own: NDArray[np.intp]) -> None:
    if values.ndim != 3 or 0 in values.shape or own.shape != values.shape[:2]:
        raise EvaluationError(
            f"expected scores (N, M, T) with a match for each of (N, M); got shapes {values.shape} and {own.shape}"
        )
    if not np.isfinite(values).all():
        raise EvaluationError(f"{int((~np.isfinite(values)).sum())} of {values.size} scores are NaN or infinite")
    num_captions = values.shape[2]
    taken = (own[:, :, None] == np.arange(num_captions)).sum(axis=1)
    if own.min() < -1 or own.max() >= num_captions or taken.max() > 1 or (taken.sum(axis=1) == 0).any():
        raise EvaluationError(
            f"matches must give each picture a column below {num_captions} or -1, no column twice, and one at least "
            "in each group"
        )
