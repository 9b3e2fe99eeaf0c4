"""Hallucination probes for the user's own labelled videos, as questions in their manifest.

Three kinds, all of task ``hallucination`` and told apart by the attribute ``negatives``:

- ``random``, ``popular``, ``adversarial``: is an object in the video, half of the answers yes (POPE, arXiv 2305.10355).
- ``counterfactual``: a caption against itself with one word changed for another of its kind; a choice of two.
- ``group``: two videos x two questions, each with the answer yes for one video only (after NaturalBench, arXiv
  2410.14669); neither a constant answer nor one that ignores the video can be right for a whole group.

Every question carries the statements that a dual encoder ranks. Texts follow POPE's with the right article; POPE's own
generator replaces every *a* of its template by *an* before a vowel, *image* becomes *imange*.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from vlmvid.config.base import Config
from vlmvid.data.files import unit_hash
from vlmvid.data.manifest import ManifestDataset, ManifestOptions
from vlmvid.data.probes import NEGATIVE_KINDS, article, balanced_probes, presence_question, with_article
from vlmvid.errors import DatasetError, MissingDataError
from vlmvid.evaluation.scoring.predictions import read_document
from vlmvid.types import AttributeValue, Clip, Question, Split

VOCABULARIES: dict[str, tuple[str, ...]] = {
    "colour": tuple("red orange yellow green blue purple pink brown black white grey".split()),
    "number": tuple("two three four five six seven eight nine ten".split()),
    "action": tuple(
        "running walking sitting standing jumping dancing sleeping eating drinking swimming climbing cooking reading "
        "writing singing riding driving throwing catching kicking pushing pulling opening closing".split()
    ),
    "order": ("before", "after"),
}
_CANDIDATES = 200  # clips that a clip may be paired with are looked at, of those that share its rarest objects
Labels = Mapping[str, Sequence[str]]


class ProbeOptions(Config):
    """What is asked."""

    attribute: str = Field(default="objects", description="attribute of a clip that lists its objects, with ; between")
    split: Split | None = Field(default=None, description="ask about the clips of this split only; None = all")
    kinds: tuple[str, ...] = Field(
        default=NEGATIVE_KINDS, description="of absent objects: random, popular, adversarial"
    )
    max_objects: int = Field(default=3, ge=1, description="present objects that are asked for in each kind, per clip")
    max_counterfactuals: int = Field(default=2, ge=0, description="questions with a changed caption, per clip")
    groups: bool = Field(default=True, description="pair clips in groups of two videos and two questions")
    vocabularies: dict[str, tuple[str, ...]] = Field(
        default=VOCABULARIES, description="kind -> words of which one may stand in a caption for another"
    )
    noun: str = Field(default="video", description="what the questions call a clip")
    seed: int = 0


@dataclass(frozen=True)
class Probes:
    """Clips with their probes.

    Attributes:
        clips: as they came, with the probes behind the questions that they had.
        counts: number of questions by kind.
        unlabelled: video_ids of clips without a list of objects.
    """

    clips: tuple[Clip, ...]
    counts: Mapping[str, int]
    unlabelled: tuple[str, ...]


def build_probes(clips: Sequence[Clip], options: ProbeOptions, labels: Labels | None = None) -> Probes:
    """The clips with probes of the objects that they are labelled with.

    How frequent objects are, and which occur together, is counted over all clips. The same clips, options and labels
    give the same questions; the order of the clips decides only the order of the result.

    Args:
        clips: of the user's manifest.
        options: what is asked.
        labels: video_id -> objects; None reads ``options.attribute`` of each clip.

    Raises:
        DatasetError: no clip has objects, an unknown kind, or a question that is there already.
    """
    unknown = [kind for kind in options.kinds if kind not in NEGATIVE_KINDS]
    if unknown:
        raise DatasetError(f"kinds={unknown[0]!r}; known: {', '.join(NEGATIVE_KINDS)}")
    objects = {clip.video_id: _objects_of(clip, options, labels) for clip in clips}
    if not any(objects.values()):
        raise DatasetError(
            f"no clip has a list of objects: give the attribute {options.attribute!r}, e.g. "
            f'{{"{options.attribute}": "dog;ball"}}, or a file of labels'
        )
    world = _World(objects, options)
    asked = [clip for clip in clips if options.split in (None, clip.split)]
    made = {clip.video_id: [*world.presence(clip), *world.counterfactuals(clip)] for clip in asked}
    for video_id, questions in world.groups(asked).items() if options.groups else ():
        made[video_id] += questions
    counts = Counter(str(q.attributes["negatives"]) for questions in made.values() for q in questions)
    return Probes(
        clips=tuple(_with_questions(clip, made.get(clip.video_id, [])) for clip in clips),
        counts=dict(sorted(counts.items())),
        unlabelled=tuple(clip.video_id for clip in asked if not objects[clip.video_id]),
    )


def probe_manifest(source: Path, target: Path, options: ProbeOptions, labels: Path | None = None) -> Probes:
    """Read the manifest `source`, build its probes and write the manifest `target`, with absolute paths.

    Raises DatasetError and MissingDataError for files that cannot be read.
    """
    if not source.is_file():
        raise MissingDataError(
            f"{source} is no file; give the manifest of your clips, as docs/datasets.md describes it"
        )
    clips, _ = ManifestDataset(ManifestOptions(path=str(source))).clips(target.parent)
    probes = build_probes(clips, options, None if labels is None else read_labels(labels))
    write_manifest(target, probes.clips)
    return probes


def write_manifest(path: Path, clips: Sequence[Clip]) -> None:
    """Write `clips` as JSON Lines, one clip per line, without what is at its default."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(clip.model_dump_json(exclude_defaults=True) + "\n" for clip in clips), encoding="utf-8")


