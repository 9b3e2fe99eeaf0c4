"""Metrics as pure numpy functions; rates are in [0, 1]."""

from vlmvid.metrics.anls import anls_score, levenshtein
from vlmvid.metrics.bias import GroupGap, count_cut_ties, group_gap, max_skew_at_k, ndkl, rank_order, skew_at_k
from vlmvid.metrics.cka import linear_cka
from vlmvid.metrics.clusters import normalised_mutual_information, silhouette
from vlmvid.metrics.correlation import correlation_result, has_high_leverage, leverage, pearson, spearman
from vlmvid.metrics.hallucination import (
    YesNoScores,
    f1_result,
    macro_rate_result,
    matthews_correlation,
    yes_no_scores,
)
from vlmvid.metrics.neighbours import knn_predictions, mutual_knn, normalised_rows
from vlmvid.metrics.rates import PairedComparison, mcnemar_p, paired_comparison, rate_result
from vlmvid.metrics.retrieval import (
    count_ties,
    hit_at_k,
    mean_rank,
    median_rank,
    random_hit_probability,
    rank_of,
    ranks,
    recall_at_k,
)
from vlmvid.metrics.retrieval_counts import BothCounts, RankCounts, Relevance
from vlmvid.metrics.retrieval_ndcg import ndcg_at_k
from vlmvid.metrics.retrieval_scores import EmbeddingScores, MatrixScores
from vlmvid.metrics.retrieval_tiles import count_both, count_rows
from vlmvid.metrics.selective import RiskCoverage, selective_results
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
from vlmvid.metrics.vqa_text import TokenOverlap, token_overlap, vqa_accuracy
from vlmvid.metrics.wups import wups_score

__all__ = [
    "BothCounts",
    "EmbeddingScores",
    "GroupGap",
    "MatrixScores",
    "PairedComparison",
    "RankCounts",
    "Relevance",
    "RiskCoverage",
    "TokenOverlap",
    "YesNoScores",
    "accuracy_by_group",
    "anls_score",
    "bootstrap_interval",
    "chance_result",
    "choice_accuracy",
    "choice_correct",
    "clustered_stderr",
    "correlation_result",
    "count_both",
    "count_cut_ties",
    "count_rows",
    "count_ties",
    "f1_result",
    "group_gap",
    "guess_interval",
    "has_high_leverage",
    "hit_at_k",
    "jackknife_interval",
    "knn_predictions",
    "levenshtein",
    "leverage",
    "linear_cka",
    "macro_rate_result",
    "matthews_correlation",
    "max_skew_at_k",
    "mcnemar_p",
    "mean_rank",
    "mean_result",
    "median_rank",
    "mutual_knn",
    "ndcg_at_k",
    "ndkl",
    "newcombe_interval",
    "normalised_mutual_information",
    "normalised_rows",
    "paired_comparison",
    "pearson",
    "proportion_interval",
    "random_hit_probability",
    "rank_of",
    "rank_order",
    "ranks",
    "rate_result",
    "recall_at_k",
    "selective_results",
    "silhouette",
    "skew_at_k",
    "spearman",
    "statistic_result",
    "token_overlap",
    "vqa_accuracy",
    "wilson_interval",
    "wups_score",
    "yes_no_scores",
]
