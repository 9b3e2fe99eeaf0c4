"""AMBER's descriptions: which objects are named that are not there (arXiv 2311.07397).

The script (junyangwang0410/AMBER at 534babf6bb) finds nouns with nltk's tagger and takes words for the same when
spaCy's en_core_web_lg finds them more than 0.8 similar. Neither model comes with vlmvid, so here

- the words of relation.json are looked for as they are or in the plural, whatever part of speech they have; instead a
  prediction may be the list of nouns that another tagger found;
- two words are the same when they are equal, or one of the pairs in the file that the option `synonyms` names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks.hallucination.amber_files import (
    ANNOTATIONS,
    RELATIONS,
    SAFE_WORDS,
    Vocabulary,
    read_annotations,
    read_vocabulary,
    texts_of,
)
from vlmvid.evaluation.benchmarks.hallucination.common import Mode, counted, modes, value_of
from vlmvid.evaluation.scoring.aggregate import Outcome, counts, coverage, labelled, outcomes_of, sample
from vlmvid.evaluation.scoring.base import Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import unique_items
from vlmvid.metrics import rate_result, statistic_result
from vlmvid.types import MetricResult

_EMPTY = 0.001  # what metrics.txt starts every denominator with
_TOKEN = re.compile(r"[a-z]+(?:-[a-z]+)*")
_PLURALS = {"men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth", "geese": "goose"}
_ENDINGS = (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", ""))


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The pictures to describe; relation.json and safe_words.txt must be in the same folder.

    Options:
        synonyms: a JSON list of pairs of words that count as the same.
    """
    vocabulary: Vocabulary | None = None
    items = []
    for row, query in read_annotations(path, generative=True):
        vocabulary = vocabulary or read_vocabulary(path, options.get("synonyms"))
        image = str(query.get("image", f"AMBER_{row['id']}.jpg"))
        items.append(
            Item(
                item_id=str(row["id"]),
                video_id=image,
                answer=texts_of(row["truth"], f"{path}, id {row['id']}, truth"),
                question=str(query.get("query", "Describe this image.")),
                media=(Media(image),),
                extra={
                    "hallu": texts_of(row.get("hallu", []), f"{path}, id {row['id']}, hallu"),
                    "vocabulary": vocabulary,
                },
            )
        )
    return unique_items(items, path)


@dataclass(frozen=True, slots=True)
class Mentions:
    """What one description names.

    Attributes:
        nouns: words of the vocabulary.
        unsafe: those that are not in the picture.
        covered: objects of the picture that are named.
        truth: objects of the picture.
        fallen_for: objects that one may expect but that are not there, and are named.
        expected: how many of those there are.
    """

    nouns: int
    unsafe: int
    covered: int
    truth: int
    fallen_for: int
    expected: int


def mentions(nouns: Sequence[str], item: Item, *, first_only: bool = False) -> Mentions:
    """What `nouns` say about the picture of `item`.

    `first_only` marks the first object that a noun stands for, associations before objects, as the released script
    does; else all that it stands for.
    """
    vocabulary: Vocabulary = item.extra["vocabulary"]
    truth, hallu = _Objects(item.answer, vocabulary), _Objects(item.extra["hallu"], vocabulary)
    unsafe = 0
    for noun in nouns:
        if noun in vocabulary.safe or truth.mark(noun, str.__eq__, first_only):
            continue
        hallu.mark(noun, str.__eq__, first_only)
        hallu.mark(noun, vocabulary.is_similar, first_only)
        unsafe += not truth.mark(noun, vocabulary.is_similar, first_only)
    return Mentions(
        nouns=len(nouns),
        unsafe=unsafe,
        covered=len(truth.marked),
        truth=len(item.answer),
        fallen_for=len(hallu.marked),
        expected=len(item.extra["hallu"]),
    )


class _Objects:
    """Objects with the words that stand for each, and which of them were named."""

    def __init__(self, objects: Sequence[str], vocabulary: Vocabulary) -> None:
        words = [(other, row) for row, word in enumerate(objects) for other in vocabulary.associated.get(word, ())]
        self.words = [*words, *((word, row) for row, word in enumerate(objects))]
        self.marked: set[int] = set()

    def mark(self, noun: str, is_same: Callable[[str, str], bool], first_only: bool) -> bool:
        rows = [row for word, row in self.words if is_same(noun, word)]
        self.marked |= set(rows[:1] if first_only else rows)
        return bool(rows)


def _nouns(raw: Any, item: Item) -> list[str] | None:
    """The words of the vocabulary in a description, in order and with repeats; None for an empty one."""
    words: frozenset[str] = item.extra["vocabulary"].words
    if isinstance(raw, list | tuple):
        return [word for word in map(str, raw) if word in words]
    if not isinstance(raw, str) or not raw.strip():
        return None
    found = (_singular(token, words) for token in _TOKEN.findall(raw.lower()))
    return [word for word in found if word is not None]


