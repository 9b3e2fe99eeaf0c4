"""TempCompass: action, direction, speed, order, change of attributes (arXiv 2403.00476; repository at e1b4631)."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmvid.errors import ConfigError, DatasetError, EvaluationError
from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.answers.choice import choice, chosen
from vlmvid.evaluation.answers.choice_reference import (
    tempcompass_caption_matching,
    tempcompass_multi_choice,
    tempcompass_yes_no,
)
from vlmvid.evaluation.answers.yes_no import yes_no
from vlmvid.evaluation.benchmarks.qa.open_answers import checked_rows
from vlmvid.evaluation.scoring.aggregate import Outcome
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media
from vlmvid.evaluation.scoring.choices import OPTIONS, ChoiceScorer, Rating, Script, by_group, scripts
from vlmvid.evaluation.scoring.predictions import Predictions, from_pairs, read_document, read_predictions
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json, unique_items

TASKS = ("multi-choice", "yes_no", "caption_matching", "captioning")
DIMENSIONS = ("action", "direction", "speed", "order", "attribute_change")
ASPECTS = (
    *("fine-grained action", "coarse-grained action", "object motion", "camera motion", "absolute speed"),
    *("relative speed", "order", "color & light change", "size & shape change", "combined change", "other change"),
)
_PUBLISHER = "https://github.com/llyx97/TempCompass (questions)"
FILE = AnnotationFile("multi-choice.json", ("question", "answer"), _PUBLISHER)
META = AnnotationFile("meta_info.json", ("eval_dim",), "https://github.com/llyx97/TempCompass")
_OPTION = re.compile(r"\s*(?P<label>[A-D]\.|(?:Option|Sentence|Caption) [A-D0-9]:|Information [A-D]:)\s*(?P<text>.*)")


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The questions of one task (the option, or the name of the file); ids are ``VIDEO_DIMENSION_NUMBER``, from 0.

    `meta_info.json` in the folder, beside the file or above it names the finer aspects.
    """
    task = path.stem if path.is_file() and path.stem in TASKS else choose(options, "task", TASKS)
    found = find_file(path, FILE, f"{task}.json")
    places = [folder / META.name for folder in (path, found.parent, found.parent.parent)]
    beside = next((place for place in places if place.is_file()), None)
    meta = read_json(beside, dict, META) if beside else {}
    items = []
    for video, dimensions in read_json(found, dict, FILE).items():
        if not isinstance(dimensions, dict):
            raise DatasetError(
                f"{found}, {video}: expected an object with {', '.join(DIMENSIONS)}, got {dimensions!r:.60}"
            )
        for dimension, rows in dimensions.items():
            for number, row in enumerate(checked_rows(rows, FILE, found, f"{video}, {dimension}, entry")):
                choices, answer = _choices(task, row, f"{found}, {video}, {dimension}, question {number}")
                items.append(
                    Item(
                        item_id=f"{video}_{dimension}_{number}",
                        video_id=video,
                        answer=answer,
                        question=str(row["question"]).partition("\n")[0],
                        choices=choices,
                        media=(Media(video),),
                        groups={"dimension": dimension, **_aspect(meta, video, dimension)},
                        extra={"task": task, "question": row["question"], "answer": row["answer"]},
                    )
                )
    return unique_items(items, found)


def _aspect(meta: Mapping[str, Any], video: str, dimension: str) -> dict[str, str]:
    if not meta:
        return {}
    if dimension == "order":
        return {"aspect": "order"}
    name = video.replace(".jpg", "").replace(".mp4", "")
    found: Any = meta
    for key in (name, "eval_dim", dimension, "type"):
        found = found.get(key) if isinstance(found, dict) else None
    if found is None:
        raise DatasetError(f"{META.name} has no type for {name}, {dimension}; get it again from {META.publisher}")
    return {"aspect": str(found)}


def _choices(task: str, row: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], int]:
    """The options, without their labels, and the index of the right one."""
    answer = str(row["answer"])
    if task == "yes_no":
        if answer not in ("yes", "no"):
            raise DatasetError(f"{where}: the answer is {answer!r}; expected yes or no")
        return ("yes", "no"), ("yes", "no").index(answer)
    lines = str(row["question"]).split("\n")[1:]
    matches = [match for line in lines if (match := _OPTION.match(line))]
    labels = [match["label"].rstrip(".:").split()[-1] for match in matches]
    # In captioning the answer is that of the multi-choice question: "B. dunking", for Information B.
    said = _OPTION.match(answer)
    label = said["label"].rstrip(".:").split()[-1] if said else answer
    if label not in labels:
        raise DatasetError(f"{where}: the answer {answer!r} is none of its options {lines}")
    texts = [_information(match["text"]) if task == "captioning" else match["text"].strip() for match in matches]
    return tuple(texts), labels.index(label)


