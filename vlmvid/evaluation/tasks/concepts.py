"""Concept frequency: which words of the evaluated captions did training ever name (survey arXiv 2405.17247, 4.2.4)?"""

from __future__ import annotations

from dataclasses import replace

from vlmvid.config.schema import EvaluateConfig
from vlmvid.evaluation.base import EvaluationData, TaskResult, missing_input
from vlmvid.evaluation.concepts import audit_result, concept_audit


def run(data: EvaluationData, config: EvaluateConfig) -> TaskResult:
    """The share of concepts that some training caption names, and how alike the frequencies of both splits are.

    Concepts are those of ``concepts.vocabulary``, else the most frequent words of the evaluated captions. A model that
    fails on captions whose words it was never told fails for want of data, not of alignment.
    """
    captions = [caption for clip in data.clips for caption in clip.captions]
    if not captions or not data.training_captions:
        raise missing_input("concepts", f"captions in split 'train' and in split {config.split!r}")
    options = config.concepts
    uses = concept_audit(data.training_captions, captions, options.vocabulary or None, options.num_words)
    result = audit_result(data.training_captions, uses, seed=config.seed, num_bootstrap=config.num_bootstrap)
    chosen = "a given vocabulary" if options.vocabulary else f"the {options.num_words} most frequent words at most"
    return replace(result, protocol=f"concepts of split {config.split!r}, {chosen}: {result.protocol}")
