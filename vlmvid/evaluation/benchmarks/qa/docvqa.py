"""DocVQA: questions about pictures of documents (arXiv 2007.00398), scored by ANLS."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlmvid.evaluation.benchmarks.qa.anls_qa import anls_scorer, answers_of, lmms_eval_scorer, read_questions
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media
from vlmvid.evaluation.scoring.reading import unique_items
from vlmvid.evaluation.scoring.shapes import in_shape

FILE = AnnotationFile(
    "val_v1.0*.json",
    ("questionId", "question", "image", "docId", "answers"),
    "https://www.docvqa.org/datasets (single-page document VQA)",
)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The questions under ``data``; those of one document are one cluster, ``question_types`` are groups."""
    items = []
    for number, row in enumerate(read_questions(path, FILE), start=1):
        with in_shape(f"{path}, entry {number}", FILE):
            items.append(
                Item(
                    item_id=str(row["questionId"]),
                    video_id=str(row["docId"]),
                    answer=answers_of(row),
                    question=str(row["question"]),
                    media=(Media(str(row["image"])),),
                    # A question may have several types; each is a breakdown of its own.
                    groups={f"type_{name.replace('/', '_')}": "yes" for name in row.get("question_types") or ()},
                )
            )
    return unique_items(items, path)


BENCHMARK = Benchmark(
    name="docvqa",
    title="DocVQA (val)",
    kind="open",
    source="arXiv 2007.00398",
    files=(FILE,),
    read=read,
    score=anls_scorer("docvqa", "DocVQA"),
    compat={"lmms-eval": lmms_eval_scorer("docvqa")},
    prediction_keys=(("questionId", "question_id", "id"), ("answer", "prediction", "response")),
)
