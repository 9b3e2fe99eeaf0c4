"""CHAIR: objects that a caption mentions and that are not there (arXiv 1809.02156; LisaAnne/Hallucination, 6e4d33c4be).

The references are a folder with

* ``synonyms.txt``: one object per line, its name first, then its other names, separated by commas;
* the objects of each picture or video: ``objects.json``, ``{id: [object, ...]}``, of the user's own, or COCO's
  ``instances_*2014.json``;
* optional, as in the paper: reference captions, whose objects count as there. ``references.json``,
  ``{id: [captions]}``, or COCO's ``captions_*2014.json``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import DatasetError, EvaluationError
from vlmvid.evaluation.answers.caption import caption as parser
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks.captioning.references import PREDICTION_KEYS
from vlmvid.evaluation.benchmarks.hallucination.chair_script import ANIMALS, VEHICLES, script_objects
from vlmvid.evaluation.scoring.aggregate import Outcome, counts, coverage, labelled, outcomes_of, sample
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, Scorer, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions, from_pairs, read_document, read_predictions
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json, read_text, unique_items
from vlmvid.evaluation.scoring.shapes import in_shape
from vlmvid.metrics import rate_result, statistic_result
from vlmvid.metrics.objects import (
    ChairCounts,
    Vocabulary,
    build_vocabulary,
    chair_counts,
    chair_i,
    find_mentions,
    object_recall,
)
from vlmvid.types import MetricResult

SYNONYMS = AnnotationFile(
    "synonyms.txt", ("object, synonym, ...",), "https://github.com/LisaAnne/Hallucination (data/synonyms.txt)"
)
OBJECTS = AnnotationFile("objects.json", ("id", "list of objects"), "your own data")
INSTANCES = AnnotationFile(
    "instances_*2014.json",
    ("images", "annotations", "categories"),
    "https://cocodataset.org/#download (2014 train/val annotations)",
)
_COCO_CAPTIONS, _OWN_CAPTIONS = "captions_*2014.json", "references.json"
_CAPTIONS = AnnotationFile(_COCO_CAPTIONS, ("annotations", "image_id", "caption"), INSTANCES.publisher)


@dataclass(frozen=True)
class Names:
    """The lines of ``synonyms.txt`` as the authors split them, and whether COCO's rules go with them."""

    lines: tuple[tuple[str, ...], ...]
    coco: bool


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """One item per id of the objects' file; its answer is the objects that are annotated, by their first names.

    Raises MissingDataError for a missing file, DatasetError for an object that ``synonyms.txt`` does not name.
    """
    folder = path.parent if path.is_file() else path
    found = find_file(folder, SYNONYMS)
    lines = tuple(tuple(line.strip().split(", ")) for line in read_text(found, SYNONYMS).splitlines() if line.strip())
    own = sorted(folder.rglob(OBJECTS.name))
    instances = [] if own else sorted(folder.rglob(INSTANCES.name))
    names = Names(lines, choose(options, "rules", ("auto", "coco", "none")) == "coco" or _coco_by_default(options, own))
    if not own and not instances:
        find_file(folder, INSTANCES)  # raises: it is not there
    objects, media = _own_objects(own[0]) if own else _instances(instances)
    captions = _captions(folder)
    vocabulary = vocabulary_of(names)
    _check_objects(objects, vocabulary, own[0] if own else instances[0])
    wanted = _wanted(options, objects)
    return unique_items(
        [
            Item(
                item_id=name,
                video_id=name,
                answer=tuple(sorted({str(vocabulary.object_of(text)) for text in objects[name]})),
                media=(Media(media.get(name, name)),),
                extra={"names": names, "captions": tuple(captions.get(name, ()))},
            )
            for name in wanted
        ],
        folder,
    )


def _coco_by_default(options: Mapping[str, str], own: Sequence[Path]) -> bool:
    return options.get("rules", "auto") == "auto" and not own


def _wanted(options: Mapping[str, str], objects: Mapping[str, Sequence[str]]) -> list[str]:
    if "images" not in options:
        return list(objects)
    place = Path(options["images"])
    listed = AnnotationFile(place.name, ("one id per line",), "your own data")
    wanted = [line.strip() for line in read_text(place, listed).splitlines() if line.strip()]
    absent = [name for name in wanted if name not in objects]
    if absent:
        raise DatasetError(f"{place}: {len(absent)} ids have no objects, e.g. {', '.join(absent[:3])}")
    return wanted


