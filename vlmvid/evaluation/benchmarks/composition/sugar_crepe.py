"""SugarCrepe: a caption against a hard negative of it (arXiv 2306.14610; RAIVNLab/sugar-crepe at 0047054b24)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmvid.errors import DatasetError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.matrix import caption_scorer, compat_result, float32_mean, score_arrays
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json, require_columns, unique_items
from vlmvid.metrics.composition import first_best_scores

SUBSETS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
FILE = AnnotationFile(
    "replace_rel.json",
    ("filename", "caption", "negative_caption"),
    "https://github.com/RAIVNLab/sugar-crepe (data; one file for each of add_att, add_obj, replace_att, replace_obj, "
    "replace_rel, swap_att, swap_obj; the pictures are COCO val2017)",
)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The items of one subset's file or of all seven in a folder; ids are ``SUBSET_KEY``, keys as in the file.

    Raises:
        MissingDataError: a file is missing.
        DatasetError: another shape, or a single file whose name is no subset.
    """
    subset = choose(options, "subset", ("all", *SUBSETS))
    if path.is_file():
        if path.stem not in SUBSETS:
            raise DatasetError(f"{path} is named as no subset of SugarCrepe; expected one of {', '.join(SUBSETS)}")
        wanted: tuple[str, ...] = (path.stem,)
    else:
        wanted = SUBSETS if subset == "all" else (subset,)
    items = []
    for name in wanted:
        found = find_file(path, FILE, f"{name}.json")
        rows: dict[str, Any] = read_json(found, dict, FILE)
        for key, row in rows.items():
            if not isinstance(row, dict):
                raise DatasetError(f"{found}, key {key}: expected an object, got {type(row).__name__}")
            require_columns(found, FILE, row, f"key {key}")
            items.append(_item(name, key, row))
    return unique_items(items, path)


def _item(subset: str, key: str, row: Mapping[str, Any]) -> Item:
    return Item(
        item_id=f"{subset}_{key}",
        video_id=str(row["filename"]),
        answer=0,
        choices=(str(row["caption"]), str(row["negative_caption"])),
        media=(Media(str(row["filename"])),),
        groups={"subset": subset},
    )


score = caption_scorer("sugar_crepe", "SugarCrepe: the caption above its hard negative", macro=("subset",))


def score_as_clip_benchmark(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """CLIP_benchmark's text_acc of each subset, which it runs one by one; their mean is ours, under ``accuracy``.

    The bugs: the true caption is the first and argmax takes the first of equal scores, so ties are right and a model
    that scores all alike gets 1; with one picture image_acc is always 1.
    """
    right = first_best_scores(np.array(score_arrays(items, predictions, "CLIP_benchmark"))).text
    lines, values = [], {"accuracy": (float(right.mean()), len(items))}
    for name in sorted({item.groups["subset"] for item in items}):
        rows = np.array([item.groups["subset"] == name for item in items])
        accuracy = float32_mean(right[rows])
        values[f"accuracy_subset_{name}"] = (accuracy, int(rows.sum()))
        lines.append(f"sugar_crepe/{name}: {dict(image_acc=1.0, text_acc=accuracy, acc=accuracy)}")
    return compat_result(
        score(items, predictions, settings),
        "clip_benchmark",
        "CLIP_benchmark's image_caption_selection, subset by subset: argmax, equal scores are right",
        values,
        "\n".join(lines),
    )


BENCHMARK = Benchmark(
    name="sugar_crepe",
    title="SugarCrepe",
    kind="choice",
    source="arXiv 2306.14610",
    files=(FILE,),
    read=read,
    score=score,
    compat={"clip_benchmark": score_as_clip_benchmark},
    options={"subset": f"all (default) or one of {', '.join(SUBSETS)}"},
)
