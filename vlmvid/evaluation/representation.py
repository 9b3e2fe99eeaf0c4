"""What frozen features say by themselves: of labels, of clusters, and of another modality's features.

Every measure reads N features (N, D) float32, one per clip. Classifiers and clusters come from scikit-learn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.config.probing import LabelsConfig
from vlmvid.errors import EvaluationError
from vlmvid.evaluation.base import Sample
from vlmvid.metrics import (
    jackknife_interval,
    knn_predictions,
    linear_cka,
    mean_result,
    mutual_knn,
    normalised_mutual_information,
    normalised_rows,
    random_hit_probability,
    silhouette,
    statistic_result,
)
from vlmvid.types import MetricResult

RECALL = "mean_recall_at_10"
_MAX_ITERATIONS = 2000
_FEWEST_FOR_CKA = 6  # the debiased one needs four, and its interval leaves some out


def label_metrics(
    features: NDArray[np.float32],
    labels: Sequence[str],
    is_train: NDArray[np.bool_],
    config: LabelsConfig,
    *,
    seeds: Sequence[int],
    num_bootstrap: int,
    seed: int,
) -> tuple[MetricResult, ...]:
    """How well features tell labels apart.

    ``knn_K_accuracy``: weighted k-NN on cosines; a K beyond the number of neighbours is left out.
    ``linear_accuracy``: logistic regression on standardised features, L2 strength 1 / ``config.inverse_l2``.
    ``nmi``: k-means with as many clusters as labels, on L2-normalised features, against the labels; the mean over
    `seeds`. ``cluster_silhouette``: of those clusters, which no label enters; ``label_silhouette``: of the labels.
    Intervals of the last three take the clusters as given.

    Args:
        features: (N, D).
        labels: (N,).
        is_train: (N,), read by the protocol ``held_out``.
        config: protocol and neighbours.
        seeds: of k-means.
        num_bootstrap: resamples of the intervals.
        seed: of folds and resampling.

    Raises:
        EvaluationError: fewer than two labels, no row to learn from or to score, or features that cannot be normalised.
    """
    names = np.asarray(labels)
    rows = normalised_rows(features, "features")
    held_out = config.protocol == "held_out"
    learnt = names[is_train] if held_out else names
    scored = names[~is_train] if held_out else names
    num_labels = len(set(learnt.tolist()))
    if num_labels < 2 or len(scored) == 0:
        raise EvaluationError(
            f"labels {config.attribute!r}: {len(learnt)} clips with {num_labels} labels to learn from and "
            f"{len(scored)} to score (protocol {config.protocol}); at least two labels and one clip are needed"
        )
    results = []
    for k in config.k:
        if k > len(learnt) - (not held_out):
            continue
        queries = rows[~is_train] if held_out else None
        gallery = rows[is_train] if held_out else rows
        predicted = knn_predictions(gallery, learnt, queries, k=k, temperature=config.temperature)
        hits = predicted == scored
        results.append(mean_result(f"knn_{k}_accuracy", hits, num_bootstrap=num_bootstrap, seed=seed))
    hits = _linear_predictions(np.asarray(features, np.float64), names, is_train, config, seed) == scored
    results.append(mean_result("linear_accuracy", hits, num_bootstrap=num_bootstrap, seed=seed))
    return (*results, *_cluster_metrics(rows, names, seeds, num_bootstrap, seed))


def pair_metrics(
    video: NDArray[np.float32], text: NDArray[np.float32], *, mutual_k: int, num_bootstrap: int, seed: int
) -> tuple[MetricResult, ...]:
    """How alike two encoders see the same N clips and captions, without training anything.

    ``cka`` and ``cka_debiased`` (see `linear_cka`), ``mutual_knn`` with its chance. `video` is (N, D), `text` (N, E).
    """
    results = []
    for name, debiased in (("cka", False), ("cka_debiased", True)):
        if len(video) < _FEWEST_FOR_CKA:
            continue

        def score(kept: NDArray[np.intp], debiased: bool = debiased) -> float:
            return linear_cka(video[kept], text[kept], debiased=debiased)

        interval = jackknife_interval(len(video), score, seed=seed)
        results.append(_result(name, score(np.arange(len(video))), len(video), interval))
    if mutual_k < len(video):
        overlap = mutual_knn(video, text, k=mutual_k)
        results.append(mean_result("mutual_knn", overlap, num_bootstrap=num_bootstrap, seed=seed))
        results.append(_result("mutual_knn/chance", mutual_k / (len(video) - 1), len(video), None))
    return tuple(results)


def retrieval_metrics(
    samples: Sequence[Sequence[Sample]], *, num_bootstrap: int, seed: int
) -> tuple[MetricResult, ...]:
    """The mean of T2V and V2T R@10 over one retrieval per training seed, with both directions and the spread of seeds.

    Args:
        samples: the sample log of the task ``retrieval`` (direction, video_id, caption, rank), one per seed.
        num_bootstrap: resamples of clips; the interval does not hold the spread of seeds.
        seed: of resampling.

    Raises:
        EvaluationError: the logs are of different queries.
    """
    queries = [[(row["direction"], row["video_id"], row["caption"]) for row in log] for log in samples]
    if not queries or not queries[0] or any(other != queries[0] for other in queries):
        raise EvaluationError("the retrievals of the seeds must hold the same queries; run them on the same split")
    hits = np.array([[float(row["rank"] or 0) <= 10 for row in log] for log in samples], dtype=np.float64)
    is_t2v = np.array([direction == "t2v" for direction, _, _ in queries[0]])
    clips = [str(video_id) for _, video_id, _ in queries[0]]
    values = np.stack([is_t2v, hits.mean(axis=0)], axis=1)
    options: dict[str, Any] = {"clusters": clips, "num_bootstrap": num_bootstrap, "seed": seed}
    by_direction = [
        statistic_result(name, values, part, **options)
        for name, part in (
            (RECALL, lambda rows: (_mean_of(rows, 1) + _mean_of(rows, 0)) / 2),
            ("t2v_r_at_10", lambda rows: _mean_of(rows, 1)),
            ("v2t_r_at_10", lambda rows: _mean_of(rows, 0)),
        )
    ]
    num_texts, num_clips = int(is_t2v.sum()), int((~is_t2v).sum())
    captions_of = Counter(clips[i] for i in np.flatnonzero(is_t2v))
    v2t_chances = [random_hit_probability(count, num_texts, 10) for count in captions_of.values()]
    chance = (random_hit_probability(1, num_clips, 10) + float(np.mean(v2t_chances))) / 2
    spread = [(log[is_t2v].mean() + log[~is_t2v].mean()) / 2 for log in hits]
    deviation = float(np.std(spread, ddof=1)) if len(spread) > 1 else float("nan")
    return (
        *by_direction,
        _result(f"{RECALL}/chance", chance, len(clips), None),
        _result(f"{RECALL}/seed_deviation", deviation, len(spread), None, higher_is_better=False),
    )


def _mean_of(rows: NDArray[np.float64], direction: int) -> float:
    found = rows[rows[:, 0] == direction, 1]
    return float(found.mean()) if len(found) else float("nan")


def _result(
    name: str, value: float, num_samples: int, interval: tuple[float, float] | None, *, higher_is_better: bool = True
) -> MetricResult:
    low, high = interval if interval is not None else (None, None)
    return MetricResult(
        name=name, value=value, num_samples=num_samples, ci_low=low, ci_high=high, higher_is_better=higher_is_better
    )


def _linear_predictions(
    features: NDArray[np.float64], labels: NDArray[Any], is_train: NDArray[np.bool_], config: LabelsConfig, seed: int
) -> NDArray[Any]:
    """Predicted labels of the scored rows, in order."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def predict(train: NDArray[np.intp], scored: NDArray[np.intp]) -> NDArray[Any]:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=config.inverse_l2, max_iter=_MAX_ITERATIONS))
        answer: NDArray[Any] = model.fit(features[train], labels[train]).predict(features[scored])
        return answer

    if config.protocol == "held_out":
        return predict(np.flatnonzero(is_train), np.flatnonzero(~is_train))
    predicted = np.empty_like(labels)
    folds = KFold(min(config.num_folds, len(labels)), shuffle=True, random_state=seed)
    for train, scored in folds.split(features):
        predicted[scored] = predict(train, scored)
    return predicted


def _cluster_metrics(
    rows: NDArray[np.float64], labels: NDArray[Any], seeds: Sequence[int], num_bootstrap: int, seed: int
) -> list[MetricResult]:
    from sklearn.cluster import KMeans

    num_clusters = min(len(set(labels.tolist())), len(np.unique(rows, axis=0)))
    clusterings = [KMeans(num_clusters, n_init=10, random_state=each).fit_predict(rows) for each in seeds]

    def nmi(kept: NDArray[np.intp]) -> float:
        return float(np.mean([normalised_mutual_information(c[kept], labels[kept]) for c in clusterings]))

    results = [_result("nmi", nmi(np.arange(len(rows))), len(rows), jackknife_interval(len(rows), nmi, seed=seed))]
    found = [silhouette(rows, clusters) for clusters in clusterings if len(set(clusters.tolist())) > 1]
    for name, values in (
        ("cluster_silhouette", np.mean(found, axis=0) if found else None),
        ("label_silhouette", silhouette(rows, labels)),
    ):
        if values is not None:
            results.append(mean_result(name, values, num_bootstrap=num_bootstrap, seed=seed))
    return results
