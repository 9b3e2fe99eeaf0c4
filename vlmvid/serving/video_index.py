"""A folder of embedded clips that can be searched: opened at once, however many they are, and read where it lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vlmvid.artifacts.files import MissingResult, read_json
from vlmvid.artifacts.shards import ClipStore
from vlmvid.errors import ArtifactError, ConfigError
from vlmvid.registry import nearest
from vlmvid.serving.search import top_k
from vlmvid.serving.video_index_faiss import Cells
from vlmvid.serving.video_index_files import (
    CELLS_FILE,
    EMBEDDINGS_FILE,
    FACETS_FILE,
    ROWS_FILE,
    ROWS_PER_GROUP,
    SECONDS,
    STAGE,
    STEPS,
    TAG_EMBEDDINGS_FILE,
    TAGS_FILE,
    IndexDescription,
    check_files,
    read_description,
    table_folder,
)
from vlmvid.types import Record

if TYPE_CHECKING:
    from vlmvid.serving.model import VideoTextModel

# Q queries, D values of an embedding, S time steps
NUM_GROUPS = 64  # of rows that are kept in memory
NUM_COMPARED = 10_000  # ids among which a misspelt one is looked for
Found = tuple[NDArray[np.int64], NDArray[np.float32]]


class IndexedClip(Record):
    """One clip of an index; what it says is as its manifest, or the file's name, had it: show it as text."""

    row: int
    video_id: str
    path: str
    start_seconds: float
    end_seconds: float | None
    captions: tuple[str, ...]
    attributes: dict[str, str]


class Moment(Record):
    """Where in a clip a query fits best: `seconds` from the file's start, and (seconds, score) of every time step.

    The score is the cosine with that step alone, shown as a still clip; it may be above the whole clip's.
    """

    seconds: float
    score: float
    steps: tuple[tuple[float, float], ...]


