"""What an H.264 packet says of references between frames, read from its first bytes (ITU-T H.264, 7.3.1, 7.4.1)."""

from __future__ import annotations

from av.packet import Packet
from av.video.stream import VideoStream

_FIRST_SLICE_TYPE, _LAST_SLICE_TYPE = 1, 5


def nal_length_size(stream: VideoStream) -> int | None:
    """Bytes of the length before each unit, as MP4 and Matroska store H.264; None for any other stream."""
    if stream.codec_context.name != "h264":
        return None
    extradata = stream.codec_context.extradata
    if not extradata or len(extradata) < 5 or extradata[0] != 1:
        return None
    return (extradata[4] & 3) + 1


def is_unreferenced(packet: Packet[VideoStream], length_size: int) -> bool:
    """True when the picture in `packet` is coded as a reference for no other one.

    The decoder gives the same frames without such a packet, less the one in it. False where the
    packet's units cannot be followed, so that the decoder sees it and complains.
    """
    header = _first_slice_header(packet, length_size)
    return header is not None and header & 0xE0 == 0


def is_instant_refresh(packet: Packet[VideoStream], length_size: int) -> bool:
    """True when no later frame refers to one before this picture (an IDR picture).

    H.264 keyframes may be mere recovery points: right only some frames later, or followed by frames
    that refer to older ones.
    """
    header = _first_slice_header(packet, length_size)
    return header is not None and header & 0x1F == _LAST_SLICE_TYPE


def _first_slice_header(packet: Packet[VideoStream], length_size: int) -> int | None:
    data = memoryview(packet)
    offset = 0
    while offset + length_size < len(data):
        header = data[offset + length_size]
        if _FIRST_SLICE_TYPE <= header & 0x1F <= _LAST_SLICE_TYPE:
            return header
        offset += length_size + int.from_bytes(data[offset : offset + length_size], "big")
    return None
