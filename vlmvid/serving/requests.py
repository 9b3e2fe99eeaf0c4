"""Videos as a request to a served model names them: files of one allowed folder, or bytes.

A request comes from anybody who reaches the server, so it may neither read any other file nor make the server fetch an
address. FFmpeg is given an open file and no protocol (`vlmvid.video.containers`), so a playlist leads nowhere either.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from vlmvid.artifacts.files import scratch_folder
from vlmvid.errors import ConfigError, DecodeError
from vlmvid.video.paths import is_inside, local_path, printable

ROOT_VARIABLE = "VLMVID_SERVING_ROOT"
MAX_VIDEO_BYTES = 64 << 20  # of one video in a request; longer ones belong into the folder
MAX_REQUEST_BYTES = 256 << 20  # of all videos of a request, which lie in the temporary folder at once
MAX_ROWS = 1024  # of a request, whatever they hold


@contextmanager
def local_videos(videos: Sequence[str | None], data: Sequence[str | None]) -> Iterator[list[str]]:
    """The videos of rows as local files, for the time of the block; bytes lie in a folder that goes with it.

    Args:
        videos: of each row a path or ``file:`` address below the folder of VLMVID_SERVING_ROOT, or None.
        data: of each row the video's bytes as base64, or None.

    Raises:
        ConfigError: a row has both or neither, a video outside of the folder, bytes that are no base64 or too many, in
            a row or in all of them; too many rows.
    """
    require_few_rows(len(videos))
    _require_few_bytes(data)
    with scratch_folder() as scratch:
        found = []
        for row, (video, text) in enumerate(zip(videos, data, strict=True)):
            if (video is None) == (text is None):
                raise ConfigError(f"row {row} must have either 'video' or 'video_base64'")
            if video is not None:
                found.append(_below_root(video, row))
            elif text is not None:
                place = scratch / f"row-{row}"
                place.write_bytes(_decoded(text, row))
                found.append(str(place))
        yield found


def require_few_rows(count: int) -> None:
    """Raise ConfigError for more rows than a request may have."""
    if count > MAX_ROWS:
        raise ConfigError(f"the request has {count} rows, and at most {MAX_ROWS} are answered; send several requests")


def _require_few_bytes(data: Sequence[str | None]) -> None:
    """Look at lengths alone, before anything is decoded or written."""
    sizes = {row: _decoded_size(text) for row, text in enumerate(data) if text is not None}
    for row, size in sizes.items():
        if size > MAX_VIDEO_BYTES:
            raise ConfigError(
                f"row {row}: 'video_base64' has more than {MAX_VIDEO_BYTES >> 20} MiB; put the file into the server's "
                "folder and name it as 'video'"
            )
    total = sum(sizes.values())
    if total > MAX_REQUEST_BYTES:
        raise ConfigError(
            f"the videos of the request have {total} bytes in all, and at most {MAX_REQUEST_BYTES} "
            f"({MAX_REQUEST_BYTES >> 20} MiB) are taken; send several requests, or put the files into the server's "
            "folder and name them as 'video'"
        )


def _decoded_size(text: str) -> int:
    return len(text) // 4 * 3 - text[-2:].count("=")


def _below_root(video: str, row: int) -> str:
    root = os.environ.get(ROOT_VARIABLE)
    if not root:
        raise ConfigError(
            f"row {row}: this server reads no files, because {ROOT_VARIABLE} is not set; send the bytes as "
            "'video_base64', or start the server with the folder of its videos"
        )
    refused = ConfigError(f"row {row}: {printable(video)} is not below the folder of videos that this server may read")
    try:
        path = local_path(video, root)
        inside = "\0" not in path and is_inside(path, root)
    except (DecodeError, OSError, ValueError) as error:
        raise refused from error
    if not inside:
        raise refused
    return os.path.realpath(path)


def _decoded(text: str, row: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"row {row}: 'video_base64' is no base64: {error}") from error
