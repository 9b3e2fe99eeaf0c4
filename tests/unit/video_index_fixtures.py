"""A video index made of given numbers, without videos or a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlmvid.serving.video_index import VideoIndex
from vlmvid.serving.video_index_files import TableRow
from vlmvid.serving.video_index_table import Maker, TableContent, publish_table

MAKER = Maker("0123456789ab", "tiny", "vision: eyes, text: ears")


def unit_rows(num_rows: int, embed_dim: int, seed: int = 0) -> NDArray[np.float16]:
    """Random directions (N, D)."""
    values = np.random.default_rng(seed).standard_normal((num_rows, embed_dim))
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), dtype=np.float16)


def table_row(number: int, **changes: object) -> TableRow:
    values = {
        "video_id": f"v{number}",
        "path": f"/videos/{number}.mp4",
        "start_seconds": 0.0,
        "end_seconds": None,
        "captions": (f"caption {number % 7}",),
        "attributes": {"colour": ("red", "green", "blue")[number % 3], "number": str(number)},
        "source_sha256": "",
        "shard": "",
        "shard_row": -1,
    }
    return TableRow.model_validate({**values, **changes})


def make_index(
    folder: Path, embeddings: NDArray[np.float16], rows: Sequence[TableRow] | None = None, maker: Maker = MAKER
) -> VideoIndex:
    """An index of these embeddings (N, D), whose tags are embedded at random."""
    rows = [table_row(number) for number in range(len(embeddings))] if rows is None else rows

    def embed(texts: Sequence[str]) -> NDArray[np.float16]:
        return unit_rows(len(texts), embeddings.shape[1], seed=1)

    content = TableContent(rows, len(embeddings), [embeddings], embeddings.shape[1], embed_tags=embed)
    publish_table(folder, maker, content)
    return VideoIndex.open(folder)
