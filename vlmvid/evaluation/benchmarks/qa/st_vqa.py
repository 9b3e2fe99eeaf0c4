"""ST-VQA: questions about text in scenes (arXiv 1905.13648), scored by ANLS."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlmvid.evaluation.benchmarks.qa.anls_qa import anls_scorer, answers_of, read_questions
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media
from vlmvid.evaluation.scoring.reading import unique_items

FILE = AnnotationFile(
    "train_task_3.json",
    ("question_id", "question", "file_path", "dataset", "answers"),
    "https://rrc.cvc.uab.es/?ch=11 (Scene Text Visual Question Answering)",
)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The questions under ``data``; the test splits have no public answers. Groups are the source collections."""
    items = [
        Item(
            item_id=str(row["question_id"]),
            video_id=str(row["file_path"]),
            answer=answers_of(row),
            question=str(row["question"]),
            media=(Media(str(row["file_path"])),),
            groups={"dataset": str(row["dataset"])},
        )
        for row in read_questions(path, FILE)
    ]
    return unique_items(items, path)


BENCHMARK = Benchmark(
    name="st_vqa",
    title="ST-VQA (task 3)",
    kind="open",
    source="arXiv 1905.13648",
    files=(FILE,),
    read=read,
    score=anls_scorer("st_vqa", "ST-VQA"),
)
