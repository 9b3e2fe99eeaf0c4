"""ActionBench: antonyms, swapped objects, reversed clips (arXiv 2305.10683; MikeWangWZHL/Paxion at 9369d924a5).

Antonym and reversal ask for the action; the object task is the control that a single frame solves.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import DatasetError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.matrix import MatrixScorer, compat_result, score_arrays
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import (
    choose,
    find_file,
    read_json,
    read_json_lines,
    require_columns,
    unique_items,
)

TASKS = ("antonym", "object_shuffle", "reversal")
_PUBLISHER = "https://github.com/MikeWangWZHL/Paxion (ActionBench; dataset_cards)"
SSV2 = AnnotationFile(
    "validation.json",
    ("id", "label", "label_action_antonym_clip_text", "label_object_shuffled_clip_text"),
    f"{_PUBLISHER}, ssv2/shuffled_object_and_action_antonyms",
)
_CLIP = ("clip_uid", "clip_relative_start", "clip_relative_end", "clip_text")
EGO4D = AnnotationFile(
    "egoclip_subset_action_antonyms_train_val_test_split/test.jsonl",
    (*_CLIP, "action_antonym_clip_text"),
    f"{_PUBLISHER}, ego4d",
)
EGO4D_OBJECTS = AnnotationFile(
    "egoclip_subset_action_antonyms_object_shuffled_train_val_test_split/test.jsonl",
    (*_CLIP, "object_shuffled_clip_text"),
    f"{_PUBLISHER}, ego4d",
)
_CLOSE = 1e-5


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The items of the tasks asked for; ids are ``TASK_ID``, on Ego4D ``TASK_LINE`` with lines from 0.

    Antonym and object items have one clip and two captions, the true one first; reversal items have the clip, the clip
    reversed, and one caption.

    Raises:
        DatasetError: another shape.
    """
    source, task = choose(options, "source", ("ssv2", "ego4d")), choose(options, "task", ("all", *TASKS))
    wanted = TASKS if task == "all" else (task,)
    items = _ssv2(path, wanted) if source == "ssv2" else _ego4d(path, wanted)
    return unique_items(items, path)


def _ssv2(path: Path, wanted: Sequence[str]) -> list[Item]:
    found = find_file(path, SSV2)
    items = []
    for number, row in enumerate(read_json(found, list, SSV2)):
        if not isinstance(row, dict):
            raise DatasetError(f"{found}, entry {number}: expected an object, got {type(row).__name__}")
        require_columns(found, SSV2, row, f"entry {number}")
        others = {
            "antonym": row["label_action_antonym_clip_text"],
            "object_shuffle": row["label_object_shuffled_clip_text"],
        }
        clip = Media(str(row["id"]))
        items += [_item(task, str(row["id"]), clip, str(row["label"]), others.get(task)) for task in wanted]
    return items


def _ego4d(path: Path, wanted: Sequence[str]) -> list[Item]:
    items = []
    for task in wanted:
        file = EGO4D_OBJECTS if task == "object_shuffle" else EGO4D
        other = {"antonym": "action_antonym_clip_text", "object_shuffle": "object_shuffled_clip_text"}.get(task)
        for number, row in enumerate(read_json_lines(find_file(path, file), file)):
            start, end = float(row["clip_relative_start"]), float(row["clip_relative_end"])
            clip = Media(str(row["clip_uid"]), start, end)
            items.append(_item(task, str(number), clip, str(row["clip_text"]), row[other] if other else None))
    return items


def _item(task: str, name: str, clip: Media, caption: str, other: Any) -> Item:
    reversed_clip = Media(clip.name, clip.start_seconds, clip.end_seconds, order="reversed")
    reversal = task == "reversal"
    return Item(
        item_id=f"{task}_{name}",
        video_id=clip.name,
        answer=(0, -1) if reversal else (0,),
        choices=(caption,) if reversal else (caption, str(other)),
        media=(clip, reversed_clip) if reversal else (clip,),
        groups={"task": task},
    )


score = MatrixScorer(
    "action_bench",
    "ActionBench: the caption above its antonym or its swapped objects, the clip above the clip reversed",
    parts={"group_score": "accuracy"},
    macro=("task",),
)


def score_as_paxion(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """Paxion's inference_step_actionbench, task by task; ``accuracy`` is the mean over all items, ours.

    The bugs: between captions argmax takes the first of equal scores, which is the true one, so ties are right and a
    model that scores all alike gets 1. Between clips a difference below 1e-5 is decided by a coin; the script's coin
    follows whatever else drew numbers, here it is drawn from the seed.
    """
    arrays = score_arrays(items, predictions, "Paxion's script")
    coin = random.Random(settings.seed)
    right = np.array([_right(array, coin) for array in arrays])
    values = {"accuracy": (float(right.mean()), len(items))}
    lines = []
    for task in [task for task in TASKS if any(item.groups["task"] == task for item in items)]:
        own = right[[item.groups["task"] == task for item in items]]
        values[f"accuracy_task_{task}"] = (float(own.mean()), len(own))
        lines.append(f"{task}: {own.mean()}")
    return compat_result(
        score(items, predictions, settings),
        "paxion",
        "Paxion's script: argmax, the true caption first; clips closer than 1e-5 by a seeded coin",
        values,
        "\n".join(lines),
    )


def _right(scores: NDArray[np.float64], coin: random.Random) -> bool:
    if len(scores) == 2 and abs(scores[0, 0] - scores[1, 0]) < _CLOSE:
        return coin.choice([0, 1]) == 0
    return int(scores.argmax()) == 0


BENCHMARK = Benchmark(
    name="action_bench",
    title="ActionBench (SSv2 validation, Ego4D test)",
    kind="matrix",
    source="arXiv 2305.10683",
    files=(SSV2, EGO4D, EGO4D_OBJECTS),
    read=read,
    score=score,
    compat={"paxion": score_as_paxion},
    options={
        "source": "ssv2 (default: validation) or ego4d (test)",
        "task": f"all (default) or one of {', '.join(TASKS)}",
    },
)
