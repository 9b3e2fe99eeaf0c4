"""Objects that a caption mentions, and how many of them are not there (CHAIR, arXiv 1809.02156)."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_IRREGULAR = {
    "child": "children", "person": "people", "mouse": "mice", "goose": "geese", "foot": "feet", "tooth": "teeth",
    "ox": "oxen", "louse": "lice", "die": "dice",
}  # fmt: skip
_F_TO_V = {"knife", "wife", "life", "leaf", "loaf", "calf", "half", "shelf", "wolf", "thief", "scarf", "hoof", "elf"}


@dataclass(frozen=True)
class Vocabulary:
    """The names of objects.

    Attributes:
        objects: words of a name, lower case -> the object that they name; None = a phrase that names no object, such as
            "train track".
        longest: words of the longest name.
    """

    objects: Mapping[tuple[str, ...], str | None]
    longest: int

    def object_of(self, name: str) -> str | None:
        """The object that a name stands for, or None."""
        return self.objects.get(tuple(name.lower().split()))


@dataclass(frozen=True, slots=True)
class Mention:
    """A name in a text and the object that it stands for."""

    name: str
    object: str


@dataclass(frozen=True, eq=False)
class ChairCounts:
    """Counts of each of N captions, float64 (N,).

    Attributes:
        mentioned: mentions of objects; one that is named twice counts twice.
        hallucinated: mentions of objects that are not there.
        present: objects that are there.
        recalled: of these, those that are mentioned.
    """

    mentioned: NDArray[np.float64]
    hallucinated: NDArray[np.float64]
    present: NDArray[np.float64]
    recalled: NDArray[np.float64]


def build_vocabulary(lines: Sequence[Sequence[str]], phrases: Mapping[str, str | None] | None = None) -> Vocabulary:
    """The vocabulary of lists of names, the first of which is the object.

    Case and surrounding spaces do not count. Plurals of each name are known too, unless they are a name themselves; the
    last word of a name is the one that is inflected. `phrases` maps further phrases to an object, or to None.

    Raises:
        EvaluationError: no name, or one name for two objects.
    """
    objects: dict[tuple[str, ...], str | None] = {}
    for line in lines:
        names = [" ".join(name.lower().split()) for name in line]
        for name in filter(None, names):
            known = objects.setdefault(tuple(name.split()), names[0])
            if known != names[0]:
                raise EvaluationError(
                    f"the object vocabulary has {name!r} for {known!r} and for {names[0]!r}; keep it in one line"
                )
    if not objects:
        raise EvaluationError("the object vocabulary is empty; expected lines such as 'dog, puppy, hound'")
    for phrase, found in (phrases or {}).items():
        objects[tuple(phrase.lower().split())] = found
    for words, found in list(objects.items()):
        for plural in plurals(words[-1]):
            objects.setdefault((*words[:-1], plural), found)
    return Vocabulary(objects, max(map(len, objects)))


def plurals(word: str) -> tuple[str, ...]:
    """The plurals that an English noun may have, by its ending."""
    if word in _IRREGULAR:
        return _IRREGULAR[word], f"{word}s"
    if word.endswith("man"):
        return (f"{word[:-2]}en",)
    if word in _F_TO_V:
        return (f"{word.removesuffix('e').removesuffix('f')}ves",)
    if re.search(r"[^aeiou]y$", word):
        return (f"{word[:-1]}ies",)
    if re.search(r"(s|x|z|ch|sh)$", word):
        return (f"{word}es",)
    return (f"{word}s", f"{word}es") if word.endswith("o") else (f"{word}s",)


def find_mentions(text: str, vocabulary: Vocabulary) -> list[Mention]:
    """The mentions in a text, in its order; of overlapping names the longest from the left.

    Words are runs of letters and digits in lower case, without a final 's; a hyphenated word is one word, and a name
    with a space ("hot dog") also matches its hyphenated form.
    """
    words = [re.sub(r"['’]s$", "", word) for word in _WORD.findall(text.lower())]
    found: list[Mention] = []
    place = 0
    while place < len(words):
        size = 1
        for length in range(min(vocabulary.longest, len(words) - place), 0, -1):
            name = tuple(words[place : place + length])
            key = name if name in vocabulary.objects or length > 1 else tuple(name[0].split("-"))
            if key in vocabulary.objects:
                named = vocabulary.objects[key]
                found += [Mention(" ".join(key), named)] if named is not None else []
                size = length
                break
        place += size
    return found


def chair_counts(mentions: Sequence[Sequence[str]], present: Sequence[Collection[str]]) -> ChairCounts:
    """Counts from the objects that each caption mentions and those that are there; both hold names of objects."""
    if len(mentions) != len(present):
        raise EvaluationError(f"{len(mentions)} captions and the objects of {len(present)}; expected as many")
    rows = np.array(
        [
            [len(said), sum(name not in there for name in said), len(set(there)), len(set(said) & set(there))]
            for said, there in zip(mentions, present, strict=True)
        ],
        dtype=np.float64,
    ).reshape(-1, 4)
    return ChairCounts(*rows.T)


def chair_i(mentioned: ArrayLike, hallucinated: ArrayLike) -> float:
    """CHAIR_i in [0, 1]: hallucinated mentions (N,) over all mentions (N,), summed; NaN without any mention."""
    return _share(hallucinated, mentioned)


def object_recall(present: ArrayLike, recalled: ArrayLike) -> float:
    """The share in [0, 1] of the objects that are there which is mentioned, summed over captions; NaN without any."""
    return _share(recalled, present)


def _share(part: ArrayLike, whole: ArrayLike) -> float:
    total = float(np.sum(whole))
    return float(np.sum(part)) / total if total else math.nan
