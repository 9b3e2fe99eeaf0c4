"""MSRVTT-QA: one-word answers about MSR-VTT (Xu et al., ACM MM 2017; xudejing/video-question-answering).

Sizes as published: 158,581 / 12,278 / 72,821 questions. Answers are single lower-case words; the metric is exact match.
Models that choose among the most frequent training answers cannot be right on the others, which stay in the
denominator.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

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
from vlmvid.evaluation.scoring.reading import unique_items

FILE = AnnotationFile(
    "test_qa.json",
    ("question", "answer", "category_id", "video_id", "id"),
    "https://github.com/xudejing/video-question-answering",
)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The questions of a split; ids are those of the file, videos are ``video<video_id>.mp4``."""
    known = vocabulary(path, options, FILE)
    media: dict[str, tuple[Media, ...]] = {}  # one object for the 24 questions of a video
    items = []
    for row in read_split(path, options, FILE):
        video, question, answer = f"video{row['video_id']}", str(row["question"]), str(row["answer"])
        if video not in media:
            media[video] = (Media(f"{video}.mp4"),)
        items.append(
            Item(
                item_id=str(row["id"]),
                video_id=video,
                answer=answer,
                question=question,
                media=media[video],
                groups={"type": question_type(question), **vocabulary_group(answer, known)},
            )
        )
    return unique_items(items, path)


BENCHMARK = Benchmark(
    name="msrvtt_qa",
    title="MSRVTT-QA",
    kind="open",
    source="Xu et al., ACM MM 2017",
    files=(FILE,),
    read=read,
    score=exact_scorer("msrvtt_qa", "MSRVTT-QA: exact match in lower case; question types as Just-Ask has them"),
    options={**SPLIT_OPTION, **VOCABULARY_OPTION, **JUDGE_OPTIONS},
)
