"""Similarities normalised at test time: dual softmax and QB-Norm. Both see more than one query, so they are extras.

A normalised score of one query depends on the other queries of the test (dual softmax) or on a bank of training
captions (QB-Norm). A number made with them is labelled with them and stands beside the one without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import EvaluationError
from vlmvid.metrics.retrieval_scores import Index, Scores
from vlmvid.metrics.retrieval_tiles import TILE

_Transform = Callable[[NDArray[np.float64], Any, Any], NDArray[np.float64]]


class NormalisedScores:
    """Scores (Q, G) with a function over them, in float64."""

    def __init__(self, base: Scores, transform: _Transform) -> None:
        self._base, self._transform = base, transform

    @property
    def shape(self) -> tuple[int, int]:
        """(Q, G)."""
        return self._base.shape

    @property
    def exact(self) -> bool:
        """True: tiles and pairs come from similarities rounded alike."""
        return True

    def slack(self, axis: int) -> NDArray[np.float64]:
        """Zeros."""
        return np.zeros(self.shape[axis])

    def tile(self, rows: slice, columns: slice) -> NDArray[np.float64]:
        """A normalised tile."""
        values = _plain_tile(self._base, rows, columns)
        at_rows, at_columns = np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop)
        return self._transform(values, at_rows[:, None], at_columns[None, :])

    def sharp_tile(self, rows: slice, columns: slice) -> tuple[NDArray[np.float64], float]:
        """The tile itself."""
        return self.tile(rows, columns), 0.0

    def pairs(self, rows: Index, columns: Index) -> NDArray[np.float64]:
        """Normalised single pairs."""
        return self._transform(self._base.pairs(rows, columns).astype(np.float64), rows, columns)

    def taken(self, rows: Index) -> NormalisedScores:
        """The same scores with these rows; normalised as before, over all of them."""
        transform = self._transform
        return NormalisedScores(self._base.taken(rows), lambda values, r, c: transform(values, rows[r], c))

    def transposed(self) -> NormalisedScores:
        """Rows and columns exchanged."""
        transform = self._transform
        return NormalisedScores(self._base.transposed(), lambda values, r, c: transform(values, c, r))


def dual_softmax(scores: Scores, temperature: float) -> NormalisedScores:
    """CAMoE's DSL at test time: ``s * softmax(s / temperature, over the queries) * Q`` (arXiv 2109.04290, DSL.py).

    The softmax is over all queries of the test for each gallery item. The released code has ``temp=1000`` and was
    published as a training loss.

    Raises:
        EvaluationError: a temperature that is not positive.
    """
    if not temperature > 0:
        raise EvaluationError(f"the temperature of the dual softmax must be positive, got {temperature}")
    norm = _log_sum_exp(scores, 1 / temperature)
    num_queries = scores.shape[0]
    return NormalisedScores(
        scores, lambda values, rows, columns: values * np.exp(values / temperature - norm[columns]) * num_queries
    )


def qb_norm(scores: Scores, bank: Scores, top: Index, *, beta: float, k: int) -> NormalisedScores:
    """QB-Norm with the dynamic inverted softmax (arXiv 2112.12777, ioanacroi/qb-norm).

    A query whose best item is among the best `k` of any bank query is normalised: ``exp(beta s) / sum over the bank
    of exp(beta s)``, here as its logarithm over beta, which has the same order. Others keep their similarities.

    Args:
        scores: (Q, G).
        bank: (B, G), similarities of training captions with the same gallery.
        top: best item of each query (Q,).
        beta: inverse temperature; 20 in the released code.
        k: 1 in the released code.

    Raises:
        EvaluationError: another gallery, or parameters that are not positive.
    """
    if bank.shape[1] != scores.shape[1]:
        raise EvaluationError(f"the bank has {bank.shape[1]} gallery items, the similarities {scores.shape[1]}")
    if not beta > 0 or not 1 <= k <= bank.shape[1]:
        raise EvaluationError(f"expected beta > 0 and k in 1..{bank.shape[1]}, got beta={beta} and k={k}")
    norm = _log_sum_exp(bank, beta) / beta
    active = _activated(bank, k)[top]
    return NormalisedScores(scores, lambda values, rows, columns: values - active[rows] * norm[columns])


def _plain_tile(scores: Scores, rows: slice, columns: slice) -> NDArray[np.float64]:
    values, _ = scores.sharp_tile(rows, columns)
    return values if scores.exact else values.astype(np.float32).astype(np.float64)


def _slices(size: int) -> list[slice]:
    return [slice(start, min(start + TILE, size)) for start in range(0, size, TILE)]


def _log_sum_exp(scores: Scores, factor: float) -> NDArray[np.float64]:
    """Logarithm of the sum over the rows of ``exp(factor * s)``, per column (G,)."""
    found = np.full(scores.shape[1], -np.inf)
    for rows in _slices(scores.shape[0]):
        for columns in _slices(scores.shape[1]):
            values = factor * _plain_tile(scores, rows, columns)
            if not np.isfinite(values).all():
                raise EvaluationError("similarities that are NaN or infinite cannot be normalised over the queries")
            highest = values.max(axis=0)
            part = highest + np.log(np.exp(values - highest).sum(axis=0))
            found[columns] = np.logaddexp(found[columns], part)
    return found


def _activated(bank: Scores, k: int) -> NDArray[np.bool_]:
    """Gallery items that are among the best `k` of a bank query; of equal ones the earlier."""
    found = np.zeros(bank.shape[1], dtype=np.bool_)
    every = slice(0, bank.shape[1])
    step = max(1, TILE * TILE // bank.shape[1])
    for start in range(0, bank.shape[0], step):
        rows = slice(start, min(start + step, bank.shape[0]))
        order = np.argsort(-_plain_tile(bank, rows, every), axis=1, kind="stable")
        found[order[:, :k].ravel()] = True
    return found
