"""Finding and replacing boxes of small MP4 files (ISO/IEC 14496-12)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_HEADER = 8


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each box, header included, that lies side by side in data[start:end]."""
    end = len(data) if end is None else end
    while start + _HEADER <= end:
        size = int.from_bytes(data[start : start + 4], "big")
        yield data[start + 4 : start + 8].decode("latin1"), start, size
        start += size


def path_to(data: bytes, path: str) -> list[tuple[int, int]]:
    """Offset and size of every box on a path like ``moov/trak/mdia``, the outermost first; KeyError when absent."""
    found: list[tuple[int, int]] = []
    start, end = 0, len(data)
    for name in path.split("/"):
        match = next(((offset, size) for kind, offset, size in boxes(data, start, end) if kind == name), None)
        if match is None:
            raise KeyError(f"no box {name!r} of {path!r}")
        found.append(match)
        start, end = match[0] + _HEADER, match[0] + match[1]
    return found


def payload(data: bytes, path: str) -> bytes:
    """What the first box on `path` holds."""
    offset, size = path_to(data, path)[-1]
    return data[offset + _HEADER : offset + size]


def replace(data: bytes, path: str, content: bytes | None) -> bytes:
    """`data` with other content in the box on `path`, added as the last child where there is none; None removes it.

    The index must stand behind the media data, whose place must not change.
    """
    names = [name for name, _, _ in boxes(data)]
    if names.index("moov") < names.index("mdat"):
        raise ValueError("boxes can be replaced only where moov stands behind mdat")
    parent, _, name = path.rpartition("/")
    try:
        *parents, (offset, size) = path_to(data, path)
    except KeyError:
        parents = path_to(data, parent)
        offset, size = sum(parents[-1]), 0
    new = b"" if content is None else struct.pack(">I4s", _HEADER + len(content), name.encode("latin1")) + content
    grown = bytearray(data[:offset] + new + data[offset + size :])
    for place, old in parents:
        grown[place : place + 4] = struct.pack(">I", old + len(new) - size)
    return bytes(grown)


STBL = "moov/trak/mdia/minf/stbl"


def edit_list(*edits: tuple[int, int]) -> bytes:
    """An ``elst`` of (duration in movie ticks, media time in media ticks; -1 shows nothing)."""
    entries = b"".join(struct.pack(">IiHH", duration, media_time, 1, 0) for duration, media_time in edits)
    return struct.pack(">II", 0, len(edits)) + entries


def run_lengths(*runs: tuple[int, int], version: int = 0) -> bytes:
    """An ``stts`` or ``ctts`` table of (count, value)."""
    return struct.pack(">BBHI", version, 0, 0, len(runs)) + b"".join(struct.pack(">Ii", *run) for run in runs)
