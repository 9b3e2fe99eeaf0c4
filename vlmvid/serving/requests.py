"""Videos as a request to a served model names them: files of one allowed folder, or bytes.

A request comes from anybody who reaches the server, so it may neither read any other file nor make the server fetch an
address. FFmpeg is given an open file and no protocol (`vlmvid.video.containers`), so a playlist leads nowhere either.
"""

from __future__ import annotations

import base64
import binascii
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vlmvid.errors import ConfigError, DecodeError
from vlmvid.video.paths import is_inside, local_path, printable

ROOT_VARIABLE = "VLMVID_SERVING_ROOT"
MAX_VIDEO_BYTES = 64 << 20  # of one video in a request; longer ones belong into the folder


@contextmanager
def local_videos(videos: Sequence[str | None], data: Sequence[str | None]) -> Iterator[list[str]]:
    """The videos of rows as local files, for the time of the block; bytes lie in a folder that goes with it.

    Args:
        videos: of each row a path or ``file:`` address below the folder of VLMVID_SERVING_ROOT, or None.
        data: of each row the video's bytes as base64, or None.

    Raises:
        ConfigError: a row has both or neither, a video outside of the folder, bytes that are no base64 or too many.
    """
    with tempfile.TemporaryDirectory(prefix="vlmvid-request-") as scratch:
        found = []
        for row, (video, text) in enumerate(zip(videos, data, strict=True)):
            if (video is None) == (text is None):
                raise ConfigError(f"row {row} must have either 'video' or 'video_base64'")
            if video is not None:
                found.append(_below_root(video, row))
            elif text is not None:
                place = Path(scratch) / f"row-{row}"
                place.write_bytes(_decoded(text, row))
                found.append(str(place))
        yield found


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
    if len(text) > MAX_VIDEO_BYTES * 4 // 3 + 4:
        raise ConfigError(
            f"row {row}: 'video_base64' has more than {MAX_VIDEO_BYTES >> 20} MiB; put the file into the server's "
            "folder and name it as 'video'"
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"row {row}: 'video_base64' is no base64: {error}") from error
