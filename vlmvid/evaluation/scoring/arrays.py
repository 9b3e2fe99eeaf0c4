"""Arrays in ``.npz`` files."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import EvaluationError


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an ``.npz`` by name.

    Raises EvaluationError for a file that is not there or is no such file, or one with pickled objects, which could run
    code.
    """
    try:
        # Opened here, because numpy leaves the file open when it is no zip archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise EvaluationError(f"{path} does not exist; give an .npz of arrays") from None
    except (OSError, EOFError, ValueError, BadZipFile, AttributeError, TypeError) as error:
        raise EvaluationError(f"{path} cannot be read as .npz without pickled objects: {error}") from error
