"""Writing the table of a video index: rows, embeddings, facets and tags, published by one rename."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts.files import staging_folder
from vlmvid.errors import ArtifactError
from vlmvid.serving.video_index_faiss import build_cells
from vlmvid.serving.video_index_files import (
    CELLS_FILE,
    EMBEDDINGS_FILE,
    FAILED_FILE,
    ROWS_FILE,
    FailedRow,
    IndexDescription,
    TableRow,
    describe_files,
    table_folder,
    write_description,
    write_facets,
    write_failed,
    write_rows,
    write_tags,
)
from vlmvid.serving.video_index_folder import remove_old_tables

MAX_FACETS = 50
MAX_FACET_VALUES = 100  # an attribute of more is shown with each clip, and is nothing to choose from
MAX_VALUE_CHARACTERS = 200  # of a facet
MAX_TAGS = 2000
MAX_TAG_CHARACTERS = 500


@dataclass(frozen=True)
class Maker:
    """What embedded the clips: `VideoTextModel.embedding_digest`, the model's name and parts in words, and the code;
    and where they are from.
    """

    digest: str
    name: str
    encoders: str
    code: str = ""
    source: str = ""


@dataclass(frozen=True)
class TableContent:
    """What goes into a table.

    Attributes:
        rows: the N clips, in order; gone through once.
        num_rows: N.
        embeddings: blocks float16 (n, D) of all rows, in their order.
        embed_dim: D.
        num_steps: S, time steps with an embedding of their own; 0 = none.
        failed: the clips in no row.
        shards: the folders that `rows` lead to.
        with_cells: whether approximate search is prepared, which needs faiss.
        digest: of all of it, for `IndexDescription.content`.
        embed_tags: texts to float16 embeddings (M, D); None = the index gets no tags.
    """

    rows: Iterable[TableRow]
    num_rows: int
    embeddings: Iterable[NDArray[np.float16]]
    embed_dim: int
    num_steps: int = 0
    failed: Sequence[FailedRow] = ()
    shards: Sequence[str] = ()
    with_cells: bool = False
    digest: str = ""
    embed_tags: Callable[[Sequence[str]], NDArray[np.float16]] | None = None


def publish_table(folder: Path, maker: Maker, content: TableContent) -> IndexDescription:
    """Write a table and make it the index in `folder`; the one before goes.

    Raises ArtifactError for embeddings that are not finite or not as many as rows.
    """
    name = f"{int(time.time())}-{secrets.token_hex(6)}"
    seen = _Seen(content.num_rows)
    with staging_folder(table_folder(folder, name)) as temporary:
        max_norm = _write_embeddings(temporary / EMBEDDINGS_FILE, content)
        if content.with_cells:
            build_cells(np.load(temporary / EMBEDDINGS_FILE, mmap_mode="r", allow_pickle=False), temporary / CELLS_FILE)
        write_rows(temporary / ROWS_FILE, seen.watch(content.rows))
        if seen.count != content.num_rows:
            raise ArtifactError(f"{folder}: {seen.count} rows were given for {content.num_rows} embeddings")
        facets = seen.facets()
        write_facets(temporary, {facet: codes for facet, (_, codes) in facets.items()}, content.num_rows)
        write_failed(temporary / FAILED_FILE, content.failed)
        tags = seen.tags() if content.embed_tags is not None else []
        embedded = content.embed_tags(tags) if content.embed_tags is not None and tags else None
        write_tags(temporary, tags, np.empty((0, content.embed_dim), np.float16) if embedded is None else embedded)
        description = IndexDescription(
            model_digest=maker.digest,
            model_name=maker.name,
            encoders=maker.encoders,
            code=maker.code,
            source=maker.source,
            content=content.digest,
            table=name,
            files=describe_files(temporary),
            shards=tuple(sorted(content.shards)),
            num_clips=content.num_rows,
            num_failed=len(content.failed),
            embed_dim=content.embed_dim,
            num_steps=content.num_steps,
            max_norm=max_norm,
            facets={facet: counts for facet, (counts, _) in facets.items()},
            created_seconds=time.time(),
        )
    write_description(folder, description)
    remove_old_tables(folder)
    return description


def _write_embeddings(path: Path, content: TableContent) -> float:
    """Write (N, D); returns the largest length of a row."""
    shape = (content.num_rows, content.embed_dim)
    target: NDArray[Any] = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    count, largest = 0, 0.0
    for block in content.embeddings:
        wide = block.astype(np.float32)
        norms = np.sqrt(np.einsum("nd,nd->n", wide, wide))
        if not np.isfinite(norms).all():
            raise ArtifactError(f"{path}: an embedding of the rows from {count} on holds NaN or infinity")
        if block.shape[1:] != shape[1:] or count + len(block) > len(target):
            raise ArtifactError(f"{path}: embeddings {block.shape} at row {count} do not fit into {shape}")
        target[count : count + len(block)] = block
        count, largest = count + len(block), max(largest, float(norms.max(initial=0.0)))
    if count != len(target) or not largest:
        raise ArtifactError(f"{path}: {count} embeddings, the longest {largest}, were given for {len(target)} rows")
    target.flush()  # type: ignore[attr-defined]
    return largest * (1 + 1e-6)  # the sum was rounded


@dataclass
class _Seen:
    """What the rows say, gathered while they are written."""

    num_rows: int
    count: int = 0
    _values: dict[str, dict[str, int]] = field(default_factory=dict)  # attribute -> value -> code
    _codes: dict[str, NDArray[np.int16]] = field(default_factory=dict)
    _refused: set[str] = field(default_factory=set)
    _texts: Counter[str] = field(default_factory=Counter)

    def watch(self, rows: Iterable[TableRow]) -> Iterator[TableRow]:
        """The same rows, after they were looked at."""
        for row in rows:
            if self.count < self.num_rows:
                self._look_at(row)
            self.count += 1
            yield row

    def facets(self) -> dict[str, tuple[dict[str, int], NDArray[np.int16]]]:
        """Counts by value, and codes (N,), of each attribute that has few values; names, values and so codes sorted."""
        few = [
            name
            for name, values in sorted(self._values.items())
            if 0 < len(values) <= MAX_FACET_VALUES and name not in self._refused
        ]
        found = {}
        for name in few[:MAX_FACETS]:
            values = sorted(self._values[name])
            # By code: the place of its value among the sorted ones; -1, which is no value, stays what it is.
            place = np.full(len(values) + 1, -1, np.int16)
            for number, value in enumerate(values):
                place[self._values[name][value]] = number
            codes = place[self._codes[name]]
            counts = np.bincount(codes[codes >= 0], minlength=len(values))
            found[name] = (dict(zip(values, counts.tolist(), strict=True)), codes)
        return found

    def tags(self) -> list[str]:
        """The values of facets, and the most frequent captions."""
        values = dict.fromkeys(value for counts, _ in self.facets().values() for value in counts if value.strip())
        captions = (text for text, _ in self._texts.most_common(MAX_TAGS))
        return list(dict.fromkeys([*values, *captions]))[:MAX_TAGS]

    def _look_at(self, row: TableRow) -> None:
        self._texts.update(text for text in set(row.captions) if text.strip() and len(text) <= MAX_TAG_CHARACTERS)
        for name, value in row.attributes.items():
            known = self._values.get(name)
            if known is None:
                if len(self._values) >= 10 * MAX_FACETS:  # names without end are no facets
                    continue
                known = self._values[name] = {}
                self._codes[name] = np.full(self.num_rows, -1, np.int16)
            if len(value) > MAX_VALUE_CHARACTERS:
                self._refused.add(name)
            if name in self._refused or len(known) > MAX_FACET_VALUES:
                continue
            self._codes[name][self.count] = known.setdefault(value, len(known))
