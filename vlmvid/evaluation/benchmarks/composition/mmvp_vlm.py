"""MMVP-VLM: MMVP's pairs as statements, for encoders (arXiv 2401.06209, section 3.2; tsb0601/MMVP at 7635005)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vlmvid.errors import DatasetError, EvaluationError
from vlmvid.evaluation.base import TaskResult, metric_slug
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.matrix import MatrixScorer, compat_result, score_arrays
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import find_file, read_table, unique_items

PATTERNS = (
    "Orientation and Direction",
    "Presence of Specific Features",
    "State and Condition",
    "Quantity and Count",
    "Positional and Relational Context",
    "Color and Appearance",
    "Structural Characteristics",
    "Texts",
    "Viewpoint and Perspective",
)
FILE = AnnotationFile(
    "Questions.csv",
    ("Question ID", "Type", "Statement"),
    "https://huggingface.co/datasets/MMVP/MMVP_VLM (270 statements, pictures in 'MLLM_VLM Images')",
)
_PAIRS_EACH = 15


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The pairs: two rows that follow one another; ids are ``FIRST_SECOND``. Captions are ``a photo of STATEMENT``.

    Raises:
        DatasetError: an odd number of rows, or a pair whose rows differ in type or are not an odd number and the next.
    """
    found = find_file(path, FILE)
    rows = read_table(found, FILE, delimiter=",")
    if len(rows) % 2:
        raise DatasetError(f"{found} has {len(rows)} statements; expected pairs")
    return unique_items([_item(found, one, two) for one, two in zip(rows[::2], rows[1::2], strict=True)], found)


def _item(path: Path, one: Mapping[str, str], two: Mapping[str, str]) -> Item:
    ids = [row["Question ID"].strip() for row in (one, two)]
    numbers = [int(name) if name.isdigit() else -1 for name in ids]
    if numbers[0] % 2 != 1 or numbers[1] != numbers[0] + 1 or one["Type"] != two["Type"]:
        raise DatasetError(
            f"{path}: the rows {ids[0]} ({one['Type']}) and {ids[1]} ({two['Type']}) are no pair; expected an odd id "
            "and the next, of one type"
        )
    pattern = one["Type"].strip()
    return Item(
        item_id="_".join(ids),
        video_id="_".join(ids),
        answer=(0, 1),
        choices=tuple(f"a photo of {row['Statement']}" for row in (one, two)),
        media=tuple(Media(f"MLLM_VLM Images/{pattern}/{name}.jpg") for name in ids),
        groups={"pattern": pattern},
    )


score = MatrixScorer(
    "mmvp_vlm",
    "MMVP-VLM: each statement above the other picture (image score, the paper's), each picture above the other "
    "statement (text score), both (group score)",
    parts={part: part for part in ("image_score", "text_score", "group_score")},
    macro=("pattern",),
)


def score_as_mmvp(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """The authors' evaluate_vlm.py: softmax over the two pictures in float32, the first where it is above 0.5.

    Predictions are the logits (100 times the cosine for CLIP). The bugs: of equal logits the second picture is taken,
    which makes the second statement right; and the nine patterns are cut by position, fifteen pairs each.

    Raises:
        EvaluationError: a missing prediction, fewer than nine pairs (the script divides by zero), or more than 135.
    """
    if not len(PATTERNS) <= len(items) <= len(PATTERNS) * _PAIRS_EACH:
        raise EvaluationError(f"evaluate_vlm.py needs 9 to 135 pairs, got {len(items)}")
    logits = np.array(score_arrays(items, predictions, "evaluate_vlm.py"), dtype=np.float32)
    # (N, picture, statement): exp of the difference to the larger one is how torch computes a softmax.
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    first = (shifted / shifted.sum(axis=1, keepdims=True))[:, 0] > 0.5
    right = first[:, 0] & ~first[:, 1]
    per_pattern = len(items) // len(PATTERNS)
    totals = {
        name: int(right[_PAIRS_EACH * number : _PAIRS_EACH * (number + 1)].sum()) / per_pattern
        for number, name in enumerate(PATTERNS)
    }
    values = {"image_score": (float(np.mean(list(totals.values()))), len(items))}
    values |= {f"image_score_pattern_{metric_slug(name)}": (rate, per_pattern) for name, rate in totals.items()}
    return compat_result(
        score(items, predictions, settings),
        "mmvp",
        "evaluate_vlm.py: softmax over the two pictures above 0.5; image_score is the mean of its nine accuracies",
        values,
        str({name: rate * 100 for name, rate in totals.items()}),
    )


BENCHMARK = Benchmark(
    name="mmvp_vlm",
    title="MMVP-VLM",
    kind="matrix",
    source="arXiv 2401.06209",
    files=(FILE,),
    read=read,
    score=score,
    compat={"mmvp": score_as_mmvp},
)
