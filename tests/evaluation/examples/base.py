"""What an example gives to the contract suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Example:
    """A small benchmark.

    Attributes:
        name: of the benchmark.
        write: writes the annotation files into an empty folder, in the authors' format with its quirks; returns what
            `--references` gets (the folder or a file).
        perfect: item_id -> prediction of a model that is always right.
        constant: item_id -> prediction of a model that always answers the same; None where there is no such thing.
        expected_constant: the principled value of the main metric for `constant`, from the labels by hand.
        perfect_value: the main metric of `perfect`.
        compat_values: compat name -> (predictions, {metric: value}) by hand or from the reference's vectors.
        options: for read and score.
        unparsable: a prediction that holds no answer; None where every value is one (a caption, a score).
        joins_by_id: False where predictions cannot be left out, repeated or reordered (retrieval matrices).
    """

    name: str
    write: Callable[[Path], Path]
    perfect: dict[str, Any]
    constant: dict[str, Any] | None = None
    expected_constant: float | None = None
    perfect_value: float = 1.0
    compat_values: dict[str, tuple[dict[str, Any], dict[str, float]]] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    unparsable: Any = "§§§"
    joins_by_id: bool = True
