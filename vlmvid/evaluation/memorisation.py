"""Files of the deja-vu test: objects of pictures, embeddings, nearest public pictures.

The test itself (arXiv 2402.02103) is in `vlmvid.metrics.memorisation`. It needs a target model, a reference model that
was not trained on the audited pairs, the training captions, public pictures that neither model was trained on, and the
objects of all pictures, from annotations or a detector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import DatasetError, EvaluationError
from vlmvid.evaluation.scoring.arrays import read_arrays
from vlmvid.evaluation.scoring.base import AnnotationFile
from vlmvid.evaluation.scoring.predictions import Predictions, from_pairs
from vlmvid.evaluation.scoring.reading import read_json_lines
from vlmvid.metrics.memorisation import nearest_public

MODELS = ("target", "reference")
ARRAYS = ("caption_ids", "public_ids", *(f"{model}_{part}" for model in MODELS for part in ("captions", "public")))


def read_objects(path: Path, file: AnnotationFile) -> dict[str, frozenset[str]]:
    """Name of a picture -> its objects in small letters, from lines ``{"id", "objects": [...]}``.

    Raises MissingDataError, DatasetError: a row whose objects are no list of texts, or an id that occurs twice.
    """
    found: dict[str, frozenset[str]] = {}
    for row in read_json_lines(path, file):
        name, objects = str(row["id"]), row["objects"]
        if not isinstance(objects, list) or not all(isinstance(text, str) for text in objects):
            raise DatasetError(f"{path}, id {name!r}: objects {objects!r:.60} is no list of texts")
        if name in found:
            raise DatasetError(f"{path}: the id {name!r} occurs twice")
        found[name] = frozenset(text.strip().casefold() for text in objects if text.strip())
    return found


def read_neighbours(path: Path, k: int) -> Predictions:
    """The nearest public pictures of every caption under both models, from an ``.npz`` of embeddings.

    Arrays: `caption_ids` (N,), `public_ids` (M,) texts; `target_captions` (N, D), `target_public` (M, D),
    `reference_captions` (N, E), `reference_public` (M, E), L2-normalised. A text encoder that embeds the captions of
    the public pictures may stand in for the reference model (the paper's one-model test).

    Raises:
        EvaluationError: no such file, a missing array, other shapes, an id that occurs twice, or k above M.
    """
    arrays = read_arrays(path)
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        raise EvaluationError(f"{path} has no array {missing[0]!r}; it has {', '.join(arrays) or 'none'}")
    return neighbours(arrays, k, str(path))


def neighbours(arrays: Mapping[str, NDArray[Any]], k: int, source: str) -> Predictions:
    """`read_neighbours` of arrays in memory."""
    captions, public = ([str(name) for name in arrays[key]] for key in ("caption_ids", "public_ids"))
    found: dict[str, NDArray[np.intp]] = {}
    for model in MODELS:
        texts, pictures = arrays[f"{model}_captions"], arrays[f"{model}_public"]
        if len(texts) != len(captions) or len(pictures) != len(public):
            raise EvaluationError(
                f"{source}: {model} has {len(texts)} captions and {len(pictures)} pictures for {len(captions)} "
                f"caption_ids and {len(public)} public_ids"
            )
        found[model] = nearest_public(texts, pictures, k)
    return from_pairs(
        [
            (name, {model: [public[place] for place in found[model][row]] for model in MODELS})
            for row, name in enumerate(captions)
        ],
        source,
    )


def recalled(names: Sequence[str], public: Mapping[str, frozenset[str]]) -> set[str]:
    """The objects of the public pictures `names`; raises EvaluationError for a picture without a row of objects."""
    unknown = [name for name in names if name not in public]
    if unknown:
        raise EvaluationError(f"the public picture {unknown[0]!r} has no row of objects; add it, with an empty list")
    return set().union(*(public[name] for name in names))
