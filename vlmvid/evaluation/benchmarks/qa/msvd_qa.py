"""MSVD-QA: one-word answers about MSVD (Xu et al., ACM MM 2017; xudejing/video-question-answering).

Sizes as published: 30,933 / 6,415 / 13,157 questions. Files as MSRVTT-QA's, without categories.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlmvid.errors import DatasetError
from vlmvid.evaluation.benchmarks.qa.open_answers import (
    SPLIT_OPTION,
    VOCABULARY_OPTION,
    exact_scorer,
    question_type,
    read_split,
    vocabulary,
    vocabulary_group,
)
from vlmvid.evaluation.judges import JUDGE_OPTIONS
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media
from vlmvid.evaluation.scoring.reading import read_text, unique_items

FILE = AnnotationFile(
    "test_qa.json", ("question", "answer", "video_id", "id"), "https://github.com/xudejing/video-question-answering"
)
MAPPING = AnnotationFile(
    "youtube_mapping.txt", ("name", "vid<number>"), "https://www.cs.utexas.edu/~ml/clamp/videoDescription"
)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The questions of a split; ids are those of the file, videos ``vid<video_id>``.

    A video's file is ``vid<video_id>.avi``, or, where ``youtube_mapping.txt`` (lines ``NAME vidN``) lies beside the
    questions, ``NAME.avi``.
    """
    known, names = vocabulary(path, options, FILE), _names(path.parent if path.is_file() else path)
    items = []
    for row in read_split(path, options, FILE):
        video, question, answer = f"vid{row['video_id']}", str(row["question"]), str(row["answer"])
        items.append(
            Item(
                item_id=str(row["id"]),
                video_id=video,
                answer=answer,
                question=question,
                media=(Media(f"{names.get(video, video)}.avi"),),
                groups={"type": question_type(question), **vocabulary_group(answer, known)},
            )
        )
    return unique_items(items, path)


def _names(folder: Path) -> dict[str, str]:
    path = folder / MAPPING.name
    if not path.is_file():
        return {}
    names = {}
    for number, line in enumerate(read_text(path, MAPPING).splitlines(), start=1):
        parts = line.split()
        if len(parts) != 2:
            raise DatasetError(f"{path}, line {number}: expected a name and vid<number>, got {line!r}")
        names[parts[1]] = parts[0]
    return names


BENCHMARK = Benchmark(
    name="msvd_qa",
    title="MSVD-QA",
    kind="open",
    source="Xu et al., ACM MM 2017",
    files=(FILE, MAPPING),
    read=read,
    score=exact_scorer("msvd_qa", "MSVD-QA: exact match in lower case; question types as Just-Ask has them"),
    options={**SPLIT_OPTION, **VOCABULARY_OPTION, **JUDGE_OPTIONS},
)
