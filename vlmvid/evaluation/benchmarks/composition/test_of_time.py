"""Test of Time: "A before B" or "B before A" (arXiv 2301.02074; bpiyush/TestOfTime at d6149a4d68)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmvid.errors import ConfigError, DatasetError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.scoring.aggregate import labelled
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.matrix import caption_scorer
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import (
    choose,
    find_file,
    read_json,
    read_table,
    require_columns,
    unique_items,
)
from vlmvid.types import MetricResult

WORDS = ("before", "after")
_PUBLISHER = "https://github.com/bpiyush/TestOfTime (setup/download_datasets.sh)"
SYNTHETIC = AnnotationFile("test_v2.0.csv", ("video_id", "sentence", "end_time"), f"{_PUBLISHER}, ToT-syn-v2.0/splits")
TEMPO = AnnotationFile(
    "tempoTL+didemo_test.json",
    ("video", "annotation_id", "description", "reference_description", "context", "train_times"),
    f"{_PUBLISHER}, TEMPO/initial_release_data",
)
SUBSET = AnnotationFile(
    "tempoTL+didemo_test_temporal_1k.csv", ("video", "annotation_id"), f"{_PUBLISHER}, TEMPO/initial_release_data"
)
_SEGMENT_SECONDS, _LONGEST = 5.0, 30.0


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """Clips with a sentence of two events and the sentence with the events exchanged.

    ``synthetic``: coloured circles, ids are the video ids. ``tempo``: the 1,000 items of TEMPO-TL's test split that the
    authors list, without those whose description does not hold its word exactly once; ids are ``annotation_id video``.
    A TEMPO description that begins with its word is turned into "A before B" or "A after B" of the same meaning.

    Raises:
        DatasetError: another shape, or a description without its reference.
    """
    if choose(options, "set", ("synthetic", "tempo")) == "synthetic":
        found = find_file(path, SYNTHETIC)
        return unique_items([_synthetic(found, row) for row in read_table(found, SYNTHETIC)], found)
    found = find_file(path, TEMPO)
    listed = read_table(find_file(path if path.is_dir() else path.parent, SUBSET), SUBSET)
    videos, names = {row["video"] for row in listed}, {row["annotation_id"] for row in listed}
    items = []
    for number, row in enumerate(read_json(found, list, TEMPO)):
        if not isinstance(row, dict):
            raise DatasetError(f"{found}, entry {number}: expected an object, got {type(row).__name__}")
        require_columns(found, TEMPO, row, f"entry {number}")
        # As the authors select: both known, not as a pair.
        if row["video"] in videos and row["annotation_id"] in names:
            items += _tempo(found, row)
    return unique_items(items, found)


def _synthetic(path: Path, row: Mapping[str, str]) -> Item:
    word = "before" if "before" in row["video_id"] else "after"
    events = row["sentence"].lower().split(f" {word} ")
    if len(events) != 2:
        raise DatasetError(f"{path}, {row['video_id']}: {row['sentence']!r} is not of the form 'A {word} B'")
    return _item(row["video_id"], Media(row["video_id"], 0.0, float(row["end_time"])), word, (events[0], events[1]))


def _tempo(path: Path, row: Mapping[str, Any]) -> list[Item]:
    word = str(row["annotation_id"]).partition("_")[0]
    description = str(row["description"])
    if word not in WORDS or description.count(word) != 1:
        return []
    events = _events(_plain(description), _plain(str(row["reference_description"])), word)
    if events is None:
        raise DatasetError(
            f"{path}, {row['annotation_id']}: {description!r} does not hold its reference "
            f"{row['reference_description']!r} beside {word!r}"
        )
    if not all(events):
        return []
    spans = [(float(start), float(end)) for start, end in (row["train_times"][0], row["context"])]
    start = min(begin * _SEGMENT_SECONDS for begin, _ in spans)
    end = max(min((last + 1) * _SEGMENT_SECONDS, _LONGEST) for _, last in spans)
    name = f"{str(row['annotation_id']).lower()} {row['video']}"
    return [_item(name, Media(str(row["video"]), start, end), word, events)]


def _events(description: str, reference: str, word: str) -> tuple[str, str] | None:
    """A and B of "A WORD B" with the meaning of `description`, which may be "WORD B A" where B is the reference."""
    if description.startswith(word):
        rest = description.removeprefix(word).strip()
        return (rest.removeprefix(reference).strip(), reference) if rest.startswith(reference) else None
    first, separator, second = description.partition(f" {word} ")
    return (first.strip(), reference) if separator and second.strip() == reference else None


def _plain(text: str) -> str:
    return re.sub(" +", " ", text.lower().strip("\n").replace(",", "")).strip()


def _item(name: str, clip: Media, word: str, events: tuple[str, str]) -> Item:
    first, second = events
    return Item(
        item_id=name,
        video_id=clip.name,
        answer=0,
        choices=(f"{first} {word} {second}", f"{second} {word} {first}"),
        media=(clip,),
        groups={"word": word},
    )


_consistency = caption_scorer("test_of_time", "Test of Time: the sentence above that with its events exchanged")


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """Time-order consistency; with the option ``r_at_1`` the authors' geometric mean of it and retrieval.

    ``geometric_mean`` is ``sqrt(R@1 * max(0, accuracy - 0.5))``: 0 at chance, 0.7071 at most. Their script has it in
    percent, 70.71 at most, from an accuracy that is rounded to 2 places of percent and an R@1 to 3.
    """
    result = _consistency(items, predictions, settings)
    given = settings.options.get("r_at_1")
    if given is None:
        return result
    try:
        recall = float(given)
    except ValueError:
        recall = math.nan
    if not 0 <= recall <= 1:
        raise ConfigError(f"option r_at_1={given!r} must be text-to-video R@1 on the same clips, from 0 to 1")
    main = result.metrics[0]
    mean = MetricResult(
        name="geometric_mean", value=math.sqrt(recall * max(0.0, main.value - 0.5)), num_samples=main.num_samples
    )
    return replace(result, metrics=(*result.metrics, *labelled([mean], settings)))


BENCHMARK = Benchmark(
    name="test_of_time",
    title="Test of Time",
    kind="choice",
    source="arXiv 2301.02074",
    files=(SYNTHETIC, TEMPO, SUBSET),
    read=read,
    score=score,
    options={
        "set": "synthetic (default) or tempo",
        "r_at_1": "text-to-video R@1 of the same model on the same clips, from 0 to 1, for the geometric mean",
    },
)
