"""Rows of many stored arrays into one array in memory.

`gather_rows` works on any arrays. `JoinedFiles` is for batch after batch from the same files: it maps
them side by side into one run of addresses, so that a batch is one pass of numpy over what looks like
one array, and no file stays open.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import platform
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_int, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Records = NDArray[np.void]
PIECE_BYTES = 4 << 20  # what a thread copies at a time
MAX_THREADS = 4  # more than these wait for the memory, not for a core
_MAP_FIXED = 0x10  # the same on Linux for every processor; Python's mmap module does not name it
_MAX_ADDRESSES = 1 << 44  # of the 2**47 that a process has


def as_records(array: NDArray[Any]) -> Records:
    """A C-contiguous array (N, ...) as (N,) records of a row's bytes, without a copy."""
    return np.ndarray((len(array),), dtype=f"V{row_bytes(array.shape, array.dtype)}", buffer=array)


def row_bytes(shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    """Bytes of one row of an array of that shape and dtype."""
    return dtype.itemsize * math.prod(shape[1:])


def gather_rows(
    open_shard: Callable[[int], NDArray[Any]],
    shards: NDArray[np.int64],
    rows: NDArray[np.int64],
    out: NDArray[Any],
) -> None:
    """Set ``out[i] = open_shard(shards[i])[rows[i]]`` for every i; a shard is opened once.

    Args:
        open_shard: the array of a shard number; all are C-contiguous and alike but for their number of rows.
        shards: int64 (N,), the shard numbers, at least 0.
        rows: int64 (N,), rows within the shards; those outside are taken from the nearest end.
        out: (N, ...), C-contiguous, of the shards' dtype and row shape.
    """
    if not out.size:
        return
    # Shard by shard and upwards within each, so that a disk reads forward.
    order = np.argsort(shards * (int(rows.max()) + 1) + rows)
    shards, rows = shards[order], rows[order]
    target = as_records(out)
    edges = [0, *(np.flatnonzero(np.diff(shards)) + 1).tolist(), len(order)]
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        source = as_records(open_shard(int(shards[first])))
        target.put(order[first:last], source.take(rows[first:last], mode="clip"), mode="clip")


@dataclass(frozen=True)
class ArrayFile:
    """A C-contiguous array within a file: `offset` bytes into it, `num_rows` rows."""

    path: Path
    offset: int
    num_rows: int


class JoinedFiles:
    """Arrays of equal rows in many files, read-only, as one array of records.

    `starts[i]` is the record number of row 0 of file i. The records between two files are not data.
    """

    def __init__(self, records: Records, starts: NDArray[np.int64]) -> None:
        self._records = records
        self.starts = starts

    @classmethod
    def map(cls, files: Sequence[ArrayFile], row_bytes: int) -> JoinedFiles | None:
        """Map the files; None where this is not possible: not Linux, unlike headers, too many files or addresses."""
        if platform.system() != "Linux" or sys.maxsize < 2**32 or not files or not row_bytes:
            return None
        offset = files[0].offset
        # Every slot begins at a page and holds whole records, so all rows lie in one regular grid.
        step = math.lcm(mmap.ALLOCATIONGRANULARITY, row_bytes)
        lengths = [file.offset + file.num_rows * row_bytes for file in files]
        slots = [-(-length // step) * step for length in lengths]
        if any(file.offset != offset for file in files) or sum(slots) > _MAX_ADDRESSES:
            return None
        region = mmap.mmap(-1, sum(slots) + offset, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
        base = int(np.frombuffer(region, dtype=np.uint8).ctypes.data)
        first = np.concatenate([[0], np.cumsum(slots[:-1], dtype=np.int64)])
        try:
            for file, place, length in zip(files, first.tolist(), lengths, strict=True):
                _map_file(file.path, base + place, length)
        except OSError:  # e.g. more mappings than the system allows
            return None
        records: Records = np.ndarray((sum(slots) // row_bytes,), dtype=f"V{row_bytes}", buffer=region, offset=offset)
        return cls(records, first // row_bytes)

    def take(self, numbers: NDArray[np.int64], out: NDArray[Any], threads: int | None = None) -> None:
        """Copy the records of those numbers to `out`, C-contiguous (len(numbers), ...).

        A thread spends half of its time waiting for the first bytes of a row, so several are faster.
        `threads`: None = up to `MAX_THREADS` of the cores that this process may use, one for a small batch.
        """
        target = as_records(out)

        def copy(first: int, last: int) -> None:
            self._records.take(numbers[first:last], out=target[first:last], mode="clip")

        pieces = -(-out.nbytes // PIECE_BYTES)
        count = min(pieces, MAX_THREADS, _num_cores()) if threads is None else threads
        if count < 2:
            copy(0, len(numbers))
            return
        edges = [len(numbers) * piece // pieces for piece in range(pieces + 1)]
        with ThreadPoolExecutor(count, thread_name_prefix="gather") as pool:
            for _ in pool.map(copy, edges[:-1], edges[1:]):
                pass


def _map_file(path: Path, address: int, length: int) -> None:
    """Put a file's first `length` bytes in place of reserved addresses; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = c_void_p
    libc.mmap.argtypes = [c_void_p, c_size_t, c_int, c_int, c_int, c_int64]
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if os.fstat(descriptor).st_size < length:
            raise OSError(f"{path} is shorter than its header says")
        got = libc.mmap(address, length, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, descriptor, 0)
    finally:
        os.close(descriptor)
    if got != address:
        raise OSError(ctypes.get_errno(), f"{path} cannot be mapped: {os.strerror(ctypes.get_errno())}")


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
