"""The packet index of a file, kept between openings under the digest of its content."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from vlmvid.artifacts.files import write_bytes
from vlmvid.video.gop.packet_index import PacketIndex

_FORMAT = 1
_SPOILED = (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error)
_ARRAYS = ("pts", "positions", "key_pts", "key_positions", "packet_sizes", "unreferenced", "corrupt")
_EQUALLY_LONG = (("pts", "positions"), ("key_pts", "key_positions"), ("packet_sizes", "unreferenced"))
_VALUES = ("end_pts", "counted", "keys_refresh", "is_truncated", "has_orientation_message")


def save_index(path: str, index: PacketIndex, *, file: os.stat_result, stream_index: int) -> None:
    """Write the index atomically; a disk that refuses it costs the next opening its speed, nothing else.

    `file` is the media file as it was when the index was read; it and `stream_index` are what
    `load_index` compares. Raises OSError.
    """
    about = {
        **_subject(file, stream_index),
        "time_base": [index.time_base.numerator, index.time_base.denominator],
        **{name: getattr(index, name) for name in _VALUES},
    }
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: getattr(index, name) for name in _ARRAYS}
    np.savez(buffer, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
    write_bytes(Path(path), buffer.getvalue())


def load_index(path: str, *, file: os.stat_result, stream_index: int) -> PacketIndex | None:
    """The index kept at `path`; None when there is none, or none of this very file, stream and FFmpeg.

    The digest in the name says what the file held when it was hashed. Size, times and inode say that it
    is still the file whose packets were read: one that was replaced in between gave another index.
    """
    try:
        with open(path, "rb") as kept, np.load(kept, allow_pickle=False) as stored:
            about = json.loads(stored["about"].tobytes())
            arrays = {name: stored[name] for name in _ARRAYS}
    except _SPOILED:
        return None  # not there, or not whole: it is made again
    if any(about.get(name) != value for name, value in _subject(file, stream_index).items()):
        return None
    sizes = {name: array.size for name, array in arrays.items()}
    if any(sizes[a] != sizes[b] for a, b in _EQUALLY_LONG):
        return None
    values = {name: about[name] for name in _VALUES}
    return PacketIndex(time_base=Fraction(*about["time_base"]), **arrays, **values)


def _subject(file: os.stat_result, stream_index: int) -> dict[str, Any]:
    """What the index is of, and what wrote it: another demuxer or decoder may see other packets and frames."""
    return {
        "file": [file.st_size, file.st_mtime_ns, file.st_ctime_ns, file.st_ino],
        "stream_index": stream_index,
        "format": _FORMAT,
        "libraries": {name: list(version) for name, version in sorted(av.library_versions.items())},
    }
