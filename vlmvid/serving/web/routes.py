"""The index over HTTP: searches, clips, their pictures and videos, and words about them."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import StringConstraints

from vlmvid.errors import DecodeError
from vlmvid.serving.web import searching
from vlmvid.serving.web.errors import clip_error
from vlmvid.serving.web.files import VideoResponse, video_response
from vlmvid.serving.web.options import MAX_FILTER_CHARACTERS, MAX_FILTERS, MAX_QUERY_CHARACTERS, MAX_TOP_K
from vlmvid.serving.web.schemas import (
    AnswerAnswer,
    Asked,
    CaptionAnswer,
    ClipAnswer,
    ErrorAnswer,
    Info,
    Responses,
    SearchAnswer,
    errors,
    linked,
)
from vlmvid.serving.web.service import Service, clip_answer, hits_of, while_connected
from vlmvid.serving.web.words import Look
from vlmvid.video.options import ClipJob

Text = Annotated[
    str,
    Query(
        min_length=1,
        max_length=MAX_QUERY_CHARACTERS,
        pattern=r"\S",
        description="What to look for, in words.",
        examples=["a cook cuts an onion"],
    ),
]
TopK = Annotated[int, Query(ge=1, le=MAX_TOP_K, description="The most clips to give.")]
Filter = Annotated[str, StringConstraints(max_length=MAX_FILTER_CHARACTERS, pattern=":")]
Filters = Annotated[
    list[Filter],
    Query(
        max_length=MAX_FILTERS,
        description="`name:value` of an attribute, may be repeated: a clip must have one of the values of each name.",
        examples=[["place:kitchen"]],
    ),
]
Row = Annotated[int, Path(ge=0, le=2**53, description="The number of a clip in the index.", examples=[3])]
Seconds = Annotated[
    float | None,
    Query(
        ge=0,
        le=1e9,
        allow_inf_nan=False,
        description="From the start of the file; by default the middle of what is shown.",
        examples=[15.2],
    ),
]
NO_CLIP = "There is no such clip, or its video is gone."
UNREADABLE = "The video cannot be read."
NO_WORDS = "The model gives no words, or the video cannot be read."
NO_JSON = "The body cannot be read."
TOO_LARGE = "The body is too large."
BUSY = "Too many requests wait, or the storage fails for the moment."
BAD = "A parameter is out of range; the message says which."
OF_A_CLIP = ("get_clip", "similar_clips", "clip_thumbnail", "clip_video", "caption_clip", "ask_clip")
JPEG_RESPONSE: Responses = {200: {"description": "A JPEG.", "content": {"image/jpeg": {}}}}
JPEG_HEADERS = {"Cache-Control": "private, max-age=300"}
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_VIDEO = {"video/*": _BYTES, "application/*": _BYTES, "image/*": _BYTES}
VIDEO_RESPONSES: Responses = {
    200: {"description": "The whole video.", "content": _VIDEO},
    206: {"description": "The range.", "content": _VIDEO},
    416: {
        "description": "The video has no such range.",
        "model": ErrorAnswer,
        "headers": {"Content-Range": {"description": "How long it is.", "schema": {"type": "string"}}},
    },
}


def index_routes(service: Service) -> APIRouter:
    """What the page asks of the index."""
    router = APIRouter(prefix="/api", tags=["index"])

    @router.get("/info", summary="The model, the index and the limits")
    async def info() -> Info:
        return service.info

    @router.get(
        "/search",
        summary="Clips by a text",
        responses={
            **linked("row", "/hits/0/clip/row", *OF_A_CLIP),
            **errors(s404="No clip has such an attribute.", s422=BAD, s503=BUSY),
        },
    )
    async def search(text: Text, top_k: TopK = 12, where: Filters = []) -> SearchAnswer:  # noqa: B006 - never changed
        started = time.perf_counter()
        answer = await service.search(searching.Query(text, top_k, service.where(where)))
        return SearchAnswer(query=text, seconds=time.perf_counter() - started, hits=hits_of(answer))

    @router.get("/clips/{row}", summary="One clip", responses=errors(s404="There is no such clip.", s422=BAD))
    async def get_clip(row: Row) -> ClipAnswer:
        found = await service.clip(row)
        return clip_answer(found, missing=await service.is_missing(found))

    @router.get(
        "/clips/{row}/similar",
        summary="Clips like one",
        responses=errors(s404="There is no such clip or attribute.", s422=BAD, s503=BUSY),
    )
    async def similar_clips(row: Row, top_k: TopK = 12, where: Filters = []) -> SearchAnswer:  # noqa: B006 - never changed
        started = time.perf_counter()
        found = await service.clip(row)
        answer = await service.search(searching.Query(row, top_k, service.where(where)))
        return SearchAnswer(query=found.video_id, seconds=time.perf_counter() - started, hits=hits_of(answer))

    _add_files(router, service)
    _add_words(router, service)
    return router


def _add_files(router: APIRouter, service: Service) -> None:
    @router.get(
        "/clips/{row}/thumbnail",
        summary="A picture of a clip",
        response_class=Response,
        responses={**JPEG_RESPONSE, **errors(s404=NO_CLIP, s409=UNREADABLE, s422=BAD, s503=BUSY)},
    )
    async def clip_thumbnail(row: Row, seconds: Seconds = None) -> Response:
        found = await service.present_clip(row)
        try:
            job = ClipJob(found.path, found.start_seconds, found.end_seconds)
            picture = await service.media.thumbnail(job, seconds)
        except DecodeError as error:
            raise clip_error(error, found.path, found.video_id) from error
        return Response(picture, media_type="image/jpeg", headers=JPEG_HEADERS)

    @router.get(
        "/clips/{row}/video",
        summary="The video that a clip is of",
        description="The whole file; the clip is its part from `start_seconds` to `end_seconds`.",
        response_class=VideoResponse,
        responses={**VIDEO_RESPONSES, **errors(s404=NO_CLIP, s409=UNREADABLE, s422=BAD, s503=BUSY)},
    )
    async def clip_video(row: Row) -> VideoResponse:
        found = await service.present_clip(row)
        try:
            return await video_response(found.path)
        except DecodeError as error:
            raise clip_error(error, found.path, found.video_id) from error


def _add_words(router: APIRouter, service: Service) -> None:
    @router.post(
        "/clips/{row}/caption",
        summary="What the model says that a clip shows",
        responses=errors(s404=NO_CLIP, s409=NO_WORDS, s422=BAD, s503=BUSY),
    )
    async def caption_clip(request: Request, row: Row) -> CaptionAnswer:
        return CaptionAnswer(caption=await while_connected(request, _words(service, row, None)))

    @router.post(
        "/clips/{row}/ask",
        summary="A question about a clip",
        responses=errors(s404=NO_CLIP, s400=NO_JSON, s409=NO_WORDS, s413=TOO_LARGE, s422=BAD, s503=BUSY),
    )
    async def ask_clip(request: Request, row: Row, asked: Asked) -> AnswerAnswer:
        return AnswerAnswer(answer=await while_connected(request, _words(service, row, asked.question)))


async def _words(service: Service, row: int, question: str | None) -> str:
    found = await service.clip(row)
    service.require_words()
    await service.require_present(found)
    try:
        vision = service.model.speaker_vision
        frames = await service.media.frames(vision, found.path, found.start_seconds, found.end_seconds)
        seen = await service.look(Look(found.video_id, frames, found.start_seconds, question))
    except DecodeError as error:
        raise clip_error(error, found.path, found.video_id) from error
    assert seen.words is not None  # they were asked for
    return seen.words
