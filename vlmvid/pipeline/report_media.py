"""What a report shows of clips: a few frames of each, and how near texts and clips are to one another."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlmvid.config.schema import DecodeConfig, RunOptions, SamplingConfig
from vlmvid.errors import DecodeError, VlmvidError
from vlmvid.evaluation.cosines import similarity
from vlmvid.evaluation.report_examples import SIMILARITY, TOP_SIMILARITY, Example
from vlmvid.evaluation.report_page import Strip
from vlmvid.evaluation.report_run import Similarity
from vlmvid.pipeline.context import RunContext
from vlmvid.pipeline.decode import decode_limits, num_workers
from vlmvid.pipeline.report_runs import FoundRun, clip_rows
from vlmvid.pipeline.sources import SourceRow
from vlmvid.types import Clip, FrameBatch
from vlmvid.video.options import ClipJob
from vlmvid.video.paths import check_file

logger = logging.getLogger(__name__)
NUM_FRAMES = 6
FRAME_SIZE = 112
_GAP = 2  # pixels between frames
_WEBP_QUALITY = 62
_RANKED = ("retrieval", "attributes")  # tasks of an alignment that rank clips for a text
_NUM_SIMILAR = 48  # texts of the heat map


def filmstrips(found: FoundRun, examples: Sequence[Example]) -> dict[tuple[str, str], Strip]:
    """(result name, clip) -> frames of every clip that the examples show; a clip without frames says why."""
    places = dict(_places(found, examples))
    jobs = {job: None for job in places.values() if isinstance(job, ClipJob)}
    options = RunOptions() if found.recipe is None else found.recipe.options
    drawn = dict(zip(jobs, _frames(list(jobs), options), strict=True))
    return {
        key: _strip(key[1], drawn[place]) if isinstance(place, ClipJob) else Strip(key[1], error=place)
        for key, place in places.items()
    }


def _places(found: FoundRun, examples: Sequence[Example]) -> Iterator[tuple[tuple[str, str], ClipJob | str]]:
    """Where each clip lies, or why that is not known."""
    benchmarks = {example.result.file_stem: example.result.task for example in examples}
    config = None if found.recipe is None else found.recipe.evaluate
    labels = {some.label for some in config.benchmarks} if config is not None else set()
    own = {name for example in examples if example.result.task not in labels for name in example.shown}
    known = _own_clips(found, own)
    for stem, task in benchmarks.items():
        shown = [example for example in examples if example.result.file_stem == stem]
        theirs = _benchmark_clips(found, task, shown) if task in labels else known
        for name in dict.fromkeys(name for example in shown for name in example.shown):
            yield (stem, name), theirs.get(name, "where this clip lies is not known to the report")


def _checked(job: ClipJob) -> ClipJob | str:
    try:
        check_file(Path(job.path))
    except (DecodeError, OSError) as error:
        return f"the video is missing or cannot be read now: {error}"
    return job


def _own_clips(found: FoundRun, wanted: set[str]) -> dict[str, ClipJob | str]:
    places: dict[str, ClipJob | str] = {}
    for row in clip_rows(found) if wanted else ():
        clip = row["clip"]
        if clip["video_id"] in wanted:
            place = _checked(ClipJob(row["path"], clip["start_seconds"], clip["end_seconds"]))
            if isinstance(place, ClipJob):
                place = _refusal(found, Path(row["path"]), row["source_sha256"]) or place
            places[clip["video_id"]] = place
    return places


def _refusal(found: FoundRun, path: Path, sha256: str) -> str:
    """Why the frames of a file are not to be shown: it lies where it may not, or is not what the run saw."""
    refusal = None if found.context is None else found.context.sources.refusal(path)
    if refusal is not None:
        return f"the video cannot be read now: {refusal}"
    try:
        is_same = found.store.digests.digest(path) == sha256
    except OSError as error:
        return f"the video cannot be read now: {error}"
    return "" if is_same else f"the video has other content now than in this run: {path}"


def _benchmark_clips(found: FoundRun, label: str, examples: Sequence[Example]) -> dict[str, ClipJob | str]:
    """The first video of each example's item; by the item's clip, as samples name it."""
    from vlmvid.pipeline.media import MediaFolder, models_of, open_benchmark

    recipe = found.recipe
    assert recipe is not None and recipe.evaluate is not None  # the caller found the label there
    config = next(some for some in recipe.evaluate.benchmarks if some.label == label)
    wanted = {name for example in examples for name in example.shown}
    jobs: dict[str, ClipJob | str] = {}
    try:
        folder = MediaFolder(config.media_path)
        for item in open_benchmark(config, models_of(recipe))[1]:
            if item.video_id in wanted and item.media and item.video_id not in jobs:
                media = item.media[0]
                path = folder.find(media.name)
                if path is not None:
                    jobs[item.video_id] = _checked(ClipJob(str(path), media.start_seconds, media.end_seconds))
    except VlmvidError as error:
        logger.warning("report: the videos of %s are not shown: %s", label, error)
    return jobs


def _frames(jobs: Sequence[ClipJob], options: RunOptions) -> Iterator[FrameBatch | DecodeError]:
    """Small frames of each job, decoded under the recipe's limits."""
    from vlmvid.video.isolation.pool import DecodePool

    if not jobs:
        return
    config = DecodeConfig(sampling=SamplingConfig(num_frames=NUM_FRAMES), image_size=FRAME_SIZE)
    workers = min(num_workers(options), len(jobs))
    with DecodePool(config, decode_limits(options), num_workers=workers) as pool, closing(pool.decode(jobs)) as found:
        yield from found


