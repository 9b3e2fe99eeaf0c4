"""VidHalluc, scene changes: is there one, and from where to where (arXiv 2412.03735).

The description counts by SimCSE's similarity of the two places with those of the annotation. That model does not come
with vlmvid: the option `similarities` names a JSON file ``{VIDEO: [from, to]}`` of cosines; without it the
classification is scored alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vlmvid.errors import DatasetError, MissingDataError
from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.answers.yes_no import yes_no
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks.hallucination.common import (
    Mode,
    YesNoScorer,
    counted,
    is_right,
    modes,
    value_of,
    yes_no_answers,
)
from vlmvid.evaluation.benchmarks.hallucination.vid_halluc_files import PUBLISHER, SOURCE, entry, given, read_file
from vlmvid.evaluation.scoring.aggregate import Outcome, labelled, outcomes_of
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import unique_items
from vlmvid.metrics import matthews_correlation

FILE = AnnotationFile("sth.json", ("Scene change", "Locations"), PUBLISHER)
LOWEST = 0.5  # a similarity up to here counts nothing, as the script's main passes it
_PLACES = re.compile(r"from (.+?) to (.+?)\.", re.IGNORECASE)
_CHANGE = re.compile(r"scene change\W+(yes|no)\b", re.IGNORECASE)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """One item per video; ids are the file's keys.

    Options:
        similarities: a JSON file ``{VIDEO: [from, to]}`` of cosines in [-1, 1].
    """
    found, document = read_file(path, FILE)
    given_by = options.get("similarities")
    similar = {} if given_by is None else _similarities(Path(given_by))
    items = []
    for key, value in document.items():
        row = entry(found, FILE, value, str(key))
        answer = str(row["Scene change"]).strip().lower()
        if answer not in ("yes", "no"):
            raise DatasetError(f"{found}, {key}: Scene change is {row['Scene change']!r}; expected Yes or No")
        items.append(
            Item(
                item_id=str(key),
                video_id=str(key),
                answer=answer,
                question="Does the scene change in the video?",
                choices=("yes", "no"),
                media=(Media(f"STH/{key}.mp4"),),
                extra={
                    "locations": str(row["Locations"]),
                    "similarities": similar.get(str(key)),
                    "described": given_by is not None,
                },
            )
        )
    return unique_items(items, found)


def _similarities(path: Path) -> dict[str, tuple[float, float]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = {str(key): (float(pair[0]), float(pair[1])) for key, pair in document.items()}
    except FileNotFoundError:
        raise MissingDataError(f"option similarities: there is no {path}; give JSON {{VIDEO: [from, to]}}") from None
    except (ValueError, TypeError, AttributeError, IndexError, OSError) as error:
        raise DatasetError(f"option similarities: {path} is not JSON {{VIDEO: [from, to]}}: {error}") from error
    bad = [name for name, pair in found.items() if not all(-1 - 1e-6 <= value <= 1 + 1e-6 for value in pair)]
    if bad:
        raise DatasetError(f"option similarities: {path} has values outside [-1, 1], e.g. for {', '.join(bad[:3])}")
    return found


def _change(raw: Any, item: Item) -> str | None:
    """What follows *Scene change*, else yes or no as everywhere."""
    match = _CHANGE.search(raw) if isinstance(raw, str) else None
    found: str | None = match.group(1).lower() if match else yes_no.parse(raw, item)
    return found


_answers = yes_no_answers(
    "vid_halluc_sth",
    parser=Parser("scene-change-1", _change),
    about="VidHalluc, scene changes: whether there is one (balanced_accuracy, mcc in [-1, 1]); description = mean "
    "rescaled similarity of the places, over the changes that were noticed, where similarities are given",
)
_yes_no = YesNoScorer(_answers, main="balanced_accuracy")


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """The yes-no metrics, `mcc` and, where similarities are given, `description`."""
    result = _yes_no(items, predictions, settings)
    rows = counted(outcomes_of(items, predictions, _answers.parser, is_right), settings)
    label = np.array([row.item.answer == "yes" for row in rows])
    predicted = np.array([(row.score == 1) == (row.item.answer == "yes") for row in rows])
    metrics = [value_of("mcc", matthews_correlation(predicted, label), len(rows))]
    if items[0].extra["described"]:
        noticed = [row for row in rows if row.item.answer == "yes" and row.score == 1]
        value = _description(noticed) if noticed else 0.0
        metrics.append(value_of("description", value, len(noticed)))
    return replace(result, metrics=(*result.metrics, *labelled(metrics, settings)))


def _description(noticed: Sequence[Outcome]) -> float:
    total = 0.0
    for row in noticed:
        similarities = row.item.extra["similarities"]
        places = str(row.raw).partition(", Locations: ")[2].strip()
        if similarities is not None and _PLACES.match(places) and _PLACES.match(row.item.extra["locations"]):
            total += sum(map(rescaled, similarities))
    return total / (2 * len(noticed))


def rescaled(similarity: float) -> float:
    """A cosine in [-1, 1] to [0, 1]: 0 up to `LOWEST`, then the logistic curve from there to 1."""
    if similarity <= LOWEST:
        return 0.0
    low, high = _logistic(LOWEST), _logistic(1.0)
    return (_logistic(similarity) - low) / (high - low)


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def _said(raw: Any, item: Item) -> str:
    """Whatever stands between the first colon and the first comma; only ``yes`` is a yes."""
    text = str(raw)
    first = text.split(", Locations: ", 1)[0] if ", Locations: " in text else text
    return "yes" if first.split(": ", 1)[-1].split(",")[0].strip().lower() == "yes" else "no"


def _as_released(outcomes: Sequence[Outcome]) -> tuple[dict[str, float], str]:
    rows = given(outcomes)
    label = np.array([row.item.answer == "yes" for row in rows])
    mcc = matthews_correlation(np.array([row.parsed == "yes" for row in rows]), label)
    values = {"mcc": mcc, "classification_score": ((mcc + 1) / 2) ** 2}
    if rows[0].item.extra["described"]:
        noticed = [row for row in rows if row.parsed == row.item.answer == "yes"]
        values["description"] = _description(noticed) if noticed else 0.0
        values["overall"] = values["classification_score"] * 0.6 + values["description"] * 0.4
        values = {"overall": values.pop("overall"), **values}
    names = {
        "MCC": "mcc",
        "Classification Score": "classification_score",
        "Description Accuracy": "description",
        "Overall Score": "overall",
    }
    return values, "\n".join(f"{text}: {values[name]:.4f}" for text, name in names.items() if name in values)


BENCHMARK = Benchmark(
    name="vid_halluc_sth",
    title="VidHalluc (STH, scene changes)",
    kind="yes_no",
    source=SOURCE,
    files=(FILE,),
    read=read,
    score=score,
    compat=modes(
        "vid_halluc_sth",
        Mode(
            name="vid-halluc",
            parser=Parser("vid-halluc-sth", _said),
            protocol="VidHalluc's eval_sth.py: 0.6 ((MCC + 1) / 2)^2 + 0.4 description, with the low threshold 0.5 "
            "of its main; videos that are not in the file of answers are left out; without similarities no description",
            measure=_as_released,
            needs_all=False,
        ),
    ),
    options={"similarities": "a JSON file {VIDEO: [from, to]} of SimCSE cosines of the two places"},
)
