"""Where similarities come from: embeddings, multiplied tile by tile, or a matrix that is already there.

Q queries along the rows, G gallery items along the columns. A source gives tiles, which may be off by a stated slack,
and single pairs, which are exact. The similarity of two embeddings is defined as the sum of their products in
float64, in the order of the channels, rounded to float32: a function of the two rows alone, so that equal rows tie
exactly wherever they lie. A BLAS product of a tile is not: it adds in another order at the edges of its blocks.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import EvaluationError

Index = NDArray[np.intp]
Tile = NDArray[np.floating[Any]]

_UNIT = 2.0**-24  # rounding unit of float32
_SMALLEST = 2.0**-126  # below it, float32 products lose their relative precision
_LARGEST = 2.0**120
_PAIRS_AT_ONCE = 1024
_ROWS_AT_ONCE = 8192


class Scores(Protocol):
    """A matrix (Q, G) of which only tiles are ever held."""

    @property
    def shape(self) -> tuple[int, int]:
        """(Q, G)."""
        ...

    @property
    def exact(self) -> bool:
        """Whether tiles hold the same values as pairs."""
        ...

    def slack(self, axis: int) -> NDArray[np.float64]:
        """How far a tile may be off, for each row (axis 0) or each column (axis 1)."""
        ...

    def tile(self, rows: slice, columns: slice) -> Tile:
        """The similarities of `rows` and `columns`, each within the slack; valid until the next call."""
        ...

    def sharp_tile(self, rows: slice, columns: slice) -> tuple[NDArray[np.float64], float]:
        """The unrounded similarities in float64, and how far they may be off."""
        ...

    def pairs(self, rows: Index, columns: Index) -> Tile:
        """The exact similarity (N,) of each row with its column."""
        ...

    def taken(self, rows: Index) -> Scores:
        """The same matrix with these rows, in this order."""
        ...

    def transposed(self) -> Scores:
        """The matrix (G, Q)."""
        ...


@dataclass(frozen=True, eq=False)
class _Rows:
    """Embeddings with an order: row i is ``values[index[i]]``, or ``values[i]`` without an index."""

    values: NDArray[np.floating[Any]]
    norms: NDArray[np.float64]
    index: Index | None = None

    def __len__(self) -> int:
        return len(self.values) if self.index is None else len(self.index)

    def part(self, rows: slice) -> NDArray[np.float32]:
        part = self.values[rows] if self.index is None else self.values[self.index[rows]]
        return np.asarray(part, dtype=np.float32)

    def at(self, rows: Index) -> NDArray[np.float64]:
        # Through float32 where the file is wider, so that a pair and a tile see the same numbers.
        part = self.values[rows if self.index is None else self.index[rows]]
        return np.asarray(part, dtype=np.float32).astype(np.float64)

    def norm(self) -> NDArray[np.float64]:
        return self.norms if self.index is None else self.norms[self.index]

    def taken(self, rows: Index) -> _Rows:
        return _Rows(self.values, self.norms, rows if self.index is None else self.index[rows])


class EmbeddingScores:
    """Inner products of two sets of embeddings.

    Args:
        rows: float16 or float32 (Q, D), memory-mapped or not; other dtypes are rounded to float32. Cosines are wanted,
            so the rows should be L2-normalised, which is not checked.
        columns: (G, D).

    Raises:
        EvaluationError: other shapes, values that are NaN or infinite, or rows too long for float32.
    """

    def __init__(self, rows: NDArray[np.floating[Any]], columns: NDArray[np.floating[Any]]) -> None:
        if rows.ndim != 2 or columns.ndim != 2 or rows.shape[1:] != columns.shape[1:] or 0 in rows.shape:
            raise EvaluationError(
                f"expected embeddings (Q, D) and (G, D) of one width D, got {rows.shape} and {columns.shape}"
            )
        if len(columns) == 0:
            raise EvaluationError("the gallery is empty; expected embeddings (G, D) with G >= 1")
        self._set(_Rows(rows, _norms("queries", rows)), _Rows(columns, _norms("gallery", columns)))
        if float(self._rows.norms.max()) * float(self._columns.norms.max()) > _LARGEST:
            raise EvaluationError("inner products of these embeddings overflow float32; L2-normalise them")

    def _set(self, rows: _Rows, columns: _Rows) -> EmbeddingScores:
        self._rows, self._columns = rows, columns
        self._buffer = np.empty(0, dtype=np.float32)
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """(Q, G)."""
        return len(self._rows), len(self._columns)

    @property
    def exact(self) -> bool:
        """False: tiles are float32 products."""
        return False

    def slack(self, axis: int) -> NDArray[np.float64]:
        """The bound ``n u / (1 - n u) |a| |b|`` of any order of summation (Higham 2002, section 3.1), and rounding."""
        dim = self._rows.values.shape[1]
        ours, theirs = (self._rows, self._columns) if axis == 0 else (self._columns, self._rows)
        largest = float(theirs.norms.max())
        return np.asarray((dim + 8) * _UNIT * 1.001 * ours.norm() * largest + dim * _SMALLEST)

    def tile(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """One float32 matrix product, into memory that the next call uses again."""
        left, right = self._rows.part(rows), self._columns.part(columns)
        size = len(left) * len(right)
        if self._buffer.size < size:
            self._buffer = np.empty(size, dtype=np.float32)
        out = self._buffer[:size].reshape(len(left), len(right))
        return np.matmul(left, right.T, out=out)

    def sharp_tile(self, rows: slice, columns: slice) -> tuple[NDArray[np.float64], float]:
        """One float64 matrix product; products of float32 numbers are exact in it."""
        left = self._rows.part(rows).astype(np.float64)
        right = self._columns.part(columns).astype(np.float64)
        bound = 2 * (left.shape[1] + 8) * 2.0**-53 * float(self._rows.norms.max() * self._columns.norms.max())
        return left @ right.T, bound

    def pairs(self, rows: Index, columns: Index) -> NDArray[np.float32]:
        """Products summed in float64 along the channels, rounded to float32."""
        found = np.empty(len(rows), dtype=np.float32)
        for start in range(0, len(rows), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            products = np.ascontiguousarray(self._rows.at(rows[part]) * self._columns.at(columns[part]))
            found[part] = np.add.reduce(products, axis=1)
        return found

    def taken(self, rows: Index) -> EmbeddingScores:
        """The same embeddings in another order; nothing is copied."""
        return EmbeddingScores.__new__(EmbeddingScores)._set(self._rows.taken(rows), self._columns)

    def transposed(self) -> EmbeddingScores:
        """Rows and columns exchanged; nothing is copied."""
        return EmbeddingScores.__new__(EmbeddingScores)._set(self._columns, self._rows)


class MatrixScores:
    """A similarity matrix that is already there: an array, or a memory-mapped .npy of which tiles are read.

    Args:
        values: floating or integer (Q, G), higher is nearer; compared in float32 or float64, whichever holds it.
        rows: the rows that count, in their order; None = all.
        columns: the columns that count.

    Raises:
        EvaluationError: another shape or dtype.
    """

    def __init__(self, values: NDArray[Any], rows: Index | None = None, columns: Index | None = None) -> None:
        if values.ndim != 2 or 0 in values.shape:
            raise EvaluationError(f"expected a similarity matrix (Q, G) with Q, G >= 1, got shape {values.shape}")
        if values.dtype.kind not in "fiub":
            raise EvaluationError(f"similarities must be numbers, got dtype {values.dtype}")
        self._values = values
        self._index = (_whole(rows, values.shape[0]), _whole(columns, values.shape[1]))
        narrow = values.dtype in (np.float16, np.float32, np.bool_)
        self.dtype: np.dtype[Any] = np.dtype(np.float32 if narrow else np.float64)

    @property
    def shape(self) -> tuple[int, int]:
        """(Q, G)."""
        sizes = [
            size if some is None else len(some) for size, some in zip(self._values.shape, self._index, strict=True)
        ]
        return sizes[0], sizes[1]

    @property
    def exact(self) -> bool:
        """True."""
        return True

    def slack(self, axis: int) -> NDArray[np.float64]:
        """Zeros."""
        return np.zeros(self.shape[axis])

    def tile(self, rows: slice, columns: slice) -> Tile:
        """The part of the matrix; pages of a mapped file are given back."""
        ours, theirs = self._index
        part = self._values[rows] if ours is None else self._values
        part = part[:, columns] if theirs is None else part
        if ours is not None and theirs is not None:
            part = part[np.ix_(ours[rows], theirs[columns])]
        elif ours is not None or theirs is not None:
            part = part[ours[rows]] if ours is not None else part[:, theirs[columns]]  # type: ignore[index]
        found = np.array(part, dtype=self.dtype, order="C") if _mapped(self._values) else np.asarray(part, self.dtype)
        _give_back(self._values)
        return found

    def sharp_tile(self, rows: slice, columns: slice) -> tuple[NDArray[np.float64], float]:
        """The tile itself."""
        return self.tile(rows, columns).astype(np.float64), 0.0

    def pairs(self, rows: Index, columns: Index) -> Tile:
        """Single entries."""
        ours, theirs = self._index
        picked = self._values[rows if ours is None else ours[rows], columns if theirs is None else theirs[columns]]
        found = np.asarray(picked, dtype=self.dtype)
        _give_back(self._values)
        return found

    def taken(self, rows: Index) -> MatrixScores:
        """The same matrix with these rows; nothing is copied."""
        ours, theirs = self._index
        return MatrixScores(self._values, rows if ours is None else ours[rows], theirs)

    def transposed(self) -> MatrixScores:
        """A view with rows and columns exchanged."""
        return MatrixScores(self._values.T, self._index[1], self._index[0])


def _whole(index: Index | None, size: int) -> Index | None:
    """None where `index` is just all of `size` in order: slices are then read without copies."""
    if index is None or (len(index) == size and bool((index == np.arange(size)).all())):
        return None
    return np.asarray(index, dtype=np.intp)


def _norms(name: str, rows: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    norms = np.empty(len(rows))
    bad, first, num_nan = 0, -1, 0
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = np.asarray(rows[start : start + _ROWS_AT_ONCE], dtype=np.float32).astype(np.float64)
        finite = np.isfinite(part)
        if not finite.all():
            wrong = np.flatnonzero(~finite.all(axis=1))
            bad, num_nan = bad + len(wrong), num_nan + int(np.isnan(part).sum())
            first = start + int(wrong[0]) if first < 0 else first
        norms[start : start + _ROWS_AT_ONCE] = np.sqrt(np.square(part).sum(axis=1))
        _give_back(rows)
    if bad:
        raise EvaluationError(
            f"{bad} of {len(rows)} embeddings of the {name} hold values that are not finite ({num_nan} NaN), first in "
            f"row {first}; look at what made them, or leave these out so that they count as missing"
        )
    return norms


def _mapped(values: NDArray[Any]) -> bool:
    return isinstance(values, np.memmap)


def _give_back(values: NDArray[Any]) -> None:
    """Pages of a mapped file stay resident until another program needs them; a large one would look like a leak."""
    base: Any = values
    while isinstance(base, np.ndarray):
        base = base.base
    if _mapped(values) and isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
