"""The principled scorer of retrieval, and the benchmark that its files differ from in their reading only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.base import Sample, TaskResult
from vlmvid.evaluation.benchmarks.retrieval.joined import GALLERIES, Joined, has_distractors, join
from vlmvid.evaluation.benchmarks.retrieval.matrices import read_matrices
from vlmvid.evaluation.benchmarks.retrieval.normalised import NORMALISATION_OPTIONS, normalised_counts
from vlmvid.evaluation.benchmarks.retrieval.reference import reference_scorers
from vlmvid.evaluation.retrieval_metrics import (
    NDCG_AT,
    Direction,
    Resampling,
    rank_metrics,
    recall_metrics,
    recall_sum,
    summary_metrics,
)
from vlmvid.evaluation.scoring.aggregate import count_result, labelled
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Read, Scorer, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import choose
from vlmvid.metrics.retrieval import TIES, Ties, hit_at_k
from vlmvid.metrics.retrieval_counts import BothCounts, RankCounts, Relevance
from vlmvid.metrics.retrieval_ndcg import ndcg_at_k
from vlmvid.metrics.retrieval_scores import Scores
from vlmvid.metrics.retrieval_tiles import count_both
from vlmvid.types import MetricResult

OPTIONS = {
    "ties": "pessimistic (default), expected or optimistic: what an irrelevant item with the same similarity does",
    "gallery": "references: what the files name; predictions: also what only the predictions have (distractors)",
    "recall_k": "of compat clip_benchmark: its --recall_k, such as 1,5,10; 5 (default)",
    **NORMALISATION_OPTIONS,
}


class Dataset(NamedTuple):
    """What the files of a retrieval benchmark are; `defaults` are the values that options have where none is given."""

    name: str
    title: str
    source: str
    files: tuple[AnnotationFile, ...]
    read: Read
    options: Mapping[str, str] = {}
    gallery: str = GALLERIES[0]
    defaults: Mapping[str, str] = {}


def retrieval_benchmark(dataset: Dataset) -> Benchmark:
    """The benchmark of a dataset; all share scorers and the form of predictions."""
    return Benchmark(
        name=dataset.name,
        title=dataset.title,
        kind="retrieval",
        source=dataset.source,
        files=dataset.files,
        read=dataset.read,
        score=retrieval_scorer(dataset),
        compat=reference_scorers(dataset.name, dataset.gallery),
        options={**dataset.options, **OPTIONS},
        read_predictions=read_matrices,
    )


def retrieval_scorer(dataset: Dataset) -> Scorer:
    """Recall, ranks, nDCG and their baselines in both directions, ties as the option `ties` says."""

    def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
        ties = cast(Ties, choose(settings.options, "ties", TIES))
        distractors = has_distractors(settings, dataset.gallery)
        joined = join(items, predictions, distractors=distractors)
        counts = count_both(joined.scores, joined.found())
        sides = _sides(joined, items, joined.full(counts), ties, counts)
        metrics = _metrics(sides, settings)
        metrics += _baselines(sides, items, settings, distractors)
        for label, scaled in normalised_counts(joined, settings.options):
            extra = _sides(joined, items, joined.full(scaled), ties, None)
            metrics += [replace(metric, name=f"{metric.name}[{label}]") for metric in _metrics(extra, settings)]
        metrics += _counts(joined, items, sides, counts)
        if ties != TIES[0]:
            metrics = [replace(metric, name=f"{metric.name}[ties={ties}]") for metric in metrics]
        return TaskResult(
            task=dataset.name,
            protocol=_protocol(dataset, joined, sides, settings),
            metrics=labelled(metrics, settings),
            samples=_samples(joined, items, sides),
        )

    return score


class _Sides(NamedTuple):
    """Both directions, with which of their queries are missing."""

    t2v: Direction
    v2t: Direction
    groups: Direction | None
    missing: dict[str, NDArray[np.bool_]]

    def kept(self, settings: ScoreSettings) -> _Sides:
        """All queries, or those that are there."""
        if settings.missing != "skip":
            return self
        return _Sides(
            _part(self.t2v, ~self.missing["t2v"]),
            _part(self.v2t, ~self.missing["v2t"]),
            None if self.groups is None else _part(self.groups, ~self.missing["v2t"]),
            {name: np.zeros(int((~lost).sum()), dtype=np.bool_) for name, lost in self.missing.items()},
        )


def _part(side: Direction, kept: NDArray[np.bool_]) -> Direction:
    clusters = [name for name, keep in zip(side.clusters, kept, strict=True) if keep]
    ndcg = None if side.ndcg is None else side.ndcg[kept]
    return replace(side, counts=side.counts.taken(kept), clusters=clusters, ndcg=ndcg)


def _sides(joined: Joined, items: Sequence[Item], full: BothCounts, ties: Ties, found: BothCounts | None) -> _Sides:
    asked = full.v2t.num_relevant > 0
    owners = [item.video_id for item in items]
    videos = [name for name, keep in zip(joined.video_ids, asked, strict=True) if keep]
    t2v_ndcg = v2t_ndcg = None
    if found is not None:
        pairs = joined.found()
        scores: Scores = joined.scores
        t2v_ndcg = _ndcg(scores, pairs, found.t2v, full.t2v, joined.text_rows, ties)[: len(items)]
        flipped, mirrored = scores.transposed(), pairs.transposed()
        v2t_ndcg = _ndcg(flipped, mirrored, found.v2t, full.v2t, joined.video_columns, ties)[asked]
    several = full.v2t_groups is not None and bool((full.v2t.num_relevant > 1).any())
    missing = {"t2v": np.isnan(full.t2v.best)[: len(items)], "v2t": np.isnan(full.v2t.best)[asked]}
    return _Sides(
        Direction("t2v", full.t2v.taken(np.arange(len(items))), owners, ties, t2v_ndcg),
        Direction("v2t", full.v2t.taken(asked), videos, ties, v2t_ndcg),
        Direction("v2t_group", full.v2t_groups.taken(asked), videos, ties)
        if several and full.v2t_groups is not None
        else None,
        missing,
    )


def _ndcg(
    scores: Scores,
    pairs: Relevance,
    found: RankCounts,
    full: RankCounts,
    place: NDArray[np.intp],
    ties: Ties,
) -> NDArray[np.float64]:
    """nDCG of all queries; a relevant item that is missing has no gain, and still counts in the best order."""
    best = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, NDCG_AT + 2)))])
    values = np.zeros(len(place))
    values[place >= 0] = ndcg_at_k(scores, pairs, found, NDCG_AT, ties) * best[np.minimum(found.num_relevant, NDCG_AT)]
    whole = best[np.minimum(full.num_relevant, NDCG_AT)]
    return np.asarray(np.divide(values, whole, out=np.zeros_like(values), where=whole > 0))


def _metrics(sides: _Sides, settings: ScoreSettings) -> list[MetricResult]:
    how = Resampling(settings.seed, settings.num_bootstrap)
    kept = sides.kept(settings)
    for side in (kept.t2v, kept.v2t):
        if len(side.clusters) == 0:
            raise EvaluationError(f"no query of {side.prefix} has a prediction; nothing is left to score")
    metrics: list[MetricResult] = []
    for side in (kept.t2v, kept.v2t):
        metrics += recall_metrics(side, how) + rank_metrics(side, how) + summary_metrics(side, how)
    if kept.groups is not None:
        metrics += recall_metrics(kept.groups, how) + rank_metrics(kept.groups, how)
    return [*metrics, recall_sum([kept.t2v, kept.v2t])]


def _baselines(sides: _Sides, items: Sequence[Item], settings: ScoreSettings, distractors: bool) -> list[MetricResult]:
    """R@1 of a model whose similarities are all equal, and of the predictions made without the video."""
    how = Resampling(settings.seed, settings.num_bootstrap)
    kept = sides.kept(settings)
    metrics = []
    for side in (kept.t2v, kept.v2t):
        relevant = side.counts.num_relevant
        constant = replace(
            side.counts,
            better=np.zeros_like(relevant),
            tied_irrelevant=side.counts.num_items - relevant,
            tied_relevant=relevant,
        )
        name = f"{side.prefix}_r_at_1/constant"
        value = float(hit_at_k(constant, 1, side.ties).mean())
        metrics.append(MetricResult(name=name, value=value, num_samples=len(relevant)))
    if settings.blind is not None:
        joined = join(items, settings.blind, distractors=distractors)
        counts = joined.full(count_both(joined.scores, joined.found()))
        blind = _sides(joined, items, counts, sides.t2v.ties, None).kept(settings)
        metrics += [side.recall(f"{side.prefix}_r_at_1/blind", 1, how) for side in (blind.t2v, blind.v2t)]
    return metrics


def _counts(joined: Joined, items: Sequence[Item], sides: _Sides, counts: BothCounts) -> list[MetricResult]:
    scored = len(items) - int(sides.missing["t2v"].sum())
    numbers = {
        "n_total": len(items),
        "n_scored": scored,
        "n_videos": len(joined.video_ids),
        "n_texts": len(joined.text_ids),
        "n_infinite": counts.num_infinite,
    }
    return [count_result(name, value, len(items), name != "n_infinite") for name, value in numbers.items()]


def _protocol(dataset: Dataset, joined: Joined, sides: _Sides, settings: ScoreSettings) -> str:
    chosen = {
        **dataset.defaults,
        **{name: settings.options[name] for name in dataset.options if name in settings.options},
    }
    named = [f"{name} {value}" for name, value in sorted(chosen.items()) if name not in OPTIONS]
    rule = "left out" if settings.missing == "skip" else "ranked last"
    words = [
        dataset.title + (f" ({', '.join(named)})" if named else ""),
        f"T2V ranks {len(joined.video_ids)} videos for each of {len(sides.t2v.clusters)} texts by its best correct "
        "video",
        f"V2T ranks {len(joined.text_ids)} texts for each of "
        f"{len(sides.v2t.clusters)} videos by its best own text"
        + ("; v2t_group ranks the videos' sets of texts by their best text" if sides.groups is not None else ""),
        f"ties {sides.t2v.ties}",
        "no re-ranking"
        if settings.options.get("inference_normalisation", "none") == "none"
        else "metrics in brackets use other queries of the test or a bank of captions",
        *joined.words(rule),
        "intervals clustered by video",
    ]
    return "; ".join(words)


def _samples(joined: Joined, items: Sequence[Item], sides: _Sides) -> list[Sample]:
    rows: list[Sample] = []
    ids = {"t2v": [item.item_id for item in items], "v2t": list(sides.v2t.clusters)}
    for side in (sides.t2v, sides.v2t):
        rank, hits, lost = side.rank, side.hits(1), sides.missing[side.prefix]
        for row, name in enumerate(ids[side.prefix]):
            rows.append(
                {
                    "item_id": name,
                    "video_id": side.clusters[row],
                    "status": "missing" if lost[row] else "parsed",
                    "direction": side.prefix,
                    "rank": float(rank[row]),
                    "score": float(hits[row]),
                    "tied": bool(side.counts.tied_irrelevant[row] > 0),
                }
            )
    return rows
