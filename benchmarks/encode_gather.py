"""How fast a random batch is put together from stored features, against a loader with one tensor per row.

python -m benchmarks.encode_gather --folder /tmp/gather --out benchmarks/encode_gather.json

Makes `--rows` rows of `--dim` float16 numbers twice: as shards of the store, and as SAIL's encoder leaves them,
one ``{number}.pt`` per 1,024 rows. Every way gives the same batch once first, equal to the byte; then all are timed
in turn, `--rounds` times, each round with its own random rows in random order. Threads are pinned: to
`--threads` for vlmvid and torch, numpy's copies know only one. Wall and CPU seconds are given: other programs on
the machine lengthen the first more than the second.

- vlmvid: `StoredColumn.take` from memory-mapped shards, into memory that is used again, and into new memory;
  and with the same rows in ascending order, which is as good for a loss that sums over the batch.
- SAIL style: as its repository describes (arXiv 2412.04616): all files loaded into a list with one tensor per row;
  a batch is what a torch DataLoader without workers makes of a dataset that picks from the list, and a collate function
  that calls pad_sequence.
- list and stack: the same list without a DataLoader, and torch.stack.
- contiguous: numpy's take of the same random rows from one contiguous array in memory, and a plain copy of as
  many consecutive rows, both into used and into new memory.

All of it is in the page cache: this is about memory, not about disks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from vlmvid.artifacts import ClipStore, Row
from vlmvid.artifacts.columns import StoredColumn

ROWS_PER_FILE = 1024
Batch = Callable[[np.ndarray], "np.ndarray | Tensor"]


def make_store(folder: Path, num_rows: int, dim: int) -> tuple[ClipStore, list[str]]:
    """Shards of random rows, made once; the keys of all rows in order."""
    store = ClipStore(folder, f"store_{num_rows}x{dim}")
    rng = np.random.default_rng(0)
    keys = [f"{row:012d}" for row in range(num_rows)]
    for start in range(0, num_rows, ROWS_PER_FILE):
        some = keys[start : start + ROWS_PER_FILE]
        values = rng.standard_normal((len(some), dim), dtype=np.float32).astype(np.float16)
        if some[0] not in store.rows(some[:1]):
            store.write(some, {"features": values})
    return store, keys


def make_sail(folder: Path, column: StoredColumn) -> Path:
    """The same rows as SAIL's encoder leaves them."""
    target = folder / f"sail_{column.shape[0]}x{column.shape[1]}"
    target.mkdir(parents=True, exist_ok=True)
    for number in range(-(-len(column) // ROWS_PER_FILE)):
        rows = np.arange(number * ROWS_PER_FILE, min(len(column), (number + 1) * ROWS_PER_FILE))
        if not (target / f"{number}.pt").exists():
            torch.save(torch.from_numpy(column.take(rows)), target / f"{number}.pt")
    return target


class ListDataset(Dataset[Tensor]):
    """One tensor per row, all in memory."""

    def __init__(self, folder: Path) -> None:
        self.vectors: list[Tensor] = []
        for file in sorted(folder.glob("*.pt"), key=lambda path: int(path.stem)):
            self.vectors.extend(torch.load(file, weights_only=True).to(torch.float16))

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index: int) -> Tensor:
        return self.vectors[index]


class GivenBatch:
    """A batch sampler that yields one list of rows."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __iter__(self) -> Iterator[list[int]]:
        yield self.rows


def sail_loader(dataset: ListDataset) -> Batch:
    sampler = GivenBatch()
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,  # type: ignore[arg-type]
        num_workers=0,
        collate_fn=lambda rows: pad_sequence(rows, batch_first=True, padding_value=0),
    )

    def batch(rows: np.ndarray) -> Tensor:
        sampler.rows = rows.tolist()
        result: Tensor = next(iter(loader))
        return result

    return batch


def ways(column: StoredColumn, dataset: ListDataset, whole: np.ndarray, size: int, threads: int) -> dict[str, Batch]:
    """Every way to get a batch of random rows."""
    used = np.zeros((size, *column.shape[1:]), column.dtype)
    taken, copied, ordered = used.copy(), used.copy(), used.copy()

    def copy(rows: np.ndarray) -> np.ndarray:
        start = int(rows[0]) % (len(whole) - size + 1)
        np.copyto(copied, whole[start : start + size])
        return copied

    def fresh_copy(rows: np.ndarray) -> np.ndarray:
        start = int(rows[0]) % (len(whole) - size + 1)
        return whole[start : start + size].copy()

    return {
        "vlmvid": lambda rows: column.take(rows, out=used, threads=threads),
        "vlmvid, rows sorted": lambda rows: column.take(np.sort(rows), out=ordered, threads=threads),
        "vlmvid, new memory": lambda rows: column.take(rows, threads=threads),
        "SAIL style": sail_loader(dataset),
        "list and stack": lambda rows: torch.stack([dataset.vectors[row] for row in rows.tolist()]),
        "contiguous take": lambda rows: whole.take(rows, axis=0, out=taken, mode="clip"),
        "contiguous take, new memory": lambda rows: whole.take(rows, axis=0, mode="clip"),
        "contiguous copy": copy,
        "contiguous copy, new memory": fresh_copy,
    }


def measure(batches: dict[str, Batch], num_rows: int, size: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Wall and CPU seconds of every way in every round, the ways in turn, beginning with another one each round."""
    rng = np.random.default_rng(1)
    names = list(batches)
    times: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in names}
    for number in range(rounds):
        rows = rng.permutation(num_rows)[:size]
        for name in names[number % len(names) :] + names[: number % len(names)]:
            started, cpu = time.perf_counter(), time.process_time()
            result = batches[name](rows)
            times[name]["wall"].append(time.perf_counter() - started)
            times[name]["cpu"].append(time.process_time() - cpu)
            del result
    return times


