"""The broken members of the zoo: damaged, lying, cut off, or no video at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from tests.zoo import damage, mp4
from tests.zoo.lies import (
    avi_counts,
    avi_of_12k,
    claims_size,
    endless,
    flv_duration,
    h264_above_the_limit,
    hundred_more,
    jpeg_of_16k,
    matroska_duration,
    no_samples,
    png_of_30k,
    table,
    vp8_of_16k,
)
from tests.zoo.makers import Track, codes, remux, write, write_sound
from tests.zoo.tracks import COPY_TIMES, JPEG, VP9, free, h264, sized

Find = Callable[[str], Path]
"""Gives the path of a sound member by its name."""


@dataclass(frozen=True)
class Broken:
    """A member that is damaged or no video.

    Attributes:
        name: file name.
        kind: its row in docs/decode.md.
        make: writes it, from sound members where it needs them.
        reason: the reason code of PyAV when the file does not open; None when it opens.
        source: the sound member whose frames it still holds.
        at_least: how many frames PyAV gives at the least.
        unnoticed: picture data were hit in a way that decoders cannot always notice, so that pictures may
            be wrong; their numbers and times, where they can be read, are not.
        moved: frames are gone, or times changed, so that an index is not the drawn number.
        retimed: the file's times are not those drawn.
    """

    name: str
    kind: str
    make: Callable[[Find, Path], object]
    reason: str | None = None
    source: str = ""
    at_least: int = 0
    unnoticed: bool = False
    moved: bool = False
    retimed: bool = False


def content(data: bytes) -> Callable[[Find, Path], object]:
    return lambda _, path: path.write_bytes(data)


def cut(source: str, share: float) -> Callable[[Find, Path], object]:
    return lambda find, path: damage.cut(find(source), path, share)


def hole(source: str, *, fill: bool) -> Callable[[Find, Path], object]:
    return lambda find, path: damage.holed(find(source), path, start=0.4, share=0.06, fill=fill)


def shorten(source: str, place: int) -> Callable[[Find, Path], object]:
    return lambda find, path: damage.emptied_packet(find(source), path, place, 40)


def noise(source: str, place: int) -> Callable[[Find, Path], object]:
    return lambda find, path: damage.noise_in_packet(find(source), path, place)


def lost(source: str, place: int) -> Callable[[Find, Path], object]:
    return lambda find, path: damage.without_packet(find(source), path, place)


def edit_boxes(edit: Callable[[bytes], bytes], source: str = "h264.mp4") -> Callable[[Find, Path], object]:
    return lambda find, path: path.write_bytes(edit(find(source).read_bytes()))


def edit_packets(source: str, edit: Callable[[int, av.Packet], Sequence[av.Packet]]) -> Callable[[Find, Path], object]:
    return lambda find, path: remux(find(source), path, edit)


def glue(*sources: str) -> Callable[[Find, Path], object]:
    return lambda find, path: damage.glued(path, *(find(source) for source in sources))


def bomb(_: Find, path: Path) -> None:
    h264_above_the_limit(path)


def join_new(source: str, track: Track) -> Callable[[Find, Path], object]:
    """A sound member with the packets of another track behind its own."""

    def make(find: Find, path: Path) -> None:
        part = write(path.with_name(f"part_{path.name}"), track)
        damage.joined(path, find(source), part)
        part.unlink()

    return make


def glue_new(source: str, track: Track, **options: str) -> Callable[[Find, Path], object]:
    """A sound member with a new part behind it, byte by byte."""

    def make(find: Find, path: Path) -> None:
        part = write(path.with_name(f"part_{path.name}"), track, container_options=options)
        damage.glued(path, find(source), part)
        part.unlink()

    return make


def audio_with_cover(path: Path) -> None:
    """A song with a cover picture, which is stored as a video stream of one picture."""
    cover = Track(
        codes=codes(1), codec="mjpeg", codec_options=JPEG, pix_fmt="yuvj420p", disposition=Disposition.attached_pic
    )
    write(path, cover, with_audio=True)


def fragments_without_media(find: Find, path: Path) -> None:
    """A fragmented MP4 that ends after its header."""
    data = find("fragments.mp4").read_bytes()
    path.write_bytes(data[: next(offset for name, offset, _ in mp4.boxes(data) if name == "moof")])


def same_times(number: int, packet: av.Packet) -> Sequence[av.Packet]:
    """Frames 20 and 21 bear the same time."""
    if number == 21:
        packet.pts = packet.dts = packet.pts - packet.duration
    return (packet,)


_NOISE = np.random.default_rng(0).bytes(60_000)
_LARGER = replace(h264(codes(24, first=48, start_ms=1400 + 1920)), height=96, width=128)

BROKEN: tuple[Broken, ...] = (
    Broken("empty.mp4", "empty file", content(b""), "empty_file"),
    Broken("folder.mp4", "folder", lambda _, path: path.mkdir(), "not_a_file"),
    Broken("text.mp4", "text, noise or zeros under a video's name", content(b"this is no video\n" * 40), "unreadable"),
    Broken("noise.mp4", "text, noise or zeros under a video's name", content(_NOISE), "unreadable"),
    Broken("noise.ts", "text, noise or zeros under a video's name", content(_NOISE), "unreadable"),
    Broken("noise.mkv", "text, noise or zeros under a video's name", content(b"\x1aE\xdf\xa3" + _NOISE), "unreadable"),
    Broken(
        "noise.flv", "text, noise or zeros under a video's name", content(b"FLV\1\1\0\0\0\t" + _NOISE), "unreadable"
    ),
    Broken("zeros.ts", "text, noise or zeros under a video's name", content(bytes(60_000)), "unreadable"),
    Broken("sound.mp4", "no video stream", lambda _, path: write_sound(path), "no_video_stream"),
    Broken("sound.mkv", "no video stream", lambda _, path: write_sound(path), "no_video_stream"),
    Broken(
        "song.mp4", "no video stream but a cover picture", lambda _, path: audio_with_cover(path), "no_video_stream"
    ),
    Broken("no_samples.mp4", "no frames", edit_boxes(no_samples), "too_short"),
    Broken("no_fragments.mp4", "no frames", fragments_without_media, "too_short"),
    Broken("no_moov.mp4", "index missing (moov)", cut("h264.mp4", 0.8), "unreadable"),
    Broken("no_table.mp4", "index damaged", edit_boxes(table("stsz", None)), "too_short"),
    Broken("no_description.mp4", "index damaged", edit_boxes(table("stsd", None)), "unsupported"),
    *(
        Broken(f"cut_10_{source}", "cut off after 10 %", cut(source, 0.1), reason, source)
        for source, reason in (("moov_first.mp4", "unreadable"), ("h264.mkv", "truncated"), ("h264.ts", "unreadable"))
    ),
    *(
        Broken(f"cut_{percent}_{source}", f"cut off after {percent} %", cut(source, percent / 100), None, source, least)
        for percent, least in ((50, 16), (99, 44))
        for source in ("moov_first.mp4", "h264.mkv", "h264.ts", "fragments.mp4", "h264.flv", "vp9_hidden.webm")
    ),
    Broken("cut_50_hevc_open.mkv", "cut off after 50 %", cut("hevc_open.mkv", 0.5), None, "hevc_open.mkv", 12),
    Broken("cut_10_hevc_open.mkv", "cut off after 10 %", cut("hevc_open.mkv", 0.1), "unreadable", "hevc_open.mkv"),
    Broken("cut_10_mpeg2.mpg", "cut off after 10 %", cut("mpeg2.mpg", 0.1), None, "mpeg2.mpg", moved=True),
    Broken("cut_50_raw.h264", "cut off after 50 %", cut("raw.h264", 0.5), None, "raw.h264", 12),
    Broken("cut_50_mpeg4.avi", "cut off after 50 %", cut("mpeg4.avi", 0.5), "truncated", "mpeg4.avi"),
    *(
        Broken(f"hole_{source}", "zeros in the middle", hole(source, fill=True), None, source, 24, moved=moved)
        for source, moved in (("h264.mp4", False), ("fragments.mp4", False), ("h264.flv", True), ("h264.ts", True))
    ),
    Broken("hole_h264.mkv", "zeros in the middle", hole("h264.mkv", fill=True), None, "h264.mkv", 24, moved=True),
    Broken("hole_vp9.webm", "zeros in the middle", hole("vp9.webm", fill=True), None, "vp9.webm", 12),
    Broken("gap_h264.mp4", "bytes missing in the middle", hole("h264.mp4", fill=False), "unreadable"),
    *(
        Broken(f"gap_{source}", "bytes missing in the middle", hole(source, fill=False), None, source, 12, moved=True)
        for source in ("h264.mkv", "h264.ts", "h264.flv", "fragments.mp4", "mpeg2.mpg")
    ),
    Broken(
        "gap_mpeg4.avi",
        "bytes missing in the middle",
        hole("mpeg4.avi", fill=False),
        None,
        "mpeg4.avi",
        unnoticed=True,
        moved=True,
        retimed=True,
    ),
    *(
        Broken(f"short_{place}_{source}", "a shortened packet", shorten(source, place), None, source, 24)
        for place in (0, 15)
        for source in (
            "h264.mp4",
            "hevc.mp4",
            "mpeg4.mp4",
            "mpeg2.mkv",
            "mjpeg.avi",
            "ffv1.mkv",
        )
    ),
    # The bytes left are no picture: the next one gets its time.
    Broken(
        "short_0_h264.ts", "a shortened packet", shorten("h264.ts", 0), None, "h264.ts", 24, moved=True, retimed=True
    ),
    Broken("short_15_h264.ts", "a shortened packet", shorten("h264.ts", 15), None, "h264.ts", 24),
    # Frames are counted where the file has no times, so numbers are sure only up to the damage.
    Broken("short_0_b_frames.avi", "a shortened packet, no times", shorten("b_frames.avi", 0), "truncated"),
    Broken(
        "short_15_b_frames.avi", "a shortened packet, no times", shorten("b_frames.avi", 15), None, "b_frames.avi", 12
    ),
    *(
        Broken(f"short_15_{source}", "a shortened packet", shorten(source, 15), None, source, 24, unnoticed=True)
        for source in ("vp8.webm", "vp9.webm")
    ),
    *(
        Broken(f"noise_{source}", "noise within a picture", noise(source, 15), None, source, 24, unnoticed=True)
        for source in ("h264.mp4", "hevc.mp4", "vp8.webm", "vp9.webm", "av1.mp4", "mpeg4.avi", "mpeg2.mkv", "ffv1.mkv")
    ),
    *(
        Broken(f"lost_{source}", "a packet missing", lost(source, 25), None, source, 36, unnoticed=True, moved=True)
        for source in ("h264.mp4", "h264.mkv", "hevc.mp4", "vp8.webm", "vp9.webm", "mpeg2.mkv")
    ),
    Broken("more_samples.mp4", "header frame count too high", edit_boxes(hundred_more), None, "h264.mp4", 44),
    Broken(
        "more_times.mp4",
        "header frame count too high",
        edit_boxes(table("stts", mp4.run_lengths((2**31 - 1, 640)))),
        None,
        "h264.mp4",
        48,
    ),
    Broken(
        "more.avi", "header frame count too high", edit_boxes(avi_counts(100_000), "mjpeg.avi"), None, "mjpeg.avi", 48
    ),
    Broken("fewer.avi", "header frame count too low", edit_boxes(avi_counts(3), "mpeg4.avi"), None, "mpeg4.avi", 48),
    Broken(
        "fewer_times.mp4",
        "header frame count too low",
        edit_boxes(table("stts", mp4.run_lengths((10, 640)))),
        None,
        "h264.mp4",
        48,
    ),
    Broken("longer.mp4", "header duration too long", edit_boxes(endless), None, "h264.mp4", 48),
    Broken("longer.mkv", "header duration too long", edit_boxes(matroska_duration, "h264.mkv"), None, "h264.mkv", 48),
    Broken("longer.flv", "header duration too long", edit_boxes(flv_duration, "h264.flv"), None, "h264.flv", 48),
    Broken(
        "no_offsets.mp4",
        "presentation times missing",
        edit_boxes(table("ctts", None)),
        None,
        "h264.mp4",
        retimed=True,
        moved=True,
    ),
    Broken(
        "same_times.mkv",
        "presentation times missing",
        edit_packets("vp9.webm", same_times),
        None,
        "vp9.webm",
        48,
        retimed=True,
    ),
    Broken("claims_1x1.mp4", "header size 1 x 1 or 8k", edit_boxes(claims_size(1, 1)), None, "h264.mp4", 48),
    Broken("claims_8k.mp4", "header size 1 x 1 or 8k", edit_boxes(claims_size(7680, 4320)), None, "h264.mp4", 48),
    Broken("claims_65k.mp4", "header size 1 x 1 or 8k", edit_boxes(claims_size(65535, 65535)), None, "h264.mp4", 48),
    Broken("bomb.avi", "header of more pixels than the limit", edit_boxes(avi_of_12k, "ffv1.avi"), "frame_too_large"),
    Broken(
        "bomb.h264",
        "header of more pixels than the limit",
        lambda _, path: h264_above_the_limit(path),
        "frame_too_large",
    ),
    Broken("bomb_mjpeg.mkv", "header of more pixels than the limit", edit_packets("mjpeg.mkv", jpeg_of_16k(0)), None),
    Broken(
        "late_bomb_vp8.webm",
        "such pictures after sound ones",
        edit_packets("vp8.webm", vp8_of_16k),
        None,
        "vp8.webm",
        12,
    ),
    Broken(
        "late_bomb_mjpeg.mkv",
        "such pictures after sound ones",
        edit_packets("mjpeg.mkv", jpeg_of_16k(20)),
        None,
        "mjpeg.mkv",
        20,
    ),
    Broken(
        "late_bomb_png.mov",
        "such pictures after sound ones",
        edit_packets("png_alpha.mov", png_of_30k),
        None,
        "png_alpha.mov",
        20,
    ),
    Broken(
        "size_change.ts",
        "another picture size from the middle on",
        glue_new("h264.ts", _LARGER, **COPY_TIMES),
        None,
        at_least=60,
        moved=True,
    ),
    Broken(
        "size_change.webm",
        "another picture size from the middle on",
        join_new("vp9.webm", sized(free("libvpx-vp9", VP9, shown=codes(24, first=48, start_ms=1920)), 96, 128)),
        None,
        at_least=72,
    ),
    Broken(
        "size_change.h264",
        "another picture size from the middle on",
        glue_new("raw.h264", replace(_LARGER, codes=codes(24, first=48))),
        None,
        at_least=72,
        retimed=True,
    ),
    Broken(
        "restart.ts",
        "two files glued together",
        glue_new("h264.ts", h264(codes(first=48, start_ms=1400)), **COPY_TIMES),
        None,
        at_least=44,
    ),
    Broken(
        "two_segments.mkv",
        "two files glued together",
        glue_new("h264.mkv", h264(codes(first=48, start_ms=1920))),
        None,
        at_least=96,
    ),
    Broken("twice.mp4", "two files glued together", glue("h264.mp4", "h264.mp4"), None, "h264.mp4", 48),
)
