"""What a request is told when it fails: one shape, ``{"error": {"code", "message"}}``, and a fitting status.

Codes are for programs and stay; messages are for people. They name a clip or an upload, never a path of the server.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from vlmvid.errors import DecodeError
from vlmvid.serving.web.options import MAX_QUERY_CHARACTERS, MAX_TOP_K
from vlmvid.video.paths import printable

logger = logging.getLogger(__name__)

_NO_VIDEO = (
    "empty_file", "no_video_stream", "not_a_file", "protocol_not_allowed", "too_short", "unreadable", "unsupported"
)  # fmt: skip
_TOO_COSTLY = ("frame_too_large", "memory_limit", "timeout")
_CODES_OF_STATUS = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
_MESSAGES_OF_STATUS = {  # by the words of HTTP, which say nothing of the mend
    "Not Found": "there is nothing here; /openapi.json says what there is",
    "Method Not Allowed": "this address does not take this method; /openapi.json says which it does",
}
_SHOWN_CHARACTERS = 80
_CLOSED_REQUEST = 499  # as nginx calls it


class WebError(HTTPException):
    """A request that is refused.

    Args:
        status: of HTTP.
        code: short stable word for programs.
        message: what was wrong, the value, what was expected, and the mend.
        headers: further ones of the response.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, message, headers)
        self.code = code


def busy(what: str, seconds: int) -> WebError:
    """The refusal of a request that would have to wait behind too many others."""
    message = f"too many requests wait for {what}; try again in {seconds} s"
    return WebError(503, "busy", message, {"Retry-After": str(seconds)})


def ending() -> WebError:
    """The refusal of a request that would keep the server from ending."""
    return WebError(503, "busy", "the server is ending; try again when it is back", {"Retry-After": "5"})


def unanswering_storage(video_id: str) -> WebError:
    """The file system on which a video lies says nothing for now, not even whether the video is there."""
    message = f"the storage of {shown(video_id)} does not answer; try again"
    return WebError(503, "read_error", message, {"Retry-After": "5"})


def shown(text: str) -> str:
    """A part of `text` that a message can quote, whatever it is."""
    cut = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
    return repr(printable(cut))


def clip_error(error: DecodeError, path: str, video_id: str) -> WebError:
    """Why the video of an indexed clip is not shown or looked at."""
    if error.reason_code == "missing_file":
        return missing_video(video_id)
    if error.transient:
        return _storage(error, path, f"the video {shown(video_id)}")
    return WebError(409, _code(error), _without_path(error, path, f"the video {shown(video_id)}"))


def missing_video(video_id: str) -> WebError:
    """The video behind a row of the index is gone."""
    return WebError(
        404,
        "missing_video",
        f"the video of {shown(video_id)} is no longer where it was indexed; put it back, or run `vlmvid index` again",
    )


def upload_error(error: DecodeError, path: str) -> WebError:
    """Why an upload is not taken, or not shown any more."""
    if error.reason_code == "missing_file":
        return unknown_upload()
    if error.transient:
        return _storage(error, path, "the upload")
    code = _code(error)
    message = _without_path(error, path, "the upload")
    if code == "no_video":
        message = f"this is no video that can be read: {message}"
    return WebError(415 if code == "no_video" else 422, code, message)


def unknown_upload() -> WebError:
    """There is no such upload."""
    return WebError(404, "unknown_upload", "there is no such upload, or its time is over; upload the video again")


def _code(error: DecodeError) -> str:
    if error.reason_code in _NO_VIDEO:
        return "no_video"
    return "too_costly" if error.reason_code in _TOO_COSTLY else "damaged_video"


def _storage(error: DecodeError, path: str, name: str) -> WebError:
    return WebError(503, "read_error", _without_path(error, path, name), {"Retry-After": "5"})


def _without_path(error: DecodeError, path: str, name: str) -> str:
    return str(error).replace(printable(path), name)


def add_error_handlers(app: FastAPI) -> None:
    """Have every failure of `app` told in the one shape."""

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = error.code if isinstance(error, WebError) else _CODES_OF_STATUS.get(error.status_code, "refused")
        message = _MESSAGES_OF_STATUS.get(str(error.detail), str(error.detail))
        return error_response(error.status_code, code, message, error.headers)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return error_response(422, *_invalid(error.errors()))

    async def failed(request: Request, error: Exception) -> JSONResponse:
        # Starlette raises it again behind this answer, and the server logs it with its traceback.
        return error_response(500, "internal_error", "the server failed at this request; its log says why")

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=_CLOSED_REQUEST)  # which nobody reads

    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, failed)


def error_response(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The one shape of a failure."""
    content = {"error": {"code": code, "message": printable(message)}}
    return JSONResponse(content, status, headers=dict(headers or {}))


def _invalid(errors: Sequence[Any]) -> tuple[str, str]:
    """Code and message of the first thing that is wrong with a request."""
    error = errors[0]
    place, kind = [str(part) for part in error["loc"]], str(error["type"])
    name = next((part for part in reversed(place[1:]) if not part.isdigit()), "")
    if name in ("text", "question"):
        what = "query" if name == "text" else "question"
        if kind == "string_too_long":
            length = len(error["input"])
            return (
                f"{what}_too_long",
                f"the {what} has {length:,} characters; at most {MAX_QUERY_CHARACTERS:,} are taken",
            )
        if kind in ("missing", "string_too_short", "string_pattern_mismatch"):
            return f"empty_{what}", f"the {what} is empty; write what to look for"
    if name == "top_k":
        return "bad_top_k", f"top_k={shown(str(error['input']))} must be a whole number from 1 to {MAX_TOP_K}"
    if name == "where":
        return "bad_filter", f"where={shown(str(error['input']))} must be name:value, e.g. colour:red"
    value = error.get("input")
    said = f" (got {shown(str(value))})" if isinstance(value, str | int | float) else ""
    return "bad_request", f"{'.'.join(place)}: {error['msg']}{said}"
