"""Exact search against the obvious oracle: sort everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vlmvid.errors import ConfigError
from vlmvid.serving.search import top_k

# Small whole numbers: products are exact, so ties are real ties.
_VALUES = st.integers(-3, 3).map(float)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(0, 12), st.integers(1, 3), st.integers(1, 15), st.integers(1, 13))
def test_equals_a_full_sort(data: st.DataObject, q: int, n: int, d: int, k: int, block: int) -> None:
    queries = data.draw(arrays(np.float32, (q, d), elements=_VALUES))
    gallery = data.draw(arrays(np.float32, (n, d), elements=_VALUES))
    indices, scores = top_k(queries, gallery, k, block)
    for row in range(q):
        all_scores = [float(queries[row] @ gallery[i]) for i in range(n)]
        expected = sorted(range(n), key=lambda i: (-all_scores[i], i))[:k]
        assert indices[row].tolist() == expected
        assert scores[row].tolist() == [all_scores[i] for i in expected]


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
