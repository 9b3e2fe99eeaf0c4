"""TemporalBench: which caption is true in every temporal detail (arXiv 2410.10818; mu-cai/TemporalBench at 62f88ab)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError, EvaluationError
from vlmvid.evaluation.base import TaskResult, metric_slug
from vlmvid.evaluation.benchmarks.composition.lettered import first_character_right, options_in, stem_of
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.choices import ChoiceScorer
from vlmvid.evaluation.scoring.matrix import compat_result
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json, require_columns, unique_items
from vlmvid.evaluation.scoring.units import UnitScorer

FILE = AnnotationFile(
    "temporalbench_short_qa.json",
    ("idx", "video_name", "question", "GT"),
    "https://huggingface.co/datasets/microsoft/TemporalBench",
)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The questions on short clips or long videos; those of a video are a unit. ``extra["prompt"]`` is the whole text.

    Raises:
        DatasetError: an answer that is no letter of the options.
    """
    part = choose(options, "part", ("short", "long"))
    found = find_file(path, FILE, f"temporalbench_{part}_qa.json")
    items = []
    for number, row in enumerate(read_json(found, list, FILE)):
        if not isinstance(row, dict):
            raise DatasetError(f"{found}, entry {number}: expected an object, got {type(row).__name__}")
        require_columns(found, FILE, row, f"entry {number}")
        items.append(_item(found, row))
    return unique_items(items, found)


def _item(path: Path, row: Mapping[str, Any]) -> Item:
    choices = options_in(str(row["question"]))
    answer = ord(str(row["GT"]).strip()[:1].upper() or "?") - ord("A")
    if not 0 <= answer < len(choices):
        raise DatasetError(f"{path}, {row['idx']}: GT {row['GT']!r} is none of the {len(choices)} options")
    # The authors' scorer reads `dataset`, their page calls it `source_dataset`.
    groups = {"dataset": row.get("dataset") or row.get("source_dataset"), "category": row.get("category")}
    return Item(
        item_id=str(row["idx"]),
        video_id=str(row["video_name"]),
        answer=answer,
        question=stem_of(str(row["question"])),
        choices=choices,
        media=(Media(str(row["video_name"])),),
        groups={name: str(value) for name, value in groups.items() if value},
        units={"video": str(row["video_name"])},
        extra={"prompt": str(row["question"])},
    )


score = UnitScorer(
    ChoiceScorer("temporal_bench", "TemporalBench: a video is right when all its questions are").answers,
    {"video": "multiple_binary_accuracy"},
    groups=("dataset",),
)


def score_as_temporal_bench(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """The authors' get_qa_acc.py: the first character of a response, over the responses that are there.

    The bugs: questions without a response are left out, and so are videos without any; it stops at an empty response
    and at one to an unknown question.

    Raises:
        EvaluationError: no response, an empty one, or one to an unknown question.
    """
    extra = predictions.extra(item.item_id for item in items)
    asked = [item for item in items if item.item_id in predictions.values]
    if extra or not asked:
        raise EvaluationError(
            f"get_qa_acc.py stops at responses to unknown questions, e.g. {extra[:3]}"
            if extra
            else f"{predictions.source} has no response to any of the {len(items)} questions"
        )
    right = [first_character_right(item, predictions) for item in asked]
    whole = _by_video(asked, right)
    values = {
        "multiple_binary_accuracy": (sum(whole.values()) / len(whole), len(whole)),
        "accuracy": (sum(right) / len(right), len(right)),
    }
    for dataset in dict.fromkeys(item.groups["dataset"] for item in asked if "dataset" in item.groups):
        rows = [(item, ok) for item, ok in zip(asked, right, strict=True) if item.groups.get("dataset") == dataset]
        own = [ok for _, ok in rows]
        values[f"accuracy_dataset_{metric_slug(dataset)}"] = (sum(own) / len(own), len(own))
    printed = [
        f"{'Binary Accuracy:':<40} {sum(right)}/{len(right):<15} {100 * sum(right) / len(right):>1.2f}%",
        f"{'Multiple Binary Accuracy:':<40} {sum(whole.values())}/{len(whole):<15} "
        f"{100 * sum(whole.values()) / len(whole):>1.2f}%",
    ]
    return compat_result(
        score(items, predictions, settings),
        "temporal_bench",
        "get_qa_acc.py: first character, over the responses that are there",
        values,
        "\n".join(printed),
    )


def _by_video(items: Sequence[Item], right: Sequence[bool]) -> dict[str, bool]:
    whole: dict[str, bool] = {}
    for item, ok in zip(items, right, strict=True):
        whole[item.video_id] = whole.get(item.video_id, True) and ok
    return whole


BENCHMARK = Benchmark(
    name="temporal_bench",
    title="TemporalBench (questions)",
    kind="choice",
    source="arXiv 2410.10818",
    files=(FILE,),
    read=read,
    score=score,
    compat={"temporal_bench": score_as_temporal_bench},
    text_compat=("temporal_bench",),
    options={"part": "short (default) or long"},
    prediction_keys=(("idx", "item_id", "id"), ("response", "prediction", "answer")),
)
