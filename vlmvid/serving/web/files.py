"""Video files to browsers: whole, or the part that a player asks for."""

from __future__ import annotations

import asyncio
import re

from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from vlmvid.errors import DecodeError
from vlmvid.serving.web.errors import WebError
from vlmvid.video.paths import check_file, open_regular, printable

# No file has more bytes than 19 digits tell; longer numbers are no range.
_RANGE = re.compile(rb"\s*bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.IGNORECASE)
# By content, because names lie. What has none of these signatures is no video, and is not served: a file may have
# taken the place of the one that was indexed. It is what FFmpeg's demuxers look for in the containers that videos
# come in; elementary streams are told by their first start code.
_TYPES = tuple(
    (re.compile(pattern, re.DOTALL), media_type)
    for pattern, media_type in (
        (
            rb".{4}(ftyp|mdat)|\x00.{3}(styp|sidx|moov|moof|wide|pnot|free|skip)",
            "video/mp4",
        ),  # old QuickTime has no ftyp
        (rb"\x1a\x45\xdf\xa3", "video/webm"),
        (rb"OggS", "video/ogg"),
        (rb"RIFF.{4}(AVI |AMV )", "video/x-msvideo"),
        (rb"FLV\x01", "video/x-flv"),
        (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c", "video/x-ms-asf"),
        (rb"(\x47.{187}){3}|.{4}(\x47.{191}){2}\x47|(\x47.{203}){3}", "video/mp2t"),
        (rb"\x00{2,3}\x01[\x01-\x7f\xb0\xb3\xb5\xb8\xba\xbb\xe0-\xef]", "video/mpeg"),
        (rb"YUV4MPEG2 ", "video/x-yuv4mpeg"),
        (rb"DKIF\x00\x00", "video/x-ivf"),
        (rb"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02", "application/mxf"),
        (rb"\x1f\x07\x00[\x3f\xbf]", "video/dv"),
        (rb"\.RMF\x00", "application/vnd.rn-realmedia"),
        (rb"nut/multimedia container\x00", "video/x-nut"),
        (rb"\xb7\xd8\x00\x20\x37\x49\xda\x11\xa6\x4e\x00\x07\xe9\x5e\xad\x8d", "video/x-ms-wtv"),
        (rb"\xff\xd8\xff", "image/jpeg"),
        (rb"\x89PNG\r\n", "image/png"),
        (rb"GIF8", "image/gif"),
        (rb"RIFF.{4}WEBP", "image/webp"),
        (rb"BM.{4}\x00{4}.{2}\x00\x00", "image/bmp"),
        (rb"II\*\x00|MM\x00\*", "image/tiff"),
    )
)
_TYPE_BYTES = 1024


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
    """The video or picture `path` for a browser; raises DecodeError for anything else."""
    media_type = await asyncio.to_thread(_type_of, path)
    status = await asyncio.to_thread(check_file, path)
    headers = {"Cache-Control": "private, no-cache", "Content-Disposition": "inline"}
    return VideoResponse(path, media_type=media_type, stat_result=status, headers=headers)


def _type_of(path: str) -> str:
    with open(open_regular(path), "rb") as file:
        start = file.read(_TYPE_BYTES)
    found = next((name for pattern, name in _TYPES if pattern.match(start)), None)
    if found is None:
        raise DecodeError(
            f"{printable(path)} is not served: it starts as no video or picture does; put the video back, or encode "
            "it again, e.g. as MP4",
            reason_code="unreadable",
        )
    return found
