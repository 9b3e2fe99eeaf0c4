"""Number formats of stored features, bfloat16 among them, which numpy does not know.

A bfloat16 is the upper half of a float32. It is stored as a record of one field named ``bfloat16``
that holds those 16 bits (`BFLOAT16`): the ``.npy`` file says what it holds, and no arithmetic takes
the bits for integers by mistake.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import ArtifactError

BFLOAT16 = np.dtype([("bfloat16", "<u2")])
FloatName = Literal["float16", "bfloat16", "float32"]
STORED_DTYPES: dict[FloatName, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "bfloat16": BFLOAT16,
    "float32": np.dtype(np.float32),
}
_CHECK_BYTES = 1 << 22  # of float32 values looked at together


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The name of a stored dtype: numpy's own, or ``bfloat16``."""
    return "bfloat16" if dtype == BFLOAT16 else str(dtype)


def as_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """The values as float32: exact for float16 and bfloat16, no copy of what is float32 already."""
    if array.dtype != BFLOAT16:
        return np.asarray(array, dtype=np.float32)
    bits = np.asarray(array).view(np.uint16).astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)


def as_stored(array: NDArray[Any], name: FloatName) -> NDArray[Any]:
    """The values in a dtype of `STORED_DTYPES`, rounded to the nearest, ties to even; no copy where they have it.

    Raises ArtifactError for an unknown name.
    """
    if name not in STORED_DTYPES:
        raise ArtifactError(f"features cannot be stored as {name!r}; choose one of {', '.join(STORED_DTYPES)}")
    dtype = STORED_DTYPES[name]
    if array.dtype == dtype:
        return array
    values = as_float32(array)
    if dtype != BFLOAT16:
        with np.errstate(over="ignore"):  # too large for float16 is infinity, which `finite_rows` reports
            return values.astype(dtype)
    bits = np.ascontiguousarray(values).view(np.uint32)
    # The carry of this sum rounds up; the bit that is kept last decides ties. A NaN must stay one, so it is set apart.
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    rounded = np.where(np.isnan(values), (bits >> 16) | 0x40, rounded)
    return rounded.astype("<u2").view(BFLOAT16)


def finite_rows(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows (first axis) hold neither NaN nor infinity: (N,); reads a memory map piece by piece."""
    flat = array.reshape(len(array), -1)
    step = max(1, _CHECK_BYTES // max(1, 4 * flat.shape[1]))
    finite = np.empty(len(flat), dtype=np.bool_)
    for start in range(0, len(flat), step):
        piece = flat[start : start + step]
        values = as_float32(piece) if piece.dtype == BFLOAT16 else piece
        finite[start : start + step] = np.isfinite(values).all(axis=1)
    return finite
