"""One's own videos over HTTP: what the model makes of them, and what of the index is like them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from vlmvid.errors import DecodeError
from vlmvid.serving.web.errors import upload_error
from vlmvid.serving.web.files import VideoResponse, video_response
from vlmvid.serving.web.routes import (
    BAD,
    BUSY,
    JPEG_HEADERS,
    JPEG_RESPONSE,
    NO_JSON,
    NO_WORDS,
    TOO_LARGE,
    UNREADABLE,
    VIDEO_RESPONSES,
    Seconds,
)
from vlmvid.serving.web.schemas import AnswerAnswer, Asked, UploadAnswer, errors, linked
from vlmvid.serving.web.searching import Query
from vlmvid.serving.web.service import Service, hits_of, while_connected
from vlmvid.serving.web.uploads import FIELD, Upload
from vlmvid.serving.web.words import Look
from vlmvid.video.options import ClipJob

NUM_SIMILAR = 12
Name = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="As the upload was answered.", examples=["0f" * 16])]
GONE = "There is no such upload, or its time is over."
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        FIELD: {"type": "string", "format": "binary", "description": "A video or a picture."}
                    },
                    "required": [FIELD],
                    "additionalProperties": False,
                }
            }
        },
    }
}


def upload_routes(service: Service) -> APIRouter:
    """What the page asks about videos that its visitor brings."""
    router = APIRouter(prefix="/api/uploads", tags=["uploads"])

    @router.post(
        "",
        summary="Send a video",
        description="It is kept for a while and can be asked about; nobody else learns its name.",
        openapi_extra=_FORM,
        responses=linked("upload", "/upload", "ask_upload", "upload_thumbnail", "upload_video", "remove_upload")
        | errors(
            s408="Nothing of it came for too long.",
            s413="It is too large.",
            s415="It is no video.",
            s422="The form has no file, or the video is damaged or takes too much to read.",
            s503=BUSY,
        ),
    )
    async def send_upload(request: Request) -> UploadAnswer:
        async with service.uploads.received(request) as upload:
            answer = await while_connected(request, _looked_at(service, upload))
            service.uploads.keep(upload)
            return answer

    @router.post(
        "/{upload}/ask",
        summary="A question about an upload",
        responses=errors(s404=GONE, s400=NO_JSON, s409=NO_WORDS, s413=TOO_LARGE, s415=UNREADABLE, s422=BAD, s503=BUSY),
    )
    async def ask_upload(request: Request, upload: Name, asked: Asked) -> AnswerAnswer:
        found = service.uploads.get(upload)
        service.require_words()
        return AnswerAnswer(answer=await while_connected(request, _answer(service, found, asked.question)))

    _add_files(router, service)
    return router


def _add_files(router: APIRouter, service: Service) -> None:
    @router.get(
        "/{upload}/thumbnail",
        summary="A picture of an upload",
        response_class=Response,
        responses={**JPEG_RESPONSE, **errors(s404=GONE, s415="It has no picture there.", s422=BAD, s503=BUSY)},
    )
    async def upload_thumbnail(upload: Name, seconds: Seconds = None) -> Response:
        found = service.uploads.get(upload)
        try:
            picture = await service.media.thumbnail(ClipJob(found.path), seconds)
        except DecodeError as error:
            raise upload_error(error, found.path) from error
        return Response(picture, media_type="image/jpeg", headers=JPEG_HEADERS)

    @router.get(
        "/{upload}/video",
        summary="An upload",
        response_class=VideoResponse,
        responses={**VIDEO_RESPONSES, **errors(s404=GONE, s415=UNREADABLE, s422=BAD, s503=BUSY)},
    )
    async def upload_video(upload: Name) -> VideoResponse:
        found = service.uploads.get(upload)
        try:
            return await video_response(found.path)
        except DecodeError as error:  # its time may be over since
            raise upload_error(error, found.path) from error

    @router.delete("/{upload}", summary="Remove an upload", status_code=204, responses=errors(s404=GONE, s422=BAD))
    async def remove_upload(upload: Name) -> None:
        service.uploads.drop(upload)


async def _looked_at(service: Service, upload: Upload) -> UploadAnswer:
    try:
        upload.seconds = await service.media.duration(upload.path)
        frames = await service.media.frames(service.model.vision, upload.path)
        seen = await service.look(Look("the upload", frames, embeds=True, speaks=service.model.speaks))
    except DecodeError as error:
        raise upload_error(error, upload.path) from error
    assert seen.embedding is not None  # it was asked for
    near = await service.search(Query(seen.embedding, NUM_SIMILAR))
    return UploadAnswer(
        upload=upload.name,
        seconds=upload.seconds,
        thumbnail=f"/api/uploads/{upload.name}/thumbnail",
        video=f"/api/uploads/{upload.name}/video",
        caption=seen.words,
        tags=near.tags,
        similar=hits_of(near),
    )


async def _answer(service: Service, upload: Upload, question: str) -> str:
    try:
        frames = await service.media.frames(service.model.speaker_vision, upload.path)
        seen = await service.look(Look("the upload", frames, question=question))
    except DecodeError as error:
        raise upload_error(error, upload.path) from error
    assert seen.words is not None  # they were asked for
    return seen.words
