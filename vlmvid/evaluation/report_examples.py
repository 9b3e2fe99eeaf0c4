"""Which samples a report shows: the worst and the best of each result, so chosen that equal runs show equal ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vlmvid.evaluation.base import Sample, TaskResult, group_by
from vlmvid.evaluation.report import title_of
from vlmvid.evaluation.report_page import Card, Cards, Strip

NUM_EACH = 3  # worst, and best, of one kind of samples
MOST_KINDS = 8
SIMILARITY, TOP_SIMILARITY = "similarity", "top_similarity"  # columns that a report adds
_LONGEST = 280  # characters of a text
# Columns that people read, and what each is called; those of a sample that are there are shown in this order.
_COLUMNS: Mapping[str, str] = {
    "caption": "caption",
    "own_caption": "its caption",
    "references": "references",
    "question": "question",
    "attribute": "differs in",
    "answer": "answer",
    "label": "label",
    "label_yes": "truth",
    "predicted": "model",
    "predicted_yes": "model",
    "generated": "model says",
    "response": "model says",
    "blind_caption": "on black frames",
    "nearest_caption": "nearest training clip",
    "top_caption": "model prefers",
}
CONTENT = ("caption", "own_caption", "references", "question", "attribute", "answer", "label", "label_yes")
SAID = ("predicted", "predicted_yes", "generated", "response", "top_caption")
_SCORES: Mapping[str, str] = {
    SIMILARITY: "cosine with its clip",
    TOP_SIMILARITY: "with the preferred clip",
    "cider_d": "CIDEr-D (0 to 10)",
    "iou": "IoU",
    "own_score": "similarity to its caption",
    "other_score": "to the other caption",
    "answer_score": "similarity of the answer",
    "best_score": "of the model's choice",
    "answer_log_prob": "log-probability of the answer",
    "best_log_prob": "of the model's choice",
    "yes_score": "similarity of yes",
    "no_score": "of no",
    "score": "score",
}
_SIDES = (("answer_score", "best_score"), ("answer_log_prob", "best_log_prob"))


@dataclass(frozen=True)
class Example:
    """A sample that is shown.

    Attributes:
        result: that it is of.
        title: of the result, and the kind of sample.
        sample: its row.
        is_best: whether it stands among the best ones.
        shown: ids of the clips to show: its own, then the one that the model took for it.
    """

    result: TaskResult
    title: str
    sample: Sample
    is_best: bool
    shown: tuple[str, ...]


def choose_examples(results: Sequence[TaskResult]) -> list[Example]:
    """The worst and the best samples of each result that people can judge by looking; other results have none.

    Where a log has rows of several kinds, as questions and probes, each kind has its own.
    """
    found: list[Example] = []
    num_kinds = 0
    for result in results:
        if result.compat is not None or result.task.endswith("_battery"):
            continue
        size = gallery_of(result)
        more: Sample = {"gallery_size": size} if size is not None else {}
        for number, (kind, rows) in enumerate(group_by(result.samples, lambda row: row.get("direction")).items()):
            worst, best = _worst_and_best(rows)
            if not worst or num_kinds == MOST_KINDS:
                continue
            num_kinds += 1
            title = title_of(result) + (f": {kind}" if number else "")
            for is_best, chosen in ((False, worst), (True, best)):
                found += [Example(result, title, {**more, **row}, is_best, _shown(row)) for row in chosen]
    return found


def _worst_and_best(rows: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    rated = [(quality, row) for row in rows if (quality := quality_of(row)) is not None]
    if not any(name in row for _, row in rated for name in _COLUMNS):
        return [], []
    # Of three samples none is both.
    count = min(NUM_EACH, len({row["video_id"] for _, row in rated}) // 2 or 1)
    worst = _ends(rated, count, best=False)
    return worst, [row for row in _ends(rated, count, best=True) if not any(row is other for other in worst)]


def gallery_of(result: TaskResult) -> int | None:
    """How many clips a text of a retrieval is ranked among, by what guessing reaches."""
    chance = next((metric.value for metric in result.metrics if metric.name == "t2v_r_at_1/chance"), 0.0)
    return round(1 / chance) if chance > 0 else None


def quality_of(row: Sample) -> float | None:
    """How well a model did on a sample: higher is better; None for a row that is no example."""
    if row.get("status") == "missing" or row.get("direction") == "v2t" or row.get("kind") in ("ranking", "retrieval"):
        return None
    rank, cider = row.get("rank"), row.get("cider_d", row.get("iou"))
    if isinstance(rank, int | float):
        return -float(rank)
    if isinstance(cider, int | float):
        return float(cider)
    own, other = row.get("own_score"), row.get("other_score")
    if isinstance(own, int | float) and isinstance(other, int | float):
        return float(own) - float(other)
    right = row.get("correct", row.get("score"))
    if not isinstance(right, bool | int | float):
        return None
    # Among the wrong ones those that the model was surest of are the worst.
    return float(right) + math.tanh(_margin(row)) / 2


def _margin(row: Sample) -> float:
    yes, no, label = row.get("yes_score"), row.get("no_score"), row.get("label_yes")
    if isinstance(yes, int | float) and isinstance(no, int | float):
        return float(yes - no) if label is not False else float(no - yes)
    for own, best in _SIDES:
        ours, theirs = row.get(own), row.get(best)
        if isinstance(ours, int | float) and isinstance(theirs, int | float):
            return float(ours) - float(theirs)
    return 0.0


def _ends(rated: Sequence[tuple[float, Sample]], count: int, *, best: bool) -> list[Sample]:
    """`count` rows from one end, of different clips; of rows that are equally good some from all over the log."""
    chosen: list[Sample] = []
    clips: set[object] = set()
    by_quality = group_by(rated, lambda item: item[0])
    for quality in sorted(by_quality, reverse=best):
        rows = [row for _, row in by_quality[quality]]
        wanted = count - len(chosen)
        step = max(1.0, len(rows) / wanted)
        spread = [rows[int(place * step)] for place in range(min(wanted, len(rows)))]
        for row in (*spread, *rows):
            if len(chosen) < count and row["video_id"] not in clips:
                chosen.append(row)
                clips.add(row["video_id"])
        if len(chosen) == count:
            break
    return chosen


def _shown(row: Sample) -> tuple[str, ...]:
    own, top = str(row["video_id"]), row.get("top_video_id")
    return (own,) if top in (None, own) else (own, str(top))


def example_cards(examples: Sequence[Example], strips: Mapping[tuple[str, str], Strip]) -> dict[str, list[Cards]]:
    """Title of an example -> its cards; `strips` by (result name, clip) are what is shown of each clip."""
    found: dict[str, list[Cards]] = {}
    for title, group in group_by(examples, lambda one: one.title).items():
        for is_best, words in ((False, "Worst"), (True, "Best")):
            cards = tuple(_card(one, strips) for one in group if one.is_best == is_best)
            if cards:
                found.setdefault(title, []).append(Cards(words, cards))
    return found


def _card(example: Example, strips: Mapping[tuple[str, str], Strip]) -> Card:
    row = example.sample
    shown = []
    for place, name in enumerate(example.shown):
        strip = strips.get((example.result.file_stem, name), Strip(name, error="no frames were asked for"))
        words = strip.title if place == 0 else f"{strip.title}, which the model prefers"
        shown.append(Strip(words, strip.image, strip.alt, strip.width, strip.height, strip.seconds, strip.error))
    rows = told_of(row, _COLUMNS)
    rows += [(words, _text(row[name])) for name, words in _SCORES.items() if _is_told(row, name)]
    return Card(verdict_of(row), tuple(shown), tuple(rows))


def told_of(row: Sample, names: Iterable[str] = CONTENT) -> list[tuple[str, str]]:
    """Those columns of a sample that are there, each with its words; by default what the model was asked."""
    return [(_COLUMNS[name], _text(row[name])) for name in names if _is_shown(row, name)]


def _is_shown(row: Sample, name: str) -> bool:
    # The answer of a caption is the tuple of its references.
    return row.get(name) not in (None, "") and not (name == "answer" and row.get("references"))


def _is_told(row: Sample, name: str) -> bool:
    if row.get(name) is None or (name in ("yes_score", "no_score") and "generated" in row):
        return False  # of what is said in words the scores are 1 and 0
    return name != "score" or not any(row.get(other) is not None for other in _SCORES if other != "score")


def verdict_of(row: Sample) -> str:
    """How a sample was scored, in words."""
    rank, right = row.get("rank"), row.get("correct")
    if isinstance(rank, int | float):
        gallery = row.get("gallery_size")
        of = f" of {gallery:,}" if isinstance(gallery, int) else ""
        return "Found: rank 1" + of if rank == 1 else f"Missed: rank {rank:,.0f}{of}"
    if isinstance(row.get("cider_d"), int | float):
        return f"CIDEr-D {row['cider_d']:.2f}"
    if isinstance(row.get("iou"), int | float):
        return f"IoU {row['iou']:.2f}"
    if right is None and row.get("score") in (0, 1):
        right = row["score"] == 1
    if right is None:
        return f"Score {_text(row.get('score'))}"
    return "Right" if right else "Wrong"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if value == round(value) and abs(value) >= 1 else f"{value:.3g}"
    text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
