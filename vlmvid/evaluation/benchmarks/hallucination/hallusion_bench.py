"""HallusionBench: questions with, without and with changed pictures (arXiv 2310.14566).

Script and data: tianyi-lab/HallusionBench at 744007c232.

Of the 1,129 questions 178 have no picture (category VS, figure 0); 951 have one, 170 of them (VD, video) a strip of
frames. The released script asks GPT-4 whether an answer is right, wrong or unclear; here yes and no are compared, and
what that script printed is reproduced from its verdicts.
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
    YesNoScorer,
    mean_score,
    modes,
    quoted_csv,
    unit_shares,
    values_by,
    yes_no_answers,
)
from vlmvid.evaluation.scoring.aggregate import Outcome
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions, from_pairs, read_document, read_predictions
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json, require_columns, unique_items

FILE = AnnotationFile(
    "HallusionBench.json",
    (
        "category",
        "subcategory",
        "visual_input",
        "set_id",
        "figure_id",
        "question_id",
        "question",
        "gt_answer",
        "filename",
    ),
    "https://github.com/tianyi-lab/HallusionBench",
)
KEY = ("category", "subcategory", "set_id", "figure_id", "question_id")
ANSWER, VERDICT = "model_prediction", "gpt4v_output_gpt_check"


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The questions; ids are ``CATEGORY_SUBCATEGORY_SET_FIGURE_QUESTION``.

    Options:
        split: all (default; 1,129), image (the 951 with a picture) or video (the 170 with frames).
    """
    split = choose(options, "split", ("all", "image", "video"))
    found = find_file(path, FILE)
    items = []
    for number, row in enumerate(read_json(found, list, FILE), start=1):
        require_columns(found, FILE, row if isinstance(row, dict) else {}, f"entry {number}")
        if str(row["gt_answer"]) not in ("0", "1"):
            raise DatasetError(f"{found}, entry {number}: gt_answer is {row['gt_answer']!r}; expected 0 or 1")
        if split == "all" or (row["filename"] and (split == "image" or row["subcategory"] == "video")):
            items.append(_item(row))
    return unique_items(items, found)


def _item(row: Mapping[str, Any]) -> Item:
    category, kind, number, figure, question = (str(row[name]) for name in KEY)
    units = {"question": f"{category}_{kind}_{number}_{question}"}
    is_shown = category != "VS" or figure != "0"
    if is_shown:
        units["figure"] = f"{category}_{kind}_{number}_{figure}"
    return Item(
        item_id="_".join(str(row[name]) for name in KEY),
        video_id=f"{category}_{kind}_{number}",
        answer="yes" if str(row["gt_answer"]) == "1" else "no",
        question=str(row["question"]),
        choices=("yes", "no"),
        media=(Media(str(row["filename"]).removeprefix("./")),) if row["filename"] else (),
        groups={
            "category": category,
            "subcategory": f"{category}_{kind}",
            "difficulty": "hard" if str(row["visual_input"]) == "2" else "easy",
        },
        units=units,
        extra={"is_shown": is_shown, "figure": f"{category}_{kind}_{number}_{figure}"},
    )


def read_answers(path: Path, items: Sequence[Item]) -> Predictions:
    """The script's result file: the annotations with `model_prediction`, and GPT-4's verdict where it gave one.

    Any file that joins by id is read too.
    """
    document = read_document(path)
    if not (isinstance(document, list) and document and isinstance(document[0], dict) and KEY[0] in document[0]):
        return read_predictions(path)
    pairs = []
    for number, row in enumerate(document, start=1):
        names = [name for name in (ANSWER, VERDICT) if isinstance(row, dict) and name in row]
        if not names or not set(KEY) <= row.keys():
            raise DatasetError(f"{path}, entry {number}: expected {', '.join(KEY)} and {ANSWER} or {VERDICT}")
        value = row[names[0]] if names == [ANSWER] else {name: row[name] for name in names}
        pairs.append(("_".join(str(row[name]) for name in KEY), value))
    return from_pairs(pairs, str(path))


def _text(raw: Any) -> Any:
    return raw.get(ANSWER) if isinstance(raw, dict) else raw


def _on_text(parser: Parser) -> Parser:
    return Parser(parser.name, lambda raw, item: parser.parse(_text(raw), item))


def _verdict(raw: Any, item: Item) -> str | None:
    """GPT-4's verdict: 1 correct, 0 incorrect, 2 unclear; None for anything else."""
    code = str(raw.get(VERDICT) if isinstance(raw, dict) else raw).strip()
    return code if code in ("0", "1", "2") else None


def _right(parsed: object, item: Item) -> float:
    """The answer, or ``unclear`` where there is no picture to answer from."""
    return float(parsed == item.answer or (parsed == "unclear" and not item.extra["is_shown"]))


_answers = yes_no_answers(
    "hallusion_bench",
    parser=_on_text(parsers.yes_no_unclear),
    score=_right,
    about="HallusionBench by yes and no, without a judge: accuracy is aAcc, question_accuracy qAcc (a question right "
    "for all its figures), figure_accuracy fAcc (all questions of a figure, without the figures 0 of VS, which are "
    "none); without a picture an answer that declines is right too",
)
_yes_no = YesNoScorer(_answers)


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """`accuracy`, `question_accuracy` and `figure_accuracy` first, then easy and hard, categories, bias."""
    result = _yes_no(items, predictions, settings)
    front = ("accuracy", "question_accuracy", "figure_accuracy")
    ordered = sorted(
        result.metrics,
        key=lambda metric: front.index(metric.name.partition("[")[0]) if metric.name.partition("[")[0] in front else 3,
    )
    return replace(result, metrics=tuple(ordered))


