"""What a packet says of references between frames, read from its first bytes.

Two questions decide what may be left undecoded: does any other picture refer to this one, and is
this keyframe a clean start. H.264 (ITU-T H.264, 7.3.1 and 7.4.1) and HEVC (ITU-T H.265, 7.3.1.2 and
7.4.2.2) answer both in the headers of their units; other codecs are asked neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from av.packet import Packet
from av.video.stream import VideoStream

_START_CODE = b"\x00\x00\x01"
_ORIENTATION_PAYLOAD = 47


@dataclass(frozen=True, slots=True)
class PacketReferences:
    """What one packet says.

    Attributes:
        disposable_layer: -1 when some picture may refer to the one in the packet; else its temporal
            layer: none refers to it if no picture of the stream stands in a higher layer.
        is_refresh: True when no later picture refers to one before it (IDR, BLA).
    """

    disposable_layer: int
    is_refresh: bool


_UNKNOWN = PacketReferences(-1, False)
_REFRESH = PacketReferences(-1, True)
_DISPOSABLE = PacketReferences(0, False)


class ReferenceReader:
    """Reads `PacketReferences` of one stream's packets."""

    def __init__(self, codec: str, length_size: int) -> None:
        self._codec = codec
        self._length_size = length_size

    @classmethod
    def of(cls, stream: VideoStream) -> ReferenceReader | None:
        """The reader for `stream`; None for a codec that does not say."""
        codec = stream.codec_context.name
        if codec not in ("h264", "hevc"):
            return None
        extradata = stream.codec_context.extradata or b""
        # avcC and hvcC (ISO/IEC 14496-15) begin with a version of 1, units of a raw stream with zeros.
        if not extradata or extradata[0] != 1:
            return cls(codec, 0)
        where = 4 if codec == "h264" else 21
        return cls(codec, (extradata[where] & 3) + 1) if len(extradata) > where else None

    def read(self, packet: Packet[VideoStream]) -> PacketReferences:
        """What `packet` says; a packet whose units cannot be followed is referred to and no refresh."""
        return _of_h264(self._units(packet)) if self._codec == "h264" else _of_hevc(self._units(packet))

    def has_orientation_message(self, packet: Packet[VideoStream]) -> bool:
        """True when the packet carries a display orientation message (SEI payload 47)."""
        kind_of, message, header = (_h264_kind, 6, 1) if self._codec == "h264" else (_hevc_kind, 39, 2)
        messages = (unit[header:] for unit in self._units(packet) if len(unit) > header and kind_of(unit) == message)
        return any(_ORIENTATION_PAYLOAD in _payload_types(data) for data in messages)

    def _units(self, packet: Packet[VideoStream]) -> Iterator[memoryview]:
        data = memoryview(packet)
        return self._sized_units(data) if self._length_size else _raw_units(data)

    def _sized_units(self, data: memoryview) -> Iterator[memoryview]:
        """Every unit; an empty one where the lengths do not add up."""
        size = self._length_size
        offset = 0
        while offset < len(data):
            start = offset + size
            offset = start + int.from_bytes(data[offset:start], "big")
            if offset > len(data) or offset == start:
                yield data[:0]
                return
            yield data[start:offset]


def _raw_units(data: memoryview) -> Iterator[memoryview]:
    """Every unit behind a start code (Annex B)."""
    copy = bytes(data)
    found = copy.find(_START_CODE)
    while found >= 0:
        after = copy.find(_START_CODE, found + 3)
        yield data[found + 3 : after if after >= 0 else len(copy)]
        found = after


def _payload_types(data: memoryview) -> Iterator[int]:
    """The types of the payloads in a message unit (ITU-T H.264, 7.3.2.3.1)."""
    offset = 0
    while offset + 2 < len(data):  # the last byte holds the trailing bits
        numbers = []
        for _ in range(2):
            value = 0
            while offset < len(data) and data[offset] == 0xFF:
                value, offset = value + 0xFF, offset + 1
            numbers.append(value + (data[offset] if offset < len(data) else 0))
            offset += 1
        yield numbers[0]
        offset += numbers[1]


def _h264_kind(unit: memoryview) -> int:
    return unit[0] & 0x1F


def _hevc_kind(unit: memoryview) -> int:
    return unit[0] >> 1 & 0x3F


def _of_h264(units: Iterator[memoryview]) -> PacketReferences:
    first = 0
    for unit in units:
        if not unit:
            return _UNKNOWN
        header = unit[0]
        kind = header & 0x1F
        if 1 <= kind <= 5:  # slices
            first = first or kind
            if header & 0x60:  # nal_ref_idc; both fields of a picture must be without
                return _REFRESH if first == 5 else _UNKNOWN
    return _DISPOSABLE if first else _UNKNOWN


def _of_hevc(units: Iterator[memoryview]) -> PacketReferences:
    layer = -1
    for unit in units:
        if len(unit) < 2:
            return _UNKNOWN
        kind, nuh_layer = _hevc_kind(unit), (unit[0] & 1) << 5 | unit[1] >> 3
        if kind > 31:  # parameter sets, messages
            continue
        if nuh_layer:  # a second view or a scalable layer refers across layers
            return _UNKNOWN
        if kind > 14 or kind % 2:  # even kinds below 16 are "sub-layer non-reference"
            return PacketReferences(-1, 16 <= kind <= 20)
        layer = (unit[1] & 7) - 1
    return PacketReferences(layer, False)