def read_labels(path: Path) -> dict[str, tuple[str, ...]]:
    """Objects by video_id: JSON ``{video_id: [object]}``, or rows (JSON Lines, CSV) of video_id and objects.

    Objects are a list, or one text with ``;`` between. Raises EvaluationError for a file that cannot be read,
    DatasetError for a row without video_id or objects.
    """
    document = read_document(path)
    if isinstance(document, dict):
        return {str(video_id): _split_labels(objects) for video_id, objects in document.items()}
    found = {}
    for number, row in enumerate(document, start=1):
        if not isinstance(row, dict) or not {"video_id", "objects"} <= row.keys():
            raise DatasetError(f"{path}, row {number}: expected video_id and objects, got {row!r:.80}")
        found[str(row["video_id"])] = _split_labels(row["objects"])
    return found


def _split_labels(value: Any) -> tuple[str, ...]:
    parts = value.split(";") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    names = (" ".join(str(part).split()) for part in parts)
    return tuple(dict.fromkeys(name for name in names if name))


def _objects_of(clip: Clip, options: ProbeOptions, labels: Labels | None) -> tuple[str, ...]:
    if labels is not None:
        return _split_labels(labels.get(clip.video_id, ()))
    return _split_labels(str(clip.attributes.get(options.attribute, "")))


def _with_questions(clip: Clip, made: Sequence[Question]) -> Clip:
    known = {question.question_id for question in clip.questions}
    repeated = [question.question_id for question in made if question.question_id in known]
    if repeated:
        raise DatasetError(f"clip {clip.video_id!r} has a question {repeated[0]!r} already; take its probes out first")
    return clip.model_copy(update={"questions": (*clip.questions, *made)}) if made else clip


