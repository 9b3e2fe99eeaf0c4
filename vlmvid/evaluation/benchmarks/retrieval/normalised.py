"""Dual softmax and QB-Norm beside the plain numbers, where asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.benchmarks.retrieval.joined import Joined
from vlmvid.evaluation.scoring.reading import choose
from vlmvid.metrics.retrieval_counts import BothCounts
from vlmvid.metrics.retrieval_extras import dual_softmax, qb_norm
from vlmvid.metrics.retrieval_tiles import count_both, count_rows

NORMALISATION_OPTIONS = {
    "inference_normalisation": "none (default), dsl or qbnorm, whose numbers come in brackets beside the plain ones",
    "temperature": "of dsl: similarities are divided by it before the softmax over the queries; 0.01",
    "beta": "of qbnorm: 20",
    "bank_k": "of qbnorm: best videos of each caption of the bank; 1",
}


def normalised_counts(joined: Joined, options: Mapping[str, str]) -> list[tuple[str, BothCounts]]:
    """(label with all parameters, counts) of the normalisation that is asked for; none by default.

    QB-Norm is defined for text queries: its V2T numbers are the plain ones.

    Raises:
        EvaluationError: QB-Norm without a bank, or a parameter that is no number.
    """
    kind = choose(options, "inference_normalisation", ("none", "dsl", "qbnorm"))
    if kind == "none":
        return []
    pairs = joined.found()
    if kind == "dsl":
        temperature = _number(options, "temperature", 0.01)
        text = count_rows(dual_softmax(joined.scores, temperature), pairs)
        video = count_rows(dual_softmax(joined.scores.transposed(), temperature), pairs.transposed())
        return [(f"dsl,temperature={temperature:g}", BothCounts(text, video, None, 0))]
    if joined.bank is None:
        raise EvaluationError(
            "inference_normalisation=qbnorm needs the similarities of a bank of training captions with the same "
            "videos: bank_similarity (captions x videos), or bank_embeds beside video_embeds"
        )
    beta, k = _number(options, "beta", 20.0), int(_number(options, "bank_k", 1))
    plain = count_both(joined.scores, pairs, top=True)
    top = plain.t2v.top
    if top is None:
        raise EvaluationError("the best video of each text was not found")
    text = count_rows(qb_norm(joined.scores, joined.bank, top, beta=beta, k=k), pairs)
    label = f"qbnorm,beta={beta:g},k={k},bank={joined.bank.shape[0]}"
    return [(label, replace(plain, t2v=text, v2t_groups=None))]


def _number(options: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(options.get(name, default))
    except ValueError:
        raise EvaluationError(f"option {name}={options[name]!r} is no number") from None
