"""Approximate search: how much of the exact answer it finds, and what is said where it cannot be."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.video_index_fixtures import MAKER, table_row, unit_rows
from vlmvid.errors import ArtifactError, ConfigError
from vlmvid.serving.video_index import VideoIndex
from vlmvid.serving.video_index_table import TableContent, publish_table

N, D = 6000, 16


def embeddings() -> NDArray[np.float16]:
    """Like videos: around a few hundred things."""
    things = unit_rows(300, D, seed=3).astype(np.float32)[np.arange(N) % 300]
    values = things + 0.3 * unit_rows(N, D, seed=4).astype(np.float32)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


def build(folder: Path, *, with_cells: bool) -> Path:
    rows = [table_row(number) for number in range(N)]
    publish_table(folder, MAKER, TableContent(rows, N, [embeddings()], D, with_cells=with_cells))
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("index"), with_cells=True)


def test_it_finds_most_and_scores_as_the_exact_search(built: Path) -> None:
    exact, near = VideoIndex.open(built), VideoIndex.open(built, approximate=True)
    queries = exact.embeddings(np.arange(0, N, 60)) + 0.1 * unit_rows(100, D, seed=5).astype(np.float32)
    rows, scores = exact.search(queries, 10)
    found, their_scores = near.search(queries, 10)
    assert found.shape == rows.shape
    hits = [len(set(ours) & set(theirs)) / 10 for ours, theirs in zip(rows, found, strict=True)]
    assert np.mean(hits) > 0.9
    truth = dict(zip(rows[0].tolist(), scores[0].tolist(), strict=True))
    assert all(truth[row] == score for row, score in zip(found[0], their_scores[0], strict=True) if row in truth)
    # What is filtered is searched exactly.
    where = {"colour": ["red"]}
    for ours, theirs in zip(exact.search(queries, 10, where), near.search(queries, 10, where), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert near.like(7, 3)[0].shape == (1, 3)


def test_as_many_come_back_as_are_asked_for(built: Path) -> None:
    """The cells of an index of 6,000 clips give fewer than 1,000 of them; then all are looked at."""
    exact, near = VideoIndex.open(built), VideoIndex.open(built, approximate=True)
    queries = unit_rows(20, D, seed=6).astype(np.float32)
    for k in (100, 1000, N + 1):
        assert near.search(queries, k)[0].shape == (20, min(k, N))
    for ours, theirs in zip(exact.search(queries, N), near.search(queries, N), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    together, _ = near.search(queries, 1000)
    for query, rows in zip(queries, together, strict=True):
        np.testing.assert_array_equal(near.search(query[None], 1000)[0][0], rows)


def test_what_cannot_be_is_said(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path / "plain", with_cells=False)
    with pytest.raises(ConfigError, match="built without approximate search; build it with `vlmvid index --faiss`"):
        VideoIndex.open(tmp_path / "plain", approximate=True)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "faiss", None)
        with pytest.raises(ConfigError, match=r"pip install 'vlmvid\[faiss\]'"):
            VideoIndex.open(built, approximate=True)
        assert VideoIndex.open(built).num_clips == N
    damaged = build(tmp_path / "damaged", with_cells=True)
    (path,) = damaged.glob("tables/*/cells.faiss")
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(ArtifactError, match="cannot be read by faiss"):
        VideoIndex.open(damaged, approximate=True)
