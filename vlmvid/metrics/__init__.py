"""Metrics as pure numpy functions; rates are in [0, 1]."""

from vlmvid.metrics.bias import GroupGap, count_cut_ties, group_gap, max_skew_at_k, ndkl, rank_order, skew_at_k
from vlmvid.metrics.cka import linear_cka
from vlmvid.metrics.clusters import normalised_mutual_information, silhouette
from vlmvid.metrics.correlation import correlation_result, has_high_leverage, leverage, pearson, spearman
from vlmvid.metrics.hallucination import YesNoScores, f1_result, yes_no_scores
from vlmvid.metrics.neighbours import knn_predictions, mutual_knn, normalised_rows
from vlmvid.metrics.rates import PairedComparison, mcnemar_p, paired_comparison, rate_result
from vlmvid.metrics.retrieval import count_ties, mean_rank, median_rank, random_hit_probability, ranks, recall_at_k
from vlmvid.metrics.stats import (
    bootstrap_interval,
    chance_result,
    clustered_stderr,
    guess_interval,
    jackknife_interval,
    mean_result,
    newcombe_interval,
    proportion_interval,
    statistic_result,
    wilson_interval,
)
from vlmvid.metrics.vqa import accuracy_by_group, choice_accuracy, choice_correct

__all__ = [
    "GroupGap",
    "PairedComparison",
    "YesNoScores",
    "accuracy_by_group",
    "bootstrap_interval",
    "chance_result",
    "choice_accuracy",
    "choice_correct",
    "clustered_stderr",
    "correlation_result",
    "count_cut_ties",
    "count_ties",
    "f1_result",
    "group_gap",
    "guess_interval",
    "has_high_leverage",
    "jackknife_interval",
    "knn_predictions",
    "leverage",
    "linear_cka",
    "max_skew_at_k",
    "mcnemar_p",
    "mean_rank",
    "mean_result",
    "median_rank",
    "mutual_knn",
    "ndkl",
    "newcombe_interval",
    "normalised_mutual_information",
    "normalised_rows",
    "paired_comparison",
    "pearson",
    "proportion_interval",
    "random_hit_probability",
    "rank_order",
    "ranks",
    "rate_result",
    "recall_at_k",
    "silhouette",
    "skew_at_k",
    "spearman",
    "statistic_result",
    "wilson_interval",
    "yes_no_scores",
]
