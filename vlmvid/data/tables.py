"""Annotation files that others publish: JSON, CSV and Parquet."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmvid.data.files import list_videos
from vlmvid.errors import DatasetError, DecodeError, MissingDataError
from vlmvid.video.paths import check_file, printable

_ROWS_AT_ONCE = 65_536


def read_annotations(path: Path, expected: type) -> Any:
    """The JSON list or dict in `path`; raises DatasetError for another value, MissingDataError without the file."""
    text = _text_of(path)
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DatasetError(f"{path} is not JSON: {error}; download it again") from error
    if not isinstance(value, expected):
        raise DatasetError(f"{path} holds a JSON {type(value).__name__}; expected a {expected.__name__}")
    return value


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, separated by commas or semicolons.

    Raises DatasetError where it lacks one of `columns` and MissingDataError without the file.
    """
    lines = _text_of(path).splitlines()
    header = lines[0] if lines else ""
    reader = csv.DictReader(lines, delimiter=";" if header.count(";") > header.count(",") else ",")
    _require(path, columns, list(reader.fieldnames or ()))
    return [{name: row[name] or "" for name in columns} for row in reader]


def read_ids(path: Path) -> list[str]:
    """The ids in a text file, one per line; raises DatasetError for none at all, MissingDataError without the file."""
    ids = [line.strip() for line in _text_of(path).splitlines() if line.strip()]
    if not ids:
        raise DatasetError(f"{path} names no id; write one per line")
    return ids


def read_columns(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Some columns of a large CSV or Parquet table, row by row.

    Raises DatasetError when the table cannot be read or lacks one of `columns`.
    """
    import pyarrow as pa
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as table:
                _require(path, columns, list(table.schema_arrow.names))
                for batch in table.iter_batches(_ROWS_AT_ONCE, columns=list(columns)):
                    yield from batch.to_pylist()
            return
        # Texts as they are: a caption like "2021" is no number.
        types = {name: pa.string() for name in columns}
        with pa_csv.open_csv(
            path,
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(column_types=types),
        ) as reader:
            _require(path, columns, list(reader.schema.names))
            for batch in reader:
                yield from batch.select(list(columns)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path} cannot be read as a table: {error}; download it again") from error


def videos_by_stem(root: Path) -> dict[str, Path]:
    """The video files below `root` by their names without suffix; of several the first in sorted order."""
    found: dict[str, Path] = {}
    for name in list_videos(root)[0]:
        path = root / os.fsdecode(name)
        if printable(path) == str(path):  # no clip can hold another name
            found.setdefault(path.stem, path)
    return found


def _text_of(path: Path) -> str:
    try:
        check_file(path)
        return path.read_text(encoding="utf-8-sig")
    except DecodeError as error:
        kind = MissingDataError if error.reason_code == "missing_file" else DatasetError
        raise kind(f"{path} cannot be read: {error}; check data.options") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as UTF-8 text: {error}; download it again") from error


def _require(path: Path, columns: Sequence[str], found: Sequence[str]) -> None:
    missing = [name for name in columns if name not in found]
    if missing:
        raise DatasetError(f"{path} lacks the column {missing[0]!r}; it has: {', '.join(found)}")
