"""The search stage: nearest clips of each query, by text with an aligned model, else clip to clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts import ArtifactRef
from vlmvid.artifacts.files import read_json, write_json
from vlmvid.config.schema import SearchConfig
from vlmvid.errors import ConfigError, DatasetError
from vlmvid.pipeline.context import RunContext, open_context
from vlmvid.pipeline.encode import read_features, read_patches
from vlmvid.pipeline.index import IndexRow, read_index
from vlmvid.pipeline.ingest import read_clips
from vlmvid.pipeline.request import RunRequest
from vlmvid.registry import nearest
from vlmvid.serving.search import centred_means, top_k
from vlmvid.serving.terminal import one_line
from vlmvid.types import Clip, Record

if TYPE_CHECKING:
    from vlmvid.serving.search_results import SearchResults

STAGE = "search"
HITS_FILE = "hits.json"


class Hit(Record):
    """One clip found for one query; `score` is the cosine similarity in [-1, 1]."""

    query: str
    rank: int
    score: float
    video_id: str
    path: str
    start_seconds: float
    end_seconds: float | None


def compute(request: RunRequest) -> ArtifactRef:
    """Answer the recipe's queries over every encoded clip of its dataset."""
    context = open_context(request)
    config = context.recipe.search
    assert config is not None  # the stage exists only with its section
    hits = search_clips(context, config)
    return context.publish(
        "search",
        "search",
        lambda folder: write_json(folder / HITS_FILE, [hit.model_dump() for hit in hits]),
        counts={"queries": len({hit.query for hit in hits}), "hits": len(hits)},
    )


def search_clips(context: RunContext, config: SearchConfig) -> list[Hit]:
    """The `top_k` nearest clips of every query, best first.

    Without `config.model` a query is a video_id, its own clip is left out of the answer, and the
    similarity is the cosine of the mean frame features after subtracting the gallery's mean.
    """
    index = {row.video_id: row for row in read_index(context.folder("encode")) if row.status == "ok"}
    clips = [clip for clip in read_clips(context) if clip.video_id in index]
    if not clips:
        raise DatasetError(f"dataset {context.recipe.data.name!r} has no encoded clip to search")
    rows = [index[clip.video_id] for clip in clips]
    if config.model is not None:
        gallery, queries = _by_text(context, config, rows)
        return _hits(config.queries, queries, gallery, clips, config.top_k, skip_self=False)
    gallery = centred_means(read_features(context, rows))
    wanted = list(config.queries) or [clip.video_id for clip in clips]
    row_of = {clip.video_id: i for i, clip in enumerate(clips)}
    unknown = [name for name in wanted if name not in row_of]
    if unknown:
        raise ConfigError(
            f"search.queries: {unknown[0]!r} is no video_id of this dataset{nearest(unknown[0], list(row_of))}; "
            "without search.model a query is a video_id, with it a text"
        )
    return _hits(wanted, gallery[[row_of[n] for n in wanted]], gallery, clips, config.top_k, skip_self=True)


def _by_text(
    context: RunContext, config: SearchConfig, rows: Sequence[IndexRow]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    from vlmvid.serving.load import load

    assert config.model is not None  # the caller checked
    if not config.queries:
        raise ConfigError("search.queries is empty; with search.model give at least one text")
    model = load(config.model, tracking_uri=context.registry_uri)
    if "vision" in model.info.get("adapted", ()):
        raise ConfigError(
            f"search.model={config.model!r} was trained end to end, and the stored features are those of the encoder "
            "before it; embed the videos with the model itself: vlmvid.load(MODEL).encode_video(PATHS)"
        )
    features = read_patches(context, rows) if model.reads == "tokens" else read_features(context, rows)
    return model.embed_video_features(features), model.encode_text(list(config.queries))


def _hits(
    names: Sequence[str],
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    clips: Sequence[Clip],
    k: int,
    *,
    skip_self: bool,
) -> list[Hit]:
    indices, scores = top_k(queries, gallery, min(k + skip_self, len(clips)))
    hits = []
    for name, row, row_scores in zip(names, indices, scores, strict=True):
        found = [
            (clips[i], s) for i, s in zip(row, row_scores, strict=True) if not (skip_self and clips[i].video_id == name)
        ]
        for rank, (clip, score) in enumerate(found[:k], start=1):
            hits.append(
                Hit(
                    query=name,
                    rank=rank,
                    score=round(float(score), 6),
                    video_id=clip.video_id,
                    path=clip.path,
                    start_seconds=clip.start_seconds,
                    end_seconds=clip.end_seconds,
                )
            )
    return hits


def read_hits(folder: Path) -> list[Hit]:
    """The hits of a search artifact."""
    return [Hit.model_validate(row) for row in read_json(folder / HITS_FILE)]


def hits_table(hits: Sequence[Hit]) -> str:
    """Hits for a terminal, grouped by query."""
    lines: list[str] = []
    for hit in hits:
        if hit.rank == 1:
            lines.append(one_line(hit.query))
        end = f"{hit.end_seconds:.1f} s" if hit.end_seconds is not None else "end"
        lines.append(f"  {hit.rank}.  {hit.score:6.3f}  {one_line(hit.video_id)}  {hit.start_seconds:.1f}..{end}")
    return "\n".join(lines)


def search_index(
    texts: Sequence[str],
    *,
    model: str,
    index: str,
    top_k: int,
    where: Mapping[str, Sequence[str]] | None = None,
    approximate: bool = False,
) -> SearchResults:
    """What a video index has for each text with the model that made it; `where` as `VideoIndex.search`,
    `approximate` as `VideoIndex.open`.

    Raises ArtifactError when `index` is no index, ConfigError, naming both, when it was made with another model, for a
    text that is empty or too long, and what `vlmvid.load` raises.
    """
    from vlmvid.serving.load import load
    from vlmvid.serving.search_results import check_queries, search_texts
    from vlmvid.serving.video_index import VideoIndex

    check_queries(texts)  # before a model is loaded
    opened = VideoIndex.open(index, approximate=approximate)
    return search_texts(opened, load(model), texts, top_k, where)
