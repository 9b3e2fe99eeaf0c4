"""What all routes share: the model, the index, and the queues in front of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
from fastapi import Request
from starlette.requests import ClientDisconnect

from vlmvid.errors import ConfigError
from vlmvid.registry import nearest
from vlmvid.serving.model import VideoTextModel
from vlmvid.serving.video_index import IndexedClip, Moment, VideoIndex
from vlmvid.serving.web.batcher import Batcher
from vlmvid.serving.web.errors import WebError, missing_video, shown, unanswering_storage
from vlmvid.serving.web.media import Media
from vlmvid.serving.web.options import MAX_QUERY_CHARACTERS, MAX_TOP_K, ServeOptions
from vlmvid.serving.web.presence import Presence
from vlmvid.serving.web.schemas import ClipAnswer, Hit, IndexInfo, Info, Limits, ModelInfo, MomentAnswer
from vlmvid.serving.web.searching import Answer, Query, Searcher, Where
from vlmvid.serving.web.uploads import Uploads
from vlmvid.serving.web.words import Look, Seen, look

T = TypeVar("T")
_MOST_TOGETHER = 64
_NUM_EXAMPLES = 6
_LOOKED_AT_FOR_EXAMPLES = 200
_POLL_SECONDS = 0.5
_NUM_NAMED = 20


class Service:
    """One model over one index, for many clients at a time. The index decides that the model embeds.

    Attributes:
        model: embeds texts, and videos that are uploaded.
        index: the clips that are searched.
        options: limits.
        media: opens videos.
        uploads: keeps those of visitors.
    """

    def __init__(self, model: VideoTextModel, index: VideoIndex, options: ServeOptions) -> None:
        index.require_model(model)
        self.model = model
        self.index = index
        self.options = options
        self.media = Media(model.decode, options)
        self.uploads = Uploads(options)
        self._presence = Presence()
        self.info = _info(model, index, options)
        self._facets = {name: frozenset(values) for name, values in self.info.facets.items()}
        self._searches: Batcher[Query, Answer] = Batcher(
            Searcher(model, index).search,
            name="a search",
            most_waiting=options.max_waiting_searches,
            most_together=_MOST_TOGETHER,
            retry_seconds=1,
        )
        self._looks: Batcher[Look, Seen] = Batcher(
            partial(look, model),
            name="the model",
            most_waiting=options.max_waiting_words,
            most_together=1,
            retry_seconds=5,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Threads, decode workers and temporary files, for the time of the block."""
        async with AsyncExitStack() as stack:
            for part in (self.uploads, self.media, self._presence, self._searches, self._looks):
                await stack.enter_async_context(part.running())
            yield

    async def search(self, query: Query) -> Answer:
        """Answer one query, together with others that wait; raises WebError when too many do."""
        answer = await self._searches.do(query)
        # Beside the search thread, which a file system that hangs must not hold; what is not known counts as there.
        missing = await self._presence.missing([found.clip.path for found in answer.found])
        found = [replace(one, is_missing=bool(is_gone)) for one, is_gone in zip(answer.found, missing, strict=True)]
        return replace(answer, found=found)

    def refuse_waiting(self) -> None:
        """Refuse the searches and looks that are not done, because the server ends."""
        self._searches.refuse_all()
        self._looks.refuse_all()

    async def look(self, wanted: Look) -> Seen:
        """Have the model look at a video; raises WebError when too many wait, or for a question that it refuses."""
        try:
            return await self._looks.do(wanted)
        except ConfigError as error:
            raise WebError(422, "refused", str(error)) from error

    def require_words(self) -> None:
        """Raise WebError for a model that gives no words."""
        if not self.model.speaks:
            raise WebError(
                409,
                "no_words",
                f"the model {self.model.name!r} compares videos with texts and gives no words; serve one with a "
                "vision-language part",
            )

    async def clip(self, row: int) -> IndexedClip:
        """A clip of the index; raises WebError for a row that it does not have."""
        if row >= self.index.num_clips:
            raise WebError(404, "unknown_clip", f"row {row} is none of the index, which has {self.index.num_clips:,}")
        return await asyncio.to_thread(self.index.clip, row)

    async def present_clip(self, row: int) -> IndexedClip:
        """As `clip`; raises WebError when its video is gone, too, or its storage does not answer."""
        clip = await self.clip(row)
        await self.require_present(clip)
        return clip

    async def require_present(self, clip: IndexedClip) -> None:
        """Raise WebError when the video of a clip is gone, or its storage does not answer."""
        (is_gone,) = await self._presence.missing([clip.path])
        if is_gone is None:
            raise unanswering_storage(clip.video_id)
        if is_gone:
            raise missing_video(clip.video_id)

    async def is_missing(self, clip: IndexedClip) -> bool:
        """Whether its video is known to be gone."""
        (is_gone,) = await self._presence.missing([clip.path])
        return bool(is_gone)

    def where(self, filters: Sequence[str]) -> Where:
        """``name:value`` pairs as a filter; raises WebError for what no clip has."""
        found: dict[str, set[str]] = {}
        for text in filters:
            # Names and values may hold colons; of the names that fit, the longest with such a value is meant.
            names = sorted((name for name in self._facets if text.startswith(f"{name}:")), key=len, reverse=True)
            if not names:
                known = ", ".join(sorted(self._facets)[:_NUM_NAMED]) or "none"
                name = shown(text.partition(":")[0])
                raise WebError(404, "unknown_attribute", f"the index has no filter {name}; it has: {known}")
            name = next((name for name in names if text[len(name) + 1 :] in self._facets[name]), names[0])
            value = text[len(name) + 1 :]
            if value not in self._facets[name]:
                raise WebError(
                    404,
                    "unknown_value",
                    f"no clip has {name}={shown(value)}{nearest(value, sorted(self._facets[name]))}",
                )
            found.setdefault(name, set()).add(value)
        return tuple((name, tuple(sorted(values))) for name, values in sorted(found.items()))


