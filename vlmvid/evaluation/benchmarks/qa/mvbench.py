"""MVBench: twenty tasks on time (arXiv 2311.17005; OpenGVLab/Ask-Anything at 4dd8210b03, video_chat2/mvbench.ipynb)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError, EvaluationError
from vlmvid.evaluation.answers.base import finite
from vlmvid.evaluation.answers.choice_lmms import mvbench_answer
from vlmvid.evaluation.answers.choice_reference import mvbench_check
from vlmvid.evaluation.base import TaskResult, metric_slug
from vlmvid.evaluation.benchmarks.qa.open_answers import read_rows
from vlmvid.evaluation.scoring.aggregate import Outcome
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, Read, Scorer, ScoreSettings
from vlmvid.evaluation.scoring.choices import (
    OPTIONS,
    ChoiceScorer,
    Rating,
    Script,
    by_group,
    letter_of,
    percent,
    scripts,
    share,
)
from vlmvid.evaluation.scoring.predictions import Predictions, from_pairs, read_document, read_predictions
from vlmvid.evaluation.scoring.reading import find_file, unique_items
from vlmvid.registry import nearest

_CLEVRER, _PERCEPTION, _STAR = "clevrer/video_validation", "perception/videos", "star/Charades_v1_480"


@dataclass(frozen=True, slots=True)
class Task:
    """One task of the benchmark; its file is its name in lower case with underscores.

    Attributes:
        name: as the authors print it.
        folder: where its media are.
        bound: whether its items have a start and an end.
        frame_rate: of the pictures (00001.jpg, ...) in a folder that stands for a video; None = a video file.
    """

    name: str
    folder: str
    bound: bool = False
    frame_rate: float | None = None

    @property
    def stem(self) -> str:
        """Its file without the suffix."""
        return metric_slug(self.name)


TASKS = (
    Task("Action Sequence", _STAR, bound=True),
    Task("Action Prediction", _STAR, bound=True),
    Task("Action Antonym", "ssv2_video"),
    Task("Fine-grained Action", "Moments_in_Time_Raw/videos"),
    Task("Unexpected Action", "FunQA_test/test"),
    Task("Object Existence", _CLEVRER),
    Task("Object Interaction", _STAR, bound=True),
    Task("Object Shuffle", _PERCEPTION),
    Task("Moving Direction", _CLEVRER),
    Task("Action Localization", "sta/sta_video", bound=True),
    Task("Scene Transition", "scene_qa/video"),
    Task("Action Count", _PERCEPTION),
    Task("Moving Count", _CLEVRER),
    Task("Moving Attribute", _CLEVRER),
    Task("State Change", _PERCEPTION),
    Task("Fine-grained Pose", "nturgbd"),
    Task("Character Order", _PERCEPTION),
    Task("Egocentric Navigation", "vlnqa"),
    Task("Episodic Reasoning", "tvqa/frames_fps3_hq", bound=True, frame_rate=3.0),
    Task("Counterfactual Inference", _CLEVRER),
)
COLUMNS = ("video", "question", "candidates", "answer")
FILE = AnnotationFile("action_sequence.json", COLUMNS, "https://huggingface.co/datasets/OpenGVLab/MVBench (json)")


def reader(tasks: Sequence[Task], file: AnnotationFile) -> Read:
    """Reads a folder with one file for each task, or the file of one; ids are ``TASK_NUMBER``, from 0."""

    def read(path: Path, options: Mapping[str, str]) -> list[Item]:
        known = {task.stem: task for task in tasks}
        names = options["tasks"].split(",") if options.get("tasks") else list(known)
        if path.is_file():
            names = [path.stem]
        items = []
        for name in names:
            if name not in known:
                raise DatasetError(
                    f"there is no task {name!r}{nearest(name, sorted(known))}; known: {', '.join(known)}"
                )
            items += _items(known[name], find_file(path, file, f"{name}.json"), file)
        return unique_items(items, path)

    return read


def _items(task: Task, path: Path, file: AnnotationFile) -> list[Item]:
    items = []
    for number, row in enumerate(read_rows(path, file)):
        if not isinstance(row["candidates"], list):
            raise DatasetError(f"{path}, entry {number + 1}: candidates must be a list, got {row['candidates']!r:.60}")
        choices = tuple(str(candidate) for candidate in row["candidates"])
        if str(row["answer"]) not in choices:
            raise DatasetError(f"{path}, entry {number + 1}: the answer {row['answer']!r} is none of {list(choices)}")
        if task.bound and not {"start", "end"} <= row.keys():
            raise DatasetError(
                f"{path}, entry {number + 1}: no start and end; {task.name} has them in {file.publisher}"
            )
        name = f"{task.folder}/{row['video']}"
        media = Media(name)
        if task.bound:
            start, end = finite(row["start"]), finite(row["end"])
            if start is None or end is None:
                raise DatasetError(
                    f"{path}, entry {number + 1}: start and end must be seconds, got {row['start']!r:.60} and "
                    f"{row['end']!r:.60}"
                )
            media = Media(name, start, end)
        items.append(
            Item(
                item_id=f"{task.stem}_{number}",
                video_id=name,
                answer=choices.index(str(row["answer"])),
                question=str(row["question"]),
                choices=choices,
                media=(media,),
                groups={"task": task.name},
                extra={"frame_rate": task.frame_rate} if task.frame_rate else {},
            )
        )
    return items


def read_results(path: Path, items: Sequence[Item]) -> Predictions:
    """The notebook's ``{"acc_dict", "res_list": [{"pred", "gt"}]}``, joined in order, or predictions by id.

    Raises EvaluationError for another number of results than items, or a `gt` that is not the item's.
    """
    document = read_document(path)
    if not isinstance(document, dict) or "res_list" not in document:
        return read_predictions(path)
    results = document["res_list"]
    if not isinstance(results, list) or not all(isinstance(row, dict) for row in results):
        raise EvaluationError(f"{path}: res_list must be a list of objects with pred, got {results!r:.80}")
    if len(results) != len(items):
        raise EvaluationError(
            f"{path} has {len(results)} results for {len(items)} questions; res_list is joined in order, so none may "
            "be missing: give predictions by id, or the tasks that were run"
        )
    pairs = []
    for number, (row, item) in enumerate(zip(results, items, strict=True), start=1):
        if row.get("gt", _shown(item)) != _shown(item):
            raise EvaluationError(
                f"{path}, result {number}: gt is {row['gt']!r}, but {item.item_id} has {_shown(item)!r}; keep the "
                "order of the tasks, or give predictions by id"
            )
        pairs.append((item.item_id, row.get("pred")))
    return from_pairs(pairs, str(path))


def _shown(item: Item) -> str:
    """The right option as the notebook shows it; of equal texts it takes the last."""
    text = item.choices[item.answer]
    last = max(index for index, option in enumerate(item.choices) if option == text)
    return f"({chr(ord('A') + last)}) {text}"


def check_ans(benchmark: str) -> Script:
    """The compat mode of the notebook, which TVBench copies, under the name of the benchmark."""

    def printed(counted: Sequence[Outcome]) -> str:
        tasks = by_group(counted)["task"]
        return str({**{name: share(rows) * 100 for name, rows in tasks.items()}, "Avg": share(counted) * 100})

    return Script(
        benchmark=benchmark,
        name=benchmark,
        protocol="check_ans: the first word in lower case as a substring of the right letter in brackets, or the other "
        "way round, so that an empty answer, ( and ) are right; give responses with the forced ( before them, as the "
        "notebook does; the average is over questions",
        rate=lambda raw, item: Rating(raw, float(mvbench_check(str(raw), _shown(item)))),
        printed=printed,
    )


def lmms_eval(
    benchmark: str, metric: str, protocol: str, rate: Callable[[Any, Item], Rating], value: Callable[..., float] = share
) -> Scorer:
    """The compat mode of lmms-eval, which prints a number for each task and none for all.

    A task of which no answer counts is 0 there.
    """

    def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
        asked = [item for item in items if settings.missing != "skip" or item.item_id in predictions.values]
        names = dict.fromkeys(item.groups["task"] for item in asked)

        def by_task(counted: Sequence[Outcome]) -> dict[str, list[Outcome]]:
            tasks = by_group(counted).get("task", {})
            return {name: tasks.get(name, []) for name in names}

        script = Script(
            benchmark=benchmark,
            name="lmms-eval",
            protocol=f"lmms-eval {benchmark}: {protocol}; it prints tasks only, accuracy here is their mean",
            rate=rate,
            printed=lambda counted: "\n".join(
                f"{benchmark}_{metric_slug(name)} {metric} {value(rows)}" for name, rows in by_task(counted).items()
            ),
            average="task",
        )
        result = script(items, predictions, settings)
        main, *others = result.metrics
        counted = sum(metric.name.startswith("accuracy_task_") for metric in others)
        if counted == len(names):
            return result
        return replace(result, metrics=(replace(main, value=main.value * counted / len(names)), *others))

    return score


def benchmark_of_tasks(
    name: str, title: str, source: str, tasks: Sequence[Task], file: AnnotationFile, lmms: Scorer
) -> Benchmark:
    """A benchmark in MVBench's format."""
    return Benchmark(
        name=name,
        title=title,
        kind="choice",
        source=source,
        files=(file,),
        read=reader(tasks, file),
        score=ChoiceScorer(name, "accuracy over questions, by task, and the mean over tasks", macro=("task",)),
        compat={**scripts(check_ans(name)), "lmms-eval": lmms},
        text_compat=(name, "lmms-eval"),
        options={"tasks": "names of task files without .json, separated by commas; default: all", **OPTIONS},
        read_predictions=read_results,
    )


def _rate_lmms(raw: Any, item: Item) -> Rating:
    return Rating(mvbench_answer(raw), float(mvbench_answer(raw) == letter_of(item))) if raw else Rating(None, None)


BENCHMARK = benchmark_of_tasks(
    "mvbench",
    "MVBench",
    "arXiv 2311.17005",
    TASKS,
    FILE,
    lmms_eval(
        "mvbench",
        "mvbench_accuracy",
        "the first letter A to E that stands alone in any case, so that an English a is option A; empty answers are "
        "left out",
        _rate_lmms,
        percent,
    ),
)
