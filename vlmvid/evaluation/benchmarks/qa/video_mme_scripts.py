"""The released scripts that score Video-MME, bug for bug: the authors', lmms-eval's and VLMEvalKit's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.answers.choice_lmms import mcq_letter
from vlmvid.evaluation.answers.choice_reference import video_mme_letter, vlmevalkit_letter
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.scoring.aggregate import Outcome
from vlmvid.evaluation.scoring.base import Item, Scorer, ScoreSettings
from vlmvid.evaluation.scoring.choices import Rating, Script, letter_of, letter_rating, percent, share
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import choose

DURATIONS = ("short", "medium", "long")
VIDEOS_PER_DURATION = 300
DOMAINS = (
    "Knowledge",
    "Film & Television",
    "Sports Competition",
    "Artistic Performance",
    "Life Record",
    "Multilingual",
)
SUB_CATEGORIES = (
    *("Humanity & History", "Literature & Art", "Biology & Medicine", "Finance & Commerce", "Astronomy", "Geography"),
    *("Law", "Life Tip", "Technology", "Animation", "Movie & TV Show", "Documentary", "News Report", "Esports"),
    *("Basketball", "Football", "Athletics", "Other Sports", "Stage Play", "Magic Show", "Variety Show", "Acrobatics"),
    *("Handicraft", "Food", "Fashion", "Daily Life", "Travel", "Pet & Animal", "Exercise", "Multilingual"),
)
TASK_TYPES = (
    *("Temporal Perception", "Spatial Perception", "Attribute Perception", "Action Recognition"),
    *("Object Recognition", "OCR Problems", "Counting Problem", "Temporal Reasoning", "Spatial Reasoning"),
    *("Action Reasoning", "Object Reasoning", "Information Synopsis"),
)
_LISTS = (
    ("Video Categories", "domain", DOMAINS),
    ("Video Sub Categories", "sub_category", SUB_CATEGORIES),
    ("Task Categories", "task_type", TASK_TYPES),
)


def _known(item: Item) -> Item:
    for name, values in (("duration", DURATIONS), *((group, values) for _, group, values in _LISTS)):
        if item.groups[name] not in values:
            raise EvaluationError(
                f"{item.item_id}: {name} is {item.groups[name]!r}, which the scripts do not know; known: {values}"
            )
    return item


def _percent(rows: Sequence[Outcome]) -> str:
    return f"{percent(rows): .1f}%"


def _having(rows: Sequence[Outcome], group: str, value: str) -> list[Outcome]:
    return [row for row in rows if row.item.groups[group] == value]


def _table(durations: Sequence[str]) -> Callable[[Sequence[Outcome]], str]:
    """What the authors' script prints with its three breakdowns asked for; empty ones are 0.0%."""
    thick, thin = "=" * 37, "-" * 37

    def block(title: str, lines: Sequence[str]) -> list[str]:
        return [thin, title, thin, *lines]

    def lists(rows: Sequence[Outcome], first: str) -> list[str]:
        found = []
        for title, group, values in _LISTS:
            lines = [f"{value}: {_percent(_having(rows, group, value))}" for value in values]
            found += block(first if group == "domain" else title, lines)
        return [*found, *block("Overall Performance", [f"Overall: {_percent(rows)}"])]

    def printed(counted: Sequence[Outcome]) -> str:
        lines = []
        for duration in durations:
            lines += [thick, f"Evaluation on video Type: {duration}", thick]
            lines += [*lists(_having(counted, "duration", duration), "Video Categories"), "", ""]
        lines += [thick, "Evaluation on the entire dataset", thick, *lists(counted, "Video Domains")]
        return "\n".join(lines)

    return printed


def _rate(raw: Any, item: Item) -> Rating:
    letter = video_mme_letter(raw)
    return letter_rating(letter, item) if letter else Rating(None, None)


