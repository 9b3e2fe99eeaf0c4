"""The files of VidHalluc (arXiv 2412.03735; scripts at CyL97/VidHalluc e753864f5c): four tasks, a file each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError
from vlmvid.evaluation.scoring.aggregate import Outcome
from vlmvid.evaluation.scoring.base import AnnotationFile
from vlmvid.evaluation.scoring.reading import find_file, read_json, require_columns

PUBLISHER = "https://huggingface.co/datasets/chaoyuli/VidHalluc"
SOURCE = "arXiv 2412.03735"


def read_file(path: Path, file: AnnotationFile) -> tuple[Path, dict[str, Any]]:
    """The object that `file` holds and where it was found."""
    found = find_file(path, file)
    document: dict[str, Any] = read_json(found, dict, file)
    return found, document


def entry(path: Path, file: AnnotationFile, row: Any, where: str) -> dict[str, Any]:
    """`row` if it is an object with the columns of `file`, else DatasetError."""
    if not isinstance(row, dict):
        raise DatasetError(f"{path}, {where}: expected an object, got {type(row).__name__} {row!r:.60}")
    require_columns(path, file, row, where)
    return row


def given(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes that have a prediction: the scripts pass over what is not in the file of answers."""
    return [outcome for outcome in outcomes if outcome.status != "missing"]
