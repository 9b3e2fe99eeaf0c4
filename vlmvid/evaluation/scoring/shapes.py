"""Annotation entries of another shape than their authors': one error for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vlmvid.errors import DatasetError, VlmvidError
from vlmvid.evaluation.scoring.base import AnnotationFile


@contextmanager
def in_shape(where: str, file: AnnotationFile) -> Iterator[None]:
    """Raise DatasetError, which names `where`, for what goes wrong while an entry of `file` is taken apart.

    A missing key, null or a text in the place of a number or a list, a number above 1e308; errors of vlmvid's own pass.

    Args:
        where: the file and the entry, e.g. ``"a.json, entry 3"``.
        file: what the entry should look like.
    """
    try:
        yield
    except VlmvidError:
        raise
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{where}: {type(error).__name__}: {error}; expected {', '.join(file.columns)} in the form that "
            f"{file.publisher} has"
        ) from error
