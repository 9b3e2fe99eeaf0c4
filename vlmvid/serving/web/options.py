"""What the web service allows, and how much it keeps."""

from __future__ import annotations

import os

from pydantic import Field

from vlmvid.config.base import Config

MAX_QUERY_CHARACTERS = 1000
MAX_TOP_K = 100
MAX_FILTERS = 20
MAX_FILTER_CHARACTERS = 500
MAX_BODY_BYTES = 64 << 10
"""Of every request but an upload."""


class ServeOptions(Config):
    """Limits of one server.

    Attributes:
        max_upload_bytes: of one uploaded video.
        max_uploads: so many are kept; the oldest goes for a new one.
        upload_seconds: an upload that nobody asked for during this time goes.
        max_receiving: so many uploads may be on their way, or looked at, at a time.
        idle_seconds: an upload of which nothing came for so long is given up.
        grace_seconds: an upload may be as slow as it likes for so long.
        least_bytes_a_second: after that time an upload is given up when less has come than this would have brought.
        max_waiting_searches: further ones are told to come back.
        max_waiting_words: captions, answers and uploads that may wait for the model.
        max_waiting_pictures: thumbnails that may wait for a decoder.
        decode_workers: processes that open videos.
        decode_seconds: what opening one may take.
        decode_bytes: the memory that a worker may take for it.
        max_frame_pixels: videos with larger frames are refused; the default is 8k UHD.
        thumbnail_side: the longer side in pixels.
        thumbnail_bytes: the memory for thumbnails that were made before.
        hosts: the names by which the server may be addressed; empty: any. It keeps pages of other sites from
            reading a server of this machine under a name of theirs that leads here.
    """

    max_upload_bytes: int = Field(default=64 << 20, ge=1)
    max_uploads: int = Field(default=16, ge=1)
    upload_seconds: float = Field(default=3600.0, gt=0)
    max_receiving: int = Field(default=4, ge=1)
    idle_seconds: float = Field(default=30.0, gt=0)
    grace_seconds: float = Field(default=30.0, ge=0)
    least_bytes_a_second: int = Field(default=64_000, ge=1)
    max_waiting_searches: int = Field(default=256, ge=1)
    max_waiting_words: int = Field(default=16, ge=1)
    max_waiting_pictures: int = Field(default=256, ge=1)
    decode_workers: int = Field(default_factory=lambda: max(2, min(4, os.cpu_count() or 1)), ge=1)
    decode_seconds: float = Field(default=20.0, gt=0)
    decode_bytes: int = Field(default=1 << 30, ge=1 << 20)
    max_frame_pixels: int = Field(default=7680 * 4320, ge=1)
    thumbnail_side: int = Field(default=320, ge=16, le=1024)
    thumbnail_bytes: int = Field(default=64 << 20, ge=0)
    hosts: tuple[str, ...] = ()