def _singular(token: str, words: frozenset[str]) -> str | None:
    forms = [token, _PLURALS.get(token, "")]
    forms += [token.removesuffix(end) + instead for end, instead in _ENDINGS if token.endswith(end)]
    return next((form for form in forms if form in words), None)


_parser = Parser("amber-words-1", _nouns)


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """`chair` (lower is better), `cover`, `hal` and `cog`; a missing or empty description counts as one hallucination.

    Raises EvaluationError when there is no description at all.
    """
    outcomes = outcomes_of(items, predictions, _parser, _unsafe_share)
    outcomes = [o if o.status == "parsed" else replace(o, score=1.0) for o in outcomes]
    rows = counted(outcomes, settings)
    if not rows:
        raise EvaluationError(f"{predictions.source} has no description for any of the {len(items)} pictures")
    table = np.array([_row(outcome) for outcome in rows], dtype=np.float64)
    clusters = [outcome.item.video_id for outcome in rows]
    seed, num_bootstrap = settings.seed, settings.num_bootstrap
    hal = rate_result(
        "hal", table[:, 1] > 0, clusters=clusters, seed=seed, num_bootstrap=num_bootstrap, higher_is_better=False
    )
    metrics: list[MetricResult] = [
        statistic_result(
            name,
            table[:, [top, bottom]],
            _ratio,
            clusters=clusters,
            seed=seed,
            num_bootstrap=num_bootstrap,
            higher_is_better=name == "cover",
        )
        for name, top, bottom in (("chair", 1, 0), ("cover", 2, 3), ("cog", 4, 5))
    ]
    silent = sum(outcome.status == "parsed" and not outcome.parsed for outcome in rows) / len(rows)
    metrics = [*metrics[:2], hal, metrics[2], value_of("silent", silent, len(rows)), *counts(outcomes, rows)]
    return TaskResult(
        task="amber_generative",
        protocol="AMBER, descriptions: chair = objects named that are not there / objects named, cover = objects "
        "named / objects there, hal = descriptions with one that is not, cog = expected but absent objects named, "
        "silent = descriptions that name no known object; words are compared by equality and the pairs of option "
        f"synonyms, not by spaCy's similarity; parser {_parser.name}; "
        f"{coverage(items, predictions, outcomes, settings)}",
        metrics=labelled(metrics, settings),
        samples=[sample(outcome) for outcome in outcomes],
    )


def _unsafe_share(parsed: Sequence[str], item: Item) -> float:
    found = mentions(parsed, item)
    return found.unsafe / found.nouns if found.nouns else 0.0


def _row(outcome: Outcome) -> tuple[int, ...]:
    if outcome.status != "parsed":
        return (1, 1, 0, len(outcome.item.answer), 0, len(outcome.item.extra["hallu"]))
    found = mentions(outcome.parsed, outcome.item)
    return (found.nouns, found.unsafe, found.covered, found.truth, found.fallen_for, found.expected)


def _ratio(table: NDArray[np.float64]) -> float:
    return float(table[:, 0].sum() / table[:, 1].sum()) if table[:, 1].any() else 0.0


def _as_released(outcomes: Sequence[Outcome]) -> tuple[dict[str, float], str]:
    rows = [o for o in outcomes if o.status != "missing"]
    found = [mentions(o.parsed or (), o.item, first_only=True) for o in rows]

    def percent(top: int, bottom: int) -> float:
        return round(top / (_EMPTY + bottom) * 100, 1)

    clean = sum(one.unsafe == 0 for one in found)
    values = {
        "chair": percent(sum(one.unsafe for one in found), sum(one.nouns for one in found)),
        "cover": percent(sum(one.covered for one in found), sum(one.truth for one in found)),
        "hal": round(100 - clean / (_EMPTY + len(found)) * 100, 1),
        "cog": percent(sum(one.fallen_for for one in found), sum(one.expected for one in found)),
    }
    lines = ["Generative Task:", *(f"{name}:\t\t {values[name.lower()]}" for name in ("CHAIR", "Cover", "Hal", "Cog"))]
    return {name: value / 100 for name, value in values.items()}, "\n".join(lines) + " \n"


BENCHMARK = Benchmark(
    name="amber_generative",
    title="AMBER (generative)",
    kind="caption",
    source="arXiv 2311.07397",
    files=(ANNOTATIONS, RELATIONS, SAFE_WORDS),
    read=read,
    score=score,
    compat=modes(
        "amber_generative",
        Mode(
            name="amber",
            parser=_parser,
            protocol="AMBER's inference.py on the nouns that are given, or found without a tagger, and without spaCy's "
            "similarity but for the pairs of option synonyms: equal to the script where those are its nouns and pairs; "
            "denominators start at 0.001, a noun marks one object only",
            measure=_as_released,
            score=_unsafe_share,
            needs_all=False,
            is_text=False,
        ),
    ),
    options={"synonyms": "a JSON list of pairs of words that count as the same, in place of spaCy's similarity"},
)
