"""Whether a file ends before what its own index and headers declare."""

from __future__ import annotations

import os

from av.container import InputContainer
from av.video.stream import VideoStream

_SEGMENT_ID = bytes.fromhex("18538067")


def ends_too_early(container: InputContainer, stream: VideoStream, path: str) -> bool:
    """True when the file is shorter than its table of packets, or than its Matroska segment, says."""
    file_size = os.stat(path).st_size
    # MP4 and AVI list each packet with its place in the file; Matroska lists keyframes with size 0.
    if any(entry.pos + entry.size > file_size for entry in stream.index_entries):
        return True
    return "matroska" in container.format.name and _segment_end(path) > file_size


def ends_before_its_tag(stream: VideoStream, end_pts: int, ticks_per_frame: int) -> bool:
    """True when the frames end before the track's DURATION tag, which Matroska muxers write.

    The tag reads "HH:MM:SS.nnnnnnnnn". Matroska's frame times are rounded, hence a slack of two frames.
    """
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        declared = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return False
    return stream.time_base is not None and float((end_pts + 2 * ticks_per_frame) * stream.time_base) < declared


def _segment_end(path: str) -> int:
    """Where the segment of a Matroska file ends, in bytes; 0 when the file does not say (RFC 8794, RFC 9559)."""
    with open(path, "rb") as file:
        head = file.read(4096)
    header_size, start = _element_size(head, 4)
    start += header_size or 0
    if header_size is None or head[start : start + 4] != _SEGMENT_ID:
        return 0
    segment_size, start = _element_size(head, start + 4)
    return 0 if segment_size is None else start + segment_size


def _element_size(head: bytes, offset: int) -> tuple[int | None, int]:
    """An EBML size and where it ends; None for one that is unknown (all bits set) or not there."""
    first = head[offset] if offset < len(head) else 0
    length = 9 - first.bit_length()
    if length > 8:
        return None, offset
    value = int.from_bytes(head[offset : offset + length], "big") - (1 << 7 * length)
    return (None if value == (1 << 7 * length) - 1 else value), offset + length
