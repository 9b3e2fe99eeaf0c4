"""One or two flipped bits anywhere in a file.

What can be promised is less than for other damage: tables and times carry no checksum, so they are believed, and
a decoder does not notice every flip within a picture. So: no hang, no crash, no exception but a DecodeError with
a permanent reason, little memory; and where the flip hits the data of an H.264 picture, and its number can still
be read, it is the number that belongs to the frame's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.readers import need
from tests.zoo import damage
from tests.zoo.inspecting import Inspector, Job, Report
from tests.zoo.makers import Track, codes, write
from tests.zoo.tracks import AV1, CLOSED, COPY_TIMES, MPEG, MPEG_B, VP8, VP9, free, h264, tick

MOST_BYTES = 2**30
FRAMES = codes(12)
TRACKS: dict[str, Track] = {
    "h264.mp4": h264(FRAMES, g="6", keyint_min="6"),
    "h264.mkv": h264(FRAMES, g="6", keyint_min="6"),
    "h264.ts": h264(codes(12, start_ms=1400), g="6", keyint_min="6"),
    "h264.flv": h264(codes(12, start_ms=1400), g="6", keyint_min="6"),
    "b_frames.avi": tick("libx264", {"preset": "ultrafast", "g": "6", "bf": "2", "b_adapt": "0"}, shown=FRAMES),
    "hevc.mp4": free("libx265", CLOSED, shown=FRAMES),
    "vp9.webm": free("libvpx-vp9", VP9, shown=FRAMES),
    "vp8.webm": free("libvpx", VP8, shown=FRAMES),
    "av1.mp4": free("libsvtav1", AV1, shown=FRAMES),
    "mpeg4.avi": tick("mpeg4", MPEG, shown=FRAMES),
    "mpeg2.mpg": replace(tick("mpeg2video", MPEG_B, shown=codes(12, start_ms=540)), shift_ms=540),
    "png.mov": free("png", {}, "rgb24", shown=FRAMES),
}
NUMBERS_ARE_SURE = ("h264.mp4", "h264.mkv", "h264.flv")


@dataclass(frozen=True)
class Target:
    """A small file, and which of its bytes are the data of pictures."""

    path: Path
    data: bytes
    is_picture: bytes


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    folder = tmp_path_factory.mktemp("flips")
    found = {}
    for name, track in TRACKS.items():
        options = COPY_TIMES if name.endswith(".ts") else {}
        path = write(folder / name, track, container_options=options)
        data = path.read_bytes()
        is_picture = bytearray(len(data))
        with av.open(str(path)) as container:
            for packet in container.demux(video=0):
                place = data.find(bytes(packet)) if packet.size else -1
                if place >= 0:
                    is_picture[place : place + packet.size] = b"\1" * packet.size
        found[name] = Target(path, data, bytes(is_picture))
    return found


def check(inspector: Inspector, target: Target, bits: Sequence[int], reader: str) -> Report:
    path = target.path.with_name(f"flipped_{target.path.name}")
    damage.flipped(target.path, path, bits)
    report = inspector(Job(path, reader))
    assert report.reason not in ("hang", "crash"), report.reason
    assert not report.transient, f"trying again cannot help: {report.message}"
    assert report.grown_bytes < MOST_BYTES
    if target.path.name in NUMBERS_ARE_SURE and all(target.is_picture[bit // 8] for bit in bits):
        for index, frame in report.seen().items():
            if frame.code is not None:
                assert (frame.code.number, frame.code.milliseconds / 1000) == (index, frame.seconds)
    return report


BITS = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=2)


@settings(
    derandomize=True, deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(sorted(TRACKS)), places=BITS)
def test_flipped_bits_cost_frames_and_nothing_else(
    targets: dict[str, Target], inspector: Inspector, name: str, places: list[float]
) -> None:
    target = targets[name]
    check(inspector, target, [int(place * 8 * len(target.data)) for place in places], "auto")


@pytest.mark.long
@pytest.mark.parametrize("reader", ["pyav", "decord", "torchcodec"])
@pytest.mark.parametrize("name", sorted(TRACKS))
def test_a_bit_in_every_byte(targets: dict[str, Target], inspector: Inspector, name: str, reader: str) -> None:
    need(reader)
    target = targets[name]
    for byte in range(0, len(target.data), max(1, len(target.data) // 1000)):
        check(inspector, target, [8 * byte + byte * 5 % 8], reader)


def test_the_flips_reach_tables_and_pictures(targets: dict[str, Target]) -> None:
    for target in targets.values():
        assert 0 < sum(target.is_picture) < len(target.data), target.path.name
