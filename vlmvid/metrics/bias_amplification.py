"""Directional bias amplification (Wang and Russakovsky, arXiv 2102.12594).

``BiasAmp = mean_{g,p} y_gp (P(p_hat | g) - P(p | g))`` with ``y_gp = sign(P(g, p) - P(g) P(p))`` on the training
labels: above 0, predictions lean further than the labels in the direction in which the training data lean. From the
attribute to the task, g is the attribute and p the task; from the task to the attribute, the other way round. The
released code is princetonvisualai/directional-bias-amp at 537e76f, `directional_biasamp.py`. It forms the sign from
quotients in floating point, so that labels which are independent in training get the sign of a rounding error; here
they get 0, and `released` reproduces its sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError


@dataclass(frozen=True, slots=True)
class BiasAmplification:
    """One direction of amplification.

    Attributes:
        value: mean over the pairs that are defined, in [-1, 1]; NaN where none is.
        by_pair: float64 (G, P), the terms; NaN where nothing has the given label.
        direction: (G, P), sign of the co-occurrence in training: 1, -1, or 0.
        num_undefined: pairs that are NaN and were left out, as in the released code.
    """

    value: float
    by_pair: NDArray[np.float64]
    direction: NDArray[np.float64]
    num_undefined: int


def bias_amplification(
    given: ArrayLike,
    labels: ArrayLike,
    predicted: ArrayLike,
    *,
    train_given: ArrayLike,
    train_labels: ArrayLike,
    released: bool = False,
) -> BiasAmplification:
    """Amplification from `given` to what is predicted.

    Args:
        given: 0/1 (N, G), labels of the side that is given: attributes for A->T.
        labels: 0/1 (N, P), labels of the side that is predicted.
        predicted: 0/1 (N, P), predictions of it.
        train_given: 0/1 (M, G), as `given`, of the training data.
        train_labels: 0/1 (M, P), as `labels`, of the training data. Rows without any label on either side say nothing
            about co-occurrence and are left out, as in the released code.
        released: signs with the rounding errors of the released code.

    Raises:
        EvaluationError: arrays that are not 0/1 or do not fit together, or training data without any label.
    """
    side, truth, guess = _binary("given", given), _binary("labels", labels), _binary("predicted", predicted)
    train_side, train_truth = _binary("train_given", train_given), _binary("train_labels", train_labels)
    if guess.shape != truth.shape or len(side) != len(truth):
        raise EvaluationError(f"given, labels and predicted do not fit: {side.shape}, {truth.shape}, {guess.shape}")
    if len(train_side) != len(train_truth) or (train_side.shape[1], train_truth.shape[1]) != (
        side.shape[1],
        truth.shape[1],
    ):
        raise EvaluationError(f"training labels {train_side.shape} and {train_truth.shape} do not fit the test labels")
    labelled = (train_side.sum(axis=1) > 0) | (train_truth.sum(axis=1) > 0)
    train_side, train_truth = train_side[labelled], train_truth[labelled]
    num_train = len(train_side)
    if num_train == 0:
        raise EvaluationError("no row of the training data has a label; their co-occurrence gives the direction")
    together = train_side.T @ train_truth
    num_given, num_labels = train_side.sum(axis=0), train_truth.sum(axis=0)
    if released:
        direction = np.sign(together / num_train - np.outer(num_given / num_train, num_labels / num_train))
    else:
        direction = np.sign(num_train * together - np.outer(num_given, num_labels))  # whole numbers: exact
    sizes = side.sum(axis=0)[:, None]
    shift = np.divide(
        side.T @ (guess - truth), sizes, out=np.full((side.shape[1], truth.shape[1]), np.nan), where=sizes > 0
    )
    by_pair = direction * shift
    defined = by_pair[~np.isnan(by_pair)]
    return BiasAmplification(
        value=float(defined.mean()) if len(defined) else float("nan"),
        by_pair=by_pair,
        direction=direction,
        num_undefined=int(by_pair.size - len(defined)),
    )


def _binary(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape or not ((array == 0) | (array == 1)).all():
        raise EvaluationError(f"{name} must be 0 or 1, of shape (N, labels); got shape {array.shape}")
    return array
