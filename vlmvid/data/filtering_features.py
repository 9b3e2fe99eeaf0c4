"""Clips by their stored features: near duplicates and balanced clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.config.filtering import ClusterBalanceConfig, NearDuplicatesConfig
from vlmvid.data.files import unit_hash
from vlmvid.data.filtering import Dropped, Outcome
from vlmvid.errors import ConfigError
from vlmvid.types import Clip

# Rows per block of a matrix product: a block of products takes 4 MiB.
_BLOCK = 1024
_MAX_ITERATIONS = 100


def unit_rows(features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Features (N, ...) as vectors (N, D + 1) of length 1, with the mean of all rows subtracted.

    The last coordinate is 1 for rows that equal the mean, which have no direction, else 0: they are alike among
    themselves and unlike all others.
    """
    flat = np.asarray(features, dtype=np.float32).reshape(len(features), -1)
    centred = flat - flat.mean(axis=0, dtype=np.float64).astype(np.float32)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    scale = float(np.sqrt(np.square(np.linalg.norm(flat, axis=1)).mean())) if len(flat) else 0.0
    is_mean = lengths <= 1e-5 * scale
    rows = np.where(is_mean, 0, centred / np.where(is_mean, 1, lengths))
    return np.concatenate([rows, is_mean], axis=1, dtype=np.float32)


def find_near(rows: NDArray[np.float32], min_cosine: float, block: int = _BLOCK) -> dict[int, tuple[int, float]]:
    """The rows to leave out: their number, the kept row nearest to them, and the cosine of both.

    Rows (N, D) of length 1 are taken in order; one that has a cosine of at least `min_cosine` with a row kept before
    it is left out. So no two kept rows are that near, and nothing is dropped by way of others. Exact: every row is
    compared with every kept one, O(N x kept x D) time and O(block^2) memory beside the rows.
    """
    kept: list[int] = []
    found: dict[int, tuple[int, float]] = {}
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        best = np.full(len(part), -np.inf, np.float32)
        nearest = np.full(len(part), -1, np.int64)
        for first in range(0, len(kept), block):
            some = np.array(kept[first : first + block])
            _take_nearer(best, nearest, part @ rows[some].T, some)
        inside = part @ part.T
        mine: list[int] = []  # rows of this block that are kept
        for number in range(len(part)):
            cosine, of = float(best[number]), int(nearest[number])
            if mine:
                other = mine[int(np.argmax(inside[number, mine]))]
                if float(inside[number, other]) > cosine:
                    cosine, of = float(inside[number, other]), start + other
            if cosine >= min_cosine:
                found[start + number] = (of, cosine)
            else:
                mine.append(number)
        kept += [start + number for number in mine]
    return found


def drop_near_duplicates(
    clips: Sequence[Clip], features: NDArray[np.floating[Any]], config: NearDuplicatesConfig
) -> Outcome:
    """The clips without those that repeat a clip of a smaller video_id; `features` are (N, T, D), row by row theirs."""
    order = sorted(range(len(clips)), key=lambda place: clips[place].video_id)
    found = find_near(unit_rows(features[order]), config.min_cosine)
    bad = {
        order[number]: Dropped(
            video_id=clips[order[number]].video_id,
            rule="near_duplicates",
            value=cosine,
            threshold=config.min_cosine,
            message=f"cosine {cosine:.4f} with {clips[order[of]].video_id!r}, which is kept, is at least "
            f"min_cosine={config.min_cosine:g}",
            related=clips[order[of]].video_id,
        )
        for number, (of, cosine) in found.items()
    }
    return _without(clips, bad)


def balance_clusters(
    clips: Sequence[Clip], features: NDArray[np.floating[Any]], config: ClusterBalanceConfig
) -> Outcome:
    """The clips, fewer of each large cluster; `features` are (N, T, D), row by row theirs.

    Raises ConfigError for more clusters than clips.
    """
    if config.num_clusters > len(clips):
        raise ConfigError(
            f"filter.cluster_balance.num_clusters={config.num_clusters} is more than the {len(clips)} clips that reach "
            "this rule; lower it to a tenth of them or less"
        )
    order = sorted(range(len(clips)), key=lambda place: clips[place].video_id)
    labels = _cluster(unit_rows(features.mean(axis=1)[order]), config)
    sizes = np.bincount(labels, minlength=config.num_clusters)
    if config.max_per_cluster is not None:
        room = np.minimum(sizes, config.max_per_cluster)
    else:
        assert config.keep_fraction is not None  # the config has one of both
        target = max(1, math.ceil(config.keep_fraction * len(clips) - 1e-9))
        room = shares(sizes, target, config.temperature)
    draw_of = unit_hash(config.seed)
    members: dict[int, list[int]] = {}
    for place, label in zip(order, labels.tolist(), strict=True):
        members.setdefault(label, []).append(place)
    bad: dict[int, Dropped] = {}
    for label, places in members.items():
        ranked = sorted(places, key=lambda place: (draw_of(clips[place].video_id), clips[place].video_id))
        for place in ranked[room[label] :]:
            bad[place] = Dropped(
                video_id=clips[place].video_id,
                rule="cluster_balance",
                value=float(sizes[label]),
                threshold=float(room[label]),
                message=f"cluster {label} has {sizes[label]} clips, of which {room[label]} are kept by lot",
            )
    return _without(clips, bad)


def shares(sizes: NDArray[np.int64], target: int, temperature: float) -> NDArray[np.int64]:
    """How many of each cluster to keep: int64 (K,), at most `sizes` each, `target` in all.

    In proportion to ``sizes ** temperature``; what a small cluster cannot fill goes to the others in the same
    proportion. Fractions go to the largest remainders, of equal ones to the first.
    """
    weights = np.where(sizes > 0, sizes.astype(np.float64) ** temperature, 0.0)
    exact = np.zeros(len(sizes))
    is_full = sizes == 0
    while not is_full.all():
        left = target - exact[is_full].sum()
        exact[~is_full] = left * weights[~is_full] / weights[~is_full].sum()
        over = ~is_full & (exact >= sizes)
        if not over.any():
            break
        exact[over] = sizes[over]
        is_full |= over
    kept = np.floor(exact + 1e-9).astype(np.int64)
    remainders = np.where(kept < sizes, exact - kept, -1.0)
    for number in np.argsort(-remainders, kind="stable")[: target - int(kept.sum())]:
        kept[number] += 1
    return kept


def _take_nearer(
    best: NDArray[np.float32], nearest: NDArray[np.int64], cosines: NDArray[np.float32], numbers: NDArray[np.int64]
) -> None:
    """Update, in place, the highest cosine of each row and whose it is."""
    place = cosines.argmax(axis=1)
    value = cosines[np.arange(len(cosines)), place]
    higher = value > best
    best[higher], nearest[higher] = value[higher], numbers[place[higher]]


def _without(clips: Sequence[Clip], bad: dict[int, Dropped]) -> Outcome:
    return Outcome(
        [clip for place, clip in enumerate(clips) if place not in bad], [bad[place] for place in sorted(bad)]
    )


def _cluster(rows: NDArray[np.float32], config: ClusterBalanceConfig) -> NDArray[np.int64]:
    """The cluster of each row, int64 (N,)."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    means = KMeans(config.num_clusters, n_init=1, max_iter=_MAX_ITERATIONS, random_state=config.seed, algorithm="lloyd")
    # Threads add their sums in the order in which they end, which moves clips between clusters.
    with threadpool_limits(1):
        return np.asarray(means.fit_predict(rows), dtype=np.int64)
