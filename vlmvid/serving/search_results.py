"""What a search found, for people: a table with pictures in a notebook or a terminal, a data frame for work."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import ConfigError, DecodeError
from vlmvid.serving.showing import Showable, html_table
from vlmvid.serving.terminal import Column, Terminal, bold, filmstrip_lines, table_lines
from vlmvid.serving.web.options import MAX_QUERY_CHARACTERS
from vlmvid.types import Record
from vlmvid.video.options import ClipJob

if TYPE_CHECKING:
    import pandas as pd

    from vlmvid.serving.model import VideoTextModel
    from vlmvid.serving.video_index import VideoIndex

_NUM_FRAMES = 6  # of a clip's strip
_IMAGE_SIZE = 72
_COLUMNS = (
    Column("rank", is_number=True),
    Column("score", is_number=True),
    Column("clip", may_shrink=True),
    Column("time"),
    Column("moment", is_number=True),
    Column("caption", may_shrink=True),
)


class SearchHit(Record):
    """One clip found for one query.

    `score` is the cosine similarity in [-1, 1]; times are seconds from the start of the file, `end_seconds` None at its
    end; `moment_seconds` is where in the clip the query fits best, None where nobody looked.
    """

    query: str
    rank: int
    score: float
    video_id: str
    path: str
    start_seconds: float
    end_seconds: float | None
    captions: tuple[str, ...] = ()
    moment_seconds: float | None = None

    @property
    def is_missing(self) -> bool:
        """Whether the file of the clip is gone."""
        return not os.path.isfile(self.path)


class SearchResults(Showable, Sequence[SearchHit]):
    """Hits of one query or several, best first for each; shows itself with pictures of the clips.

    A clip whose video is gone or broken is shown with the reason in the place of its pictures.
    """

    def __init__(self, hits: Iterable[SearchHit]) -> None:
        self.hits = tuple(hits)

    @overload
    def __getitem__(self, place: int) -> SearchHit: ...

    @overload
    def __getitem__(self, place: slice) -> SearchResults: ...

    def __getitem__(self, place: int | slice) -> SearchHit | SearchResults:
        return SearchResults(self.hits[place]) if isinstance(place, slice) else self.hits[place]

    def __len__(self) -> int:
        return len(self.hits)

    @property
    def by_query(self) -> dict[str, list[SearchHit]]:
        """The hits of each query, in the order of the queries."""
        found: dict[str, list[SearchHit]] = {}
        for hit in self.hits:
            found.setdefault(hit.query, []).append(hit)
        return found

    def to_pandas(self) -> pd.DataFrame:
        """One row for each hit, with the fields of `SearchHit` as columns."""
        import pandas as pd

        return pd.DataFrame([hit.model_dump() for hit in self.hits], columns=list(SearchHit.model_fields))

    def to_text(self, terminal: Terminal) -> str:
        """A table for each query; where the terminal shows pictures, with a filmstrip below each row."""
        lines: list[str] = []
        pictures = self._pictures if terminal.has_pictures else {}
        for query, hits in self.by_query.items():
            columns, rows = _shown(hits)
            head, *body = table_lines(columns, rows, terminal)
            lines += [*([""] if lines else []), bold(query, terminal), head]
            for hit, line in zip(hits, body, strict=True):
                lines += [line, *_strip_lines(pictures.get(hit), terminal)]
        return "\n".join(lines) or "nothing was found"

    def _repr_html_(self) -> str:
        if not self.hits:
            return "<p>nothing was found</p>"
        return "".join(self._html_of(query, hits) for query, hits in self.by_query.items())

    def _html_of(self, query: str, hits: Sequence[SearchHit]) -> str:
        columns, rows = _shown(hits)
        shown = [
            [*map(escape, row[:2]), _picture_html(hit, self._pictures[hit]), *map(escape, row[2:])]
            for hit, row in zip(hits, rows, strict=True)
        ]
        names = [column.name for column in columns]
        return html_table([*names[:2], "frames", *names[2:]], shown, caption=query)

    @cached_property
    def _pictures(self) -> dict[SearchHit, NDArray[np.uint8] | DecodeError]:
        """Frames of every hit's clip, read once."""
        from vlmvid.serving.pictures import clip_frames

        clips = {hit: ClipJob(hit.path, hit.start_seconds, hit.end_seconds) for hit in self.hits}
        return dict(zip(clips, clip_frames(list(clips.values()), _NUM_FRAMES, _IMAGE_SIZE), strict=True))