def _figures(outcomes: Sequence[Outcome]) -> float:
    found = values_by(outcomes, lambda item: str(item.extra["figure"]))
    return sum(all(row.score == 1 for row in rows) for rows in found.values()) / len(found)


def _three(outcomes: Sequence[Outcome]) -> dict[str, float]:
    return {
        "accuracy": mean_score(outcomes),
        "question_accuracy": unit_shares(outcomes, "question"),
        "figure_accuracy": _figures(outcomes),
    }


def _as_intern(outcomes: Sequence[Outcome]) -> tuple[dict[str, float], str]:
    values = _three(outcomes)
    names = {"aAcc": "accuracy", "qAcc": "question_accuracy", "fAcc": "figure_accuracy"}
    return values, "\n".join(f"{name}: {values[metric]}" for name, metric in names.items())


def _as_vlmevalkit(outcomes: Sequence[Outcome]) -> tuple[dict[str, float], str]:
    values = _three(outcomes)
    rows = [["Overall", *_in_table(values)]]
    for group in ("category", "subcategory"):
        found = values_by(outcomes, lambda item, group=group: item.groups[group])  # type: ignore[misc]
        for name in sorted(found):
            three = _three(found[name])
            rows.append([name, *_in_table(three)])
            values |= {f"{metric}_{group}_{name.lower()}": value for metric, value in three.items()}
    return values, quoted_csv(("split", "aAcc", "fAcc", "qAcc"), rows)


def _in_table(values: Mapping[str, float]) -> list[Any]:
    return [100 * values[name] for name in ("accuracy", "figure_accuracy", "question_accuracy")]


def _judged(parsed: object, item: Item) -> float:
    return float(parsed == "1" or (parsed == "2" and not item.extra["is_shown"]))


def _as_released(outcomes: Sequence[Outcome]) -> tuple[dict[str, float], str]:
    by_difficulty = values_by(outcomes, lambda item: item.groups["difficulty"])
    easy, hard = (unit_shares(by_difficulty.get(name, []), "question") for name in ("easy", "hard"))
    wrong = [row for row in outcomes if row.score == 0]
    said_yes = sum((row.score == 1) == (row.item.answer == "yes") for row in outcomes) / len(outcomes)
    values = {
        "accuracy": mean_score(outcomes),
        "question_accuracy": unit_shares(outcomes, "question"),
        "figure_accuracy": unit_shares(outcomes, "figure"),
        "question_accuracy_easy": easy,
        "question_accuracy_hard": hard,
        "yes_bias": said_yes - sum(row.item.answer == "yes" for row in outcomes) / len(outcomes),
        "false_yes_share": sum(row.item.answer == "no" for row in wrong) / len(wrong),
    }
    names = {
        "Acc per question pair (qAcc)": "question_accuracy",
        "Acc per figure (fAcc)": "figure_accuracy",
        "Acc per easy question (easy aAcc)": "question_accuracy_easy",
        "Acc per hard question (hard aAcc)": "question_accuracy_hard",
        "Acc per question (aAcc)": "accuracy",
    }
    lines = [f"{text} | {round(100 * values[metric], 4)}" for text, metric in names.items()]
    lines.append(f"Yes/No Bias (Pct Diff) | {values['yes_bias']}")
    lines.append(f"Yes/No Bias (FP Ratio) | {values['false_yes_share']}")
    return values, "\n".join(["##### Leaderboard Stats #####", *lines])


BENCHMARK = Benchmark(
    name="hallusion_bench",
    title="HallusionBench",
    kind="yes_no",
    source="arXiv 2310.14566",
    files=(FILE,),
    read=read,
    score=score,
    compat=modes(
        "hallusion_bench",
        Mode(
            name="hallusion-bench",
            parser=Parser("hallusion-bench-verdict", _verdict),
            protocol="HallusionBench's evaluation.py from the verdicts of its judge (0, 1, 2): unclear is right "
            "where there is no picture; its easy and hard aAcc are per question pair, as printed",
            measure=_as_released,
            score=_judged,
            is_text=False,
        ),
        Mode(
            name="vlmevalkit",
            parser=_on_text(parsers.vlmevalkit),
            protocol="VLMEvalKit at e8e78f05f3, exact matching, on the questions with a picture (951)",
            measure=_as_vlmevalkit,
            selects=lambda item: bool(item.media),
            is_text=False,
        ),
        Mode(
            name="lmms-eval-intern",
            parser=_on_text(parsers.contains_yes),
            protocol="the intern functions of lmms-eval at 75571cfe0f (commented out in its task file, which uses "
            "GPT-4): yes if those letters occur anywhere, else no; figures 0 count in fAcc unless split=image",
            measure=_as_intern,
            is_text=False,
        ),
    ),
    options={"split": "all (default, 1,129 questions), image (951 with a picture) or video (170)"},
    read_predictions=read_answers,
)
