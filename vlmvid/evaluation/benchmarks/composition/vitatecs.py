"""VITATECS: a caption against a counterfactual of one temporal aspect (arXiv 2311.17404; at 58bff59bb1)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError, EvaluationError
from vlmvid.evaluation.base import TaskResult, metric_slug
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.matrix import caption_scorer, compat_result
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json_lines, unique_items

ASPECTS = ("Direction", "Intensity", "Sequence", "Localization", "Compositionality", "Type")
FILE = AnnotationFile(
    "Direction.jsonl",
    ("src_dataset", "video_name", "caption", "counterfactual", "aspect"),
    "https://github.com/lscpku/VITATECS (data; one file for each of Direction, Intensity, Sequence, Localization, "
    "Compositionality, Type)",
)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The items of one aspect's file or of all six in a folder; ids are ``ASPECT_LINE``, lines from 0.

    Raises:
        MissingDataError: a file is missing.
        DatasetError: another shape, or an unknown aspect.
    """
    aspect = choose(options, "aspect", ("all", *ASPECTS))
    names = (path.stem,) if path.is_file() else ASPECTS if aspect == "all" else (aspect,)
    items = []
    for name in names:
        found = find_file(path, FILE, f"{name}.jsonl")
        items += [_item(found, number, row) for number, row in enumerate(read_json_lines(found, FILE))]
    return unique_items(items, path)


def _item(path: Path, number: int, row: Mapping[str, Any]) -> Item:
    aspect = str(row["aspect"])
    if aspect not in ASPECTS:
        raise DatasetError(f"{path}, line {number + 1}: aspect {aspect!r}; expected one of {', '.join(ASPECTS)}")
    name = f"{row['src_dataset']}/{row['video_name']}"
    return Item(
        item_id=f"{aspect}_{number}",
        video_id=name,
        answer=0,
        choices=(str(row["caption"]), str(row["counterfactual"])),
        media=(Media(name),),
        groups={"aspect": aspect},
    )


score = caption_scorer("vitatecs", "VITATECS: the caption above its counterfactual", macro=("aspect",))


def score_as_lmms_eval(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """lmms-eval's two-way questions (75571cfe0f, tasks/vitatecs/utils.py), as far as its rules decide.

    The captions are shown as (A) and (B) in an order drawn from the sum of their code points modulo 100, so there are
    only a hundred draws and caption order follows the text. A response that no rule reads goes to GPT-3.5 there;
    here it is wrong.

    Raises:
        EvaluationError: an item without a response, which the script does not have, or one that is no text.
    """
    rated = [_lmms_rating(item, predictions) for item in items]
    values = {"accuracy": (sum(r or 0 for r in rated) / len(rated), len(rated))}
    lines = []
    for aspect in sorted({item.groups["aspect"] for item in items}):
        own = [r or 0 for r, item in zip(rated, items, strict=True) if item.groups["aspect"] == aspect]
        values[f"accuracy_aspect_{metric_slug(aspect)}"] = (sum(own) / len(own), len(own))
        lines.append(f"vitatecs_{aspect.lower()} accuracy {sum(own) / len(own) * 100}")
    unread = sum(r is None for r in rated)
    return compat_result(
        score(items, predictions, settings),
        "lmms_eval",
        f"lmms-eval's vitatecs; {unread} of {len(rated)} responses would go to GPT-3.5 and are counted as wrong",
        values,
        "\n".join(lines),
    )


def shown_first(item: Item) -> bool:
    """Whether lmms-eval shows the true caption as (A)."""
    seed = sum(ord(character) for caption in item.choices for character in caption) % 100
    return random.Random(seed).random() > 0.5


def _lmms_rating(item: Item, predictions: Predictions) -> int | None:
    response = predictions.values.get(item.item_id)
    if not isinstance(response, str):
        raise EvaluationError(f"lmms-eval scores a text for every item; {item.item_id} has {response!r:.80}")
    # Lower case and without one final full stop, which is how the script compares.
    true, false = (caption.removesuffix(".").lower() for caption in item.choices)
    found = response.lower()
    if (true in found) != (false in found):
        return int(true in found)
    letter = "A" if shown_first(item) else "B"
    for answer in ("A", "B"):
        if response == answer or response.startswith((f"{answer}.", f"{answer})", f"({answer})")):
            return int(answer == letter)
    return None


BENCHMARK = Benchmark(
    name="vitatecs",
    title="VITATECS",
    kind="choice",
    source="arXiv 2311.17404",
    files=(FILE,),
    read=read,
    score=score,
    compat={"lmms_eval": score_as_lmms_eval},
    text_compat=("lmms_eval",),
    options={"aspect": f"all (default) or one of {', '.join(ASPECTS)}"},
)
