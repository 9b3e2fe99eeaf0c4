"""Annotation files as their authors publish them: a byte order mark, tabs in a .csv, semicolons, JSON Lines."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmvid.errors import ConfigError, DatasetError, MissingDataError
from vlmvid.evaluation.scoring.base import AnnotationFile, Item
from vlmvid.registry import nearest


def find_file(path: Path, file: AnnotationFile, name: str | None = None) -> Path:
    """`path` itself when it is a file, else the file `name` (default: that of `file`) in the folder `path`.

    Raises MissingDataError, which says which file, where its authors publish it, and which columns it has.
    """
    if path.is_file():
        return path
    wanted = name or file.name
    found = sorted(path.rglob(wanted)) if path.is_dir() else []
    if found:
        depth = min(len(place.parts) for place in found)
        nearest_files = [place for place in found if len(place.parts) == depth]
        if len(nearest_files) > 1 and "*" not in wanted:
            raise DatasetError(
                f"{path} holds {len(nearest_files)} files {wanted}, e.g. {nearest_files[0]} and {nearest_files[1]}; "
                "give the folder of one of them"
            )
        return nearest_files[0]
    where = f"in the folder {path}" if path.is_dir() else f"at {path}"
    raise MissingDataError(
        f"there is no {wanted} {where}; its authors publish it at {file.publisher}; it has the columns "
        f"{', '.join(file.columns)}"
    )


def read_json(path: Path, expected: type | tuple[type, ...], file: AnnotationFile) -> Any:
    """The JSON document in `path`; raises DatasetError with line and column, or for another type than `expected`."""
    text = read_text(path, file)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}; get it again from "
            f"{file.publisher}"
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, an endless nest
        raise DatasetError(f"{path} cannot be read as JSON: {error}; get it again from {file.publisher}") from error
    if not isinstance(value, expected):
        names = " or ".join(kind.__name__ for kind in (expected if isinstance(expected, tuple) else (expected,)))
        raise DatasetError(
            f"{path} holds a JSON {type(value).__name__}; expected a {names}, as {file.publisher} has it"
        )
    return value


def read_json_lines(path: Path, file: AnnotationFile) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object per line; empty lines are skipped."""
    rows = []
    # Not splitlines: JSON may hold U+2028 and other line ends of Unicode as they are.
    for number, line in enumerate(read_text(path, file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DatasetError(f"{path}, line {number}, column {error.colno}: not JSON: {error.msg}") from error
        if not isinstance(row, dict):
            raise DatasetError(f"{path}, line {number}: expected an object, got {type(row).__name__}")
        require_columns(path, file, row, f"line {number}")
        rows.append(row)
    if not rows:
        raise DatasetError(f"{path} is empty; get it again from {file.publisher}")
    return rows


def read_table(
    path: Path, file: AnnotationFile, *, delimiter: str | None = None, header: Sequence[str] | None = None
) -> list[dict[str, str]]:
    """The rows of a text table.

    Args:
        path: its place.
        file: what it is; every one of its columns must be there.
        delimiter: None = whichever of comma, semicolon and tab the first line holds most often.
        header: names of the columns of a file without a header line.
    """
    text = read_text(path, file)
    if not text.strip():
        raise DatasetError(f"{path} is empty; get it again from {file.publisher}")
    if delimiter is None:
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), fieldnames=header, delimiter=delimiter)
    require_columns(path, file, dict.fromkeys(reader.fieldnames or ()), "the header")
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise DatasetError(
                f"{path}, line {reader.line_num}: {len([v for v in row.values() if v is not None])} columns; the "
                f"header has {len(reader.fieldnames or ())}"
            )
        rows.append(row)
    if not rows:
        raise DatasetError(f"{path} has a header but no row; get it again from {file.publisher}")
    return rows


def require_columns(path: Path, file: AnnotationFile, row: object, where: str) -> None:
    """Raise DatasetError unless `row` is an object with every column of `file`."""
    if not isinstance(row, Mapping):
        raise DatasetError(f"{path}, {where}: expected an object with {', '.join(file.columns)}, got {row!r:.60}")
    missing = [name for name in file.columns if name not in row]
    if missing:
        raise DatasetError(
            f"{path}, {where}: no {missing[0]!r}; it has {', '.join(map(str, row)) or 'nothing'}, expected "
            f"{', '.join(file.columns)}, as {file.publisher} has it"
        )


def read_text(path: Path, file: AnnotationFile) -> str:
    """The text of a file without a byte order mark; raises MissingDataError or DatasetError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MissingDataError(
            f"there is no {path}; its authors publish it at {file.publisher}; it has the columns "
            f"{', '.join(file.columns)}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path} cannot be read as UTF-8 text: {error}; get it again from {file.publisher}"
        ) from error


def unique_items(items: list[Item], source: Path) -> list[Item]:
    """`items`; raises DatasetError when there are none or two share an id."""
    if not items:
        raise DatasetError(f"{source} holds no item to score; check the split and the file")
    repeated = [name for name, count in Counter(item.item_id for item in items).items() if count > 1]
    if repeated:
        raise DatasetError(f"{source}: {len(repeated)} ids occur more than once, e.g. {', '.join(repeated[:3])}")
    return items


def choose(options: Mapping[str, str], name: str, known: Sequence[str]) -> str:
    """The option `name`, by default the first of `known`, whatever its case; raises ConfigError for another value."""
    value = options.get(name, known[0])
    value = {some.lower(): some for some in known}.get(value.lower(), value)
    if value not in known:
        raise ConfigError(f"option {name}={value!r}{nearest(value, list(known))}; known: {', '.join(known)}")
    return value
