"""Benchmarks that differ from others in their columns only, as YAML files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Any, Literal

from pydantic import Field

from vlmvid.config.base import Config
from vlmvid.config.load import read_recipe_dict, validate
from vlmvid.errors import DatasetError
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media
from vlmvid.evaluation.scoring.families import FAMILIES
from vlmvid.evaluation.scoring.reading import (
    find_file,
    read_json,
    read_json_lines,
    read_table,
    require_columns,
    unique_items,
)
from vlmvid.evaluation.scoring.shapes import in_shape

FOLDER = Path(__file__).parents[1] / "benchmarks"


class Columns(Config):
    """Which column holds what; several names for choices are several columns, one name is a list in one column."""

    item_id: str | tuple[str, ...] = Field(description="one column, or several whose values are joined by _")
    video_id: str
    question: str = ""
    choices: str | tuple[str, ...] = ()
    answer: str = ""
    groups: dict[str, str] = Field(default_factory=dict, description="name of the breakdown: column")
    units: dict[str, str] = Field(default_factory=dict, description="name of the unit: column")


class DeclaredBenchmark(Config):
    """A benchmark as a YAML file; `family` names the scorer and its compat modes."""

    name: str
    title: str
    source: str
    family: str
    publisher: str
    file: str
    format: Literal["json", "jsonl", "table"]
    columns: Columns
    media: str | tuple[str, ...] = Field(default="{video_id}", description="names of media files, from the columns")
    answer_is: Literal["text", "index", "letter", "diagonal"] = Field(
        default="text", description="diagonal: the i-th medium belongs to the i-th choice"
    )
    prediction_keys: tuple[tuple[str, ...], tuple[str, ...]] | None = None


def read_declared(place: str) -> Benchmark:
    """The benchmark in the YAML file `place` below the benchmarks; raises ConfigError for a wrong one."""
    path = FOLDER / place
    declared = validate(DeclaredBenchmark, read_recipe_dict(path), source=str(path))
    family = FAMILIES.get(declared.family)
    file = AnnotationFile(declared.file, _names(declared), declared.publisher)
    return Benchmark(
        name=declared.name,
        title=declared.title,
        kind=family.kind,
        source=declared.source,
        files=(file,),
        read=lambda path, options: _items(declared, file, path),
        score=family.scorer(declared.name),
        compat=family.compat(declared.name),
        options=family.options,
        prediction_keys=declared.prediction_keys,
    )


def _media(declared: DeclaredBenchmark) -> tuple[str, ...]:
    return (declared.media,) if isinstance(declared.media, str) else declared.media


def _names(declared: DeclaredBenchmark) -> tuple[str, ...]:
    columns = declared.columns
    named: list[str] = []
    for value in (columns.item_id, columns.video_id, columns.question, columns.choices, columns.answer):
        named += [value] if isinstance(value, str) else value
    named += [*columns.groups.values(), *columns.units.values()]
    for template in _media(declared):
        named += [name for _, name, _, _ in Formatter().parse(template) if name and name != "video_id"]
    return tuple(dict.fromkeys(name for name in named if name))


def _items(declared: DeclaredBenchmark, file: AnnotationFile, path: Path) -> list[Item]:
    found = find_file(path, file)
    if declared.format == "json":
        rows = read_json(found, list, file)
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, dict):
                raise DatasetError(f"{found}, entry {number}: expected an object, got {type(row).__name__}")
            require_columns(found, file, row, f"entry {number}")
    elif declared.format == "jsonl":
        rows = read_json_lines(found, file)
    else:
        rows = read_table(found, file)
    items = []
    for number, row in enumerate(rows, start=1):
        with in_shape(f"{found}, entry {number}", file):
            items.append(_item(declared, row, found))
    return unique_items(items, found)


def _item(declared: DeclaredBenchmark, row: Mapping[str, Any], path: Path) -> Item:
    columns = declared.columns
    names = (columns.item_id,) if isinstance(columns.item_id, str) else columns.item_id
    item_id = "_".join(str(row[name]) for name in names)
    choices = row[columns.choices] if isinstance(columns.choices, str) else [row[name] for name in columns.choices]
    video_id = str(row[columns.video_id])
    fields = {**row, "video_id": video_id}
    value = row[columns.answer] if columns.answer else None
    return Item(
        item_id=item_id,
        video_id=video_id,
        answer=_answer(declared, value, [str(choice) for choice in choices], f"{path}, {item_id}"),
        question=str(row[columns.question]) if columns.question else "",
        choices=tuple(str(choice) for choice in choices),
        media=tuple(Media(template.format(**fields)) for template in _media(declared)),
        groups={
            name: str(row[column])
            for name, column in columns.groups.items()
            if row[column] is not None and str(row[column]).strip()  # an empty tag is none
        },
        units={name: str(row[column]) for name, column in columns.units.items()},
    )


def _answer(declared: DeclaredBenchmark, value: Any, choices: list[str], where: str) -> Any:
    if declared.answer_is == "diagonal":
        return tuple(range(len(_media(declared))))
    if not choices:
        return value if isinstance(value, str) else str(value)
    if declared.answer_is == "text":
        index = choices.index(str(value)) if str(value) in choices else -1
    elif declared.answer_is == "letter":
        index = ord(str(value).strip()[:1].upper() or "?") - ord("A")
    else:
        index = int(value) if str(value).strip().isdigit() else -1
    if not 0 <= index < len(choices):
        raise DatasetError(f"{where}: the answer {value!r} is none of its {len(choices)} choices {choices}")
    return index
