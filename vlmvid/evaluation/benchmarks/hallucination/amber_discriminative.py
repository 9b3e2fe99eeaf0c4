"""AMBER's yes-no questions on existence, attributes and relations (arXiv 2311.07397).

Script and data: junyangwang0410/AMBER at 534babf6bb.

All 4,924 questions on existence have the answer no, so a constant no is right for each of them. "No" is the positive
class of precision, recall and F1: a hallucination that is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vlmvid.errors import DatasetError
from vlmvid.evaluation.answers import yes_no as parsers
from vlmvid.evaluation.base import metric_slug
from vlmvid.evaluation.benchmarks.hallucination.amber_files import ANNOTATIONS, DIMENSIONS, read_annotations
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
from vlmvid.evaluation.scoring.base import Benchmark, Item, Media
from vlmvid.evaluation.scoring.reading import unique_items

_EMPTY = 0.001  # what metrics.txt starts every denominator with


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The questions of annotations.json; pictures and texts come from query_all.json where it is beside it."""
    items = []
    for row, query in read_annotations(path, generative=False):
        if row["truth"] not in ("yes", "no"):
            raise DatasetError(f"{path}, id {row['id']}: truth is {row['truth']!r}; expected yes or no")
        dimension, kind = DIMENSIONS[row["type"]]
        image = str(query.get("image", ""))
        items.append(
            Item(
                item_id=str(row["id"]),
                video_id=image or str(row["id"]),
                answer=str(row["truth"]),
                question=str(query.get("query", "")),
                choices=("yes", "no"),
                media=(Media(image),) if image else (),
                groups={"dimension": dimension} | ({"attribute": kind} if dimension == "attribute" else {}),
                extra={"type": row["type"]},
            )
        )
    return unique_items(items, path)


_answers = yes_no_answers(
    "amber_discriminative",
    about="AMBER, yes-no questions; precision, recall and F1 are those of the answer no",
    macro=("dimension",),
)

_BLOCKS: dict[str, tuple[str, float]] = {  # heading -> (suffix of the metrics, what is added to F1's denominator)
    "Descriminative Task:": ("", 0.0001),
    "Exsitence:": ("_dimension_existence", 0.001),
    "Attribute:": ("_dimension_attribute", 0.0001),
    "State:": ("_attribute_state", 0.0001),
    "Number:": ("_attribute_number", 0.0001),
    "Action:": ("_attribute_action", 0.0001),
    "Relation:": ("_dimension_relation", 0.0001),
}


def _as_released(outcomes: Sequence[Outcome]) -> tuple[dict[str, float], str]:
    answered = [outcome for outcome in outcomes if outcome.status != "missing"]
    values: dict[str, float] = {}
    lines = []
    for heading, (suffix, guard) in _BLOCKS.items():
        rows = [o for o in answered if not suffix or suffix in _suffixes(o.item)]
        four = _four(rows, 3 if suffix == "_dimension_attribute" else 1, guard)
        values |= {f"{name}{suffix}": value / 100 for name, value in four.items()}
        tabs = ("Accuracy:\t", "Precision:\t", "Recall:\t\t", "F1:\t\t")
        numbers = [f"{tab} {value}" for tab, value in zip(tabs, four.values(), strict=True)]
        last = " \n" if heading != "Relation:" else ""
        lines += [heading, *numbers[:3], numbers[3] + last]
    return values, "\n".join(lines)


def _suffixes(item: Item) -> set[str]:
    return {f"_{group}_{metric_slug(value)}" for group, value in item.groups.items()}


def _four(rows: Sequence[Outcome], num_counters: int, guard: float) -> dict[str, float]:
    """Percentages, each rounded to one place before the next is made of it, as the script does."""
    empty = num_counters * _EMPTY
    said_no = [row for row in rows if row.parsed == "no"]
    is_no = [row for row in rows if row.item.answer == "no"]
    hits = sum(row.item.answer == "no" for row in said_no)
    accuracy = round(sum(row.score for row in rows) / (empty + len(rows)) * 100, 1)
    precision = round(hits / (empty + len(said_no)) * 100, 1)
    recall = round(hits / (empty + len(is_no)) * 100, 1)
    part, whole = precision / 100, recall / 100
    f1 = round(2 * part * whole / (part + whole + guard) * 100, 1)
    return {"accuracy": accuracy, "precision": precision, "recall": recall, "f1": f1}


def _as_vlmevalkit(outcomes: Sequence[Outcome]) -> tuple[dict[str, float], str]:
    found = values_by(outcomes, lambda item: item.groups["dimension"])
    means = {name: mean_score(rows) for name, rows in found.items()}
    average = sum(means.values()) / len(means)
    values = {"accuracy_dimension_macro": average} | {f"accuracy_dimension_{n}": value for n, value in means.items()}
    header = [*(name.capitalize() for name in means), "Avg ACC"]
    return values, quoted_csv(header, [[100 * value for value in (*means.values(), average)]])


BENCHMARK = Benchmark(
    name="amber_discriminative",
    title="AMBER (discriminative)",
    kind="yes_no",
    source="arXiv 2311.07397",
    files=(ANNOTATIONS,),
    read=read,
    score=YesNoScorer(_answers, positive="no", by=("dimension", "attribute")),
    compat=modes(
        "amber_discriminative",
        Mode(
            name="amber",
            parser=parsers.amber,
            protocol="AMBER's inference.py: Yes and No exactly, all else is wrong without a word; questions without a "
            "response are left out; denominators start at 0.001 and percentages are rounded before F1 is made of them",
            measure=_as_released,
            needs_all=False,
        ),
        Mode(
            name="vlmevalkit",
            parser=parsers.vlmevalkit,
            protocol="VLMEvalKit at e8e78f05f3: the unweighted mean of the accuracies of the three dimensions (Avg "
            "ACC), which is another metric than AMBER's",
            measure=_as_vlmevalkit,
        ),
    ),
)
