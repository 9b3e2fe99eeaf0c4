"""The files of AMBER (arXiv 2311.07397; junyangwang0410/AMBER at 534babf6bb), read for both of its tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError, MissingDataError
from vlmvid.evaluation.scoring.base import AnnotationFile
from vlmvid.evaluation.scoring.reading import find_file, read_json, read_text, require_columns

PUBLISHER = "https://github.com/junyangwang0410/AMBER (folder data)"
ANNOTATIONS = AnnotationFile("annotations.json", ("id", "type", "truth"), PUBLISHER)
QUERIES = AnnotationFile("query_all.json", ("id", "image", "query"), PUBLISHER)
RELATIONS = AnnotationFile("relation.json", ("object: list of associated words",), PUBLISHER)
SAFE_WORDS = AnnotationFile("safe_words.txt", ("one word a line",), PUBLISHER)
DIMENSIONS = {
    "discriminative-attribute-state": ("attribute", "state"),
    "discriminative-attribute-number": ("attribute", "number"),
    "discriminative-attribute-action": ("attribute", "action"),
    "discriminative-hallucination": ("existence", "existence"),
    "discriminative-relation": ("relation", "relation"),
    "relation": ("relation", "relation"),
}


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Which words AMBER's generative task knows.

    Attributes:
        associated: object -> words that mean it or go with it.
        safe: words that are never a hallucination.
        similar: further pairs of words that count as the same.
    """

    associated: Mapping[str, tuple[str, ...]]
    safe: frozenset[str]
    similar: frozenset[tuple[str, str]]

    @property
    def words(self) -> frozenset[str]:
        """Every word that is looked for in a caption."""
        return frozenset(self.associated) | {word for words in self.associated.values() for word in words}

    def is_similar(self, one: str, other: str) -> bool:
        """Whether two words are the same or one of the given pairs."""
        return one == other or (one, other) in self.similar or (other, one) in self.similar


def read_annotations(path: Path, *, generative: bool) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(annotation, query) of the items of one task; the query is empty where its file is not there."""
    found = find_file(path, ANNOTATIONS)
    queries: dict[str, dict[str, Any]] = {}
    if path.is_dir() and any(path.rglob(QUERIES.name)):
        place = find_file(path, QUERIES)
        for number, row in enumerate(read_json(place, list, QUERIES), start=1):
            require_columns(place, QUERIES, row, f"entry {number}")
            queries[str(row["id"])] = row
    for number, row in enumerate(read_json(found, list, ANNOTATIONS), start=1):
        require_columns(found, ANNOTATIONS, row, f"entry {number}")
        kind = str(row["type"])
        if kind != "generative" and kind not in DIMENSIONS:
            raise DatasetError(
                f"{found}, id {row['id']}: unknown type {row['type']!r}; known: generative, {', '.join(DIMENSIONS)}"
            )
        if (kind == "generative") == generative:
            yield row, queries.get(str(row["id"]), {})


def read_vocabulary(path: Path, synonyms: str | None) -> Vocabulary:
    """The vocabulary beside the annotations; `synonyms` is a JSON list of pairs of words.

    Raises:
        MissingDataError: relation.json or safe_words.txt is not there, or the file of synonyms.
        DatasetError: one of them has another form.
    """
    folder = path if path.is_dir() else path.parent
    relations = read_json(find_file(folder, RELATIONS), dict, RELATIONS)
    safe = read_text(find_file(folder, SAFE_WORDS), SAFE_WORDS).split("\n")
    associated = {word: texts_of(words, f"{folder / RELATIONS.name}, {word}") for word, words in relations.items()}
    return Vocabulary(
        associated=associated,
        safe=frozenset(word for word in safe if word),
        similar=frozenset() if synonyms is None else _pairs(Path(synonyms)),
    )


def texts_of(value: Any, where: str) -> tuple[str, ...]:
    """The texts of a list; raises DatasetError, which names `where`, for anything else."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise DatasetError(f"{where}: expected a list of words, got {value!r:.80}; get it again from {PUBLISHER}")
    return tuple(value)


def _pairs(path: Path) -> frozenset[tuple[str, str]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return frozenset((str(one), str(other)) for one, other in rows)
    except FileNotFoundError:
        raise MissingDataError(f"option synonyms: there is no {path}; give a JSON list of pairs of words") from None
    except (ValueError, TypeError, OSError) as error:
        raise DatasetError(f"option synonyms: {path} is not a JSON list of pairs of words: {error}") from error