def score_as_authors(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """eval_your_results.py (thanku-all/parse_answer at afd52cfe3d).

    The first capital A to D of the response, after cutting known openings out, is the answer; responses without one are
    left out of the denominator. Each duration must have 300 videos unless the option ``skip_missing`` is true; then
    videos without any response are left out.

    Raises EvaluationError where the script stops: another number of videos, a question without a response.
    """
    durations = settings.options.get("durations", ",".join(DURATIONS)).split(",")
    skip = choose(settings.options, "skip_missing", ("false", "true")) == "true"
    asked = [_known(item) for item in items if item.groups["duration"] in durations]
    if skip:
        answered = {item.video_id for item in asked if item.item_id in predictions.values}
        asked = [item for item in asked if item.video_id in answered]
    for duration in durations if not skip else ():
        videos = {item.video_id for item in asked if item.groups["duration"] == duration}
        if len(videos) != VIDEOS_PER_DURATION:
            raise EvaluationError(
                f"Video-MME's script stops: {len(videos)} videos are {duration}, expected {VIDEOS_PER_DURATION}; "
                "choose durations=, or skip_missing=true"
            )
    if not asked:
        raise EvaluationError(f"{predictions.source} has no response to a video of the durations {durations}")
    script = Script(
        benchmark="video_mme",
        name="video-mme",
        protocol="eval_your_results.py: the first capital A to D, also within a word, after cutting out known openings "
        "(two of them merged by missing commas); responses without one are left out of the denominator",
        rate=_rate,
        printed=_table(durations),
    )
    return script(asked, predictions, settings)


def _printed_lmms(counted: Sequence[Outcome]) -> str:
    """The log of lmms-eval: a line counts every bucket whose joined name holds the line's, so Multilingual twice."""
    names = [
        "_".join(row.item.groups[name] for name in ("duration", "domain", "sub_category", "task_type"))
        for row in counted
    ]
    lists = {
        "video Type": DURATIONS,
        "Categories": DOMAINS,
        "Video Sub Categories": SUB_CATEGORIES,
        "Task Categories": TASK_TYPES,
    }
    lines = [
        f"Evaluation on {title}: {value}: "
        + _percent([row for row, name in zip(counted, names, strict=True) if value in name])
        for title, values in lists.items()
        for value in values
    ]
    return "\n".join([*lines, f"Overall Performance: {_percent(counted)}"])


def _rate_vlmevalkit(raw: Any, item: Item) -> Rating:
    response = "nan" if raw is None else str(raw)  # an empty cell of its table
    letter = vlmevalkit_letter(response, item.question)
    return Rating(letter, float(letter == letter_of(_known(item))))


def _printed_vlmevalkit(num_items: int, num_missing: int) -> Callable[[Sequence[Outcome]], str]:
    def mean(rows: Sequence[Outcome]) -> str:
        return f"{share(rows):.3f}" if rows else "nan"

    def rating(rows: Sequence[Outcome]) -> dict[str, Any]:
        return {
            "overall": mean(rows),
            **{group: {value: mean(_having(rows, group, value)) for value in values} for _, group, values in _LISTS},
        }

    def printed(counted: Sequence[Outcome]) -> str:
        by_duration = {duration: rating(_having(counted, "duration", duration)) for duration in DURATIONS}
        line = (
            f"Among {num_items} questions, failed to obtain prediction for {num_missing} questions, failed to obtain "
            "the score for another 0 questions. Those questions will be counted as -1 score in ALL rating, and will "
            "not be counted in VALID rating."
        )
        return f"{line}\n{json.dumps({**by_duration, 'overall': rating(counted)}, indent=4)}"

    return printed


def score_as_vlmevalkit(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """VLMEvalKit with ``exact_matching`` (at e8e78f05f3): no judge.

    A missing prediction is the text "nan" of its table and wrong; its printed line says -1, which no score is. With a
    judge it would match more responses, and draw a random option after three failures: not reproduced.
    """
    unknown = sum(predictions.values.get(item.item_id) is None for item in items)
    script = Script(
        benchmark="video_mme",
        name="vlmevalkit",
        protocol="VLMEvalKit, exact_matching: the first capital A to D after cutting out known openings, else an "
        "option in the lines of the question, else wrong; every question counts; no judge",
        rate=_rate_vlmevalkit,
        printed=_printed_vlmevalkit(len(items), unknown),
        missing="rate",
        reads_text=False,
    )
    return script(items, predictions, settings)


SCRIPTS: Mapping[str, Scorer] = {
    "video-mme": score_as_authors,
    "lmms-eval": Script(
        benchmark="video_mme",
        name="lmms-eval",
        protocol="lmms-eval videomme: mcq_extract, a list of forms by priority; unparsed answers are wrong",
        rate=lambda raw, item: letter_rating(mcq_letter(str(raw), "ABCD"), _known(item)),
        printed=_printed_lmms,
    ),
    "vlmevalkit": score_as_vlmevalkit,
}
