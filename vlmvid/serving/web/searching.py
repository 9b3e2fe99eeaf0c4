"""Searches over the index: those that wait share one pass of the text encoder and one over the embeddings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmvid.serving.model import VideoTextModel
from vlmvid.serving.video_index import IndexedClip, Moment, VideoIndex
from vlmvid.serving.web.media import is_missing

Where = tuple[tuple[str, tuple[str, ...]], ...]
"""Of each attribute, the values of which a clip must have one."""
NUM_TAGS = 8


@dataclass(frozen=True)
class Query:
    """One search: by a text, by an embedding (D,), or for what is like a row.

    An embedding is that of an upload: its tags are wanted, too.
    """

    by: str | int | NDArray[np.float32]
    top_k: int
    where: Where = ()


@dataclass(frozen=True)
class Found:
    """One clip that was found; `is_missing` says that its video is gone."""

    clip: IndexedClip
    score: float
    moment: Moment | None
    is_missing: bool


@dataclass(frozen=True)
class Answer:
    """What a search found, best first, with the tags of an upload."""

    found: list[Found]
    tags: list[tuple[str, float]]


class Searcher:
    """The index and the model that embeds queries for it; used by one thread."""

    def __init__(self, model: VideoTextModel, index: VideoIndex) -> None:
        self._model = model
        self._index = index

    def search(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer every query; those with the same filter share one pass over the embeddings."""
        vectors = self._vectors(queries)
        ranked: dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]] = {}
        together: dict[Where, list[int]] = defaultdict(list)
        for number, query in enumerate(queries):
            if isinstance(query.by, int):
                ranked[number] = self._index.like(query.by, query.top_k, dict(query.where))
            else:
                together[query.where].append(number)
        for where, numbers in together.items():
            most = max(queries[number].top_k for number in numbers)
            rows, scores = self._index.search(np.stack([vectors[number] for number in numbers]), most, dict(where))
            for number, some_rows, some_scores in zip(numbers, rows, scores, strict=True):
                k = queries[number].top_k
                ranked[number] = some_rows[:k], some_scores[:k]
        return [self._answer(query, vectors.get(number), *ranked[number]) for number, query in enumerate(queries)]

    def _vectors(self, queries: Sequence[Query]) -> dict[int, NDArray[np.float32]]:
        vectors = {number: query.by for number, query in enumerate(queries) if isinstance(query.by, np.ndarray)}
        texts = {number: query.by for number, query in enumerate(queries) if isinstance(query.by, str)}
        if texts:
            vectors.update(zip(texts, self._model.encode_text(list(texts.values())), strict=True))
        return vectors

    def _answer(
        self,
        query: Query,
        vector: NDArray[np.float32] | None,
        rows: NDArray[np.int64],
        scores: NDArray[np.float32],
    ) -> Answer:
        # Moments are of what was asked for in words; of a clip as a whole there is no best one.
        asks = vector if isinstance(query.by, str) else None
        found = [
            Found(
                clip,
                float(score),
                self._index.moment(clip.row, asks) if asks is not None else None,
                is_missing(clip.path),
            )
            for clip, score in zip(self._index.clips(rows.ravel()), scores.ravel(), strict=True)
        ]
        return Answer(found, self._index.text_tags(query.by, NUM_TAGS) if isinstance(query.by, np.ndarray) else [])
