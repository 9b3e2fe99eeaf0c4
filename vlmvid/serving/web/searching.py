"""Searches over the index: those that wait share one pass of the text encoder and one over the embeddings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmvid.serving.model import VideoTextModel
from vlmvid.serving.video_index import IndexedClip, Moment, VideoIndex

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
    """One clip that was found; `is_missing` says that its video is gone, as far as that is known."""

    clip: IndexedClip
    score: float
    moment: Moment | None
    is_missing: bool = False


@dataclass(frozen=True)
class Answer:
    """What a search found, best first, with the tags of an upload."""

    found: list[Found]
    tags: list[tuple[str, float]]


class Searcher:
    """The index and the model that embeds queries for it; used by one thread, which opens no video."""

    def __init__(self, model: VideoTextModel, index: VideoIndex) -> None:
        self._model = model
        self._index = index

    def search(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer every query; those with the same filter share one pass over the embeddings."""
        vectors = self._vectors(queries)
        together: dict[Where, list[int]] = defaultdict(list)
        for number, query in enumerate(queries):
            together[query.where].append(number)
        answers: dict[int, Answer] = {}
        for where, numbers in together.items():
            most = max(queries[number].top_k for number in numbers) + 1  # a clip is nearest to itself
            rows, scores = self._index.search(vectors[numbers], most, dict(where))
            for number, some_rows, some_scores in zip(numbers, rows, scores, strict=True):
                query = queries[number]
                kept = np.flatnonzero(some_rows != query.by if isinstance(query.by, int) else some_rows >= 0)
                kept = kept[: query.top_k]
                answers[number] = self._answer(query, vectors[number], some_rows[kept], some_scores[kept])
        return [answers[number] for number in range(len(queries))]

    def _vectors(self, queries: Sequence[Query]) -> NDArray[np.float32]:
        """What is searched for, (Q, D)."""
        vectors = np.empty((len(queries), self._index.embed_dim), np.float32)
        texts = {number: query.by for number, query in enumerate(queries) if isinstance(query.by, str)}
        if texts:
            vectors[list(texts)] = self._model.encode_text(list(texts.values()))
        for number, query in enumerate(queries):
            if isinstance(query.by, np.ndarray):
                vectors[number] = query.by
            elif isinstance(query.by, int):
                vectors[number] = self._index.embeddings([query.by])[0]
        return vectors

    def _answer(
        self,
        query: Query,
        vector: NDArray[np.float32],
        rows: NDArray[np.int64],
        scores: NDArray[np.float32],
    ) -> Answer:
        # Moments are of what was asked for in words; of a clip as a whole there is no best one.
        by_text = isinstance(query.by, str)
        found = [
            Found(
                clip,
                float(score),
                self._index.moment(clip.row, vector) if by_text else None,
            )
            for clip, score in zip(self._index.clips(rows), scores, strict=True)
        ]
        return Answer(found, self._index.text_tags(vector, NUM_TAGS) if isinstance(query.by, np.ndarray) else [])
