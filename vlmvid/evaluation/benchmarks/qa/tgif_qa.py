"""TGIF-QA (arXiv 1704.04497; YunseokJANG/tgif-qa at 9ecbbc7cb3): one file per task, tab-separated under the name .csv.

Test questions: action 2,274 and transition 6,232 (five options), frameqa 13,691 (one word), count 3,554 (0, 2 to 10).
A count of 0 (918 of the test questions) stands for 1: the authors' loader raises it (data_util/tgif.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vlmvid.errors import DatasetError, MissingDataError
from vlmvid.evaluation.answers.open_text import number
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks.qa.open_answers import exact_scorer
from vlmvid.evaluation.judges import JUDGE_OPTIONS
from vlmvid.evaluation.scoring.aggregate import AnswerScorer, labelled
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, Scorer, ScoreSettings
from vlmvid.evaluation.scoring.choices import OPTIONS as CHOICE_OPTIONS
from vlmvid.evaluation.scoring.choices import ChoiceScorer
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import choose, find_file, read_table, unique_items
from vlmvid.metrics import rate_result

TASKS = ("frameqa", "action", "transition", "count")
SPLITS = ("test", "train", "total")
PUBLISHER = "https://github.com/YunseokJANG/tgif-qa (dataset)"
OPTIONS = tuple(f"a{place}" for place in range(1, 6))
FRAME_TYPES = ("object", "number", "color", "location")
LOWEST, HIGHEST = 1, 10
_COMMON = ("gif_name", "question", "answer", "vid_id", "key")
FILES = {
    task: AnnotationFile(
        f"Test_{task}_question.csv",
        (*_COMMON, *(OPTIONS if task in ("action", "transition") else ("type", "description") * (task == "frameqa"))),
        PUBLISHER,
    )
    for task in TASKS
}


def read_task(path: Path, options: Mapping[str, str], task: str) -> list[Item]:
    """The questions of one task; ids are ``vid_id`` (``FRAMEQA12``), clusters the GIFs."""
    file = FILES[task]
    name = f"{choose(options, 'split', SPLITS).capitalize()}_{task}_question.csv"
    found = find_file(path, file, name)
    return unique_items([_item(row, task, found) for row in read_table(found, file, delimiter="\t")], found)


def _item(row: Mapping[str, str], task: str, path: Path) -> Item:
    choices = tuple(row[name] for name in OPTIONS) if task in ("action", "transition") else ()
    item = Item(
        item_id=row["vid_id"],
        video_id=row["gif_name"],
        answer=row["answer"],
        question=row["question"],
        choices=choices,
        media=(Media(f"{row['gif_name']}.gif"),),
    )
    if task == "frameqa":
        kind = _whole(row["type"], len(FRAME_TYPES), path, item, "type")
        return replace(item, groups={"type": FRAME_TYPES[kind]})
    limit = len(choices) if choices else HIGHEST + 1
    answer = _whole(row["answer"], limit, path, item, "answer")
    return replace(item, answer=answer if choices else max(answer, LOWEST))


def _whole(value: str, limit: int, path: Path, item: Item, column: str) -> int:
    if not value.strip().isdigit() or int(value) >= limit:
        raise DatasetError(f"{path}, {item.item_id}: {column} {value!r} is no whole number below {limit}")
    return int(value)


def squared_error(parsed: float, item: Item) -> float:
    """The squared error of a count, after rounding (half to even, as TensorFlow does) and clipping to 1..10."""
    return float((min(max(round(parsed), LOWEST), HIGHEST) - item.answer) ** 2)


_count = AnswerScorer(
    benchmark="tgif_qa",
    parser=number,
    score=squared_error,
    about="TGIF-QA count: squared error of the answer, rounded and clipped to 1..10; no answer = the worst one",
    metric="mse",
    is_rate=False,
    higher_is_better=False,
    constants=tuple(range(LOWEST, HIGHEST + 1)),
    answer_text=lambda item: item.answer,
    worst=lambda item: float(max(item.answer - LOWEST, HIGHEST - item.answer) ** 2),
)


def score_count(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """The mean squared error, lower is better, and ``count_accuracy``, the share of exact counts."""
    result = _count(items, predictions, settings)
    rows = [row for row in result.samples if settings.missing != "skip" or row["status"] != "missing"]
    exact = rate_result(
        "count_accuracy",
        [float(row["score"] == 0) for row in rows],
        clusters=[str(row["video_id"]) for row in rows],
        seed=settings.seed,
        num_bootstrap=settings.num_bootstrap,
    )
    return replace(result, metrics=(*result.metrics, *labelled([exact], settings)))


def choice_benchmark(task: str) -> Benchmark:
    """The benchmark of one of the tasks with options, which an aligned model can answer too."""
    return Benchmark(
        name=f"tgif_{task}",
        title=f"TGIF-QA {task}",
        kind="choice",
        source="arXiv 1704.04497",
        files=(FILES[task],),
        read=lambda path, options: read_task(path, options, task),
        score=ChoiceScorer(f"tgif_{task}"),
        options={"split": "test (default), train or total", **CHOICE_OPTIONS},
    )


_SCORERS: dict[str, Scorer] = {
    "frameqa": exact_scorer("tgif_qa", "TGIF-QA frameqa: exact match in lower case"),
    "count": score_count,
    "action": ChoiceScorer("tgif_qa"),
    "transition": ChoiceScorer("tgif_qa"),
}


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The questions of the option ``task``; see `read_task`. If only other tasks' are there, it says which."""
    task, split = choose(options, "task", TASKS), choose(options, "split", SPLITS).capitalize()
    names = {other: f"{split}_{other}_question.csv" for other in TASKS}
    if path.is_file():
        there = [other for other in TASKS if path.name == names[other]]
    else:
        there = [other for other in TASKS if any(path.rglob(names[other]))]
    if there and task not in there:
        hints = " or ".join(f"-o task={other}" for other in there)
        raise MissingDataError(
            f"there is no {names[task]} at {path}, but {', '.join(names[other] for other in there)}: give {hints}, or "
            f"get it from {PUBLISHER}"
        )
    return read_task(path, options, task)


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """Accuracy of frameqa, action or transition, or the mean squared error of count."""
    return _SCORERS[choose(settings.options, "task", TASKS)](items, predictions, settings)


BENCHMARK = Benchmark(
    name="tgif_qa",
    title="TGIF-QA",
    kind="open",
    source="arXiv 1704.04497",
    files=tuple(FILES.values()),
    read=read,
    score=score,
    options={
        "task": "frameqa (default), count, action or transition; the last two are also tgif_action, tgif_transition",
        "split": "test (default), train or total",
        **JUDGE_OPTIONS,
    },
)
