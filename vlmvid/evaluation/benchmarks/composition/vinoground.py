"""Vinoground: two clips and two captions of the same words, as questions (arXiv 2410.02763; Vinoground at 1543a2a).

The pairs themselves, for encoders, are the benchmark ``vinoground_pairs``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmvid.errors import DatasetError, EvaluationError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks.composition.lettered import (
    first_character_right,
    options_in,
    require_all,
    stem_of,
)
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.choices import ChoiceScorer
from vlmvid.evaluation.scoring.matrix import compat_result
from vlmvid.evaluation.scoring.predictions import Predictions, from_pairs, read_document, read_predictions
from vlmvid.evaluation.scoring.reading import find_file, read_json, read_table, require_columns, unique_items
from vlmvid.evaluation.scoring.units import UnitScorer

_PUBLISHER = "https://huggingface.co/datasets/HanSolo9682/Vinoground"
_KEYS = ("idx", "video_name", "question", "GT")
FILES = {
    "text": AnnotationFile("vinoground_textscore.json", _KEYS, _PUBLISHER),
    "video": AnnotationFile("vinoground_videoscore.json", _KEYS, _PUBLISHER),
}
CATEGORIES = AnnotationFile("vinoground.csv", ("index", "major", "minor", "pos_cap", "neg_cap"), _PUBLISHER)
SCORES = {"group": "group_score", "text": "text_score", "video": "video_score"}
_NUM_PAIRS = 500


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The four questions of each pair, ids ``0_pos_text``, ``0_neg_text``, ``0_pos_video``, ``0_neg_video``.

    Where ``vinoground.csv`` lies beside them, pairs carry its major category. ``extra["prompt"]`` is the whole text.

    Raises:
        DatasetError: an id or an answer of another form.
    """
    table = sorted(path.rglob(CATEGORIES.name)) if path.is_dir() else []
    majors = {row["index"]: row["major"] for row in read_table(table[0], CATEGORIES)} if table else {}
    items = []
    for part, file in FILES.items():
        found = find_file(path, file)
        for number, row in enumerate(read_json(found, list, file)):
            if not isinstance(row, dict):
                raise DatasetError(f"{found}, entry {number}: expected an object, got {type(row).__name__}")
            require_columns(found, file, row, f"entry {number}")
            items.append(_item(found, part, row, majors))
    return unique_items(items, path)


def _item(path: Path, part: str, row: Mapping[str, Any], majors: Mapping[str, str]) -> Item:
    pair, separator, side = str(row["idx"]).partition("_")
    choices = options_in(str(row["question"]))
    answer = ord(str(row["GT"]).strip()[:1].upper() or "?") - ord("A")
    if not separator or not pair.isdigit() or side not in ("pos", "neg") or not 0 <= answer < len(choices):
        raise DatasetError(
            f"{path}: idx {row['idx']!r} with GT {row['GT']!r}; expected NUMBER_pos or NUMBER_neg, and a letter of "
            f"{len(choices)} options"
        )
    return Item(
        item_id=f"{row['idx']}_{part}",
        video_id=pair,  # the two clips of a pair are no independent samples
        answer=answer,
        question=stem_of(str(row["question"])),
        choices=choices,
        media=(Media(str(row["video_name"])),),
        groups={"category": majors[pair]} if pair in majors else {},
        units={"group": pair, part: pair},
        extra={"prompt": str(row["question"])},
    )


def read_responses(path: Path, items: Sequence[Item]) -> Predictions:
    """The authors' ``textscore-response.jsonl`` and ``videoscore-response.jsonl`` in a folder, or one file.

    Raises:
        EvaluationError: a file is missing or has entries without ``idx`` and ``response``.
    """
    if path.is_file():
        return read_predictions(path)
    pairs = []
    for part in FILES:
        file = path / f"{part}score-response.jsonl"
        for number, row in enumerate(read_document(file), start=1):
            if not isinstance(row, dict) or not {"idx", "response"} <= row.keys():
                raise EvaluationError(f"{file}, line {number}: expected idx and response, got {row!r:.80}")
            pairs.append((f"{row['idx']}_{part}", row["response"]))
    return from_pairs(pairs, str(path))


