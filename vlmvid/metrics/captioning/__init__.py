"""Scores of captions against reference captions: BLEU, ROUGE-L, CIDEr-D, and the tokenizers that their names carry."""

from vlmvid.metrics.captioning.bleu import BleuCounts, bleu_counts, bleu_of_table, corpus_bleu, sentence_bleu
from vlmvid.metrics.captioning.cider import cider_d
from vlmvid.metrics.captioning.rouge import rouge_l
from vlmvid.metrics.captioning.tokenizer import TOKENIZERS, pyptb

__all__ = [
    "TOKENIZERS",
    "BleuCounts",
    "bleu_counts",
    "bleu_of_table",
    "cider_d",
    "corpus_bleu",
    "pyptb",
    "rouge_l",
    "sentence_bleu",
]