async def while_connected(request: Request, work: Coroutine[None, None, T]) -> T:
    """The result of `work`, which is given up when the client goes away: then ClientDisconnect is raised."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=_POLL_SECONDS))[0]:
            if await request.is_disconnected():
                raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()


def clip_answer(clip: IndexedClip, *, missing: bool) -> ClipAnswer:
    """A clip as the API gives it: addressed by its row, never by a path."""
    return ClipAnswer(
        row=clip.row,
        video_id=clip.video_id,
        start_seconds=clip.start_seconds,
        end_seconds=clip.end_seconds,
        captions=list(clip.captions),
        attributes=clip.attributes,
        missing=missing,
        thumbnail=f"/api/clips/{clip.row}/thumbnail",
        video=f"/api/clips/{clip.row}/video",
    )


def hits_of(answer: Answer) -> list[Hit]:
    """What a search found, as the API gives it."""
    return [
        Hit(
            rank=rank,
            score=found.score,
            clip=clip_answer(found.clip, missing=found.is_missing),
            moment=_moment_answer(found.moment),
        )
        for rank, found in enumerate(answer.found, start=1)
    ]


def _moment_answer(moment: Moment | None) -> MomentAnswer | None:
    if moment is None:
        return None
    return MomentAnswer(seconds=moment.seconds, score=moment.score, steps=list(moment.steps))


def _info(model: VideoTextModel, index: VideoIndex, options: ServeOptions) -> Info:
    rows = np.unique(np.linspace(0, index.num_clips - 1, min(index.num_clips, _LOOKED_AT_FOR_EXAMPLES)).astype(int))
    captions = dict.fromkeys(clip.captions[0] for clip in index.clips(rows.tolist()) if clip.captions)
    spread = np.unique(np.linspace(0, len(captions) - 1, min(len(captions), _NUM_EXAMPLES)).astype(int))
    return Info(
        model=ModelInfo(name=model.name, digest=model.digest, embeds=model.embeds, speaks=model.speaks),
        index=IndexInfo(clips=index.num_clips, dimension=index.embed_dim, name=index.folder.name),
        limits=Limits(upload_bytes=options.max_upload_bytes, query_characters=MAX_QUERY_CHARACTERS, top_k=MAX_TOP_K),
        facets=index.facets,
        examples=[list(captions)[i] for i in spread],
    )
