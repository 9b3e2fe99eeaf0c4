"""Who stands in the first k places: skew, NDKL and Bias@k of ranked lists, on the user's own group labels.

References name the group of each clip; predictions rank clips for each query, as lists of ids, as scores by id, or as
an ``.npz`` with ``similarity`` (queries x clips), ``text_ids`` and ``video_ids``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import ConfigError, DatasetError, EvaluationError
from vlmvid.evaluation.base import Sample, TaskResult
from vlmvid.evaluation.benchmarks.bias.compat import COMPAT, Rankings
from vlmvid.evaluation.benchmarks.bias.shared import (
    MIN_GROUP,
    OWN,
    group_words,
    hashed_order,
    read_rows,
    refuse_skip,
    slugs_of,
    whole_number,
)
from vlmvid.evaluation.scoring.arrays import read_arrays
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions, read_document
from vlmvid.evaluation.scoring.reading import choose, unique_items
from vlmvid.metrics import count_cut_ties
from vlmvid.metrics.bias import Reference, ZeroCount
from vlmvid.metrics.bias_groups import pair_comparisons, pair_results, ranked_groups
from vlmvid.metrics.bias_ranking import RankingSpec, ranking_results

FILE = AnnotationFile("groups.*", ("video_id", "group"), OWN)


@dataclass(frozen=True)
class _Asked:
    """What the options ask for."""

    k: int
    reference: Reference
    zero_count: ZeroCount
    compared: tuple[str, str] | None
    min_group: int


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """One item per clip with its group. A column ``pair_id`` joins clips that differ in the group only."""
    rows = read_rows(path, FILE)
    empty = [row["video_id"] for row in rows if not row["group"]]
    if empty:
        raise DatasetError(
            f"{path}: {len(empty)} clips have no group, e.g. {', '.join(empty[:3])}; leave their rows out"
        )
    items = [
        Item(
            item_id=row["video_id"],
            video_id=row["video_id"],
            answer=row["group"],
            media=(Media(row["video_id"]),),
            groups={"group": row["group"]},
            extra={"pair_id": row.get("pair_id", "")},
        )
        for row in rows
    ]
    return unique_items(items, path)


def read_rankings(path: Path, items: Sequence[Item]) -> Predictions:
    """``{query: [ids, best first]}`` or ``{query: {id: score}}`` as JSON, or a similarity matrix as ``.npz``."""
    if path.suffix.lower() == ".npz":
        arrays = read_arrays(path)
        missing = {"similarity", "text_ids", "video_ids"} - arrays.keys()
        if missing:
            raise EvaluationError(
                f"{path} lacks {', '.join(sorted(missing))}; it holds {', '.join(arrays) or 'nothing'}"
            )
        similarity, texts = arrays["similarity"], [str(name) for name in arrays["text_ids"]]
        videos = tuple(str(name) for name in arrays["video_ids"])
        if similarity.shape != (len(texts), len(videos)):
            raise EvaluationError(f"{path}: similarity {similarity.shape}; expected ({len(texts)}, {len(videos)})")
        return Predictions({name: (videos, row) for name, row in zip(texts, similarity, strict=True)}, str(path))
    document = read_document(path)
    if not isinstance(document, dict) or not document:
        raise EvaluationError(f"{path}: expected a JSON object with the ranked clips of each query")
    return Predictions({str(name): value for name, value in document.items()}, str(path))


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """MaxSkew, MinSkew, NDKL, every group's skew and count, Bias@k of two groups, and paired clips.

    Groups of fewer than `min_group` clips have a skew and are not the most skewed. Clips that tie are ordered by a hash
    of their ids. Clips with a pair id are compared by their place, 1 first and 0 last, averaged over queries.

    Raises EvaluationError for lists shorter than k, repeated clips, groups that do not fit the options, or missing
    clips that are to be skipped: a clip that is not listed stands behind all that are.
    """
    _refuse_skip(settings)
    gallery = sorted(items, key=lambda item: item.item_id)
    groups = [str(item.answer) for item in gallery]
    asked = _asked(settings.options, groups)
    rankings = _rankings(gallery, predictions)
    orders = _orders(rankings, asked.k)
    slugs = slugs_of(groups)
    spec = RankingSpec(
        k=asked.k,
        reference=asked.reference,
        zero_count=asked.zero_count,
        eligible=ranked_groups(groups, asked.min_group),
        compared=asked.compared,
        label=f"[zero={asked.zero_count}]",
        num_bootstrap=settings.num_bootstrap,
        seed=settings.seed,
    )
    metrics, measured = ranking_results(orders, groups, [slugs[name] for name in sorted(slugs)], spec)
    places = _places(orders, len(gallery))
    pairs = [item.extra["pair_id"] or None for item in gallery]
    if any(pairs):
        compared = pair_comparisons(places, groups, pairs, seed=settings.seed, num_bootstrap=settings.num_bootstrap)
        metrics += pair_results("place", compared, slugs)
    num_tied = sum(scores is not None and count_cut_ties(scores, asked.k) > 0 for scores in rankings.scores)
    protocol = (
        f"ranking bias: {len(orders)} queries rank {len(gallery)} clips, {orders.shape[1]} places are read; "
        f"reference shares {settings.options.get('reference', 'dataset')}, absent groups by the rule "
        f"{asked.zero_count}; {group_words(groups, asked.min_group)}; {num_tied} queries with ties across place "
        f"{asked.k}, by a hash of the ids; {rankings.num_unknown} ranked clips without a group left out; intervals "
        "over queries, chance from permuted labels"
    )
    among = [name in (spec.eligible or ()) for name in sorted(slugs)]
    extremes = measured.skews[:, among].max(axis=1) if sum(among) >= 2 else measured.ndkl
    samples = _samples(gallery, places, rankings.queries, extremes)
    return TaskResult("ranking_bias", protocol, tuple(metrics), samples)


def _refuse_skip(settings: ScoreSettings) -> None:
    refuse_skip(settings, "ranking_bias", "a clip that no list has stands last; take its row out of the groups")


def _asked(options: Mapping[str, str], groups: Sequence[str]) -> _Asked:
    names = sorted(set(groups))
    if len(names) < 2:
        raise EvaluationError(f"ranking bias needs clips of two groups or more; all are {names}")
    compared = tuple(options["compare"].split(",")) if "compare" in options else tuple(names)
    if "compare" in options and (len(compared) != 2 or not set(compared) <= set(names) or compared[0] == compared[1]):
        raise ConfigError(f"option compare={options['compare']!r} must be two of the groups {', '.join(names)}: a,b")
    return _Asked(
        k=whole_number(options, "k", 10),
        reference=_reference(options.get("reference", "dataset")),
        zero_count=cast(ZeroCount, choose(options, "zero", ("floor", "zero"))),
        compared=(compared[0], compared[1]) if len(compared) == 2 else None,
        min_group=whole_number(options, "min_group", 10),
    )


def _reference(text: str) -> Reference:
    if text == "dataset" or text == "equal":
        return cast(Reference, text)
    shares = {}
    for part in text.split(","):
        name, separator, share = part.rpartition(":")
        if not separator or not share.replace(".", "", 1).isdigit():
            raise ConfigError(f"option reference={text!r}; known: dataset, equal, or shares as GROUP:0.5,GROUP:0.5")
        shares[name] = float(share)
    return shares


def _rankings(gallery: Sequence[Item], predictions: Predictions) -> Rankings:
    place = {item.item_id: index for index, item in enumerate(gallery)}
    orders, scores, unknown = [], [], set()
    queries = sorted(predictions.values)  # a resample of the queries must not follow the file
    given = {query: _ranked(query, predictions.values[query], predictions.source) for query in queries}
    for query, (ids, numbers) in given.items():
        if len(set(ids)) < len(ids):
            raise EvaluationError(f"{predictions.source}, {query!r}: a clip is ranked more than once")
        known = [row for row, name in enumerate(ids) if name in place]
        unknown |= {name for name in ids if name not in place}
        if not known:
            raise EvaluationError(f"{predictions.source}, {query!r}: none of its {len(ids)} clips has a group")
        rows = np.array([place[ids[row]] for row in known], dtype=np.intp)
        values = None if numbers is None else numbers[known]
        if values is not None:
            rows = rows[hashed_order(values, [ids[row] for row in known])]
        orders.append(rows)
        scores.append(values)
    if not orders:
        raise EvaluationError(f"{predictions.source} holds no query")
    return Rankings(
        queries=queries,
        orders=orders,
        scores=scores,
        given=given,
        groups=[str(item.answer) for item in gallery],
        ids=[item.item_id for item in gallery],
        num_unknown=len(unknown),
    )


def _ranked(query: str, value: Any, source: str) -> tuple[Sequence[str], NDArray[np.float64] | None]:
    """The ids of a query with their scores; None = the ids are in order already."""
    if isinstance(value, list) and value and all(isinstance(name, str | int) for name in value):
        return [str(name) for name in value], None
    if isinstance(value, dict) and value:
        ids, numbers = [str(name) for name in value], list(value.values())
    elif isinstance(value, tuple) and len(value) == 2:
        ids, numbers = list(value[0]), value[1]
    else:
        raise EvaluationError(f"{source}, {query!r}: expected a list of ids or an object with their scores")
    try:
        scores = np.asarray(numbers, dtype=np.float64)
    except (OverflowError, TypeError, ValueError) as error:
        raise EvaluationError(f"{source}, {query!r}: scores must be numbers: {error}") from error
    if not np.isfinite(scores).all():
        raise EvaluationError(f"{source}, {query!r}: {int((~np.isfinite(scores)).sum())} scores are NaN or infinite")
    return ids, scores


def _orders(rankings: Rankings, k: int) -> NDArray[np.intp]:
    """The lists up to the length of the shortest."""
    depth = min(len(order) for order in rankings.orders)
    if depth < k:
        raise EvaluationError(f"a query ranks {depth} clips, and k is {k}; rank more clips or choose a smaller k")
    return np.stack([order[:depth] for order in rankings.orders])


def _places(orders: NDArray[np.intp], num_clips: int) -> NDArray[np.float64]:
    """Mean place of each clip over queries: 1 the first, 0 the last or not listed."""
    values = np.zeros((len(orders), num_clips))
    steps = 1 - np.arange(orders.shape[1]) / max(1, num_clips - 1)
    np.put_along_axis(values, orders, np.broadcast_to(steps, orders.shape), axis=1)
    return cast("NDArray[np.float64]", values.mean(axis=0))


def _samples(
    gallery: Sequence[Item], places: NDArray[np.float64], queries: Sequence[str], main: NDArray[np.float64]
) -> list[Sample]:
    """Queries with the main metric first, then clips with their mean place."""

    def row(direction: str, name: str, value: float, group: str | None) -> Sample:
        return {
            "item_id": name,
            "video_id": name,
            "status": "parsed",
            "score": float(value),
            "direction": direction,
            "group": group,
        }

    return [row("query", query, value, None) for query, value in zip(queries, main, strict=True)] + [
        row("clip", item.item_id, place, str(item.answer)) for item, place in zip(gallery, places, strict=True)
    ]


def _compat(name: str, items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    _refuse_skip(settings)
    gallery = list(items)  # in file order: that of the reference scripts
    asked = _asked(settings.options, [str(item.answer) for item in gallery])
    return COMPAT[name](_rankings(gallery, predictions), asked.k, asked.compared)


def _compat_scorer(name: str) -> Any:
    return lambda items, predictions, settings: _compat(name, items, predictions, settings)


BENCHMARK = Benchmark(
    name="ranking_bias",
    title="Group bias of ranked clips on your own labels",
    kind="ranking",
    source="arXiv 1905.01989, 2109.05433",
    files=(FILE,),
    read=read,
    score=score,
    compat={name: _compat_scorer(name) for name in COMPAT},
    options={
        "k": "the cut (default 10)",
        "reference": "shares to compare with: dataset (default), equal, or GROUP:0.5,GROUP:0.5",
        "zero": "a group absent from the first k: floor (default) counts it as 1/k, zero gives it skew 0",
        "compare": "two groups a,b for Bias@k, a minus b (default: the two, where there are two)",
        "min_group": MIN_GROUP,
    },
    read_predictions=read_rankings,
)