def _own_objects(path: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    document = read_json(path, dict, OBJECTS)
    for name, value in document.items():
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise DatasetError(f"{path}, id {name!r}: expected a list of objects, got {value!r:.80}")
    return document, {}


def _instances(paths: Sequence[Path]) -> tuple[dict[str, list[str]], dict[str, str]]:
    objects: dict[str, list[str]] = {}
    media: dict[str, str] = {}
    for path in paths:
        document = read_json(path, dict, INSTANCES)
        try:
            category = {row["id"]: str(row["name"]) for row in document["categories"]}
            for row in document["images"]:
                objects[str(row["id"])] = []
                media[str(row["id"])] = str(row.get("file_name", row["id"]))
            for row in document["annotations"]:
                objects[str(row["image_id"])].append(category[row["category_id"]])
        except (KeyError, TypeError) as error:
            raise DatasetError(
                f"{path}: {error!r}; expected {', '.join(INSTANCES.columns)}, as {INSTANCES.publisher} has it"
            ) from error
    return objects, media


def _captions(folder: Path) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for path in [*sorted(folder.rglob(_OWN_CAPTIONS)), *sorted(folder.rglob(_COCO_CAPTIONS))]:
        document: dict[str, Any] = read_json(path, dict, INSTANCES)
        with in_shape(str(path), _CAPTIONS):
            if "annotations" not in document:
                captions.update(
                    {name: [texts] if isinstance(texts, str) else list(texts) for name, texts in document.items()}
                )
                continue
            for row in document["annotations"]:
                captions.setdefault(str(row["image_id"]), []).append(str(row["caption"]))
    return captions


def _check_objects(objects: Mapping[str, Sequence[str]], vocabulary: Vocabulary, source: Path) -> None:
    kinds = {text for texts in objects.values() for text in texts}
    unknown = sorted(text for text in kinds if vocabulary.object_of(text) is None)
    if unknown:
        raise DatasetError(
            f"{source}: {len(unknown)} objects are not in {SYNONYMS.name}, e.g. {', '.join(unknown[:3])}; add a line "
            "for each, its name first"
        )


@lru_cache(maxsize=4)
def vocabulary_of(names: Names) -> Vocabulary:
    """The vocabulary of the principled score: names without their case and spaces, with plurals.

    With COCO's rules an animal's or vehicle's qualifier is no person ("baby bird", "passenger train"), a toilet seat is
    a toilet, and neither a home plate nor a train track is an object.
    """
    lines = [[name for name in line if name.strip()] for line in names.lines]
    if not names.coco:
        return build_vocabulary(lines)
    plain = build_vocabulary(lines)
    phrases: dict[str, str | None] = {"toilet seat": plain.object_of("toilet"), "home plate": None, "train track": None}
    phrases |= {f"{age} {animal}": plain.object_of(animal) for animal in ANIMALS for age in ("baby", "adult")}
    phrases |= {f"passenger {vehicle}": plain.object_of(vehicle) for vehicle in VEHICLES}
    return build_vocabulary(lines, phrases)


def objects_in(text: str, names: Names) -> list[str]:
    """The objects that a text mentions, in its order; by COCO's rules a seat is no chair beside a toilet."""
    mentions = find_mentions(text, vocabulary_of(names))
    seated = names.coco and any(mention.object == "toilet" for mention in mentions)
    return [mention.object for mention in mentions if not (seated and mention.name in ("seat", "seats"))]


def _script_objects(text: str, names: Names) -> list[str]:
    return script_objects(text, names.lines)


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """CHAIR_s (the share of captions with a hallucinated object), CHAIR_i (of mentions), and recall; lower is better.

    A missing caption, and one that is no text, counts as one hallucinated mention. A caption without an object has none
    to hallucinate: `silent` says how many there are, and recall falls. Without any mention CHAIR_i is undefined (null).
    """
    outcomes = outcomes_of(items, predictions, parser, lambda parsed, item: 0.0, worst=lambda item: 1.0)
    counted = [o for o in outcomes if o.status != "missing"] if settings.missing == "skip" else outcomes
    if not counted:
        raise EvaluationError(f"{predictions.source} has no prediction for any of the {len(items)} items")
    there = [_there(outcome.item, objects_in) for outcome in counted]
    said = [_said(outcome) for outcome in counted]
    found = _count(counted, said, there)
    metrics = _metrics(found, counted, settings) + counts(outcomes, counted)
    kinds = sorted({name for names in there for name in names})
    best = max(kinds, key=lambda kind: (sum(kind in names for names in there), kind), default="")
    metrics.append(
        _rate("chair_s/constant", np.array([best not in names for names in there]), counted, settings, lower=True)
    )
    if settings.blind is not None:
        blind = outcomes_of(items, settings.blind, parser, lambda parsed, item: 0.0)
        asked = {outcome.item.item_id for outcome in counted}
        blind = [outcome for outcome in blind if outcome.item.item_id in asked]
        blind_counts = _count(blind, [_said(outcome) for outcome in blind], there)
        metrics.append(_rate("chair_s/blind", blind_counts.hallucinated > 0, counted, settings, lower=True))
    rule = "COCO's rules for qualifiers" if items[0].extra["names"].coco else "no rules for qualifiers"
    words = (
        f"CHAIR over {len(counted)} captions and {len(items[0].extra['names'].lines)} objects; names with their "
        f"plurals, longest first, {rule}; objects that are there: annotated, or mentioned in a reference caption; "
        f"chair_s/constant always names {best!r}; parser {parser.name}"
    )
    return TaskResult(
        task="chair",
        protocol=f"{words}; {coverage(items, predictions, outcomes, settings)}",
        metrics=labelled(metrics, settings),
        samples=_samples(outcomes, counted, said, there, found),
    )


def _there(item: Item, finder: Any) -> frozenset[str]:
    names = item.extra["names"]
    mentioned = {name for text in item.extra["captions"] for name in finder(text, names)}
    return frozenset(item.answer) | mentioned


def _said(outcome: Outcome) -> list[str]:
    return objects_in(outcome.parsed, outcome.item.extra["names"]) if outcome.status == "parsed" else []


def _count(outcomes: Sequence[Outcome], said: Sequence[Sequence[str]], there: Sequence[frozenset[str]]) -> ChairCounts:
    """Counts, in which an outcome without a caption has one mention, a hallucinated one."""
    found = chair_counts(said, there)
    absent = np.array([outcome.status != "parsed" for outcome in outcomes], dtype=np.float64)
    return ChairCounts(found.mentioned + absent, found.hallucinated + absent, found.present, found.recalled)


def _metrics(found: ChairCounts, counted: Sequence[Outcome], settings: ScoreSettings) -> list[MetricResult]:
    pairs = {
        "chair_i": (found.mentioned, found.hallucinated, chair_i, False),
        "recall": (found.present, found.recalled, object_recall, True),
    }
    ratios = [
        statistic_result(
            name,
            np.column_stack([whole, part]),
            lambda rows, share=share: float(share(rows[:, 0], rows[:, 1])),  # type: ignore[misc]
            clusters=[outcome.item.video_id for outcome in counted],
            seed=settings.seed,
            num_bootstrap=settings.num_bootstrap,
            higher_is_better=higher,
        )
        for name, (whole, part, share, higher) in pairs.items()
    ]
    return [
        _rate("chair_s", found.hallucinated > 0, counted, settings, lower=True),
        *ratios,
        _rate("silent", found.mentioned == 0, counted, settings, lower=True),
    ]


def _rate(
    name: str, values: NDArray[np.bool_], counted: Sequence[Outcome], settings: ScoreSettings, *, lower: bool
) -> MetricResult:
    clusters = [outcome.item.video_id for outcome in counted]
    return rate_result(
        name,
        values,
        clusters=clusters,
        seed=settings.seed,
        num_bootstrap=settings.num_bootstrap,
        higher_is_better=not lower,
    )


def _samples(
    outcomes: Sequence[Outcome],
    counted: Sequence[Outcome],
    said: Sequence[Sequence[str]],
    there: Sequence[frozenset[str]],
    found: ChairCounts,
) -> list[dict[str, str | int | float | bool | None]]:
    rows = {outcome.item.item_id: row for row, outcome in enumerate(counted)}
    samples = []
    for outcome in outcomes:
        row = rows.get(outcome.item.item_id)
        values: dict[str, str | int | float | bool | None] = {"mentioned": None, "hallucinated": None, "there": None}
        value = outcome.score
        if row is not None:
            value = float(found.hallucinated[row] > 0)
            wrong = [name for name in said[row] if name not in there[row]]
            texts = {"mentioned": said[row], "hallucinated": wrong, "there": sorted(there[row])}
            values = {name: ", ".join(names) for name, names in texts.items()}
        samples.append({**sample(outcome), "score": value, **values})
    return samples


def script(name: str) -> Scorer:
    """The scorer that reproduces utils/chair.py (``chair``) or Maxlinn/CHAIR-metric-standalone at 640c507166.

    Both find objects as `chair_script` describes, score the images that have a caption and no others, and stop where a
    denominator is zero. The standalone version is the same with recall. `printed` is their last lines; CHAIR's own line
    begins with SPICE, METEOR and CIDEr, which it copies from its input and which are left out here.
    """

    def scorer(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
        outcomes = outcomes_of(items, predictions, parser, lambda parsed, item: 0.0)
        counted = [outcome for outcome in outcomes if outcome.status == "parsed"]
        words = coverage(items, predictions, counted, replace(settings, missing="skip"))
        said = [_script_objects(outcome.parsed, outcome.item.extra["names"]) for outcome in counted]
        there = [_there(outcome.item, _script_objects) for outcome in counted]
        found = chair_counts(said, there)
        values = {
            "chair_s": float((found.hallucinated > 0).mean()) if counted else math.nan,
            "chair_i": chair_i(found.mentioned, found.hallucinated),
        }
        if name == "chair-standalone":
            values["recall"] = object_recall(found.present, found.recalled)
        if any(math.isnan(value) for value in values.values()):
            raise EvaluationError(
                f"{name} divides by zero here: no caption mentions an object, or no caption belongs to an image"
            )
        columns = {"chair_s": "CHAIRs", "chair_i": "CHAIRi", "recall": "Recall"}
        percent = {columns[key]: f"{100 * value:.1f}" for key, value in values.items()}
        lines = ["\t".join(percent), "\t".join(percent.values())]
        if name == "chair-standalone":
            lines = [f"{key:<10}: {value}" for key, value in percent.items()]
        return TaskResult(
            task="chair",
            protocol=f"{name}: {len(counted)} images with a caption that is a text, the others left out; {words}",
            metrics=tuple(
                MetricResult(name=key, value=value, num_samples=len(counted), higher_is_better=key == "recall")
                for key, value in values.items()
            ),
            samples=_samples(outcomes, counted, said, there, found),
            compat=name,
            printed="\n".join(lines),
        )

    return scorer


def read_captions(path: Path, items: Sequence[Item]) -> Predictions:
    """Captions as the script reads them, ``{"imgToEval": {id: {"image_id", "caption"}}}``, or in the general forms."""
    document = read_document(path)
    if not isinstance(document, dict) or "imgToEval" not in document:
        return read_predictions(path, *PREDICTION_KEYS)
    rows = document["imgToEval"].values()
    if not all(isinstance(row, dict) and {"image_id", "caption"} <= row.keys() for row in rows):
        raise EvaluationError(f"{path}: an entry of imgToEval lacks image_id or caption")
    return from_pairs([(str(row["image_id"]), row["caption"]) for row in rows], str(path))


BENCHMARK = Benchmark(
    name="chair",
    title="CHAIR (object hallucination in captions)",
    kind="caption",
    source="arXiv 1809.02156",
    files=(SYNONYMS, INSTANCES, OBJECTS),
    read=read,
    score=score,
    compat={"chair": script("chair"), "chair-standalone": script("chair-standalone")},
    options={
        "images": "a file with one id per line: the pictures or videos that were captioned; default: all",
        "rules": "auto (default: COCO's rules with COCO's instance files), coco, or none",
    },
    read_predictions=read_captions,
)