def search_texts(
    index: VideoIndex,
    model: VideoTextModel,
    texts: Sequence[str],
    top_k: int = 5,
    where: Mapping[str, Sequence[str]] | None = None,
) -> SearchResults:
    """The `top_k` clips of an index that are nearest to each text, each with the moment that fits best.

    Args:
        where: attribute name -> values of which a clip must have one, as `VideoIndex.search`.

    Raises:
        ConfigError: an index of another model, what `check_queries` refuses, or what `VideoIndex.search` refuses.
    """
    check_queries(texts)
    index.require_model(model)
    queries = model.encode_text(list(texts))
    rows, scores = index.search(queries, top_k, where)
    hits = []
    for text, query, own_rows, own_scores in zip(texts, queries, rows, scores, strict=True):
        for rank, (clip, score) in enumerate(zip(index.clips(own_rows), own_scores, strict=True), start=1):
            moment = index.moment(clip.row, query)
            hits.append(
                SearchHit(
                    query=text,
                    rank=rank,
                    score=round(float(score), 6),
                    video_id=clip.video_id,
                    path=clip.path,
                    start_seconds=clip.start_seconds,
                    end_seconds=clip.end_seconds,
                    captions=clip.captions,
                    moment_seconds=None if moment is None else round(moment.seconds, 6),
                )
            )
    return SearchResults(hits)


def check_queries(texts: Sequence[str]) -> None:
    """Raise ConfigError for a text without words, or longer than is read: a text encoder would cut it unsaid."""
    mend = "describe in a few words what to look for"
    for number, text in enumerate(texts, start=1):
        name = f"query {number} of {len(texts)}"
        if not text.strip():
            raise ConfigError(f"{name} is empty; {mend}")
        if len(text) > MAX_QUERY_CHARACTERS:
            raise ConfigError(
                f"{name} has {len(text):,} characters; at most {MAX_QUERY_CHARACTERS:,} are taken: {mend}"
            )


def _shown(hits: Sequence[SearchHit]) -> tuple[list[Column], list[list[str]]]:
    """The columns that say something about these hits, and their cells."""
    cells = [_cells(hit) for hit in hits]
    used = [number for number in range(len(_COLUMNS)) if number < 4 or any(row[number] for row in cells)]
    return [_COLUMNS[number] for number in used], [[row[number] for number in used] for row in cells]


def _cells(hit: SearchHit) -> list[str]:
    end = "end" if hit.end_seconds is None else f"{hit.end_seconds:.1f} s"
    return [
        str(hit.rank),
        f"{hit.score:.3f}",
        f"{hit.video_id} (missing)" if hit.is_missing else hit.video_id,
        f"{hit.start_seconds:.1f}..{end}",
        "" if hit.moment_seconds is None else f"{hit.moment_seconds:.1f} s",
        hit.captions[0] if hit.captions else "",
    ]


def _strip_lines(found: NDArray[np.uint8] | DecodeError | None, terminal: Terminal) -> Iterator[str]:
    if isinstance(found, DecodeError):
        yield f"  no picture: {found.reason_code}"
    elif found is not None:
        yield from filmstrip_lines(list(found), terminal, most_lines=1)


def _picture_html(hit: SearchHit, found: NDArray[np.uint8] | DecodeError) -> str:
    from vlmvid.serving.pictures import strip_uri

    if isinstance(found, DecodeError):
        return f"no picture: {escape(found.reason_code)}"
    return f'<img src="{strip_uri(found)}" alt="{escape(f"frames of {hit.video_id}", quote=True)}">'
