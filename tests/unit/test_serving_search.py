"""Exact search against the obvious oracle: sort everything."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from vlmvid.errors import ConfigError
from vlmvid.serving.search import top_k

# Small whole numbers: products are exact, so ties are real ties.
_VALUES = st.integers(-3, 3).map(float)


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def by_hand(queries: NDArray[np.float32], gallery: NDArray, rows: list[int], k: int) -> tuple[list, list]:
    exact = (queries.astype(np.float64)[:, None] * gallery.astype(np.float64)[None]).sum(axis=2).astype(np.float32)
    best = [sorted(rows, key=lambda row: (-line[row], row))[:k] for line in exact]
    return best, [line[row].tolist() for line, row in zip(exact, best, strict=True)]


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(0, 12), st.integers(1, 3), st.integers(1, 15), st.integers(1, 13))
def test_equals_a_full_sort(data: st.DataObject, q: int, n: int, d: int, k: int, block: int) -> None:
    queries = data.draw(arrays(np.float32, (q, d), elements=_VALUES))
    gallery = data.draw(arrays(np.float32, (n, d), elements=_VALUES))
    rows = data.draw(st.none() | st.sets(st.integers(0, n - 1)).map(sorted)) if n else None
    max_norm = data.draw(st.sampled_from([None, 6.0]))
    expected = by_hand(queries, gallery, list(range(n)) if rows is None else rows, k)
    numbers = None if rows is None else np.array(rows, np.int64)
    for dtype in (np.float32, np.float16):
        indices, scores = top_k(queries, gallery.astype(dtype), k, block, rows=numbers, max_norm=max_norm)
        assert (indices.tolist(), scores.tolist()) == expected


@pytest.mark.parametrize("num_queries", [1, 5])
@pytest.mark.parametrize("where", ["anywhere", "half", "neighbours"])
def test_many_rows_and_many_threads_change_nothing(threads: None, num_queries: int, where: str) -> None:
    """Near ties, ties across blocks and threads, and an odd last block."""
    rng = np.random.default_rng(num_queries)
    gallery = rng.standard_normal((40_003, 48))
    gallery[:, 1:] *= 0.01  # so that many are within float16's rounding of one another
    gallery = (gallery / np.linalg.norm(gallery, axis=1, keepdims=True)).astype(np.float16)
    gallery[20_000:20_100] = gallery[:100]
    gallery[-1] = gallery[20_000]
    queries = np.concatenate([gallery[:1].astype(np.float32), rng.standard_normal((4, 48), dtype=np.float32)])
    rows = {"anywhere": None, "half": np.arange(0, 40_003, 2), "neighbours": np.arange(7, 33_000)}[where]
    norm = float(np.linalg.norm(gallery.astype(np.float64), axis=1).max())
    expected = by_hand(queries[:num_queries], gallery, list(range(40_003)) if rows is None else rows.tolist(), 20)
    gallery.flags.writeable = False
    for block, max_norm in ((2048, norm), (999, norm), (2048, None)):
        indices, scores = top_k(queries[:num_queries], gallery, 20, block, rows=rows, max_norm=max_norm)
        assert (indices.tolist(), scores.tolist()) == expected
    if rows is None:
        assert indices[0, :3].tolist() == [0, 20_000, 40_002]


def test_rows_that_are_all_equal_come_in_their_order(threads: None) -> None:
    gallery = np.full((30_000, 8), 0.35, np.float16)
    indices, scores = top_k(np.ones((1, 8), np.float32), gallery, 12, max_norm=1.0)
    assert indices.tolist() == [list(range(12))] and len(set(scores[0].tolist())) == 1


def test_numbers_too_large_for_float16_are_found(threads: None) -> None:
    gallery = np.full((3, 4), 60_000, np.float16)
    gallery[1] = 65_000
    indices, scores = top_k(np.full((1, 4), 1e4, np.float32), gallery, 1, max_norm=2e5)
    assert indices.tolist() == [[1]] and scores[0, 0] == np.float32(4 * 1e4 * float(gallery[1, 0]))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("max_norm", [None, 3.0])
@pytest.mark.parametrize("num_queries", [1, 2])
def test_what_is_no_number_is_refused(threads: None, dtype: type, max_norm: float | None, num_queries: int) -> None:
    gallery = np.ones((20_000, 3), dtype)
    gallery[17_000, 0] = np.nan
    with pytest.raises(ConfigError, match="is not a number"):
        top_k(np.ones((num_queries, 3), np.float32), gallery, 1, max_norm=max_norm)


def test_types_and_bad_arguments() -> None:
    gallery = np.eye(3, dtype=np.float32)
    indices, scores = top_k(gallery[:2], gallery, 1)
    assert indices.dtype == np.int64 and scores.dtype == np.float32
    assert indices.tolist() == [[0], [1]]
    with pytest.raises(ConfigError, match="k=0"):
        top_k(gallery, gallery, 0)
    with pytest.raises(ConfigError, match="gallery"):
        top_k(gallery, gallery[:, :2], 1)
    gallery[2, 0] = np.nan
    with pytest.raises(ConfigError, match="rows 2 to 2"):
        top_k(np.ones((1, 3), np.float32), gallery, 1, block=2)


def test_it_leaves_the_threads_of_others_and_survives_a_fork() -> None:
    code = (
        "import os, threading\n"
        "import numpy as np, torch\n"
        "from vlmvid.serving.search import top_k\n"
        "torch.set_num_threads(2)\n"
        "def search():\n"
        "    gallery = np.ones((70_000, 8), np.float16)\n"
        "    assert top_k(np.ones((1, 8), np.float32), gallery, 2, max_norm=3.0)[0].tolist() == [[0, 1]]\n"
        "search()\n"
        "found = []\n"
        "thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))\n"
        "thread.start(); thread.join()\n"
        "assert (found, torch.get_num_threads()) == ([2], 2), found\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    torch.set_num_threads(1); search(); os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
