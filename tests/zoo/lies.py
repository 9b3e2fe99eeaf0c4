"""Headers and tables that lie: edits of the bytes of a file, or of its packets."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import av

from tests.zoo import damage, mp4
from tests.zoo.makers import copy_packet


def table(name: str, new: bytes | None) -> Callable[[bytes], bytes]:
    return lambda data: mp4.replace(data, f"{mp4.STBL}/{name}", new)


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def hundred_more(data: bytes) -> bytes:
    """The index lists 100 frames more than the file holds, all in its one chunk."""
    sizes = mp4.payload(data, f"{mp4.STBL}/stsz")
    count = struct.unpack(">I", sizes[8:12])[0]
    data = table("stsz", sizes[:8] + words(count + 100) + sizes[12:] + words(*[300] * 100))(data)
    data = table("stsc", words(0, 1, 1, count + 100, 1))(data)
    return table("stts", mp4.run_lengths((count + 100, 640)))(data)


def endless(data: bytes) -> bytes:
    """Every header gives a duration of days."""
    for box, offset in (("moov/mvhd", 16), ("moov/trak/tkhd", 20), ("moov/trak/mdia/mdhd", 16)):
        old = mp4.payload(data, box)
        data = mp4.replace(data, box, old[:offset] + words(0x7FFFFFF0) + old[offset + 4 :])
    return data


def no_samples(data: bytes) -> bytes:
    for name in ("stsz", "stts", "stsc", "stco", "stss"):
        data = table(name, words(0, 0, 0)[: 12 if name == "stsz" else 8])(data)
    return table("ctts", None)(data)


def claims_size(width: int, height: int) -> Callable[[bytes], bytes]:
    """Track header and sample description give another size than the pictures have."""

    def edit(data: bytes) -> bytes:
        old = mp4.payload(data, f"{mp4.STBL}/stsd")
        data = table("stsd", old[:40] + struct.pack(">HH", width, height) + old[44:])(data)
        header = mp4.payload(data, "moov/trak/tkhd")
        return mp4.replace(data, "moov/trak/tkhd", header[:-8] + words(width << 16, height << 16))

    return edit


def avi_counts(count: int) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        changed = bytearray(data)
        for name, offset in ((b"avih", 16), (b"strh", 32)):
            place = data.index(name) + 8 + offset
            changed[place : place + 4] = struct.pack("<I", count)
        return bytes(changed)

    return edit


def matroska_duration(data: bytes) -> bytes:
    """The header says an hour, the tag nine hours."""
    place = data.index(b"\x44\x89\x88") + 3
    changed = data[:place] + struct.pack(">d", 3.6e6) + data[place + 8 :]
    return changed.replace(b"00:00:01.920", b"09:00:01.920")


def flv_duration(data: bytes) -> bytes:
    place = data.index(b"duration\0") + 9
    return data[:place] + struct.pack(">d", 36_000.0) + data[place + 8 :]


def vp8_of_16k(number: int, packet: av.Packet) -> Sequence[av.Packet]:
    """Keyframes after the first claim 16,383 x 16,383 pixels (RFC 6386, 9.1)."""
    if not packet.is_keyframe or number == 0:
        return (packet,)
    return (copy_packet(packet, bytes(packet)[:6] + struct.pack("<HH", 16383, 16383) + bytes(packet)[10:]),)


def jpeg_of_16k(first: int) -> Callable[[int, av.Packet], Sequence[av.Packet]]:
    """Pictures from `first` on claim 16,384 x 16,384 pixels (ITU-T T.81, B.2.2)."""

    def edit(number: int, packet: av.Packet) -> Sequence[av.Packet]:
        data = bytes(packet)
        place = data.index(b"\xff\xc0") + 5
        bomb = data[:place] + struct.pack(">HH", 16384, 16384) + data[place + 4 :]
        return (copy_packet(packet, bomb),) if number >= first else (packet,)

    return edit


def png_of_30k(number: int, packet: av.Packet) -> Sequence[av.Packet]:
    """Pictures from the 20th on claim 30,000 x 30,000 pixels, with a right checksum."""
    data = bytes(packet)
    place = data.index(b"IHDR")
    header = data[place : place + 4] + words(30_000, 30_000) + data[place + 12 : place + 17]
    bomb = data[:place] + header + words(zlib.crc32(header)) + data[place + 21 :]
    return (copy_packet(packet, bomb),) if number >= 20 else (packet,)


def h264_above_the_limit(path: Path) -> None:
    """A bare stream of 150 bytes whose parameter sets claim 8,208 x 8,192 pixels, just above the limit."""
    path.write_bytes(3 * damage.annexb(*damage.parameter_sets(8_208, 8_192), damage.giant_idr_slice()))


def avi_of_12k(data: bytes) -> bytes:
    """The AVI header, which alone knows the size of FFV1 pictures, claims 12,000 x 12,000 pixels."""
    place = data.index(b"strf") + 12
    return data[:place] + struct.pack("<II", 12_000, 12_000) + data[place + 8 :]
