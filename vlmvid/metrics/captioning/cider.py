"""CIDEr-D, the "CIDEr" of COCO's tables (arXiv 1411.5726; salaniz/pycocoevalcap at ad63453cfa, cider)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlmvid.metrics.captioning.ngrams import MAX_N, NgramCounts, caption_lengths, count_ngrams, repeat_captions
from vlmvid.metrics.captioning.texts import check_texts

SIGMA = 6.0


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """CIDEr-D (N,) of each item, in [0, 10]; the score of a set is their mean, tables show a hundred times that.

    For n = 1 to 4: the cosine of tf-idf vectors, in which a candidate's weight counts at most as much as the
    reference's, times exp(-d^2 / 72), where d is the difference in the number of bigrams. Mean over n and references,
    times 10. tf is the raw count; idf is log(N) - log(max(1, df)), df the number of items one of whose references has
    the n-gram. So an item's score depends on which items are in the set, and a set of one item scores 0, as log(1) is.
    Nothing is stemmed, unlike in the paper. Raises EvaluationError where an item has no reference.
    """
    check_texts(candidates, references)
    texts, owner, places = repeat_captions(candidates, references)
    num = len(candidates)
    bigrams = np.maximum(0, caption_lengths(texts) - 1)
    distance = (bigrams[owner] - bigrams[places]).astype(np.float64)
    penalty = np.exp(-(distance**2) / (2 * SIGMA**2))
    item = np.concatenate([np.arange(num), owner])
    total = np.zeros(len(owner))
    for counts in count_ngrams(texts):
        total += _cosines(counts, item, num)
    by_item = np.bincount(owner, weights=total * penalty, minlength=num)
    result: NDArray[np.float64] = 10 * by_item / MAX_N / np.bincount(owner, minlength=num)
    return result


def _cosines(counts: NgramCounts, item: NDArray[np.int64], num: int) -> NDArray[np.float64]:
    """The clipped cosine (R,) of each reference with its item's candidate, for n-grams of one length."""
    is_candidate = counts.caption < num
    key = item[counts.caption] * counts.num_grams + counts.gram
    # np.unique hashes here, and is ten times slower than a sort of such keys.
    ordered = np.sort(key[~is_candidate])
    first = np.ones(len(ordered), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    document_frequency = np.bincount(ordered[first] % counts.num_grams, minlength=counts.num_grams)
    idf = np.log(num) - np.log(np.maximum(1.0, document_frequency))
    weight = counts.count * idf[counts.gram]
    norm = np.sqrt(np.bincount(counts.caption, weights=weight**2, minlength=len(item)))
    # Candidates come first and each holds an n-gram once, so their keys are sorted and unique.
    own, own_weight = key[is_candidate], weight[is_candidate]
    place = np.searchsorted(own, key[~is_candidate])
    inside = place < len(own)
    shared = np.zeros(len(place), dtype=bool)
    shared[inside] = own[place[inside]] == key[~is_candidate][inside]
    theirs = weight[~is_candidate][shared]
    products = np.minimum(own_weight[place[shared]], theirs) * theirs
    dots = np.bincount(counts.caption[~is_candidate][shared] - num, weights=products, minlength=len(item) - num)
    scale = norm[item[num:]] * norm[num:]
    cosines = np.zeros(len(scale))
    np.divide(dots, scale, out=cosines, where=scale > 0)
    return cosines
