"""Metrics as pure numpy functions; rates are in [0, 1]."""

from vlmvid.metrics.bias import GroupGap, count_cut_ties, group_gap, max_skew_at_k, ndkl, rank_order, skew_at_k
from vlmvid.metrics.hallucination import YesNoScores, f1_result, yes_no_scores
from vlmvid.metrics.retrieval import count_ties, mean_rank, median_rank, random_hit_probability, ranks, recall_at_k
from vlmvid.metrics.stats import (
    bootstrap_interval,
    chance_result,
    clustered_stderr,
    guess_interval,
    mean_result,
    newcombe_interval,
    proportion_interval,
    statistic_result,
    wilson_interval,
)
from vlmvid.metrics.vqa import accuracy_by_group, choice_accuracy, choice_correct

__all__ = [
    "GroupGap",
    "YesNoScores",
    "accuracy_by_group",
    "bootstrap_interval",
    "chance_result",
    "choice_accuracy",
    "choice_correct",
    "clustered_stderr",
    "count_cut_ties",
    "count_ties",
    "f1_result",
    "group_gap",
    "guess_interval",
    "max_skew_at_k",
    "mean_rank",
    "mean_result",
    "median_rank",
    "ndkl",
    "newcombe_interval",
    "proportion_interval",
    "random_hit_probability",
    "rank_order",
    "ranks",
    "recall_at_k",
    "skew_at_k",
    "statistic_result",
    "wilson_interval",
    "yes_no_scores",
]
