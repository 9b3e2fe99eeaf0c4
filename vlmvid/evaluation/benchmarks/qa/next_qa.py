"""NExT-QA, multiple choice: five options on cause, time and description (arXiv 2105.08276; doc-doc/NExT-QA 6b92588)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError, EvaluationError
from vlmvid.evaluation.answers.choice_lmms import nextqa_letter
from vlmvid.evaluation.scoring.aggregate import Outcome
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media
from vlmvid.evaluation.scoring.choices import (
    OPTIONS,
    ChoiceScorer,
    Rating,
    Script,
    by_group,
    letter_rating,
    percent,
    scripts,
    share,
)
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json, read_table, unique_items

SPLITS = ("test", "val", "train")
_PUBLISHER = "https://github.com/doc-doc/NExT-QA (dataset/nextqa)"
FILE = AnnotationFile(
    "test.csv", ("video", "question", "answer", "qid", "type", "a0", "a1", "a2", "a3", "a4"), _PUBLISHER
)
VIDEOS = AnnotationFile("map_vid_vidorID.json", ("video",), _PUBLISHER)
_NAMES = {"CW": "Why", "CH": "How", "TN": "Bef&Aft", "TC": "When", "DC": "Cnt", "DL": "Loc", "DO": "Other"}
_KINDS = {"C": "Acc_C", "T": "Acc_T", "D": "Acc_D"}


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The questions of one split; ids are ``VIDEO_QID``. Media are named by VidOR's paths if their map is there."""
    found = find_file(path, FILE, f"{choose(options, 'split', SPLITS)}.csv")
    beside = found.with_name(VIDEOS.name)
    places = read_json(beside, dict, VIDEOS) if beside.is_file() else {}
    return unique_items([_item(row, places, found) for row in read_table(found, FILE)], found)


def _item(row: Mapping[str, str], places: Mapping[str, str], path: Path) -> Item:
    choices = tuple(row[f"a{number}"] for number in range(5))
    item_id = f"{row['video']}_{row['qid']}"
    if row["answer"] not in ("0", "1", "2", "3", "4"):
        raise DatasetError(
            f"{path}, {item_id}: the answer is {row['answer']!r}; expected 0 to 4, as {_PUBLISHER} has it"
        )
    return Item(
        item_id=item_id,
        video_id=row["video"],
        answer=int(row["answer"]),
        question=row["question"],
        choices=choices,
        media=(Media(places.get(row["video"], row["video"])),),
        groups={"type": row["type"], "kind": row["type"][:1]},
    )


def _merged(item: Item) -> dict[str, str]:
    return {**item.groups, "type": "TN" if item.groups["type"] == "TP" else item.groups["type"]}


def _rate(raw: Any, item: Item) -> Rating:
    # The script takes the label from the result file, whatever the annotations say.
    value = raw if isinstance(raw, dict) else {"prediction": raw, "answer": item.answer}
    if not {"prediction", "answer"} <= value.keys():
        raise EvaluationError(f"{item.item_id}: eval_mc.py reads prediction and answer, the result has {list(value)}")
    return Rating(value["prediction"], float(value["prediction"] == value["answer"]))


def _printed(counted: Sequence[Outcome]) -> str:
    groups = by_group(counted, _merged)
    kinds, types = groups.get("kind", {}), groups.get("type", {})
    if any(name not in types for name in _NAMES):
        raise ZeroDivisionError
    rates = [percent(types[name]) for name in _NAMES] + [percent(kinds[name]) for name in _KINDS]
    heads = "".join(f"{name}\t" for name in (*_NAMES.values(), *_KINDS.values()))
    values = "".join(f"{rate:.2f}\t" for rate in rates)
    return f"{heads}\n{values}\nAcc: {percent(counted):.2f}"


def _rate_lmms(raw: Any, item: Item) -> Rating:
    return letter_rating(nextqa_letter(str(raw), item.choices), item)


BENCHMARK = Benchmark(
    name="next_qa",
    title="NExT-QA multiple choice",
    kind="choice",
    source="arXiv 2105.08276",
    files=(FILE,),
    read=read,
    score=ChoiceScorer("next_qa", "accuracy over questions, by type as the file has them (TP apart from TN) and kind"),
    compat=scripts(
        Script(
            benchmark="next_qa",
            name="next-qa",
            protocol="eval_mc.py: TP counts as TN; labels are those of the result file where it has them; an index is "
            "compared with ==, so that a letter is wrong; a missing question, and a type without any, stop it",
            rate=_rate,
            printed=_printed,
            groups=_merged,
            reads_text=False,
        ),
        Script(
            benchmark="next_qa",
            name="lmms-eval",
            protocol="lmms-eval nextqa_mc_test: (A), else a letter before a space, also the last one of a word, else "
            "A.; of several the last; where it draws a random option, without a seed, the answer is wrong here and "
            "unparsed",
            rate=_rate_lmms,
            printed=lambda counted: f"nextqa_mc_test exact_match {share(counted)}",
            groups=lambda item: {},
        ),
    ),
    text_compat=("next-qa", "lmms-eval"),
    options={"split": "test (default), val or train", **OPTIONS},
)
