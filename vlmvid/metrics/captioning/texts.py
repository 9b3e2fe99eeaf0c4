"""What the scores of captions take."""

from __future__ import annotations

from collections.abc import Sequence

from vlmvid.errors import EvaluationError


def check_texts(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise EvaluationError unless there is one candidate per item and at least one reference for each."""
    if len(candidates) != len(references) or not candidates:
        raise EvaluationError(
            f"expected one candidate for each item with its references, at least one; got {len(candidates)} "
            f"candidates and references for {len(references)} items"
        )
    bare = [index for index, texts in enumerate(references) if not texts]
    if bare:
        raise EvaluationError(
            f"{len(bare)} of {len(references)} items have no reference caption, first item {bare[0]}; leave them out "
            "or give references"
        )