def _strip(title: str, outcome: FrameBatch | DecodeError) -> Strip:
    if isinstance(outcome, DecodeError):
        return Strip(title, error=f"the video cannot be decoded now: {outcome}")
    seconds = tuple(round(float(time), 3) for time in outcome.pts_seconds)
    picture = _side_by_side(outcome.frames)
    return Strip(
        title,
        image=_webp(picture),
        alt=f"{len(seconds)} frames of {title}, from {seconds[0]:.1f} to {seconds[-1]:.1f} seconds",
        width=picture.shape[1],
        height=picture.shape[0],
        seconds=seconds,
    )


def _side_by_side(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(T, 3, H, W) -> (H, T * W, 3) with white gaps."""
    count, _, height, width = frames.shape
    picture = np.full((height, count * (width + _GAP) - _GAP, 3), 255, np.uint8)
    for number, frame in enumerate(frames):
        start = number * (width + _GAP)
        picture[:, start : start + width] = frame.transpose(1, 2, 0)
    return picture


def _webp(picture: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=_WEBP_QUALITY, method=4)
    return buffer.getvalue()


def similarity_of(found: FoundRun) -> Similarity | None:
    """Cosines of some captions of the evaluated split with their clips; None without an alignment that fits."""
    rows = [row for row in _evaluated_rows(found) if row.clip.captions]
    if found.context is None or len(rows) < 2:
        return None
    step = max(1.0, len(rows) / _NUM_SIMILAR)
    chosen = [rows[int(place * step)] for place in range(min(_NUM_SIMILAR, len(rows)))]
    chosen.sort(key=lambda row: (row.clip.captions[0], row.clip.video_id))
    clips, videos = _embedded_clips(found.context, chosen)
    texts = [clip.captions[0] for clip in clips]
    return Similarity(tuple(texts), similarity(_embedded_texts(found.context, texts), videos))


def with_similarities(found: FoundRun, examples: Sequence[Example]) -> list[Example]:
    """The examples; those of texts that were ranked over the recipe's own clips with the cosines that decided."""
    wanted = [one for one in examples if one.result.task in _RANKED and one.sample.get("caption")]
    rows = {row.clip.video_id: row for row in _evaluated_rows(found)} if wanted else {}
    names = dict.fromkeys(name for one in wanted for name in one.shown if name in rows)
    if found.context is None or not names:
        return list(examples)
    clips, videos = _embedded_clips(found.context, [rows[name] for name in names])
    texts = list(dict.fromkeys(str(one.sample["caption"]) for one in wanted))
    scores = similarity(_embedded_texts(found.context, texts), videos)
    column = {clip.video_id: number for number, clip in enumerate(clips)}

    def told(one: Example) -> Example:
        row = scores[texts.index(str(one.sample["caption"]))]
        cosines = {
            name: float(row[column[clip]])
            for name, clip in zip((SIMILARITY, TOP_SIMILARITY), one.shown, strict=False)
            if clip in column
        }
        return replace(one, sample={**one.sample, **cosines})

    return [told(one) if one in wanted else one for one in examples]


def _evaluated_rows(found: FoundRun) -> list[SourceRow]:
    """The clips of the evaluated split; none without an evaluated alignment that fits."""
    from vlmvid.pipeline.evaluation_parts import split_rows

    context = found.context
    if context is None or context.recipe.evaluate is None or not {"align", "evaluate"} <= found.manifests.keys():
        return []
    return split_rows(context, context.recipe.evaluate.split)


def _embedded_clips(context: RunContext, rows: Sequence[SourceRow]) -> tuple[list[Clip], NDArray[np.float32]]:
    from vlmvid.pipeline.clip_embeddings import ClipEmbeddings

    embeddings = ClipEmbeddings(context, rows)
    return [row.clip for row in embeddings.rows], embeddings.embed()


def _embedded_texts(context: RunContext, texts: Sequence[str]) -> NDArray[np.float32]:
    """Equal texts are embedded once, so that they tie exactly."""
    from vlmvid.pipeline.evaluation_parts import text_embedder

    unique = list(dict.fromkeys(texts))
    embeds: NDArray[np.float32] = text_embedder(context)(unique)
    return embeds[[unique.index(text) for text in texts]]