def check(batches: dict[str, Batch], whole: np.ndarray, size: int) -> list[str]:
    """Ways whose batch is compared to the byte with picking row by row; raises ValueError where it differs."""
    rows = np.random.default_rng(2).permutation(len(whole))[:size]
    expected = {
        order: np.stack([whole[row] for row in some]) for order, some in (("", rows), ("sorted", np.sort(rows)))
    }
    checked = [name for name in batches if "copy" not in name]
    for name in checked:
        same = expected["sorted" if "sorted" in name else ""].tobytes()
        if np.asarray(batches[name](rows)).tobytes() != same:
            raise ValueError(f"{name} gives other rows")
    return checked


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": len(values)}


def ratios(times: dict[str, dict[str, list[float]]], kind: str, ours: str) -> dict[str, float]:
    """Every way's median over ours."""
    medians = {name: statistics.median(both[kind]) for name, both in times.items()}
    return {name: median / medians[ours] for name, median in medians.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the files are made; twice the rows' size")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rows", type=int, default=131_072)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32_768)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of vlmvid and of torch")
    arguments = parser.parse_args()
    store, keys = make_store(arguments.folder, arguments.rows, arguments.dim)
    started = time.perf_counter()
    known: dict[str, Row] = store.rows(keys)
    column = store.column("features", [known[key] for key in keys])
    column.take(np.arange(1))  # maps the files
    opening = time.perf_counter() - started
    sail = make_sail(arguments.folder, column)
    started = time.perf_counter()
    dataset = ListDataset(sail)
    loading = time.perf_counter() - started
    whole = column.read()
    results = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        batches = ways(column, dataset, whole, arguments.batch, threads)
        checked = check(batches, whole, arguments.batch)
        times = measure(batches, arguments.rows, arguments.batch, arguments.rounds)
        result = {
            "rows": arguments.rows,
            "dim": arguments.dim,
            "batch": arguments.batch,
            "rows_per_file": ROWS_PER_FILE,
            "threads": threads,
            "load_average": os.getloadavg()[0],
            "open_seconds": {"vlmvid": opening, "SAIL style": loading},
            "equal": checked,
            "seconds": {name: {kind: spread(values) for kind, values in both.items()} for name, both in times.items()},
            "over_vlmvid": {kind: ratios(times, kind, "vlmvid") for kind in ("wall", "cpu")},
            "over_vlmvid_new_memory": {kind: ratios(times, kind, "vlmvid, new memory") for kind in ("wall", "cpu")},
        }
        print(json.dumps(result), flush=True)
        results.append(result)
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
