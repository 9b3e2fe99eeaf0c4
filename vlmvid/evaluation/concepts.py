"""How often the training captions name what an evaluation asks for (survey arXiv 2405.17247, 4.2.4).

A concept counts once per caption that names it. Words are runs of letters, digits and apostrophes in small letters,
and plurals are brought to the singular by the rules of `singular`, in captions and concepts alike; a concept of several
words must stand as such. This reads the texts: what is in a picture without being named is not found, and words with
two meanings are one concept.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.base import Sample, TaskResult
from vlmvid.metrics.correlation import FEWEST, correlation_result
from vlmvid.types import MetricResult

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SIBILANT = ("ches", "shes", "sses", "xes", "zes")
_NO_PLURAL = ("ss", "us", "is")
# Words that are in most captions whatever they show.
STOP_WORDS = frozenset(
    "a about above across after again against all along also am an and another any are around as at away back be "
    "because been before behind being below beside between both but by can could did do does doing down during each "
    "few for from front further get had has have having he her here hers him his how i if in inside into is it its "
    "itself just left like little many me more most much my near next no nor not now of off on once one only onto or "
    "other our out outside over own part right she side so some something such than that the their them then there "
    "these they this those three through to together too towards two under until up upon us very was we were what "
    "when where which while who whom why will with within without you your".split()
)


def words_of(text: str) -> list[str]:
    """The words of a text in order, in small letters and the singular."""
    return [singular(word) for word in _WORD.findall(text.casefold())]


def singular(word: str) -> str:
    """An English word without the ending of a regular plural or a possessive: dogs, boxes, cities, dog's.

    Irregular plurals stay. A verb in the third person loses its ending too ("runs"); words of up to three letters and
    those in -ss, -us, -is stay as they are.
    """
    word = word.removesuffix("'s").removesuffix("’s")
    if len(word) <= 3 or word.endswith(_NO_PLURAL):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(_SIBILANT):
        return word[:-2]
    return word[:-1] if word.endswith("s") else word


def concept_counts(captions: Iterable[str], vocabulary: Sequence[str]) -> dict[str, int]:
    """For each concept the number of captions that name it.

    Raises EvaluationError for a concept without a word. Concepts that the rules bring to the same words share their
    count.
    """
    wanted: dict[tuple[str, ...], list[str]] = {}
    for concept in vocabulary:
        key = tuple(words_of(concept))
        if not key:
            raise EvaluationError(f"the concept {concept!r} holds no word; take it out of the vocabulary")
        wanted.setdefault(key, []).append(concept)
    lengths = sorted({len(key) for key in wanted})
    found: Counter[tuple[str, ...]] = Counter()
    for caption in captions:
        words = words_of(caption)
        runs = {tuple(words[start : start + length]) for length in lengths for start in range(len(words) - length + 1)}
        found.update(runs & wanted.keys())
    return {concept: found[key] for key, concepts in wanted.items() for concept in concepts}


def frequent_words(captions: Iterable[str], num_words: int) -> list[str]:
    """The words that most captions hold, without `STOP_WORDS` and numbers; equally frequent ones in sorted order.

    A vocabulary for those who have none. There is no tagger in it: verbs and adjectives are among the words.
    """
    found: Counter[str] = Counter()
    for caption in captions:
        found.update({word for word in words_of(caption) if word not in STOP_WORDS and not word.isdigit()})
    ranked = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
    return [word for word, _ in ranked[:num_words]]


@dataclass(frozen=True, slots=True)
class ConceptUse:
    """How often one concept is named: captions of training, texts of the evaluation."""

    concept: str
    training: int
    evaluation: int


def concept_audit(
    training: Sequence[str], evaluation: Sequence[str], vocabulary: Sequence[str] | None = None, num_words: int = 200
) -> list[ConceptUse]:
    """The use of each concept, most frequent in the evaluation first, then by name.

    Args:
        training: the captions that the model was trained on.
        evaluation: the captions, questions or class names that it is evaluated on.
        vocabulary: the concepts; None = the `num_words` most frequent words of the evaluation.
        num_words: read without a vocabulary only.
    """
    concepts = list(dict.fromkeys(vocabulary if vocabulary is not None else frequent_words(evaluation, num_words)))
    if not concepts:
        raise EvaluationError("there is no concept to count: the vocabulary, or the evaluation's texts, are empty")
    before, after = concept_counts(training, concepts), concept_counts(evaluation, concepts)
    uses = [ConceptUse(concept, before[concept], after[concept]) for concept in concepts]
    return sorted(uses, key=lambda use: (-use.evaluation, use.concept))


def audit_result(training: Sequence[str], uses: Sequence[ConceptUse], *, seed: int, num_bootstrap: int) -> TaskResult:
    """The audit as a result: the share of concepts that training names at all, and how alike the two counts are."""
    named = np.array([use.training > 0 for use in uses])
    metrics = [
        MetricResult(name="concept_coverage", value=float(named.mean()), num_samples=len(uses)),
        *frequency_correlations(
            "concept_frequency",
            {use.concept: use.training for use in uses},
            {use.concept: float(np.log10(1 + use.evaluation)) for use in uses},
            seed=seed,
            num_bootstrap=num_bootstrap,
        ),
    ]
    samples: list[Sample] = [
        {"video_id": use.concept, "concept": use.concept, "training": use.training, "evaluation": use.evaluation}
        for use in uses
    ]
    protocol = (
        f"{len(uses)} concepts counted by captions in {len(training)} training captions and in the texts of the "
        f"evaluation, plural brought to singular; {int((~named).sum())} are never named in training; correlations are "
        "of log10(1 + count)"
    )
    return TaskResult("concepts", protocol, tuple(metrics), samples)


def frequency_correlations(
    name: str, counts: Mapping[str, int], values: Mapping[str, float], *, seed: int, num_bootstrap: int
) -> list[MetricResult]:
    """``NAME_spearman`` and ``NAME_pearson`` of `values` with log10(1 + count) over the concepts that both have.

    None of them where fewer than three concepts are left. Values that are not finite are left out.
    """
    shared = [concept for concept in counts if np.isfinite(values.get(concept, np.nan))]
    if len(shared) < FEWEST:
        return []
    frequency = log_frequency([counts[concept] for concept in shared])
    measured = [values[concept] for concept in shared]
    return [
        correlation_result(
            f"{name}_{method}", frequency, measured, method=method, num_bootstrap=num_bootstrap, seed=seed
        )
        for method in ("spearman", "pearson")
    ]


def log_frequency(counts: Sequence[int]) -> NDArray[np.float64]:
    """``log10(1 + count)`` (N,)."""
    frequency: NDArray[np.float64] = np.log10(1 + np.asarray(counts, dtype=np.float64))
    return frequency


def frequency_bin(count: int) -> str:
    """The decade of a count: ``0``, ``1-9``, ``10-99``, ..."""
    if count == 0:
        return "0"
    low = 10 ** (len(str(count)) - 1)
    return f"{low}-{10 * low - 1}"
