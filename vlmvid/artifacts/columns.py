"""One column of stored results over chosen rows of many shards, read where it lies."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts.arrays import dtype_name
from vlmvid.artifacts.gathering import ArrayFile, JoinedFiles, gather_rows, row_bytes
from vlmvid.errors import ArtifactError


class StoredColumn:
    """Rows that lie in many shards, as if they were one array (N, ...) that stays on disk.

    Made by `ClipStore.column`; made once and asked for batch after batch, because finding the shards of
    N rows costs more than reading them.

    Attributes:
        shape: (N, ...).
        dtype: as stored; see `vlmvid.artifacts.arrays` for bfloat16.

    Raises ArtifactError when a row is outside of its shard, or the shards differ in dtype or row shape.
    """

    def __init__(
        self,
        open_shard: Callable[[int], NDArray[Any]],
        shards: NDArray[np.int64],
        rows: NDArray[np.int64],
        *,
        name: str,
    ) -> None:
        self._open_shard = open_shard
        self._shards = shards
        self._rows = rows
        self._name = name
        first = open_shard(0)
        self.shape: tuple[int, ...] = (len(shards), *first.shape[1:])
        self.dtype: np.dtype[Any] = first.dtype
        self._lengths = np.array([len(self._checked(i)) for i in range(int(shards.max()) + 1)])
        wrong = np.flatnonzero((rows < 0) | (rows >= self._lengths[shards]))
        if wrong.size:
            place = int(wrong[0])
            raise ArtifactError(
                f"{name}: row {rows[place]} is outside of its shard of {self._lengths[shards[place]]} rows; "
                "the index does not belong to these shards, run the stage again"
            )

    def __len__(self) -> int:
        return self.shape[0]

    def read(self) -> NDArray[Any]:
        """All rows, in order, in memory."""
        out = np.empty(self.shape, dtype=self.dtype)
        gather_rows(self._open_shard, self._shards, self._rows, out)
        return out

    def take(
        self, indices: NDArray[np.int64], *, out: NDArray[Any] | None = None, threads: int | None = None
    ) -> NDArray[Any]:
        """The rows of those indices, in that order, repeated where an index is: (len(indices), ...).

        Args:
            indices: int64 (M,), each in [0, N); read fastest in ascending order.
            out: where to put them, C-contiguous, of this dtype; filling the same memory again is faster than
                asking the system for new.
            threads: None = up to four of the cores that this process may use, one for a small batch.
        """
        shape = (len(indices), *self.shape[1:])
        if out is None:
            out = np.empty(shape, dtype=self.dtype)
        elif out.shape != shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ArtifactError(
                f"{self._name}: expected C-contiguous {dtype_name(self.dtype)} {shape} to fill; "
                f"got {dtype_name(out.dtype)} {out.shape}"
            )
        if not out.size:
            return out
        if indices.min() < 0 or indices.max() >= len(self):
            raise ArtifactError(
                f"{self._name}: rows {indices.min()}..{indices.max()} were asked for; there are {len(self)}"
            )
        if self._joined is not None:
            files, numbers = self._joined
            files.take(numbers[indices], out, threads)
        else:
            gather_rows(self._open_shard, self._shards[indices], self._rows[indices], out)
        return out

    @cached_property
    def _joined(self) -> tuple[JoinedFiles, NDArray[np.int64]] | None:
        """The files side by side and the record number of every row; None where they cannot be mapped so."""
        files = []
        for number, length in enumerate(self._lengths.tolist()):
            array = self._checked(number)
            if not isinstance(array, np.memmap) or not array.flags.c_contiguous or array.filename is None:
                return None
            files.append(ArrayFile(Path(array.filename), int(array.offset), length))
        joined = JoinedFiles.map(files, row_bytes(self.shape, self.dtype))
        return None if joined is None else (joined, joined.starts[self._shards] + self._rows)

    def _checked(self, number: int) -> NDArray[Any]:
        array = self._open_shard(number)
        if array.dtype != self.dtype or array.shape[1:] != self.shape[1:]:
            raise ArtifactError(
                f"{self._name}: one shard holds rows of {dtype_name(array.dtype)} {array.shape[1:]}, another of "
                f"{dtype_name(self.dtype)} {self.shape[1:]}; ask for clips that were computed alike"
            )
        return array
