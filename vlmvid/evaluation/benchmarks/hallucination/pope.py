"""POPE: is an object in the picture or not (arXiv 2305.10355; RUCAIBox/POPE at 3df3ba1b11).

The COCO files are JSON Lines. Those of A-OKVQA and GQA, under the same suffix, are one indented JSON list, which POPE's
own script cannot read as labels. Each file has 3,000 questions about 500 pictures, half of them yes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.answers import yes_no as parsers
from vlmvid.evaluation.benchmarks.hallucination.common import (
    Mode,
    YesNoScorer,
    mean_score,
    modes,
    quoted_csv,
    values_by,
    yes_no_answers,
)
from vlmvid.evaluation.scoring.aggregate import Outcome
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media
from vlmvid.evaluation.scoring.predictions import Predictions, from_pairs, read_document
from vlmvid.evaluation.scoring.reading import (
    choose,
    find_file,
    read_json,
    read_json_lines,
    read_text,
    require_columns,
    unique_items,
)

SPLITS = ("random", "popular", "adversarial")
SOURCES = {"coco": "coco_pope", "aokvqa": "aokvqa_pope_seem", "gqa": "gqa_pope_seem"}
FILE = AnnotationFile(
    "coco_pope_*.json", ("question_id", "image", "text", "label"), "https://github.com/RUCAIBox/POPE (folder output)"
)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The questions of one split's file, or of the splits found in a folder; ids are ``SPLIT_QUESTION``.

    Options:
        source: coco (default), aokvqa or gqa: whose files of a folder.
        split: all (default; those that are there), random, popular or adversarial.
    """
    prefix = SOURCES[choose(options, "source", tuple(SOURCES))]
    wanted = choose(options, "split", ("all", *SPLITS))
    if path.is_file():
        return unique_items(_items(_split_of(path), path), path)
    items: list[Item] = []
    for split in SPLITS if wanted == "all" else (wanted,):
        if wanted != "all" or any(path.rglob(f"{prefix}_{split}.json")):
            items += _items(split, find_file(path, FILE, f"{prefix}_{split}.json"))
    if not items:
        find_file(path, FILE, f"{prefix}_{SPLITS[0]}.json")  # its message says what is missing and where it is
    return unique_items(items, path)


def _items(split: str, path: Path) -> list[Item]:
    if read_text(path, FILE).lstrip().startswith("["):
        rows = read_json(path, list, FILE)
        for number, row in enumerate(rows, start=1):
            require_columns(path, FILE, row if isinstance(row, dict) else {}, f"entry {number}")
    else:
        rows = read_json_lines(path, FILE)
    return [_item(split, row) for row in rows]


def _split_of(path: Path) -> str:
    return next((split for split in SPLITS if split in path.stem), path.stem)


def _item(split: str, row: Mapping[str, object]) -> Item:
    image = str(row["image"])
    return Item(
        item_id=f"{split}_{row['question_id']}",
        video_id=image,
        answer="no" if str(row["label"]).strip().lower() == "no" else "yes",
        question=str(row["text"]),
        choices=("yes", "no"),
        media=(Media(image),),
        groups={"negatives": split},
    )


def read_answers(path: Path, items: Sequence[Item]) -> Predictions:
    """POPE's own answer file: one ``{"question", "answer"}`` per line, in the order of the questions.

    A file, or a folder with one file for each split that was read. A line with `question_id` joins by that id, and an
    object ``{id: answer}`` by its keys. In order, each line's question must hold the one that is asked there.
    Raises EvaluationError for another number of lines, or a question that is not the one asked there.
    """
    splits = list(dict.fromkeys(item.groups["negatives"] for item in items))
    if path.is_file():
        rows = read_document(path)
        if isinstance(rows, dict):
            return from_pairs([(str(key), value) for key, value in rows.items()], str(path))
        if all(isinstance(row, dict) and "id" in row for row in rows):
            return from_pairs([(str(row["id"]), row.get("answer", row.get("prediction"))) for row in rows], str(path))
        if len(splits) > 1:
            return from_pairs(_in_order(path, rows, items), str(path))
        return from_pairs(_of_split(path, rows, splits[0], items), str(path))
    pairs: list[tuple[str, object]] = []
    for split in splits:
        found = sorted(path.glob(f"*{split}*"))
        if len(found) != 1:
            raise EvaluationError(f"{path} holds {len(found)} files for the split {split!r}; expected one *{split}*")
        asked = [item for item in items if item.groups["negatives"] == split]
        pairs += _of_split(found[0], read_document(found[0]), split, asked)
    return from_pairs(pairs, str(path))


def _of_split(file: Path, rows: object, split: str, asked: Sequence[Item]) -> list[tuple[str, object]]:
    if isinstance(rows, dict):
        return [(str(key), value) for key, value in rows.items()]
    lines = rows if isinstance(rows, list) else []
    if all(isinstance(row, dict) and "question_id" in row for row in lines):
        return [(f"{split}_{row['question_id']}", row.get("answer")) for row in lines]
    return _in_order(file, lines, asked)


