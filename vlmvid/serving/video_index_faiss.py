"""An approximate search beside the exact one, for indexes of millions of clips: faiss (the extra ``faiss``).

The embeddings are sorted into cells around centres, and a query looks into the nearest cells alone. What it finds there
is scored as the exact search scores, so only a clip of another cell can be missed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import ArtifactError, ConfigError

CELLS_LOOKED_AT = 16  # one of so many
ROWS_PER_CENTRE = 64  # that its place is learnt from
MIN_CELLS_LOOKED_AT = 8
_ROWS_TOGETHER = 65536


def load_faiss() -> Any:
    """The package; raises ConfigError with the command that installs it."""
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            "approximate search needs faiss, which is not installed: pip install 'vlmvid[faiss]'; without it search is "
            "exact"
        ) from error
    return faiss


def build_cells(embeddings: NDArray[np.float16], path: Path) -> None:
    """Sort embeddings (N, D) into about 4 * sqrt(N) cells and write them to `path`, as float16; raises ConfigError
    without faiss.
    """
    faiss = load_faiss()
    num_rows, width = embeddings.shape
    num_cells = max(1, min(num_rows // 2, round(4 * math.sqrt(num_rows))))
    centres = faiss.IndexFlatIP(width)
    kind = faiss.ScalarQuantizer.QT_fp16
    cells = faiss.IndexIVFScalarQuantizer(centres, width, num_cells, kind, faiss.METRIC_INNER_PRODUCT)
    cells.by_residual = False  # the values themselves are float16 already
    cells.cp.min_points_per_centroid = 1  # of a small index it need not warn
    rng = np.random.default_rng(0)
    sample = np.sort(rng.choice(num_rows, min(num_rows, ROWS_PER_CENTRE * num_cells), replace=False))
    cells.train(embeddings[sample].astype(np.float32))
    for start in range(0, num_rows, _ROWS_TOGETHER):
        cells.add(embeddings[start : start + _ROWS_TOGETHER].astype(np.float32))
    cells.nprobe = min(num_cells, max(MIN_CELLS_LOOKED_AT, num_cells // CELLS_LOOKED_AT))
    faiss.write_index(cells, str(path))


class Cells:
    """What `build_cells` wrote, memory-mapped."""

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        faiss = load_faiss()
        try:
            self._cells = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            raise ArtifactError(f"{path} cannot be read by faiss: {error}; build the index again") from error
        if (self._cells.ntotal, self._cells.d) != shape:
            raise ArtifactError(
                f"{path} holds {self._cells.ntotal} embeddings of {self._cells.d} values, expected {shape}; build the "
                "index again"
            )

    def candidates(self, query: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """Rows, ascending, among which the `k` best for a query (D,) are likely to be."""
        _, rows = self._cells.search(query[None], 2 * k)
        found: NDArray[np.int64] = np.unique(rows[rows >= 0]).astype(np.int64)
        return found
