"""Other frames, or the same in another order: what a model that sees time must notice.

The conditions of the probe battery (after the single-frame study of arXiv 2206.03428):

- ``all``: the frames as they are.
- ``middle``: the frame at T // 2 alone; ``random``: one frame drawn at random. Both leave a clip of one frame, or, with
  `keep_length` for models that take T frames only, that frame T times.
- ``reversed``: the last frame first; ``shuffled``: an order drawn at random among all T! ones.
- ``repeated``: the middle frame T times, so that a model that needs T frames gets them.
- ``black``: T frames of zeros.

Draws depend on the seed, the condition and the clip's id, not on its row: the order of clips changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import EvaluationError
from vlmvid.registry import nearest

ALL, MIDDLE, RANDOM, REVERSED, SHUFFLED, REPEATED, BLACK = CONDITIONS = (
    "all",
    "middle",
    "random",
    "reversed",
    "shuffled",
    "repeated",
    "black",
)
SEEDED = (RANDOM, SHUFFLED)

Scalar = TypeVar("Scalar", bound=np.generic)


def is_exact_on_features(condition: str) -> bool:
    """Whether the condition may be applied to per-frame features instead of frames.

    It may where every frame is encoded by itself: choosing and ordering frames commutes with encoding them. Black
    frames have features of their own, and an encoder that sees several frames at once has to see the changed clip.
    """
    return _known(condition) != BLACK


def frame_indices(
    condition: str, num_frames: int, clip_id: str, seed: int, *, keep_length: bool = False
) -> NDArray[np.intp]:
    """Which of `num_frames` frames the condition shows, in its order: (T,) or, for single frames, (1,).

    With `keep_length` single frames are shown T times too, which makes ``middle`` the same as ``repeated``.

    Raises:
        EvaluationError: an unknown condition, ``black``, which shows none of them, or a clip without frames.
    """
    if num_frames < 1:
        raise EvaluationError(f"clip {clip_id!r} has {num_frames} frames; a condition needs at least one")
    if _known(condition) == BLACK:
        raise EvaluationError("black frames are no choice among the frames; use condition_frames")
    order, times = np.arange(num_frames), num_frames if keep_length else 1
    if condition in (MIDDLE, REPEATED):
        return np.full(num_frames if condition == REPEATED else times, num_frames // 2)
    if condition == REVERSED:
        return order[::-1].copy()
    if condition == ALL:
        return order
    drawn = np.random.default_rng(_entropy(condition, clip_id, seed))
    return drawn.integers(0, num_frames, 1).repeat(times) if condition == RANDOM else drawn.permutation(num_frames)


def condition_frames(
    frames: NDArray[Scalar], condition: str, clip_id: str, seed: int, *, keep_length: bool = False
) -> NDArray[Scalar]:
    """The frames (T, C, H, W) of one clip under a condition, of the same dtype; (1, C, H, W) for single frames."""
    if _known(condition) == BLACK:
        return np.zeros_like(frames)
    return frames[frame_indices(condition, len(frames), clip_id, seed, keep_length=keep_length)]


def condition_features(
    features: NDArray[Scalar], condition: str, clip_ids: Sequence[str], seed: int, *, keep_length: bool = False
) -> NDArray[Scalar]:
    """The per-frame features (N, T, ...) of clips under a condition; (N, 1, ...) for single frames.

    Raises:
        EvaluationError: not one id for each clip, or a condition that is not exact on features.
    """
    if features.ndim < 2 or len(clip_ids) != len(features):
        raise EvaluationError(
            f"expected features (N, T, ...) with one id for each clip; got {features.shape} and {len(clip_ids)} ids"
        )
    if not is_exact_on_features(condition):
        raise EvaluationError(f"the condition {condition!r} needs frames: encode the clips again under it")
    num_frames = features.shape[1]
    if not clip_ids:
        return features
    orders = np.stack(
        [frame_indices(condition, num_frames, clip_id, seed, keep_length=keep_length) for clip_id in clip_ids]
    )
    shape = (*orders.shape, *[1] * (features.ndim - 2))
    taken: NDArray[Any] = np.take_along_axis(features, orders.reshape(shape), axis=1)
    return taken


def _known(condition: str) -> str:
    if condition not in CONDITIONS:
        raise EvaluationError(
            f"unknown condition of the frames {condition!r}{nearest(condition, list(CONDITIONS))}; known: "
            f"{', '.join(CONDITIONS)}"
        )
    return condition


def _entropy(condition: str, clip_id: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{condition}\0{clip_id}".encode()).digest(), "big")