def _in_order(file: Path, rows: Sequence[object], asked: Sequence[Item]) -> list[tuple[str, object]]:
    if len(rows) != len(asked):
        raise EvaluationError(
            f"{file} has {len(rows)} answers for {len(asked)} questions; without question_id they are joined in order, "
            "so none may be missing"
        )
    pairs = []
    for number, (row, item) in enumerate(zip(rows, asked, strict=True), start=1):
        if not isinstance(row, dict) or "answer" not in row:
            raise EvaluationError(
                f"{file}, line {number}: expected an object with question and answer, got {row!r:.80}"
            )
        if item.question.casefold() not in str(row.get("question", item.question)).casefold():
            raise EvaluationError(
                f"{file}, line {number}: answers {row['question']!r}, but the question there is {item.question!r}; "
                "keep the order of the questions or give question_id"
            )
        pairs.append((item.item_id, row["answer"]))
    return pairs


_answers = yes_no_answers(
    "pope",
    about="POPE: yes or no, pooled over the splits that were read and for each of them",
)


def _tables(outcomes: Sequence[Outcome]) -> tuple[dict[str, int], dict[str, float]]:
    table = dict.fromkeys(("TP", "FP", "TN", "FN"), 0)
    for outcome in outcomes:
        yes, label = outcome.parsed == "yes", outcome.item.answer == "yes"
        table[("T" if yes == label else "F") + ("P" if yes else "N")] += 1
    right = table["TP"] + table["TN"]
    return table, {"accuracy": right / len(outcomes), "yes_ratio": (table["TP"] + table["FP"]) / len(outcomes)}


def _as_pope(outcomes: Sequence[Outcome]) -> tuple[dict[str, float], str]:
    table, values = _tables(outcomes)
    precision = table["TP"] / (table["TP"] + table["FP"])
    recall = table["TP"] / (table["TP"] + table["FN"])
    values = {
        "accuracy": values["accuracy"],
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall),
        "yes_ratio": values["yes_ratio"],
    }
    names = ("Accuracy", "Precision", "Recall", "F1 score", "Yes ratio")
    lines = [f"{name}: {value}" for name, value in zip(names, values.values(), strict=True)]
    return values, "\n".join(["TP\tFP\tTN\tFN\t", "\t".join(str(table[name]) for name in table), *lines])


def _as_lmms_eval(outcomes: Sequence[Outcome]) -> tuple[dict[str, float], str]:
    said = [(outcome.item.answer, outcome.parsed) for outcome in outcomes]
    hits = said.count(("yes", "yes"))
    precision = _guarded(hits, hits + said.count(("no", "yes")))
    recall = _guarded(hits, hits + said.count(("yes", "no")))
    values = {
        "accuracy": mean_score(outcomes),
        "precision": precision,
        "recall": recall,
        "f1": _guarded(2 * precision * recall, precision + recall),
        "yes_ratio": sum(label == "yes" for label, _ in said) / len(said),
    }
    names = ("pope_accuracy", "pope_precision", "pope_recall", "pope_f1_score", "pope_yes_ratio")
    return values, "\n".join(f"{name}: {value}" for name, value in zip(names, values.values(), strict=True))


def _as_vlmevalkit(outcomes: Sequence[Outcome]) -> tuple[dict[str, float], str]:
    values: dict[str, float] = {}
    rows = []
    by_split = values_by(outcomes, lambda item: item.groups["negatives"])
    for split, members in [("Overall", outcomes), *sorted(by_split.items())]:
        yes = [row for row in members if row.parsed == "yes"]
        hits = sum(row.item.answer == "yes" for row in yes)
        precision = _guarded(hits, len(yes))
        recall = _guarded(hits, sum(row.item.answer == "yes" for row in members))
        found = {
            "f1": _guarded(2 * precision * recall, precision + recall),
            "accuracy": mean_score(members),
            "precision": precision,
            "recall": recall,
        }
        rows.append([split, *(100 * value for value in found.values())])
        suffix = "" if split == "Overall" else f"_negatives_{split}"
        values |= {f"{name}{suffix}": value for name, value in found.items()}
    return values, quoted_csv(("split", "Overall", "acc", "precision", "recall"), rows)


def _guarded(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0


BENCHMARK = Benchmark(
    name="pope",
    title="POPE (random, popular, adversarial)",
    kind="yes_no",
    source="arXiv 2305.10355",
    files=(FILE,),
    read=read,
    score=YesNoScorer(_answers, by=("negatives",)),
    compat=modes(
        "pope",
        Mode(
            name="pope",
            parser=parsers.pope,
            protocol="POPE's evaluate.py: no if the text before the first full stop has the word No, not or no, else "
            "yes, an empty answer too",
            measure=_as_pope,
        ),
        Mode(
            name="lmms-eval",
            parser=parsers.lower_text,
            protocol="lmms-eval at 75571cfe0f: exact match in lower case; other texts are wrong and in neither "
            "precision nor recall; yes_ratio is that of the labels; splits are pooled",
            measure=_as_lmms_eval,
        ),
        Mode(
            name="vlmevalkit",
            parser=parsers.vlmevalkit,
            protocol="VLMEvalKit at e8e78f05f3, exact matching: yes or no if just one of the words occurs, else "
            "Unknown, which is wrong and counts as no in precision, recall and F1; it calls F1 Overall",
            measure=_as_vlmevalkit,
        ),
    ),
    options={
        "source": "whose pictures: coco (default), aokvqa or gqa",
        "split": "all (default), random, popular or adversarial",
    },
    read_predictions=read_answers,
)
