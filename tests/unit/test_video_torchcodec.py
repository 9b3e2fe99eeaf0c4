"""What torchcodec and decord do beyond the tests that all readers share: choice, refusals, absence."""

from __future__ import annotations

import builtins
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.readers import need, why_absent
from tests.unit.video_files import NUM_FRAMES, frame_numbers, write_prefix, write_video
from vlmvid.errors import ConfigError, DecodeError
from vlmvid.video import READERS, open_video
from vlmvid.video.options import ReaderOptions
from vlmvid.video.readers.checked import departs
from vlmvid.video.readers.reader import AUTO_ORDER
from vlmvid.video.readers.refusals import CODECS, CONTAINERS, RULES, FileTraits, refusal

HAS_DECORD_WHEELS = sys.platform == "win32" or (sys.platform, platform.machine()) == ("linux", "x86_64")
GOOD = FileTraits(
    container="mov,mp4,m4a,3gp,3g2,mj2",
    codec="h264",
    is_counted=False,
    has_open_groups=False,
    has_unclean_keys=False,
    starts_without_key=False,
    hides_packets=False,
    has_other_keys=False,
    overstates=False,
    is_turned=False,
    is_mirrored=False,
    is_turned_by_message=False,
    is_transparent=False,
    is_interlaced=False,
    bits_per_colour=8,
    num_video_streams=1,
    has_plain_name=True,
)


def without_decoder(path: Path) -> Path:
    """An MP4 whose codec nobody knows: the name of its sample format is changed."""
    data = write_video(path).read_bytes()
    path.write_bytes(data.replace(b"avc1", b"zzzz"))
    return path


