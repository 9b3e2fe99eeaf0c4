"""NaturalBench: two questions x two pictures, each answer right for one of them (arXiv 2410.14669).

Neither a constant answer nor one that ignores the picture or the question can be right for a whole group. The published
file is Parquet with pictures in it; only its text columns are read, from Parquet or from JSON Lines of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError
from vlmvid.evaluation.answers import yes_no as parsers
from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks.hallucination.common import (
    Mode,
    is_right,
    mean_score,
    modes,
    unit_shares,
)
from vlmvid.evaluation.scoring.aggregate import AnswerScorer, Outcome, labelled
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import find_file, read_json_lines, require_columns, unique_items
from vlmvid.metrics import chance_result

_UNITS = ("group", "question", "image")
CELLS = ((0, 0), (0, 1), (1, 0), (1, 1))  # (question, picture), in the order of the released script
FILE = AnnotationFile(
    "*.parquet",
    (
        "Question_0",
        "Question_1",
        "Image_0_Question_0",
        "Image_1_Question_0",
        "Image_0_Question_1",
        "Image_1_Question_1",
        "Question_Type",
    ),
    "https://huggingface.co/datasets/BaiqiL/NaturalBench (data/*.parquet, 1,900 groups)",
)
_LETTERS = {"a": "A", "b": "B", "yes": "yes", "no": "no"}


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """Four items per group, in the order of the released script; ids are ``GROUP_qQUESTION_iPICTURE``, groups from 0.

    Rows are taken in the order of the files' names. With a column `Index` groups are named by it.
    """
    items: list[Item] = []
    for row in _rows(path):
        group = str(row["Index"]) if row.get("Index") is not None else str(len(items) // len(CELLS))
        kind = str(row["Question_Type"])
        for question, picture in CELLS:
            answer = _LETTERS.get(str(row[f"Image_{picture}_Question_{question}"]).strip().rstrip(".").lower())
            if answer is None or (kind == "multiple_choice") != (answer in "AB"):
                raise DatasetError(
                    f"{path}, group {group}: the answer {row[f'Image_{picture}_Question_{question}']!r} does not fit "
                    f"Question_Type {kind!r}; expected Yes and No (yes_no) or A and B (multiple_choice)"
                )
            items.append(
                Item(
                    item_id=f"{group}_q{question}_i{picture}",
                    video_id=group,
                    answer=answer,
                    question=str(row[f"Question_{question}"]),
                    choices=("A", "B") if kind == "multiple_choice" else ("yes", "no"),
                    media=(Media(f"{group}_{picture}.jpg"),),
                    groups={"question_type": kind},
                    units={"question": f"{group}_q{question}", "image": f"{group}_i{picture}", "group": group},
                )
            )
    return unique_items(items, path)


def _rows(path: Path) -> list[dict[str, Any]]:
    files = sorted(path.rglob("*.parquet")) or sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    if not files or not path.exists():
        find_file(path, FILE)  # its message says what is missing and where it is
    rows: list[dict[str, Any]] = []
    for file in files:
        rows += _parquet(file) if file.suffix == ".parquet" else read_json_lines(file, FILE)
    return rows


def _parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        require_columns(path, FILE, dict.fromkeys(names), "the schema")
        table = pq.read_table(path, columns=[*FILE.columns, *({"Index"} & set(names))])
    except (OSError, pa.ArrowInvalid) as error:
        raise DatasetError(f"{path} cannot be read as Parquet: {error}; get it again from {FILE.publisher}") from error
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _choice(raw: Any, item: Item) -> str | None:
    """``yes`` or ``no`` as everywhere; in multiple-choice groups the only one of the letters A and B that occurs."""
    if item.choices == ("yes", "no"):
        found: str | None = parsers.yes_no.parse(raw, item)
        return found
    words = {word for word in str(raw).replace(".", " ").replace(")", " ").replace("(", " ").split()} & {"A", "B"}
    if not isinstance(raw, str) or len(words) != 1:
        return None
    return words.pop()


_answers = AnswerScorer(
    benchmark="natural_bench",
    parser=Parser("natural-bench-1", _choice),
    score=is_right,
    about="NaturalBench: group = all four answers of two questions x two pictures right, question and image = the two "
    "answers of one of them",
    answer_text=None,
    chance=lambda item: 0.5,
)


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """`group_accuracy` first, then `question_accuracy`, `image_accuracy` and `accuracy`.

    A group of which an answer is missing is wrong; where missing answers are skipped it is left out as a whole, and
    questions and pictures likewise.
    """
    result = _answers(items, predictions, settings)
    names = [f"{unit}_accuracy" for unit in _UNITS]
    by_name = {metric.name.partition("[")[0]: metric for metric in result.metrics}
    first = [by_name.pop(name) for name in names if name in by_name]
    chance = chance_result("group_accuracy", [1 / 16] * len({item.units["group"] for item in items}))
    return replace(result, metrics=(*first, *labelled([chance], settings), *by_name.values()))


def _diagonal(parsed: object, item: Item) -> float:
    """The script's truth: yes (A) for question 0 on picture 0 and question 1 on picture 1, else no (B)."""
    _, question, picture = item.item_id.rsplit("_", 2)
    return float((parsed in ("yes", "A")) == (question[1:] == picture[1:]))


def _as_released(outcomes: Sequence[Outcome]) -> tuple[dict[str, float], str]:
    values = {
        "group_accuracy": unit_shares(outcomes, "group"),
        "question_accuracy": unit_shares(outcomes, "question"),
        "image_accuracy": unit_shares(outcomes, "image"),
        "accuracy": mean_score(outcomes),
    }
    names = {"Q_Acc": "question_accuracy", "I_Acc": "image_accuracy", "Acc": "accuracy", "G_Acc": "group_accuracy"}
    return values, str({name: values[metric] for name, metric in names.items()})


BENCHMARK = Benchmark(
    name="natural_bench",
    title="NaturalBench",
    kind="yes_no",
    source="arXiv 2410.14669",
    files=(FILE,),
    read=read,
    score=score,
    compat=modes(
        "natural_bench",
        Mode(
            name="natural-bench",
            parser=parsers.first_position,
            protocol="NaturalBench's script at 99676059da (lmms-eval has the same): the earlier of yes and no (A and "
            "B, also the article a) counts, and the diagonal is the truth whatever the answer columns say",
            measure=_as_released,
            score=_diagonal,
        ),
    ),
)
