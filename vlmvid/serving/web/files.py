"""Video files to browsers: whole, or the part that a player asks for."""

from __future__ import annotations

import asyncio
import re

from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from vlmvid.serving.web.errors import WebError
from vlmvid.video.paths import check_file, open_regular

_RANGE = re.compile(rb"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.IGNORECASE)
# By content, because names lie; whatever else a file holds is no page to a browser.
_TYPES = (
    (re.compile(rb".{4}ftyp", re.DOTALL), "video/mp4"),
    (re.compile(rb"\x1a\x45\xdf\xa3"), "video/webm"),
    (re.compile(rb"OggS"), "video/ogg"),
    (re.compile(rb"RIFF.{4}AVI ", re.DOTALL), "video/x-msvideo"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"\x89PNG\r\n"), "image/png"),
    (re.compile(rb"GIF8"), "image/gif"),
)
UNKNOWN_TYPE = "application/octet-stream"


class VideoResponse(FileResponse):
    """A file, with one range of it for a request that asks for one (206), or 416 for one that it does not have.

    A `Range` header that is malformed, of another unit or of several ranges is ignored, as HTTP allows.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises WebError for a range that the file does not have."""
        assert self.stat_result is not None  # `video_response` gives it
        size = self.stat_result.st_size
        wanted = [value for name, value in scope["headers"] if name == b"range"]
        match = _RANGE.fullmatch(wanted[0]) if len(wanted) == 1 else None
        if match is None or not (match[1] or match[2]) or _is_backwards(match):
            kept = [(name, value) for name, value in scope["headers"] if name != b"range"]
            scope = {**scope, "headers": kept}
        elif int(match[1] or 0) >= size or (not match[1] and int(match[2]) == 0):
            raise WebError(
                416,
                "no_such_range",
                f"the video has {size:,} bytes, and none in the range that was asked for",
                {"Content-Range": f"bytes */{size}"},
            )
        await super().__call__(scope, receive, send)


def _is_backwards(match: re.Match[bytes]) -> bool:
    return bool(match[1] and match[2]) and int(match[2]) < int(match[1])


async def video_response(path: str) -> VideoResponse:
    """The regular file `path` for a browser; raises DecodeError for anything else."""
    media_type = await asyncio.to_thread(_type_of, path)
    status = await asyncio.to_thread(check_file, path)
    headers = {"Cache-Control": "private, no-cache", "Content-Disposition": "inline"}
    return VideoResponse(path, media_type=media_type, stat_result=status, headers=headers)


def _type_of(path: str) -> str:
    with open(open_regular(path), "rb") as file:
        start = file.read(16)
    return next((name for pattern, name in _TYPES if pattern.match(start)), UNKNOWN_TYPE)