score = UnitScorer(
    ChoiceScorer("vinoground", "Vinoground: both questions of a pair (text, video), or all four (group)").answers,
    SCORES,
    groups=("category",),
)


def score_as_vinoground(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """The authors' get_score_all.py: the first character of a response is the answer.

    The bugs: an empty or missing response stops the pair, so that its video questions are not looked at when a text
    question lacks one; the pair still counts.
    """
    parts = {name: 0 for name in SCORES}
    pairs = _pairs(items)
    for pair in pairs.values():
        try:
            text = all(_answered(pair[f"{side}_text"], predictions) for side in ("pos", "neg"))
            parts["text"] += text
            video = all(_answered(pair[f"{side}_video"], predictions) for side in ("pos", "neg"))
        except EvaluationError:
            continue
        parts["video"] += video
        parts["group"] += text and video
    values = {SCORES[name]: (count / len(pairs), len(pairs)) for name, count in parts.items()}
    shown = (f"{100 * values[SCORES[name]][0]:.2f}" for name in ("text", "video", "group"))
    return compat_result(
        score(items, predictions, settings),
        "vinoground",
        "get_score_all.py: first character, a pair with an empty response is wrong from there on",
        values,
        "text {} video {} group {}".format(*shown),
    )


def score_as_lmms_eval(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """lmms-eval's vinoground_aggregate_results (75571cfe0f): the first character, over a table of 500 pairs.

    The bugs: it stops at an empty response, and unless each of the pairs 0 to 499 has one; other questions without a
    response are wrong.

    Raises:
        EvaluationError: an empty response, a pair without any, or a pair beyond 499.
    """
    right = np.zeros((_NUM_PAIRS, 4), dtype=bool)
    answered = {item.units["group"] for item in items if item.item_id in predictions.values}
    gone = [pair for pair in map(str, range(_NUM_PAIRS)) if pair not in answered]
    if gone:
        raise EvaluationError(
            f"lmms-eval's table has 500 pairs and stops where one has no response; {len(gone)} have none, e.g. pair "
            f"{gone[0]}"
        )
    for item in items:
        pair, side, part = item.item_id.split("_")
        if item.item_id in predictions.values:
            if int(pair) >= _NUM_PAIRS:
                raise EvaluationError(f"lmms-eval's table has 500 pairs; {item.item_id} is beyond it")
            right[int(pair), (side == "neg") + 2 * (part == "video")] = first_character_right(item, predictions)
    text, video = right[:, :2].all(axis=1), right[:, 2:].all(axis=1)
    values = {
        SCORES[name]: (float(found.mean()), _NUM_PAIRS)
        for name, found in {"group": text & video, "text": text, "video": video}.items()
    }
    return compat_result(
        score(items, predictions, settings),
        "lmms_eval",
        "lmms-eval's vinoground: first character, over 500 pairs",
        values,
        str(tuple(100 * values[SCORES[name]][0] for name in ("text", "video", "group"))),
    )


def _pairs(items: Sequence[Item]) -> dict[str, dict[str, Item]]:
    pairs: dict[str, dict[str, Item]] = {}
    for item in items:
        pair, _, rest = item.item_id.partition("_")
        pairs.setdefault(pair, {})[rest] = item
    return pairs


def _answered(item: Item, predictions: Predictions) -> bool:
    require_all([item], predictions, "get_score_all.py")
    return first_character_right(item, predictions)


BENCHMARK = Benchmark(
    name="vinoground",
    title="Vinoground (questions)",
    kind="choice",
    source="arXiv 2410.02763",
    files=(*FILES.values(), CATEGORIES),
    read=read,
    score=score,
    compat={"vinoground": score_as_vinoground, "lmms_eval": score_as_lmms_eval},
    text_compat=("vinoground", "lmms_eval"),
    read_predictions=read_responses,
)