class TestAuto:
    def test_is_pyav_and_says_why(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "plain.mp4")
        with open_video(path) as video:
            assert (video.name, video.chosen_because) == (
                "pyav",
                "PyAV is exact for every file that it has a decoder for",
            )
        with open_video(path, "pyav") as video:
            assert video.chosen_because == "asked for by name"

    @pytest.mark.parametrize("reader", ["torchcodec", "decord"])
    def test_takes_another_reader_where_pyav_has_no_decoder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
    ) -> None:
        """PyAV built against an FFmpeg without H.264 would refuse the file; PyAV's packages have every decoder."""
        need(reader)

        def refuse(path: str, options: ReaderOptions) -> Any:
            raise DecodeError("no decoder for h264 here", reason_code="unsupported")

        monkeypatch.setitem(READERS._entries, "pyav", refuse)
        others = [name for name in AUTO_ORDER[1:] if name != reader]
        for other in others:
            monkeypatch.setitem(READERS._entries, other, refuse)
        with open_video(write_video(tmp_path / "plain.mp4")) as video:
            assert video.name == reader
            assert video.chosen_because.startswith("pyav: no decoder for h264 here")
            assert frame_numbers(video.frames_at([7, 40]).frames) == [7, 40]

    def test_lists_the_reason_of_every_reader_when_none_can(self, tmp_path: Path) -> None:
        path = without_decoder(tmp_path / "unknown.mp4")
        with pytest.raises(DecodeError) as caught:
            open_video(path)
        assert caught.value.reason_code == "unsupported"
        for name in AUTO_ORDER:
            assert f"{name}: " in str(caught.value)
        assert "has no decoder for its video stream" in str(caught.value)

    def test_a_damaged_file_gets_no_second_opinion(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def never(path: str, options: ReaderOptions) -> Any:
            raise AssertionError("another reader was tried")

        for other in AUTO_ORDER[1:]:
            monkeypatch.setitem(READERS._entries, other, never)
        (tmp_path / "text.mp4").write_text("no video\n" * 100)
        with pytest.raises(DecodeError) as caught:
            open_video(tmp_path / "text.mp4")
        assert caught.value.reason_code == "unreadable"


class TestRefusals:
    @pytest.mark.parametrize("reader", ["decord", "torchcodec"])
    def test_a_plain_file_is_read(self, reader: str) -> None:
        assert refusal(reader, GOOD) is None

    @pytest.mark.parametrize(
        ("change", "words", "readers"),
        [
            ({"container": "mpegts"}, "the container mpegts", {"decord", "torchcodec"}),
            ({"codec": "theora"}, "the codec theora", {"decord", "torchcodec"}),
            ({"codec": "av1"}, "the codec av1", {"decord"}),
            ({"is_counted": True}, "no timestamps", {"decord", "torchcodec"}),
            ({"has_open_groups": True}, "open groups", {"decord", "torchcodec"}),
            ({"has_unclean_keys": True}, "no clean start", {"decord", "torchcodec"}),
            ({"has_other_keys": True}, "keyframes that are none", {"decord", "torchcodec"}),
            ({"starts_without_key": True}, "no keyframe at its start", {"decord", "torchcodec"}),
            ({"hides_packets": True}, "not shown", {"decord", "torchcodec"}),
            ({"overstates": True}, "declares more", {"decord"}),
            ({"is_mirrored": True}, "mirrored", {"decord", "torchcodec"}),
            ({"is_turned_by_message": True}, "inside of the stream", {"decord", "torchcodec"}),
            ({"is_turned": True}, "", set()),
            ({"is_turned": True, "container": "matroska,webm"}, "turned picture in Matroska", {"decord"}),
            ({"is_transparent": True}, "transparent", {"decord", "torchcodec"}),
            ({"is_interlaced": True}, "interlaced", {"decord", "torchcodec"}),
            ({"bits_per_colour": 10}, "8 bits", {"decord"}),
            ({"num_video_streams": 2}, "several video streams", {"decord"}),
            ({"has_plain_name": False}, "not UTF-8", {"decord", "torchcodec"}),
        ],
        ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
    )
    def test_each_trait_refuses_the_readers_that_it_misleads(
        self, change: dict[str, Any], words: str, readers: set[str]
    ) -> None:
        file = replace(GOOD, **change)
        for reader in ("decord", "torchcodec"):
            found = refusal(reader, file)
            assert (found is not None) == (reader in readers)
            assert found is None or words in found

    def test_the_table_is_whole(self) -> None:
        assert CONTAINERS.keys() == CODECS.keys() == {"decord", "torchcodec"}
        assert all(set(readers) <= CODECS.keys() for _, _, readers in RULES)
        assert len({words for words, _, _ in RULES}) == len(RULES)

    @pytest.mark.parametrize("reader", ["decord", "torchcodec"])
    def test_a_header_that_lies_about_its_length_ends_no_process(self, tmp_path: Path, reader: str) -> None:
        """decord makes a table of the declared length: with this header it dies of std::bad_alloc."""
        need(reader)
        data = bytearray(write_video(tmp_path / "long.mkv").read_bytes())
        place = data.index(b"\x44\x89\x88") + 3  # Segment duration: id, size of 8, a double in milliseconds
        data[place : place + 8] = np.array(1e13, dtype=">f8").tobytes()
        (tmp_path / "long.mkv").write_bytes(data)
        if reader == "decord":
            with pytest.raises(DecodeError, match="declares more than the file holds"):
                open_video(tmp_path / "long.mkv", reader)
        else:
            with open_video(tmp_path / "long.mkv", reader) as video:
                assert video.num_frames == NUM_FRAMES
                assert frame_numbers(video.frames_at([33]).frames) == [33]

    @pytest.mark.parametrize("reader", ["decord", "torchcodec"])
    def test_a_file_that_starts_within_a_group_is_refused(self, tmp_path: Path, reader: str) -> None:
        need(reader)
        with (
            av.open(str(write_video(tmp_path / "whole.mp4"))) as whole,
            av.open(str(tmp_path / "late.mkv"), "w") as late,
        ):
            stream = late.add_stream_from_template(whole.streams.video[0])
            for number, packet in enumerate(whole.demux(video=0)):
                if packet.size and number >= 12 - 5:
                    packet.stream = stream
                    late.mux(packet)
        with pytest.raises(DecodeError) as caught:
            open_video(tmp_path / "late.mkv", reader)
        assert caught.value.reason_code in {"unsupported", "decode_error"}


class TestFirstFrame:
    def test_other_pictures_and_sizes_depart(self) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        assert departs(picture[:, :60], picture)
        assert departs(255 - picture // 2, picture)

    def test_colours_between_pixels_do_not(self) -> None:
        """Moving the colour, not the light, by a pixel is what another way to interpolate does at most."""
        rng = np.random.default_rng(0)
        light = np.repeat(np.repeat(rng.integers(40, 216, (12, 16), dtype=np.int16), 4, 0), 4, 1)
        colour = np.repeat(np.repeat(rng.integers(-30, 31, (24, 32, 3), dtype=np.int16), 2, 0), 2, 1)
        picture = (light[..., None] + colour).astype(np.uint8)
        moved = (light[..., None] + np.roll(colour, 1, axis=1)).astype(np.uint8)
        assert np.abs(picture.astype(int) - moved).mean() > 5
        assert not departs(moved, picture)

    @pytest.mark.parametrize("side", [1, 3])
    def test_tiny_pictures(self, side: int) -> None:
        picture = np.full((side, 20, 3), 100, dtype=np.uint8)
        assert not departs(picture, picture)
        assert departs(picture + np.uint8(60), picture)


class TestTorchcodec:
    @pytest.fixture(autouse=True)
    def _loads(self) -> None:
        need("torchcodec")

    def test_a_frame_with_another_timestamp_is_refused(self, tmp_path: Path) -> None:
        """torchcodec takes the next frame when the wanted one does not come: that must never pass for it."""
        with open_video(write_video(tmp_path / "plain.mp4"), "torchcodec") as video:
            reader: Any = video
            given = reader._library.get_frames_at

            class Shifted:
                def get_frames_at(self, indices: list[int]) -> Any:
                    return given([number + 1 for number in indices])

            reader._library = Shifted()
            with pytest.raises(DecodeError, match=r"it gives the frame at 0\.1666\d+ s for frame 3"):
                video.frames_at([3])
            assert frame_numbers(video.frames_at([3, 30]).frames) == [3, 30], "the reader works on after an error"


@pytest.mark.parametrize("reader", ["decord", "torchcodec"])
@pytest.mark.parametrize(
    "problem",
    [
        ImportError("No module named 'x'"),
        RuntimeError("Could not load libtorchcodec.\nLikely causes: ..."),
        OSError("libavutil.so.59: cannot open shared object file"),
    ],
    ids=["not installed", "does not load", "library missing"],
)
def test_a_package_that_does_not_load_is_named_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, problem: Exception
) -> None:
    load: Callable[..., Any] = builtins.__import__

    def failing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == reader:
            raise problem
        return load(name, *args, **kwargs)

    path = write_video(tmp_path / "plain.mp4")
    monkeypatch.setattr(builtins, "__import__", failing)
    with pytest.raises(ConfigError, match=f"reader='{reader}'.*reader='pyav'"):
        open_video(path, reader)
    reason = why_absent(reader)
    assert reason is not None
    # decord comes with vlmvid where it has wheels; torchcodec is an extra.
    outcome = pytest.skip.Exception if reader == "torchcodec" or not HAS_DECORD_WHEELS else pytest.fail.Exception
    with pytest.raises(outcome, match=re.escape(reason)):
        need(reader)
    with open_video(path) as video:
        assert video.name == "pyav"


def test_a_truncated_file_is_refused_without_opening_the_library(tmp_path: Path) -> None:
    """decord loops for ever on such a file, holding the interpreter; only another process could end it."""
    need("decord")
    whole = write_video(tmp_path / "whole.mp4", options={"movflags": "faststart"})
    cut = write_prefix(whole, tmp_path / "cut.mp4", 0.6)
    code = (
        "import sys\nfrom vlmvid.video import open_video\nfrom vlmvid.errors import DecodeError\n"
        "try:\n    open_video(sys.argv[1], 'decord')\nexcept DecodeError as error:\n    print(error.reason_code)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(cut)], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "truncated", done.stderr
