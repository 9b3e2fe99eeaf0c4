"""What happens to files: they are cut off, holed, patched, glued together, and their headers lie."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

from tests.zoo.makers import copy_packet, remux


def cut(source: Path, path: Path, share: float) -> None:
    """The first `share` of the bytes."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def holed(source: Path, path: Path, *, start: float, share: float, fill: bool) -> None:
    """A part of the bytes is zero (`fill`), or missing."""
    data = source.read_bytes()
    first, last = int(len(data) * start), int(len(data) * (start + share))
    path.write_bytes(data[:first] + (bytes(last - first) if fill else b"") + data[last:])


def flipped(source: Path, path: Path, bits: Sequence[int]) -> None:
    """Copy with these bits flipped, counted from the start of the file."""
    data = bytearray(source.read_bytes())
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def without_packet(source: Path, path: Path, place: int) -> None:
    """Copy without the packet at `place` in decode order; times stay."""
    remux(source, path, lambda number, packet: () if number == place else (packet,))


def noise_in_packet(source: Path, path: Path, place: int, *, start: float = 0.5, share: float = 0.1) -> None:
    """Copy of a file that stores packets in one piece, with noise in a part of the packet at `place`."""
    with av.open(str(source)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][place]
        content = bytes(packet)
    data = source.read_bytes()
    position = data.index(content)
    first, last = position + int(len(content) * start), position + int(len(content) * (start + share)) + 1
    noise = np.random.default_rng(place).bytes(last - first)
    path.write_bytes(data[:first] + noise + data[last:])


def emptied_packet(source: Path, path: Path, place: int, num_bytes: int) -> None:
    """Copy whose packet at `place` holds only its first `num_bytes` bytes."""

    def shorten(number: int, packet: av.Packet) -> Sequence[av.Packet]:
        return (copy_packet(packet, bytes(packet)[:num_bytes]),) if number == place else (packet,)

    remux(source, path, shorten)


def patched(source: Path, path: Path, old: bytes, new: bytes, *, count: int = -1) -> None:
    """Copy with `old` replaced by `new`, which must be of the same length and there."""
    data = source.read_bytes()
    if len(old) != len(new) or old not in data:
        raise ValueError(f"{source} does not hold {old!r}, or the lengths differ")
    path.write_bytes(data.replace(old, new, count))


def glued(path: Path, *parts: Path) -> None:
    """The bytes of several files one after the other."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))


def joined(path: Path, *parts: Path) -> None:
    """The packets of several files in one stream, described by the first."""
    with av.open(str(path), "w") as container:
        stream = None
        for part in parts:
            with av.open(str(part)) as source:
                stream = stream or container.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.stream = stream
                        container.mux(packet)


class Bits:
    """Writes the bit strings of H.264 headers (ITU-T H.264, 7.2 and 9.1)."""

    def __init__(self) -> None:
        self._text = ""

    def fixed(self, value: int, num_bits: int) -> Bits:
        """`value` in `num_bits` bits."""
        self._text += format(value, f"0{num_bits}b")
        return self

    def golomb(self, *values: int) -> Bits:
        """Unsigned Exp-Golomb codes."""
        for value in values:
            digits = format(value + 1, "b")
            self._text += "0" * (len(digits) - 1) + digits
        return self

    def to_bytes(self) -> bytes:
        """The bits, a stop bit, and zeros to the next byte."""
        text = self._text + "1"
        text += "0" * (-len(text) % 8)
        return int(text, 2).to_bytes(len(text) // 8, "big")


def parameter_sets(width: int, height: int) -> tuple[bytes, bytes]:
    """An H.264 baseline sequence and picture parameter set for pictures of that size, in 16 pixel steps."""
    sequence = Bits().fixed(66, 8).fixed(0xC0, 8).fixed(62, 8).golomb(0, 0, 2, 1).fixed(0, 1)
    sequence.golomb(width // 16 - 1, height // 16 - 1).fixed(0b1000, 4)
    picture = Bits().golomb(0, 0).fixed(0, 2).golomb(0, 0, 0).fixed(0, 3).golomb(0, 0, 0).fixed(0, 3)
    return b"\x67" + sequence.to_bytes(), b"\x68" + picture.to_bytes()


def giant_idr_slice() -> bytes:
    """The start of an IDR slice for `parameter_sets`; its picture data are missing."""
    header = Bits().golomb(0, 7, 0).fixed(0, 4).golomb(0).fixed(0, 2).golomb(0)
    return b"\x65" + header.to_bytes() + bytes(64)


def annexb(*units: bytes) -> bytes:
    """Units with start codes, as bare streams hold them."""
    return b"".join(struct.pack(">I", 1) + unit for unit in units)
