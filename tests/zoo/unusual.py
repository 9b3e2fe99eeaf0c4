"""How the unusual sound members are made: edit lists, mirrors, messages, hidden and packed frames, false tables."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.stream import Disposition
from numpy.typing import NDArray

from tests.zoo import mp4
from tests.zoo.codes import Code, draw
from tests.zoo.makers import FPS, NUM_FRAMES, X264, Track, codes, copy_packet, remux, write
from tests.zoo.tracks import CODES, COPY_TIMES, JPEG, LATE, MPEG, NEVER_SHOWN, VP8, Make, free, h264, tick


def cut_by_edit_list(path: Path) -> Sequence[Code]:
    """The muxer cuts off what lies before time 0 with an edit list: the first frame shown is inside a group."""
    unseen = codes(5, first=NEVER_SHOWN, start_ms=-200)
    write(path, h264([*unseen, *CODES]), container_options={"avoid_negative_ts": "disabled"})
    assert struct.unpack(">i", mp4.payload(path.read_bytes(), "moov/trak/edts/elst")[12:16])[0] > 0
    return CODES


def two_edits(path: Path) -> Sequence[Code]:
    """Two parts of the stream shown one after the other; what lies between and behind them is not shown."""
    first, last = CODES[:20], [Code(20 + i, 800 + 40 * i) for i in range(15)]
    hidden = codes(10, first=NEVER_SHOWN)
    encoded = [*first, *hidden, *last, *hidden[:3]]
    drawn = iter(encoded)
    # No B-frames: FFmpeg shifts a second part by the decoder's delay.
    track = Track(codes=codes(len(encoded)), codec_options=X264, picture=lambda _, *size: draw(next(drawn), *size))
    write(path, track)
    data = path.read_bytes()
    start = struct.unpack(">i", mp4.payload(data, "moov/trak/edts/elst")[12:16])[0]
    ticks = 40 * struct.unpack(">I", mp4.payload(data, "moov/trak/mdia/mdhd")[12:16])[0] // 1000
    edits = mp4.edit_list((800, start), (600, start + 30 * ticks))
    path.write_bytes(mp4.replace(data, "moov/trak/edts/elst", edits))
    return [*first, *last]


def before_zero(path: Path) -> Sequence[Code]:
    """Composition offsets of -200 ms on every frame, and no edit list to hide them."""
    shown = codes(start_ms=-200)
    write(path, replace(Track(codes=shown, codec_options=X264), shift_ms=-200), container_options={"use_editlist": "0"})
    data = path.read_bytes()
    timescale = struct.unpack(">I", mp4.payload(data, "moov/trak/mdia/mdhd")[12:16])[0]
    offsets = mp4.run_lengths((NUM_FRAMES, -timescale // 5), version=1)
    path.write_bytes(mp4.replace(data, f"{mp4.STBL}/ctts", offsets))
    return shown


def mirrored(path: Path) -> Sequence[Code]:
    """Stored with left and right exchanged, and a track matrix that says so."""

    def picture(code: Code, height: int, width: int) -> object:
        return draw(code, height, width)[:, ::-1]

    write(path, replace(h264(), picture=picture))
    data = path.read_bytes()
    header = mp4.payload(data, "moov/trak/tkhd")
    matrix = struct.pack(">9i", -(1 << 16), 0, 0, 0, 1 << 16, 0, 96 << 16, 0, 1 << 30)
    path.write_bytes(mp4.replace(data, "moov/trak/tkhd", header[:40] + matrix + header[76:]))
    return CODES


def without_sync_table(track: Track) -> Make:
    """MP4 without the table of keyframes: every frame counts as one."""

    def make(path: Path) -> Sequence[Code]:
        write(path, track)
        path.write_bytes(mp4.replace(path.read_bytes(), f"{mp4.STBL}/stss", None))
        return track.codes

    return make


def false_keys(track: Track) -> Make:
    """Every fifth packet is flagged as a keyframe, though most of them are none."""

    def flag(place: int, packet: av.Packet) -> Sequence[av.Packet]:
        packet.is_keyframe |= place % 5 == 4
        return (packet,)

    def make(path: Path) -> Sequence[Code]:
        remux(write(path.with_name(f"true_{path.name}"), track), path, flag)
        path.with_name(f"true_{path.name}").unlink()
        return track.codes

    return make


def with_hidden_packet(path: Path) -> Sequence[Code]:
    """VP8 whose second packet is never shown, as alternate reference frames are."""

    def double(place: int, packet: av.Packet) -> Sequence[av.Packet]:
        if place:
            return (packet,)
        hidden = copy_packet(packet, bytes([bytes(packet)[0] & ~0x10]) + bytes(packet)[1:])
        hidden.pts = hidden.dts = packet.pts + 20
        return packet, hidden

    source = path.with_name(f"source_{path.name}")
    remux(write(source, free("libvpx", VP8)), path, double)
    source.unlink()
    return CODES


def with_cover(path: Path) -> Sequence[Code]:
    """A film with a poster, which is stored as a video stream of one picture."""
    cover = Track(
        codes=codes(1, first=NEVER_SHOWN),
        codec="mjpeg",
        codec_options=JPEG,
        pix_fmt="yuvj420p",
        height=128,
        width=192,
        disposition=Disposition.attached_pic,
    )
    write(path, cover, h264())
    return CODES


def turned_by_message(path: Path) -> Sequence[Code]:
    """Stored upside down; only a message within the stream says so, and only the first frame gets to see it."""

    def picture(code: Code, height: int, width: int) -> NDArray[np.uint8]:
        return draw(code, height, width)[::-1, ::-1]

    source = path.with_name(f"source_{path.name}.ts")
    write(source, replace(h264(LATE, bf="0"), picture=picture), container_options=COPY_TIMES)
    with av.open(str(source)) as shown, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(shown.streams.video[0])
        insert = BitStreamFilterContext("h264_metadata=display_orientation=insert:rotate=180", shown.streams.video[0])
        for packet in shown.demux(video=0):
            for changed in insert.filter(packet if packet.size else None):
                changed.stream = stream
                container.mux(changed)
    source.unlink()
    return LATE


def packed(path: Path) -> Sequence[Code]:
    """DivX's way to put B-frames into AVI: a packet with a P- and a B-frame, then one with an empty placeholder."""
    shown = codes(NUM_FRAMES - 1)
    source = path.with_name(f"source_{path.name}")
    write(source, tick("mpeg4", {**MPEG, "bf": "1", "sc_threshold": "1000000000"}, shown=shown))
    with av.open(str(source)) as container:
        frames = [bytes(packet) for packet in container.demux(video=0) if packet.size]

    def pack(place: int, packet: av.Packet) -> Sequence[av.Packet]:
        data = frames[place]
        if place == 0:
            start = data.index(b"\0\0\1\xb6")
            data = data[:start] + b"\0\0\1\xb2DivX503b1393p" + data[start:]
        elif place % 2:
            data = data + b"".join(frames[place + 1 : place + 2])
        else:  # a P-frame that is "not coded" (ISO/IEC 14496-2, 6.2.5): type, second, time, flag, stuffing
            data = b"\0\0\1\xb6" + int(f"01{0:01b}1{place % FPS:05b}10" + "01111", 2).to_bytes(2, "big")
        return (copy_packet(packet, data),)

    remux(source, path, pack)
    source.unlink()
    return shown
