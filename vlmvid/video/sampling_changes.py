"""Where a clip changes: frame differences, scenes and the largest changes, as pure numpy maths."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The defaults of PySceneDetect's AdaptiveDetector (scenedetect.com), read on grey levels: a cut
# differs 3 times as much as the 2 frames on either side do on average, and by 15 of 255 levels.
_CUT_RATIO = 3
_CUT_WINDOW = 2
_CUT_LEVELS = 15.0
# Below one grey level on average a difference is the encoder's noise.
_CHANGE_LEVELS = 1.0


def frame_differences(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How much each frame differs from the one before: the mean absolute difference of grey levels.

    Args:
        frames: uint8 (N, 3, H, W), RGB, in order.

    Returns:
        float64 (N,) in [0, 255]; the first is 0. Grey is ITU-R BT.601 luma in integers, as Pillow's mode L.
    """
    red, green, blue = (frames[:, channel].astype(np.int32) for channel in range(3))
    grey = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    differences = np.zeros(len(frames))
    differences[1:] = np.abs(np.diff(grey, axis=0)).mean(axis=(1, 2))
    return differences


def scene_starts(differences: NDArray[np.float64]) -> NDArray[np.int64]:
    """First frame of every scene, int64 (S,), increasing from 0.

    A scene starts at a frame whose difference is at least 15 grey levels, at least 3 times the mean
    of the 2 differences on either side (fewer at the ends), and the largest of these, the earlier
    one of equals: so fast motion, where all differ, is no cut, and a flash is one cut, not two.
    Threshold, ratio and window are those of PySceneDetect's AdaptiveDetector. Fades are not found.

    Args:
        differences: float64 (N,), N >= 1, as `frame_differences` gives it.
    """
    starts = [0]
    # The first entry is no difference: nothing stands before it.
    for number in np.flatnonzero(differences[1:] >= _CUT_LEVELS) + 1:
        level = differences[number]
        before = differences[max(1, number - _CUT_WINDOW) : number]
        after = differences[number + 1 : number + 1 + _CUT_WINDOW]
        count = before.size + after.size
        if (
            level * count >= _CUT_RATIO * (before.sum() + after.sum())
            and (before < level).all()
            and (after <= level).all()
        ):
            starts.append(int(number))
    return np.array(starts, dtype=np.int64)


def scene_shares(lengths: NDArray[np.int64], num_frames: int) -> NDArray[np.int64]:
    """How many of `num_frames` each scene gives, int64 (S,), summing to `num_frames`.

    Every scene gives one frame; the others are shared in proportion to the frames that are left,
    by largest remainder. With more scenes than frames the longest scenes give one each. Ties go to
    the earlier scene. No scene gives more than it has.

    Args:
        lengths: int64 (S,), frames per scene, each at least 1, summing to at least `num_frames`.
        num_frames: at least 1.
    """
    if lengths.size >= num_frames:
        shares = np.zeros(lengths.size, dtype=np.int64)
        shares[np.argsort(-lengths, kind="stable")[:num_frames]] = 1
        return shares
    # Here sum(lengths) >= num_frames > S, so some frames are left. A quota is at most the frames
    # left in its scene, which is whole, so rounding it up stays within the scene.
    left, wanted = lengths - 1, num_frames - lengths.size
    shares, remainders = np.divmod(left * wanted, left.sum())
    shares[np.argsort(-remainders, kind="stable")[: wanted - shares.sum()]] += 1
    result: NDArray[np.int64] = shares + 1
    return result


def largest_changes(differences: NDArray[np.float64], num_frames: int) -> NDArray[np.int64]:
    """Up to `num_frames` frames that differ most from the one before, int64 (K,), increasing.

    They are taken from the largest difference down, the earlier of equals first, each at least
    max(1, N // (2 * num_frames)) frames from those already taken: half a step of the uniform grid, so
    that one burst of motion does not take all. Differences below 1 grey level do not count, so K is
    below `num_frames` where the clip changes too rarely or only in few places.

    Args:
        differences: float64 (N,), as `frame_differences` gives it.
        num_frames: from 1 to N.
    """
    # Each taken frame closes 2 * gap - 1 <= N / num_frames - 1 places, so that some stay open until all are taken.
    gap = max(1, differences.size // (2 * num_frames))
    is_open = differences >= _CHANGE_LEVELS
    taken: list[int] = []
    for number in np.argsort(-differences, kind="stable").tolist():
        if len(taken) == num_frames:
            break
        if is_open[number]:
            taken.append(number)
            is_open[max(0, number - gap + 1) : number + gap] = False
    return np.array(sorted(taken), dtype=np.int64)