class _World:
    """The objects of all clips: how often, and with which others, each occurs."""

    def __init__(self, objects: Mapping[str, tuple[str, ...]], options: ProbeOptions) -> None:
        self._objects = objects
        self._options = options
        self._draw = unit_hash(options.seed)
        self._frequency = Counter(name for names in objects.values() for name in names)
        self._together: dict[str, Counter[str]] = {name: Counter() for name in self._frequency}
        for names in objects.values():
            for name in names:
                self._together[name].update(other for other in names if other != name)
        self._popular = sorted(self._frequency, key=lambda name: (-self._frequency[name], name))
        self._words: dict[str, Sequence[str]] = {**options.vocabularies, "object": self._popular}
        self._patterns = {kind: _pattern(words) for kind, words in self._words.items() if words}
        self._words = {kind: self._words[kind] for kind in self._patterns}

    def presence(self, clip: Clip) -> list[Question]:
        """Present and absent objects, as many of each, for every kind of negatives."""
        present = self._objects[clip.video_id][: self._options.max_objects]

        def ask(kind: str, name: str, is_present: bool) -> Question:
            attributes: dict[str, AttributeValue] = {"negatives": kind, "object": name}
            return self._ask(name, is_present, f"{clip.video_id}/{kind}/{name}", attributes)

        return list(balanced_probes(present, lambda kind: self._absent(clip.video_id, kind), ask, self._options.kinds))

    def _ask(self, name: str, present: bool, question_id: str, attributes: Mapping[str, AttributeValue]) -> Question:
        noun = self._options.noun
        return presence_question(
            present,
            question_id=question_id,
            question=f"Is there {with_article(name)} in the {noun}?",
            statements=tuple(f"{with_article(noun)} {word} {with_article(name)}" for word in ("with", "without")),
            attributes=attributes,
        )

    def _absent(self, video_id: str, kind: str) -> list[str]:
        """One absent object for each present one; fewer where there are no more.

        ``popular``: the most frequent. ``adversarial``: the one that most often stands beside the present one, of
        equals the more frequent. Nothing is asked for twice.
        """
        present = self._objects[video_id]
        absent = [name for name in self._popular if name not in present]
        if kind == "random":
            return sorted(absent, key=lambda name: self._draw(f"{video_id}:random:{name}"))
        if kind == "popular":
            return absent
        chosen: list[str] = []
        for name in present[: min(self._options.max_objects, len(absent))]:
            left = [other for other in absent if other not in chosen]
            chosen.append(max(left, key=lambda other: self._together[name][other]))  # the first of equals
        return chosen

    def counterfactuals(self, clip: Clip) -> list[Question]:
        """Captions against themselves with one word changed, at most one for each kind of word."""
        said = " ".join(clip.captions).lower()
        changes = []
        for place, caption in enumerate(clip.captions):
            for kind, words in self._words.items():
                found = list(self._patterns[kind].finditer(caption))
                if len(found) != 1 or (kind == "object" and not self._objects[clip.video_id]):
                    continue  # two words: changing one may leave a truth; no labels: nobody knows what is not there
                key = f"{clip.video_id}:{place}:{kind}"
                for word in sorted(words, key=lambda word, key=key: self._draw(f"{key}:{word}")):  # type: ignore[misc]
                    changed = _changed(caption, found[0], word)
                    if self._is_false(word, kind, clip.video_id, said) and changed not in clip.captions:
                        changes.append((self._draw(f"{key}:chosen"), kind, caption, changed))
                        break
        chosen = {kind: (caption, changed) for _, kind, caption, changed in sorted(changes, reverse=True)}
        order = sorted(chosen, key=lambda kind: self._draw(f"{clip.video_id}:{kind}"))
        return [
            self._counterfactual(clip.video_id, kind, *chosen[kind])
            for kind in order[: self._options.max_counterfactuals]
        ]

    def _is_false(self, word: str, kind: str, video_id: str, said: str) -> bool:
        if kind == "order":  # the two words exclude each other where they stand, whatever other captions say
            return True
        in_labels = kind == "object" and word in self._objects[video_id]
        return not in_labels and re.search(rf"(?<!\w){re.escape(word.lower())}(?!\w)", said) is None

    def _counterfactual(self, video_id: str, kind: str, caption: str, changed: str) -> Question:
        is_first = self._draw(f"{video_id}:{kind}:place") < 0.5
        choices = (caption, changed) if is_first else (changed, caption)
        return Question(
            question_id=f"{video_id}/counterfactual/{kind}",
            task="hallucination",
            kind="mcq",
            question=f"Which text fits the {self._options.noun}?",
            answer=caption,
            choices=choices,
            statements=choices,
            attributes={"negatives": "counterfactual", "swap": kind},
        )

    def groups(self, clips: Sequence[Clip]) -> dict[str, list[Question]]:
        """Two questions for each of two clips that share many objects and have one each that the other lacks."""
        found: dict[str, list[Question]] = {}
        for one, other in self._pairs(clips):
            own = [self._own(one, other), self._own(other, one)]
            group = f"{one}+{other}"
            for row, video_id in enumerate((one, other)):
                found[video_id] = [
                    self._ask(
                        name,
                        row == column,
                        f"{video_id}/group/{name}",
                        {"negatives": "group", "object": name, "group": group, "cell": f"q{column}_v{row}"},
                    )
                    for column, name in enumerate(own)
                ]
        return found

    def _own(self, one: str, other: str) -> str:
        alone = [name for name in self._objects[one] if name not in self._objects[other]]
        return min(alone, key=lambda name: self._draw(f"{one}:{other}:{name}"))

    def _pairs(self, clips: Sequence[Clip]) -> list[tuple[str, str]]:
        """Clips of one split by twos, each in one pair; the first to choose takes the one most like it."""
        splits = {clip.video_id: clip.split for clip in clips if self._objects[clip.video_id]}
        order = sorted(splits, key=lambda video_id: self._draw(f"pair:{video_id}"))
        holders: dict[str, list[str]] = {}
        for video_id in order:
            for name in self._objects[video_id]:
                holders.setdefault(name, []).append(video_id)
        free = dict.fromkeys(order)
        pairs = []
        for video_id in order:
            if video_id not in free:
                continue
            del free[video_id]
            best = self._most_alike(
                video_id, [*self._near(video_id, holders, free), *_first(free, _CANDIDATES)], splits
            )
            if best is not None:
                del free[best]
                pairs.append((video_id, best))
        return pairs

    def _near(self, video_id: str, holders: Mapping[str, list[str]], free: Mapping[str, None]) -> list[str]:
        near: list[str] = []
        for name in sorted(self._objects[video_id], key=lambda name: (self._frequency[name], name)):
            holders[name][:] = [other for other in holders[name] if other in free]
            near += holders[name][: _CANDIDATES - len(near)]
        return near

    def _most_alike(self, video_id: str, candidates: Sequence[str], splits: Mapping[str, Split]) -> str | None:
        mine, best = set(self._objects[video_id]), None
        most = -1
        for other in candidates:
            theirs = set(self._objects[other])
            shared = len(mine & theirs)
            if splits[other] == splits[video_id] and mine - theirs and theirs - mine and shared > most:
                best, most = other, shared
        return best


def _first(names: Mapping[str, None], count: int) -> list[str]:
    return [name for name, _ in zip(names, range(count), strict=False)]


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    """One of the words, the longest that fits, with the article before it."""
    longest = sorted(words, key=lambda word: (-len(word), word))
    either = "|".join(re.escape(word) for word in longest)
    return re.compile(rf"(?:\b(an?)\s+)?(?<!\w)({either})(?!\w)", re.IGNORECASE)


def _changed(caption: str, match: re.Match[str], word: str) -> str:
    """`caption` with `word` in the place of `match`, and the article that it takes."""
    if match.group(1) is not None:
        word = f"{_like(match.group(1), article(word))} {word}"
    else:
        word = _like(match.group(2), word)
    return caption[: match.start()] + word + caption[match.end() :]


def _like(model: str, word: str) -> str:
    return word[:1].upper() + word[1:] if model[:1].isupper() else word
