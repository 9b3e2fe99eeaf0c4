"""Folders of embeddings that other projects have written: which files belong to them, and the ids of their rows.

``sail`` (SAIL, arXiv 2412.04616): one tensor file ``{number}.pt`` per batch; a row's number is its place
over all files in the order of their numbers, and nothing else says whose it is. ``clip-retrieval``:
``img_emb/img_emb_{number}.npy``, ``text_emb/text_emb_{number}.npy`` and a table per pair,
``metadata/metadata_{number}.parquet``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmvid.errors import ConfigError, DatasetError
from vlmvid.registry import Registry, nearest

FEATURES = "features"
TEXT_FEATURES = "text_features"
DEFAULT_METADATA_COLUMN = "image_path"
DEFAULT_IDS_COLUMN = "video_id"


@dataclass(frozen=True)
class EmbeddingPart:
    """The files of one batch of rows: by column, or one that holds all columns; and the table of its ids."""

    files: dict[str, Path]
    metadata: Path | None = None


def sail_parts(folder: Path) -> list[EmbeddingPart]:
    """``{number}.pt``, a tensor (B, ...) or a dict of such each, in the order of their numbers."""
    return [EmbeddingPart({FEATURES: path}) for path in numbered_files(folder, "", ".pt").values()]


def clip_retrieval_parts(folder: Path) -> list[EmbeddingPart]:
    """Arrays of pictures (``features``) and of texts (``text_features``), either or both, with their tables."""
    places = {FEATURES: ("img_emb", ".npy"), TEXT_FEATURES: ("text_emb", ".npy"), "": ("metadata", ".parquet")}
    found = {
        column: numbered_files(folder / name, f"{name}_", suffix)
        for column, (name, suffix) in places.items()
        if (folder / name).is_dir()
    }
    tables = found.pop("", {})
    if not found:
        raise DatasetError(f"{folder} holds neither img_emb/ nor text_emb/; give the folder that holds them")
    numbers = set().union(*found.values(), tables)
    for name, files in (*found.items(), *([("metadata", tables)] if tables else [])):
        missing = sorted(numbers - files.keys())
        if missing:
            raise DatasetError(
                f"{folder}: {name} lacks number {missing[0]}, which another folder beside it has "
                f"({len(missing)} such numbers); complete the folder"
            )
    return [
        EmbeddingPart({column: files[number] for column, files in found.items()}, tables.get(number))
        for number in sorted(numbers)
    ]


FORMATS: Registry[Callable[[Path], list[EmbeddingPart]]] = Registry("embedding format")
FORMATS.register("sail", sail_parts)
FORMATS.register("clip-retrieval", clip_retrieval_parts)


def numbered_files(folder: Path, prefix: str, suffix: str) -> dict[int, Path]:
    """The files ``{prefix}{number}{suffix}`` of a folder in the order of their numbers.

    Raises DatasetError when there is none, when one with that suffix has no number, when two have the same, or
    when a number between the first and the last is missing: rows after a gap would be given to the wrong ids.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is no folder; give the folder that holds the embeddings")
    files: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix != suffix or path.name.startswith("."):
            continue
        match = re.fullmatch(rf"{re.escape(prefix)}([0-9]+)", path.stem)
        if match is None:
            raise DatasetError(f"{path} has no number; expected {prefix}0{suffix}, {prefix}1{suffix}, ...; move it")
        if int(match[1]) in files:
            raise DatasetError(f"{path} and {files[int(match[1])]} have the same number; remove one")
        files[int(match[1])] = path
    if not files:
        raise DatasetError(f"{folder} holds no file {prefix}{{number}}{suffix}")
    gaps = sorted(set(range(min(files), max(files))) - files.keys())
    if gaps:
        raise DatasetError(
            f"{folder} lacks {prefix}{gaps[0]}{suffix} ({len(gaps)} such files): rows are known by their place, so "
            "those after the gap cannot be told apart; complete the folder"
        )
    return dict(sorted(files.items()))


def read_ids(path: Path, column: str | None) -> list[str]:
    """The ids in a text file (one per line) or in a column of a Parquet table, in order.

    Raises ConfigError for `column` with a text file, DatasetError when the file cannot be read.
    """
    if path.suffix == ".parquet":
        return read_id_column(path, column or DEFAULT_IDS_COLUMN)
    if column is not None:
        raise ConfigError(f"--column {column!r} names a column of a Parquet table, but {path} is read as a text file")
    try:
        text = path.read_text(encoding="utf-8-sig")  # which takes every kind of line end for \n
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"the ids {path} cannot be read as UTF-8 text: {error}; expected one id per line") from error
    return text.removesuffix("\n").split("\n")


def read_id_column(path: Path, column: str) -> list[str]:
    """One column of a Parquet table as texts; raises DatasetError when it is not there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        if column not in names:
            raise DatasetError(
                f"{path} has no column {column!r}{nearest(column, names)}; it has: {', '.join(names)}. "
                "Name the one that holds the ids with --column"
            )
        values = pq.read_table(path, columns=[column])[column].to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path} cannot be read as Parquet: {error}") from error
    return ["" if value is None else str(value) for value in values]


def check_ids(ids: Sequence[str], num_rows: int, source: str) -> None:
    """Raise DatasetError unless there is one id per row, none empty and none twice."""
    if len(ids) != num_rows:
        raise DatasetError(
            f"{source} gives {len(ids)} ids for {num_rows} rows of embeddings; one id per row is expected, in order"
        )
    seen: dict[str, int] = {}
    for number, video_id in enumerate(ids):
        if not video_id.strip():
            raise DatasetError(f"{source}: the id of row {number} is empty; every row needs one")
        if video_id in seen:
            raise DatasetError(
                f"{source}: rows {seen[video_id]} and {number} have the same id {video_id!r}; ids must be unique, "
                "choose another column"
            )
        seen[video_id] = number
