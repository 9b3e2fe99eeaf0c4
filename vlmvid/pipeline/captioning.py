"""Captions and answers of a model that gives words: for single files, or for every clip of a manifest.

Clips are decoded in worker processes ahead of the model. A video that cannot be read is a row with a reason.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vlmvid.artifacts.digests import sha256_file
from vlmvid.config.load import validate
from vlmvid.config.schema import RunOptions
from vlmvid.data.base import Defect
from vlmvid.data.manifest import ManifestDataset, ManifestOptions
from vlmvid.errors import ConfigError, DatasetError, DecodeError, VlmvidError
from vlmvid.pipeline.decode import decode_limits, num_workers
from vlmvid.pipeline.prediction_file import TRANSIENT, PredictionFile, Row
from vlmvid.pipeline.progress import StageProgress
from vlmvid.types import Clip, FrameBatch, Question

if TYPE_CHECKING:
    from vlmvid.models.vlm.generation import GenerationSettings
    from vlmvid.serving.model import VideoTextModel
    from vlmvid.serving.visual_features import ClipFeatures

logger = logging.getLogger(__name__)
CLIPS_PER_BATCH = 8
PROMPTS_PER_BATCH = 16
SOURCE = "source"  # column of a prediction file
Task = Literal["caption", "answer"]


@dataclass(frozen=True)
class Item:
    """One text to be made: the answer to a question about a clip, or without one its caption."""

    name: str
    clip: Clip
    question: Question | None = None


def open_model(uri: str) -> VideoTextModel:
    """The model at `uri`; raises ConfigError when it gives no words, and as `vlmvid.load`."""
    from vlmvid.serving.load import load

    model = load(uri)
    _ = model.speaker  # said before anything is decoded
    return model


def generation_settings(
    *, max_new_tokens: int | None, num_beams: int | None, temperature: float | None, seed: int | None
) -> GenerationSettings:
    """How texts are generated: by chance with a temperature, by beam search with more than one beam, else greedily.

    Raises ConfigError for values out of range, or options that do not go together.
    """
    from vlmvid.models.vlm.generation import GenerationSettings

    if temperature is not None and num_beams not in (None, 1):
        raise ConfigError(f"--beams {num_beams} and --temperature {temperature} are two methods; give one of them")
    method = "sample" if temperature is not None else "beam" if num_beams not in (None, 1) else "greedy"
    given = {
        "method": method,
        "max_new_tokens": max_new_tokens,
        "num_beams": num_beams if method == "beam" else None,
        "temperature": temperature,
        "seed": seed,
    }
    values = {name: value for name, value in given.items() if value is not None}
    return validate(GenerationSettings, values, source="how texts are generated")


def caption_files(
    uri: str, paths: Sequence[str], settings: GenerationSettings, options: RunOptions
) -> list[dict[str, Any]]:
    """One row per file: `id`, its path, with a `prediction`, or None and the reason why there is none."""
    model = open_model(uri)
    clips = [validate(Clip, {"video_id": path, "path": path}, source=repr(path)) for path in dict.fromkeys(paths)]
    items = [Item(clip.video_id, clip) for clip in clips]
    return [row for rows in _answered(model, items, settings, options) for row in rows]


def answer_manifest(
    task: Task, uri: str, manifest: str, out: str, settings: GenerationSettings, options: RunOptions
) -> dict[str, Any]:
    """Write a caption of every clip of a manifest, or an answer to every question, to `out`, as ``vlmvid score`` reads
    it; returns the counts.

    An interrupted call goes on where it stopped when it is made again; what failed for a passing reason is then tried
    again, and so is the text of a video whose file was replaced since. Questions with choices get the most probable
    choice, put as the evaluation of the model put them; others what the model generates.

    Raises:
        ConfigError: `out` holds something else; the model gives no words.
        DatasetError: no such manifest, no clip or question in it, or two questions of one id.
    """
    clips, defects = _read_manifest(manifest)
    items = _items(task, clips, manifest)
    broken = [Item(d.video_id, Clip(video_id=d.video_id, path=d.path)) for d in defects] if task == "caption" else []
    # Looked at before anything is decoded: what is replaced while this runs is then made again the next time.
    sources = {item.name: _source(item.clip) for item in (*items, *broken)}
    file = PredictionFile(
        Path(out),
        _identity(task, uri, manifest, settings),
        is_current=lambda row: row.get(SOURCE) == sources.get(str(row["id"])),
    )
    if broken:
        failed = [_failed(item, _error_of(defect)) for item, defect in zip(broken, defects, strict=True)]
        file.append([{**row, SOURCE: sources[row["id"]]} for row in failed if row["id"] not in file.rows])
    for defect in defects:
        logger.warning("%s: %s: %s", task, defect.video_id, defect.message)
    todo = [item for item in items if item.name not in file.rows]
    progress = StageProgress()
    progress.begin(task, len(items), "text", done=len(items) - len(todo))
    if todo:
        for rows in _answered(open_model(uri), todo, settings, options):
            file.append([{**row, SOURCE: sources[row["id"]]} for row in rows])
            for row in rows:
                if row["prediction"] is None:
                    logger.warning("%s: %s (%s)", row["id"], row["reason"], row["reason_code"])
            progress.advance(task, len(rows))
    progress.end(task)
    counts = Counter("ok" if row["prediction"] is not None else "failed" for row in file.rows.values())
    return {
        "out": str(Path(out).absolute()),
        "ok": counts["ok"],
        "failed": counts["failed"],
        "made_now": len(todo),
        "unreadable_rows": len(defects),
    }


def answer_file(uri: str, path: str, question: str, settings: GenerationSettings) -> Iterator[str]:
    """The pieces of one answer as they are generated; of beam search the whole. Raises DecodeError, ConfigError."""
    model = open_model(uri)
    if settings.method == "beam":
        return iter([model.answer(path, question, settings)])
    return model.stream_answer(path, question, settings)


def rank_choices(uri: str, path: str, question: str, choices: Sequence[str]) -> list[dict[str, Any]]:
    """The choices, without spaces around them, with their log-probabilities as answers, the most probable first."""
    choices = [choice.strip() for choice in choices]
    if len(choices) < 2 or not all(choices):
        raise ConfigError(
            f"--choices needs two or more answers with commas between them, and none of them blank; got "
            f"{','.join(choices)!r}"
        )
    scores = open_model(uri).rank(path, question, choices).tolist()
    found = [{"choice": choice, "log_prob": score} for choice, score in zip(choices, scores, strict=True)]
    return sorted(found, key=lambda row: -row["log_prob"])


def _source(clip: Clip) -> str:
    """What tells a file from another in its place: size and time of change. Empty for a file that is not there.

    Not a hash: a batch that goes on would read every video for it.
    """
    try:
        found = Path(clip.path).stat()
    except OSError:
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}"


def _read_manifest(manifest: str) -> tuple[list[Clip], list[Defect]]:
    dataset = ManifestDataset(ManifestOptions(path=manifest))
    return dataset.clips(Path(manifest).parent)


def _items(task: Task, clips: Sequence[Clip], manifest: str) -> list[Item]:
    if task == "caption":
        return [Item(clip.video_id, clip) for clip in clips]
    items = [Item(question.question_id, clip, question) for clip in clips for question in clip.questions]
    repeated = [name for name, count in Counter(item.name for item in items).items() if count > 1]
    if repeated:
        raise DatasetError(
            f"{manifest}: {len(repeated)} values of question_id stand more than once, e.g. {repeated[0]!r}; answers "
            "are joined by it, so give every question one of its own"
        )
    if not items:
        raise DatasetError(f"{manifest} has no questions; give clips a list `questions`, or use `vlmvid caption`")
    return items


def _identity(task: Task, uri: str, manifest: str, settings: GenerationSettings) -> dict[str, Any]:
    from vlmvid.serving.load import fetch_model_folder
    from vlmvid.serving.model_folder import MANIFEST

    return {
        "task": task,
        "model": sha256_file(fetch_model_folder(uri) / MANIFEST),
        "manifest": sha256_file(Path(manifest)),
        "settings": settings.model_dump(mode="json"),
    }


def _answered(
    model: VideoTextModel, items: Sequence[Item], settings: GenerationSettings, options: RunOptions
) -> Iterator[list[Row]]:
    """The rows of `items`, a batch of clips at a time."""
    from vlmvid.video.isolation.pool import shared_pool

    of_clip: dict[str, list[Item]] = {}
    for item in items:
        of_clip.setdefault(item.clip.video_id, []).append(item)
    clips = [some[0].clip for some in of_clip.values()]
    pool = shared_pool(model.decode, decode_limits(options), num_workers(options))
    jobs = [model.speaker_vision.job(clip.path, clip.start_seconds, clip.end_seconds) for clip in clips]
    with closing(pool.decode(jobs)) as outcomes:
        for start in range(0, len(clips), CLIPS_PER_BATCH):
            some = clips[start : start + CLIPS_PER_BATCH]
            seen, errors = _features(model, some, [next(outcomes) for _ in some])
            asked = [item for clip in some for item in of_clip[clip.video_id]]
            rows = {
                item.name: _failed(item, errors[item.clip.video_id]) for item in asked if item.clip.video_id in errors
            }
            good = [item for item in asked if item.clip.video_id in seen]
            for first in range(0, len(good), PROMPTS_PER_BATCH):
                rows |= _texts(model, seen, good[first : first + PROMPTS_PER_BATCH], settings)
            yield [rows[item.name] for item in asked]


def _features(
    model: VideoTextModel, clips: Sequence[Clip], outcomes: Sequence[FrameBatch | DecodeError]
) -> tuple[dict[str, ClipFeatures], dict[str, VlmvidError]]:
    errors: dict[str, VlmvidError] = {}
    good: list[tuple[Clip, FrameBatch]] = []
    for clip, outcome in zip(clips, outcomes, strict=True):
        if isinstance(outcome, DecodeError):
            errors[clip.video_id] = outcome
        else:
            good.append((clip, outcome))
    found = model.speaker_vision.of_clips(
        [frames for _, frames in good], [clip.start_seconds for clip, _ in good], model.speaker.reads
    )
    features = {clip.video_id: values for (clip, _), values in zip(good, found, strict=True)}
    errors |= {name: values.defect for name, values in features.items() if values.defect is not None}
    return {name: values for name, values in features.items() if name not in errors}, errors


def _texts(
    model: VideoTextModel, clips: dict[str, ClipFeatures], items: Sequence[Item], settings: GenerationSettings
) -> dict[str, Row]:
    """The rows of some items; where the model refuses them together, one by one, so that only one of them fails."""
    from vlmvid.serving.speaker import Asked

    speaker = model.speaker
    closed = [(item, item.question) for item in items if item.question is not None and item.question.choices]
    open_ = [item for item in items if item.question is None or not item.question.choices]
    asked = [
        Asked(
            item.name, item.clip.video_id, speaker.caption_prompt if item.question is None else item.question.question
        )
        for item in open_
    ]
    rows: dict[str, Row] = {}
    try:
        ranked = speaker.rank(clips, [(item.clip.video_id, question) for item, question in closed])
        for (item, question), scores in zip(closed, ranked, strict=True):
            best = question.choices[int(scores.argmax())]
            rows[item.name] = {**_row(item, best), "log_probs": [round(float(score), 4) for score in scores]}
        texts = speaker.answers(clips, asked, settings)
        rows |= {item.name: _row(item, text) for item, text in zip(open_, texts, strict=True)}
    except (ConfigError, DatasetError) as error:
        if len(items) == 1:
            return {items[0].name: _failed(items[0], error)}
        return {name: row for item in items for name, row in _texts(model, clips, [item], settings).items()}
    return rows


def _row(item: Item, prediction: str | None) -> Row:
    if item.question is None:
        return {"id": item.name, "prediction": prediction}
    return {
        "id": item.name,
        "video_id": item.clip.video_id,
        "question": item.question.question,
        "prediction": prediction,
    }


def _failed(item: Item, error: VlmvidError) -> Row:
    code = error.reason_code if isinstance(error, DecodeError) else "refused"
    row = {**_row(item, None), "reason_code": code, "reason": str(error)}
    return {**row, TRANSIENT: True} if isinstance(error, DecodeError) and error.transient else row


def _error_of(defect: Defect) -> DecodeError:
    return DecodeError(defect.message, reason_code=defect.reason_code)