class VideoIndex:
    """Embedded clips with what is known of them. Made by ``vlmvid index``, opened by `VideoIndex.open`.

    Several threads may use one. Searches take turns, because each of them keeps all cores busy. An index that is built
    again stays as it was opened; only once it has been built twice, some of its clips may give no moments.

    Attributes:
        folder: where it lies.
        num_clips: N.
        embed_dim: D.
        model_digest: `VideoTextModel.embedding_digest` of the model that embedded it.
        model_name: what that model is called.
        encoders: its parts in words, on one line.
        num_failed: clips that could not be embedded; `vlmvid.serving.video_index_files.read_failed` says why.
    """

    def __init__(self, folder: Path, description: IndexDescription, *, approximate: bool = False) -> None:
        table = table_folder(folder, description.table)
        self.folder = folder
        self.num_clips = description.num_clips
        self.num_failed = description.num_failed
        self.embed_dim = description.embed_dim
        self.model_digest = description.model_digest
        self.model_name = description.model_name
        self.encoders = description.encoders
        self._facets = description.facets
        self._num_steps = description.num_steps
        self._max_norm = description.max_norm
        try:
            # Copy-on-write, because torch takes no memory that may not be written; nothing is written.
            self._embeddings: NDArray[np.float16] = np.load(table / EMBEDDINGS_FILE, mmap_mode="c", allow_pickle=False)
            self._codes: NDArray[np.int16] = np.load(table / FACETS_FILE, mmap_mode="r", allow_pickle=False)
            self._rows = pq.ParquetFile(table / ROWS_FILE, memory_map=True)
            self._tags: list[str] = read_json(table / TAGS_FILE)
            self._tag_embeddings: NDArray[np.float16] = np.load(table / TAG_EMBEDDINGS_FILE, allow_pickle=False)
        except (OSError, ValueError, pa.ArrowException, MissingResult) as error:
            raise ArtifactError(f"the table {table} of the video index cannot be read: {error}; {_BUILD}") from error
        self._check(table)
        if approximate and CELLS_FILE not in description.files:
            raise ConfigError(
                f"the video index {folder} was built without approximate search; build it with `vlmvid index --faiss`, "
                "or search exactly"
            )
        self._cells = Cells(table / CELLS_FILE, (self.num_clips, self.embed_dim)) if approximate else None
        self._shards = ClipStore(folder / "clips", STAGE)
        self._searching, self._reading = Lock(), Lock()
        self._group = lru_cache(maxsize=NUM_GROUPS)(self._read_group)

    @classmethod
    def open(cls, folder: str | Path, *, approximate: bool = False) -> VideoIndex:
        """The index in `folder`; reads little of it.

        With `approximate` searches look into a part of the index, where nothing is filtered; see
        `vlmvid.serving.video_index_faiss`.

        Raises:
            ArtifactError: there is none, it was not finished, or it is damaged; the message says what to run.
            ConfigError: `approximate`, of an index that was built without, or without faiss.
        """
        place = Path(folder).expanduser().absolute()
        description = read_description(place)
        while True:
            try:
                check_files(place, description)
                return cls(place, description, approximate=approximate)
            except ArtifactError:
                now = read_description(place)
                if now.table == description.table:
                    raise
                description = now  # a build has put another table in its place meanwhile

    def __repr__(self) -> str:
        return f"VideoIndex({str(self.folder)!r}: {self.num_clips} clips, {self.embed_dim} values, {self.encoders})"

    def require_model(self, model: VideoTextModel) -> None:
        """Raise ConfigError, naming both, when `model` embeds otherwise than the model that made the index."""
        if model.embedding_digest != self.model_digest:
            raise ConfigError(
                f"the video index {self.folder} was made with the model {self.model_name!r} ({self.encoders}; digest "
                f"{self.model_digest}), and this is the model {model.name!r} ({encoders_of(model)}; digest "
                f"{model.embedding_digest}): their embeddings cannot be compared; use the index's model, or make an "
                "index with this one: vlmvid index VIDEOS --model URI --out DIR"
            )

    def clip(self, row: int) -> IndexedClip:
        """The clip of a row; raises ConfigError for a row that is not there."""
        return self.clips([row])[0]

    def clips(self, rows: Sequence[int] | NDArray[np.int64]) -> list[IndexedClip]:
        """The clips of some rows, in that order; raises as `clip`."""
        return [
            IndexedClip(
                row=int(row),
                video_id=found["video_id"],
                path=found["path"],
                start_seconds=found["start_seconds"],
                end_seconds=found["end_seconds"],
                captions=tuple(found["captions"]),
                attributes=dict(found["attributes"]),
            )
            for row, found in ((row, self._stored(int(row))) for row in rows)
        ]

    def row_of(self, video_id: str) -> int:
        """The row of a clip; raises ConfigError, naming the nearest, for an id that is not there."""
        row = pc.index(self._ids, pa.scalar(video_id, pa.string())).as_py()
        if row < 0:
            known = self._ids.slice(0, NUM_COMPARED).to_pylist()
            raise ConfigError(f"{video_id!r} is no video_id of the index {self.folder}{nearest(video_id, known)}")
        return int(row)

    @property
    def facets(self) -> dict[str, dict[str, int]]:
        """Attribute name -> value -> how many clips have it, of attributes with few values: what `where` filters by."""
        return {name: dict(values) for name, values in self._facets.items()}

    def search(self, queries: NDArray[np.float32], k: int, where: Mapping[str, Sequence[str]] | None = None) -> Found:
        """The clips with the highest cosine to each query; all of them, unless the index was opened as approximate.

        Args:
            queries: (Q, D), L2-normalised, of the index's model.
            k: how many; fewer come back where there are fewer clips.
            where: attribute name -> the values of which a clip must have one, for every name.

        Returns:
            rows int64 (Q, k') and scores float32 (Q, k'), best first; of equal scores the lower row first.

        Raises:
            ConfigError: queries of another width or that are not finite, `k` below 1, a name or value of `where` that
                is not among `facets`.
        """
        queries = np.asarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.embed_dim:
            raise ConfigError(f"expected queries (Q, {self.embed_dim}) for this index; got {queries.shape}")
        if not np.isfinite(queries).all():
            raise ConfigError("a query holds NaN or infinity; embed the text with the index's model")
        rows = self._matching(where or {})
        with self._searching:
            if self._cells is None or rows is not None or not len(queries):
                return top_k(queries, self._embeddings, k, rows=rows, max_norm=self._max_norm)
            return self._near(queries, k, self._cells)

    def like(self, row: int, k: int, where: Mapping[str, Sequence[str]] | None = None) -> Found:
        """The clips nearest to that of a row, which is left out: rows int64 (1, k') and scores; raises as `search`."""
        self._require(row)
        if k < 1:
            raise ConfigError(f"k must be at least 1; got {k}")
        rows, scores = self.search(self._embeddings[row : row + 1].astype(np.float32), k + 1, where)
        others = np.flatnonzero(rows[0] != row)[:k]
        return rows[:, others], scores[:, others]

    def moment(self, row: int, query: NDArray[np.float32]) -> Moment | None:
        """Where in the clip of a row a query (D,) fits best; None where the index has no time steps of it."""
        if not self._num_steps:
            return None
        stored = self._stored(row)
        try:
            steps, seconds = (self._shards.array(stored["shard"], name) for name in (STEPS, SECONDS))
        except MissingResult:  # built twice since
            return None
        scores = steps[stored["shard_row"]].astype(np.float32) @ np.asarray(query, dtype=np.float32)
        times = (seconds[stored["shard_row"]].astype(np.float64) + stored["start_seconds"]).tolist()
        best = int(np.argmax(scores))
        return Moment(
            seconds=times[best],
            score=float(scores[best]),
            steps=tuple(zip(times, map(float, scores), strict=True)),
        )

    def text_tags(self, query: NDArray[np.float32], k: int) -> list[tuple[str, float]]:
        """The captions and attribute values of the index that are nearest to an embedded video (D,), with the cosines.

        Of an index with many, only the most frequent were embedded when it was built.
        """
        if not self._tags:
            return []
        places, scores = top_k(np.asarray(query, dtype=np.float32)[None], self._tag_embeddings, k)
        return [(self._tags[place], float(score)) for place, score in zip(places[0], scores[0], strict=True)]

    def embeddings(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """The embeddings of some rows, (M, D)."""
        for row in rows:
            self._require(int(row))
        return self._embeddings[np.asarray(rows, np.int64)].astype(np.float32)

    def _near(self, queries: NDArray[np.float32], k: int, cells: Cells) -> Found:
        """As `search`, each query among the rows that its cells give, or among all where these are fewer than asked."""
        wanted = min(k, self.num_clips)
        found = []
        for query in queries:
            near = cells.candidates(query, k)
            searched = near if len(near) >= wanted else None
            found.append(top_k(query[None], self._embeddings, k, rows=searched, max_norm=self._max_norm))
        return np.concatenate([rows for rows, _ in found]), np.concatenate([scores for _, scores in found])

    @cached_property
    def _ids(self) -> pa.ChunkedArray:
        with self._reading:
            return self._rows.read(["video_id"])["video_id"]

    def _matching(self, where: Mapping[str, Sequence[str]]) -> NDArray[np.int64] | None:
        """The rows that `where` leaves; None = all."""
        if not where:
            return None
        left = np.ones(self.num_clips, np.bool_)
        names = list(self._facets)
        for name, values in where.items():
            if name not in self._facets:
                raise ConfigError(
                    f"where: {name!r} is no attribute that this index filters by; it has {', '.join(names) or 'none'}"
                )
            codes = {value: code for code, value in enumerate(self._facets[name])}
            unknown = [value for value in values if value not in codes]
            if unknown:
                raise ConfigError(f"where: no clip has {name}={unknown[0]!r}{nearest(unknown[0], list(codes))}")
            wanted = np.array([codes[value] for value in values], np.int16)
            left &= np.isin(self._codes[names.index(name)], wanted)
        return np.flatnonzero(left)

    def _stored(self, row: int) -> dict[str, Any]:
        self._require(row)
        group, place = divmod(row, ROWS_PER_GROUP)
        found: dict[str, Any] = self._group(group).slice(place, 1).to_pylist()[0]
        return found

    def _read_group(self, group: int) -> pa.Table:
        with self._reading:
            try:
                return self._rows.read_row_group(group)
            except (OSError, pa.ArrowException) as error:
                raise ArtifactError(f"the rows of the video index cannot be read: {error}; {_BUILD}") from error

    def _require(self, row: int) -> None:
        if not 0 <= row < self.num_clips:
            raise ConfigError(f"row {row} is not in this index; it has rows 0 to {self.num_clips - 1}")

    def _check(self, table: Path) -> None:
        """Raise ArtifactError unless the files of the table are of the sizes that were said."""
        expected = (self.num_clips, self.embed_dim)
        groups = [self._rows.metadata.row_group(i).num_rows for i in range(self._rows.metadata.num_row_groups)]
        fits = (
            self._embeddings.shape == expected
            and self._embeddings.dtype == np.float16
            and self._codes.shape == (len(self._facets), self.num_clips)
            and self._rows.metadata.num_rows == self.num_clips
            and all(num_rows == ROWS_PER_GROUP for num_rows in groups[:-1])
            and self._tag_embeddings.shape == (len(self._tags), self.embed_dim)
        )
        if not fits:
            raise ArtifactError(
                f"the video index is damaged: the files of {table} do not belong together (embeddings "
                f"{self._embeddings.dtype} {self._embeddings.shape}, {self._rows.metadata.num_rows} rows; expected "
                f"float16 {expected}); {_BUILD}"
            )


_BUILD = "build it again with `vlmvid index`; what is whole is not computed again"


def encoders_of(model: VideoTextModel) -> str:
    """What embeds in a model, in words, on one line."""
    told = ("vision", "text", "pooling", "embedding")
    return ", ".join(f"{name}: {words}" for name, words in model.parts.items() if name in told)
