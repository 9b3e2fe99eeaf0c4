"""The sound members of the zoo: unusual, but right, so that every frame has one true number and time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from av.stream import Disposition

from tests.zoo.makers import B_FRAMES, X264, Track, codes
from tests.zoo.tracks import (
    AV1,
    CLOSED,
    COPY_TIMES,
    JPEG,
    LATE,
    MPEG,
    MPEG_B,
    OPEN,
    VFR,
    VP8,
    VP8_HIDDEN,
    VP9,
    VP9_HIDDEN,
    Make,
    free,
    h264,
    hidden,
    plain,
    sized,
    tick,
)
from tests.zoo.unusual import (
    before_zero,
    cut_by_edit_list,
    false_keys,
    mirrored,
    packed,
    turned_by_message,
    two_edits,
    with_cover,
    with_hidden_packet,
    without_sync_table,
)


@dataclass(frozen=True)
class Sound:
    """A member that can be read.

    Attributes:
        name: file name.
        kind: its row in docs/decode.md.
        make: writes the file and returns what its frames say, in order of presentation.
        stream_index: the stream to read, None for the best one.
        has_times: False where the file stores a rate and no times, so that only differences are known.
    """

    name: str
    kind: str
    make: Make
    stream_index: int | None = None
    has_times: bool = True


_FIRST = replace(h264(), disposition=Disposition.default)
_SECOND = Track(codes=codes(first=1000, step_ms=20), codec_options=X264, height=128, width=96)
_MPG = replace(tick("mpeg2video", MPEG_B, shown=codes(start_ms=540)), shift_ms=540)
_X264_AVI = replace(tick("libx264", X264, shown=codes(start_ms=40)), shift_ms=40)
_HOUR = codes(step_ms=10_000)

SOUND: tuple[Sound, ...] = (
    Sound("h264.mp4", "H.264 in MP4, MOV or Matroska", plain(h264())),
    Sound("h264.mov", "H.264 in MP4, MOV or Matroska", plain(h264())),
    Sound("h264.mkv", "H.264 in MP4, MOV or Matroska", plain(h264())),
    Sound("moov_first.mp4", "H.264 in MP4, MOV or Matroska", plain(h264(), movflags="faststart")),
    Sound(
        "fragments.mp4", "H.264 in MP4, MOV or Matroska", plain(h264(), movflags="frag_keyframe+empty_moov+delay_moov")
    ),
    Sound("no_cues.mkv", "Matroska of unknown duration, without cues", plain(h264(), live="1")),
    Sound(
        "pyramid.mp4", "H.264 in MP4, MOV or Matroska", plain(h264(preset="fast", bf="7", b_pyramid="normal", refs="4"))
    ),
    Sound("slices.mp4", "H.264 in MP4, MOV or Matroska", plain(h264(**{"x264-params": "slices=4"}))),
    Sound("interlaced.mp4", "interlaced", plain(h264(**{"x264-params": "tff=1"}))),
    Sound("gop_1.mp4", "GOPs of 1 to 600 frames", plain(h264(g="1", keyint_min="1", bf="0"))),
    Sound("gop_2.mkv", "GOPs of 1 to 600 frames", plain(h264(g="2", keyint_min="2", bf="0"))),
    Sound("gop_48.mp4", "GOPs of 1 to 600 frames", plain(h264(g="250", keyint_min="250"))),
    Sound("gop_300.mp4", "GOPs of 1 to 600 frames", plain(h264(codes(320), g="300", keyint_min="300"))),
    Sound("gop_600.mkv", "GOPs of 1 to 600 frames", plain(h264(codes(650), g="600", keyint_min="600"))),
    Sound("open_gop.mp4", "open GOPs, intra refresh", plain(h264(**{"x264-params": "open-gop=1"}))),
    Sound("open_gop.mkv", "open GOPs, intra refresh", plain(h264(**{"x264-params": "open-gop=1"}))),
    Sound("intra_refresh.mp4", "open GOPs, intra refresh", plain(h264(bf="0", **{"x264-params": "intra-refresh=1"}))),
    Sound("h264.ts", "MPEG-TS", plain(h264(LATE), **COPY_TIMES)),
    Sound("open_gop.ts", "MPEG-TS", plain(h264(LATE, **{"x264-params": "open-gop=1"}), **COPY_TIMES)),
    Sound("hevc.ts", "MPEG-TS", plain(free("libx265", OPEN, shown=LATE), **COPY_TIMES)),
    Sound("mpeg2.ts", "MPEG-TS", plain(tick("mpeg2video", MPEG_B, shown=LATE), **COPY_TIMES)),
    Sound("h264.flv", "FLV", plain(h264(LATE))),
    Sound("flv1.flv", "FLV", plain(free("flv", MPEG))),
    Sound("h264.nut", "NUT", plain(h264(LATE))),
    Sound("h264.avi", "AVI", plain(_X264_AVI)),
    Sound("b_frames.avi", "AVI", plain(tick("libx264", B_FRAMES)), has_times=False),
    Sound("mpeg4.avi", "AVI", plain(tick("mpeg4", MPEG))),
    Sound("mpeg4_b.avi", "AVI", plain(tick("mpeg4", MPEG_B)), has_times=False),
    Sound("packed.avi", "AVI", packed, has_times=False),
    Sound("mjpeg.avi", "AVI", plain(tick("mjpeg", JPEG, "yuvj420p"))),
    Sound("ffv1.avi", "AVI", plain(tick("ffv1", {}))),
    Sound("huffyuv.avi", "AVI", plain(tick("huffyuv", {}, "yuv422p"))),
    Sound("raw.h264", "bare streams", plain(h264()), has_times=False),
    Sound("raw.hevc", "bare streams", plain(free("libx265", OPEN)), has_times=False),
    Sound("vp9.ivf", "bare streams", plain(free("libvpx-vp9", VP9_HIDDEN))),
    Sound("av1.obu", "bare streams", plain(free("libsvtav1", AV1)), has_times=False),
    Sound("raw.y4m", "bare streams", plain(tick("rawvideo", {}))),
    Sound("hevc.mp4", "HEVC", plain(free("libx265", CLOSED))),
    Sound("hevc.mkv", "HEVC", plain(free("libx265", CLOSED))),
    Sound("hevc_open.mp4", "open GOPs, intra refresh", plain(free("libx265", OPEN))),
    Sound("hevc_open.mkv", "open GOPs, intra refresh", plain(free("libx265", OPEN))),
    Sound("vp9.webm", "VP9", plain(free("libvpx-vp9", VP9))),
    Sound("vp9_hidden.webm", "VP9", plain(free("libvpx-vp9", VP9_HIDDEN))),
    Sound("vp9_hidden.mp4", "VP9", plain(free("libvpx-vp9", VP9_HIDDEN))),
    Sound("vp8.webm", "VP8", plain(free("libvpx", VP8))),
    Sound("vp8_hidden.webm", "VP8", plain(free("libvpx", VP8_HIDDEN))),
    Sound("vp8_hidden_packet.webm", "VP8 whose hidden frames have a time", with_hidden_packet),
    Sound("av1.mp4", "AV1", plain(free("libsvtav1", AV1))),
    Sound("av1.webm", "AV1", plain(free("libsvtav1", AV1))),
    Sound("mpeg4.mp4", "MPEG-4", plain(free("mpeg4", MPEG_B))),
    Sound("mpeg4.mkv", "MPEG-4", plain(free("mpeg4", MPEG_B))),
    Sound("mpeg2.mkv", "MPEG-1, MPEG-2", plain(tick("mpeg2video", MPEG_B))),
    Sound("mpeg2.mpg", "MPEG-1, MPEG-2", plain(_MPG)),
    Sound("mpeg1.mpg", "MPEG-1, MPEG-2", plain(replace(_MPG, codec="mpeg1video"))),
    Sound("mpeg2.mxf", "MPEG-1, MPEG-2", plain(tick("mpeg2video", MPEG))),
    Sound("mjpeg.mov", "MJPEG", plain(free("mjpeg", JPEG, "yuvj420p"))),
    Sound("mjpeg.mkv", "MJPEG", plain(free("mjpeg", JPEG, "yuvj420p"))),
    Sound("ffv1.mkv", "FFV1", plain(free("ffv1", {"g": "12"}))),
    Sound("prores.mov", "ProRes", plain(free("prores_ks", {}, "yuv422p10le"))),
    Sound("wmv2.asf", "WMV in ASF", plain(free("wmv2", MPEG))),
    Sound("animation.gif", "animated GIF, APNG", plain(replace(free("gif", {}, "rgb8"), time_base=Fraction(1, 100)))),
    Sound("animation.apng", "animated GIF, APNG", plain(free("apng", {}, "rgb24"))),
    Sound("prores_alpha.mov", "alpha", plain(hidden("prores_ks", {"profile": "4444"}, "yuva444p10le"))),
    Sound("png_alpha.mov", "alpha", plain(hidden("png", {}, "rgba"))),
    Sound("qtrle_alpha.mov", "alpha", plain(hidden("qtrle", {}, "argb"))),
    Sound("ffv1_alpha.mkv", "alpha", plain(hidden("ffv1", {}, "bgra"))),
    Sound("vp9_alpha.webm", "alpha", plain(hidden("libvpx-vp9", {**VP9, "auto-alt-ref": "0"}, "yuva420p"))),
    Sound("vp8_alpha.webm", "alpha", plain(hidden("libvpx", {**VP8, "auto-alt-ref": "0"}, "yuva420p"))),
    Sound("h264_10.mp4", "H.264 with 10 bits", plain(replace(h264(), pix_fmt="yuv420p10le"))),
    Sound("hevc_10.mp4", "HEVC", plain(free("libx265", CLOSED, "yuv420p10le"))),
    Sound("av1_10.mkv", "AV1", plain(free("libsvtav1", AV1, "yuv420p10le"))),
    Sound("odd_444.mp4", "odd sizes", plain(sized(h264(), 65, 97, "yuv444p"))),
    Sound("odd_cropped.mp4", "odd sizes", plain(sized(h264(), 66, 98))),
    Sound("odd_portrait.mkv", "odd sizes", plain(sized(h264(), 97, 65, "yuv444p"))),
    Sound("odd_vp9.webm", "odd sizes", plain(sized(free("libvpx-vp9", VP9), 65, 97))),
    Sound("odd_mpeg4.mp4", "MPEG-4", plain(sized(free("mpeg4", MPEG_B), 65, 97))),
    Sound("odd_mjpeg.mkv", "MJPEG", plain(sized(free("mjpeg", JPEG), 65, 97, "yuvj420p"))),
    Sound("vfr.mp4", "variable frame rate", plain(h264(VFR))),
    Sound("vfr.mkv", "variable frame rate", plain(h264(VFR))),
    Sound("vfr.webm", "variable frame rate", plain(free("libvpx-vp9", VP9_HIDDEN, shown=VFR))),
    Sound("sparse.mp4", "variable frame rate", plain(h264(_HOUR))),
    Sound("sparse.mkv", "variable frame rate", plain(h264(_HOUR))),
    Sound("late.mp4", "first frame before or after time 0", plain(h264(LATE))),
    Sound("late.mkv", "first frame before or after time 0", plain(h264(LATE))),
    Sound("before_zero.mp4", "first frame before or after time 0", before_zero),
    Sound("wraps.ts", "MPEG-TS", plain(h264(codes(start_ms=-200)), avoid_negative_ts="disabled", **COPY_TIMES)),
    Sound("edit_cut.mp4", "edit lists that cut", cut_by_edit_list),
    Sound("edit_two.mp4", "edit lists that cut", two_edits),
    *(
        Sound(
            f"turned_{turn}.{suffix}",
            f"rotated, {'Matroska' if suffix == 'mkv' else 'MP4 or MOV'}",
            plain(replace(h264(), rotation=turn)),
        )
        for turn, suffix in ((90, "mp4"), (180, "mov"), (270, "mp4"), (90, "mkv"))
    ),
    Sound("mirrored.mp4", "mirrored", mirrored),
    Sound("turned_by_message.mp4", "rotated by a message in the stream", turned_by_message),
    Sound("with_audio.mp4", "video beside audio", plain(h264(), with_audio=True)),
    Sound("with_audio.ts", "MPEG-TS", plain(h264(LATE), with_audio=True, **COPY_TIMES)),
    Sound("with_cover.mkv", "video beside a cover picture", with_cover),
    Sound("two_videos.mp4", "two video streams, the best one", plain(_FIRST, _SECOND)),
    Sound("two_videos.mkv", "two video streams, the best one", plain(_FIRST, _SECOND)),
    Sound("second_video.mp4", "two video streams, a chosen one", plain(_SECOND, _FIRST), stream_index=0),
    Sound("no_sync_table.mp4", "false keyframe flags", without_sync_table(h264())),
    Sound("no_sync_table_av1.mp4", "false keyframe flags", without_sync_table(free("libsvtav1", AV1))),
    Sound("no_sync_table_hevc.mp4", "false keyframe flags", without_sync_table(free("libx265", OPEN))),
    *(
        Sound(f"false_keys_{track.codec}.mkv", "false keyframe flags", false_keys(track))
        for track in (
            h264(),
            free("libx265", CLOSED),
            free("libvpx-vp9", VP9),
            free("libvpx", VP8),
            free("mpeg4", MPEG_B),
            tick("mpeg2video", MPEG_B),
        )
    ),
    Sound("one_frame.mp4", "a single frame", plain(h264(codes(1)))),
    Sound("one_frame.mkv", "a single frame", plain(h264(codes(1)))),
)
