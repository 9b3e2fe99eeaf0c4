"""The packet index of a file, kept between openings under the digest of its content."""

from __future__ import annotations

import io
import json
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from vlmvid.artifacts.files import write_bytes
from vlmvid.video.packet_index import PacketIndex

_FORMAT = 1
_ARRAYS = ("pts", "positions", "key_pts", "key_positions", "packet_sizes", "unreferenced", "corrupt")
_VALUES = ("end_pts", "counted", "keys_refresh", "is_truncated", "has_orientation_message")


def save_index(path: str, index: PacketIndex, *, file_size: int, stream_index: int) -> None:
    """Write the index atomically; a disk that refuses it costs the next opening its speed, nothing else.

    `file_size` (bytes) and `stream_index` are what `load_index` compares. Raises OSError.
    """
    about = {
        "file_size": file_size,
        "stream_index": stream_index,
        **_maker(),
        "time_base": [index.time_base.numerator, index.time_base.denominator],
        **{name: getattr(index, name) for name in _VALUES},
    }
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: getattr(index, name) for name in _ARRAYS}
    np.savez(buffer, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
    write_bytes(Path(path), buffer.getvalue())


def load_index(path: str, *, file_size: int, stream_index: int) -> PacketIndex | None:
    """The index kept at `path`; None when there is none, or none of this file, stream and FFmpeg."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            about = json.loads(stored["about"].tobytes())
            arrays = {name: stored[name] for name in _ARRAYS}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None  # not there, or not whole: it is made again
    expected = {"file_size": file_size, "stream_index": stream_index, **_maker()}
    if any(about.get(name) != value for name, value in expected.items()):
        return None
    values = {name: about[name] for name in _VALUES}
    return PacketIndex(time_base=Fraction(*about["time_base"]), **arrays, **values)


def _maker() -> dict[str, Any]:
    """What wrote the index: another demuxer may see other packets."""
    return {"format": _FORMAT, "libavformat": list(av.library_versions["libavformat"])}