def _information(text: str) -> str:
    """``{'subject': 'man', 'action': 'dunking'}`` as "man dunking", which an encoder of captions can read."""
    try:
        parts = ast.literal_eval(text.strip())
    except (SyntaxError, ValueError):
        return text.strip()
    return " ".join(str(part) for part in parts.values()) if isinstance(parts, dict) else text.strip()


def read_results(path: Path, items: Sequence[Item]) -> Predictions:
    """``{video: {dimension: [{"prediction"}]}}`` (or "response"), joined by place, or predictions by id.

    Raises EvaluationError for another number of answers than questions, or another question.
    """
    document = read_document(path)
    if not isinstance(document, dict) or not _is_by_place(document):
        return read_predictions(path)
    asked = {item.item_id: item for item in items}
    pairs = []
    for video, dimensions in document.items():
        for dimension, rows in dimensions.items():
            if not isinstance(rows, list):
                raise EvaluationError(f"{path}, {video}, {dimension}: expected a list of objects, got {rows!r:.80}")
            for number, row in enumerate(rows):
                name = f"{video}_{dimension}_{number}"
                if not isinstance(row, dict) or not {"prediction", "response"} & row.keys():
                    raise EvaluationError(f"{path}, {name}: expected an object with prediction, got {row!r:.80}")
                if (
                    name in asked
                    and row.get("question", asked[name].extra["question"]) != asked[name].extra["question"]
                ):
                    raise EvaluationError(
                        f"{path}, {name}: answers {row['question']!r:.80}, but another question stands there; keep the "
                        "order of the questions, and the option task"
                    )
                pairs.append((name, row["prediction"] if "prediction" in row else row["response"]))
    return from_pairs(pairs, str(path))


def _is_by_place(document: Mapping[str, Any]) -> bool:
    """Whether predictions have the form of the authors' files; an object by id may hold objects too, but no lists."""
    values = list(document.values())
    return all(isinstance(value, dict) for value in values) and any(
        isinstance(rows, list) for value in values for rows in value.values()
    )


def _parse(raw: Any, item: Item) -> Any:
    if item.extra["task"] == "yes_no" and isinstance(raw, str):
        said = yes_no.parse(raw, item)
        return None if said is None else item.choices.index(said)
    return chosen(raw, item)


def _rate(raw: Any, item: Item) -> Rating:
    task, question, answer = item.extra["task"], item.extra["question"], item.extra["answer"]
    if task == "captioning":
        raise ConfigError(
            "TempCompass scores captions with a language model only; compat tempcompass has no captioning"
        )
    if raw is None:
        return Rating(None, 0.0)
    if task == "multi-choice":
        right = tempcompass_multi_choice(raw, answer)
    elif task == "yes_no":
        right = tempcompass_yes_no(raw, answer)
    else:
        right = tempcompass_caption_matching(raw, question, answer)
    return Rating(None if right is None else raw, float(bool(right)))


def _printed(counted: Sequence[Outcome]) -> str:
    groups = by_group(counted)
    if "aspect" not in groups:
        raise EvaluationError(
            f"TempCompass's script reads {META.name}; put it beside the questions, from {META.publisher}"
        )
    average = round(sum(row.score for row in counted) * 100 / len(counted), 1)
    lines = [
        {name: _rounded(groups["dimension"].get(name, [])) for name in DIMENSIONS} | {"avg": average},
        {name: _rounded(groups["aspect"].get(name, [])) for name in ASPECTS},
    ]
    matched = round(sum(row.status == "parsed" for row in counted) / len(counted) * 100, 1)
    return f"Accuracy Results:\n{lines[0]}\n{lines[1]}\nMatch Success Rate={matched}"


def _rounded(rows: Sequence[Outcome]) -> float:
    return round(sum(int(row.score) for row in rows) * 100 / len(rows), 1)


BENCHMARK = Benchmark(
    name="tempcompass",
    title="TempCompass",
    kind="choice",
    source="arXiv 2403.00476",
    files=(FILE, META),
    read=read,
    score=ChoiceScorer(
        "tempcompass",
        "accuracy over the questions of one task, by dimension and aspect; yes-no questions by their first yes or no",
        Parser(f"{choice.name}, {yes_no.name}", _parse),
    ),
    compat=scripts(
        Script(
            benchmark="tempcompass",
            name="tempcompass",
            protocol="eval_TASK.py --disable_llm: equal, one capital letter, or a marked one at the start (yes_no: "
            "what the text starts with; caption_matching: a whole option, sentence or label); nothing else is right; "
            "questions without a prediction are not seen",
            rate=_rate,
            printed=_printed,
            missing="unseen",
        ),
    ),
    text_compat=("tempcompass",),
    options={"task": "multi-choice (default), yes_no, caption_matching or captioning", **OPTIONS},
    read_predictions=read_results,
)
