from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.video_files import GOP, NUM_FRAMES, X264, all_frames, write_video
from vlmvid.errors import DecodeError
from vlmvid.video import open_video
from vlmvid.video.gop import frame_source
from vlmvid.video.gop.decoder import GopDecoder
from vlmvid.video.gop.index_file import load_index, save_index
from vlmvid.video.gop.packet_index import PacketIndex, read_packet_index
from vlmvid.video.gop.plan import join_runs, needed_packets, plan_runs, share_runs
from vlmvid.video.gop.references import ReferenceReader
from vlmvid.video.options import ReaderOptions
from vlmvid.video.readers.pyav import PyAVReader

# Group lengths, place of the open leading frames behind a keyframe, which frames are references, sizes.
GROUPS = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 3), st.integers(0, 2**12 - 1)), min_size=1, max_size=8)


def index_of(groups: list[tuple[int, int, int]]) -> PacketIndex:
    """A stream whose groups start with a keyframe, decoded before up to three frames that are shown earlier."""
    pts: list[int] = []
    key_positions, unreferenced = [], []
    for number, (length, num_leading, references) in enumerate(groups):
        start = len(pts)
        leading = min(num_leading, length - 1) if number else 0
        key_positions.append(start)
        pts += [start + leading, *range(start, start + leading), *range(start + leading + 1, start + length)]
        unreferenced += [False, *(bool(references >> bit & 1) for bit in range(1, length))]
    order = np.argsort(pts)
    keys = np.array(key_positions, dtype=np.int64)
    return PacketIndex(
        time_base=Fraction(1, 25),
        pts=np.array(pts, dtype=np.int64)[order],
        positions=order.astype(np.int64),
        key_pts=np.array(pts, dtype=np.int64)[keys],
        key_positions=keys,
        packet_sizes=np.arange(1, len(pts) + 1, dtype=np.int64),
        unreferenced=np.array(unreferenced, dtype=np.bool_),
        corrupt=np.zeros(len(pts), dtype=np.bool_),
        end_pts=len(pts),
        counted=False,
        keys_refresh=False,
        is_truncated=False,
    )


def start_of(index: PacketIndex, number: int) -> int:
    """The oracle: walk back from the frame's packet to a keyframe that is shown no later."""
    for position in range(int(index.positions[number]), -1, -1):
        places = np.flatnonzero(index.key_positions == position)
        if places.size and index.key_pts[places[0]] <= index.pts[number]:
            return position
    return 0


@given(GROUPS, st.data())
def test_a_plan_decodes_what_each_frame_needs_once(groups: list[tuple[int, int, int]], data: Any) -> None:
    index = index_of(groups)
    if data.draw(st.booleans()):  # a container that calls every packet a keyframe
        index = replace(index, key_pts=index.pts, key_positions=index.positions)
    keys_back = data.draw(st.integers(0, 2))
    wanted = sorted(data.draw(st.sets(st.integers(0, len(index) - 1), min_size=1)))
    runs = plan_runs(index, wanted, keys_back=keys_back)
    if data.draw(st.booleans()):
        runs = join_runs(runs)
    assert sorted(number for run in runs for number in run.wanted) == wanted
    assert [run.first for run in runs] == sorted({run.first for run in runs})
    for run in runs:
        needed = needed_packets(index, run)
        assert needed.shape == (run.last - run.first + 1,) and needed[-1]
        for number in run.wanted:
            position, start = int(index.positions[number]), start_of(index, number)
            assert run.first <= start <= position <= run.last
            before = np.arange(start, position)
            assert needed[before[~index.unreferenced[before]] - run.first].all() and needed[position - run.first]
        dropped = np.flatnonzero(~needed) + run.first
        assert index.unreferenced[dropped].all()
        assert not set(dropped.tolist()) & set(index.positions[list(run.wanted)].tolist())


@given(GROUPS, st.data(), st.integers(1, 5))
def test_shares_keep_order_and_even_out_the_work(groups: list[tuple[int, int, int]], data: Any, num: int) -> None:
    index = index_of(groups)
    runs = plan_runs(index, sorted(data.draw(st.sets(st.integers(0, len(index) - 1), min_size=1))))
    shares = share_runs(index, runs, num)
    assert [run for share in shares for run in share] == runs
    assert len(shares) <= num and all(shares)
    costs = [int(index.packet_sizes[r.first : r.last + 1][needed_packets(index, r)].sum()) for r in runs]
    per_share = [sum(costs[runs.index(run)] for run in share) for share in shares]
    assert max(per_share) <= sum(costs) / num + max(costs)


def test_a_gap_shorter_than_a_seek_is_decoded_through_by_one_decoder() -> None:
    index = index_of([(10, 0, 0)] * 4)
    near, far = plan_runs(index, [7, 12, 31]), plan_runs(index, [5, 12, 31])
    assert [run.wanted for run in near] == [(7,), (12,), (31,)]
    assert [run.wanted for run in join_runs(near)] == [(7, 12), (31,)]
    assert [run.wanted for run in join_runs(far)] == [(5,), (12,), (31,)]


def test_groups_that_touch_are_shared_among_decoders() -> None:
    index = index_of([(10, 0, 0)] * 4)
    shares = share_runs(index, plan_runs(index, range(40)), 2)
    assert [len(join_runs(share)) for share in shares] == [1, 1]
    assert sorted(number for share in shares for run in share for number in run.wanted) == list(range(40))


def with_options(name: str) -> dict[str, Any]:
    slow: dict[str, Any] = {"codec_options": {**X264, "bf": "4", "x264-params": "b-pyramid=normal"}}
    open_gop: dict[str, Any] = {"codec_options": {**X264, "bf": "3", "x264-params": "open-gop=1"}}
    hevc: dict[str, Any] = {"codec": "libx265"}
    layers = {"x265-params": f"keyint={GOP}:min-keyint={GOP}:bframes=4:temporal-layers=3:b-adapt=0:log-level=none"}
    plain = {"x265-params": f"keyint={GOP}:min-keyint={GOP}:bframes=4:open-gop=1:log-level=none"}
    return {
        "pyramid.mp4": slow,
        "pyramid.mkv": slow,
        "pyramid.ts": slow,
        "open.mp4": open_gop,
        "layers.mp4": {**hevc, "codec_options": layers},
        "hevc_open.mkv": {**hevc, "codec_options": plain},
        "hevc.ts": {**hevc, "codec_options": plain},
    }[name]


NAMES = ["pyramid.mp4", "pyramid.mkv", "pyramid.ts", "open.mp4", "layers.mp4", "hevc_open.mkv", "hevc.ts"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planned")


@pytest.fixture(scope="module", params=NAMES)
def video(folder: Path, request: pytest.FixtureRequest) -> Path:
    return write_video(folder / request.param, **with_options(request.param))


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_frames_are_bit_exact_however_they_are_reached(video: Path, num_threads: int) -> None:
    oracle, _ = all_frames(video)
    assert len(oracle) == NUM_FRAMES
    rng = np.random.default_rng(11)
    with open_video(video, num_threads=num_threads) as reader:
        for number in range(NUM_FRAMES):
            np.testing.assert_array_equal(reader.frames_at([number]).frames[0], oracle[number])
        for size in (2, 3, 7, 20, NUM_FRAMES):
            wanted = rng.integers(0, NUM_FRAMES, size)
            np.testing.assert_array_equal(reader.frames_at(wanted).frames, oracle[wanted])


def test_pictures_that_nothing_refers_to_are_left_out(video: Path) -> None:
    with PyAVReader(str(video)) as reader:
        index = reader.index
        last = len(index) - 1
        (run,) = plan_runs(index, [last])
        assert needed_packets(index, run).sum() < run.last - run.first + 1
        # What the encoder says of its own pictures: x264 and x265 mark them by type, so some are left.
        assert 0 < index.unreferenced.sum() < index.unreferenced.size
        assert not index.unreferenced[index.key_positions].any()


def test_a_lower_layer_is_needed_by_a_higher_one(folder: Path) -> None:
    path = write_video(folder / "three_layers.mp4", **with_options("layers.mp4"))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        references = ReferenceReader.of(stream)
        assert references is not None
        layers = [references.read(packet).disposable_layer for packet in container.demux(stream) if packet.size]
    with PyAVReader(str(path)) as reader:
        assert reader.index.unreferenced.tolist() == [layer == max(layers) for layer in layers]


def test_units_that_cannot_be_followed_are_kept() -> None:
    def read(codec: str, data: bytes, length_size: int = 4) -> Any:
        packet: Any = av.Packet(data)
        return ReferenceReader(codec, length_size).read(packet)

    b_slice, idr, sei = b"\x01\xaa\xaa", b"\x65\xaa", b"\x06\xaa"
    sized = [len(unit).to_bytes(4, "big") + unit for unit in (sei, b_slice, b_slice, idr)]
    assert read("h264", sized[0] + sized[1]).disposable_layer == 0
    assert read("h264", sized[0] + sized[1] + sized[2]).disposable_layer == 0
    # The second field of the picture is a reference.
    assert read("h264", sized[1] + b"\x00\x00\x00\x02\x61\xaa").disposable_layer == -1
    assert read("h264", sized[3]).is_refresh and read("h264", sized[3]).disposable_layer == -1
    assert read("h264", sized[0]).disposable_layer == -1
    for broken in (b"\x00", b"\x00\x00\x00\x00\x01", b"\x00\x00\xff\xff\x01\xaa", sized[1] + b"\x00\x00\x00\x09\x01"):
        assert read("h264", broken).disposable_layer == -1
    raw = b"\x00\x00\x00\x01" + sei + b"\x00\x00\x01" + b_slice
    assert read("h264", raw, 0).disposable_layer == 0
    assert read("hevc", b"\x00\x00\x00\x03\x00\x01\xaa").disposable_layer == 0
    assert read("hevc", b"\x00\x00\x00\x03\x00\x03\xaa").disposable_layer == 2
    assert read("hevc", b"\x00\x00\x00\x03\x02\x01\xaa").disposable_layer == -1
    assert read("hevc", b"\x00\x00\x00\x03\x00\x09\xaa").disposable_layer == -1  # another nuh_layer_id
    assert read("hevc", b"\x00\x00\x00\x03\x26\x01\xaa").is_refresh


class TestIndexFile:
    @pytest.fixture(autouse=True)
    def small_files_are_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(frame_source, "_PACKETS_WORTH_A_FILE", 10)

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return write_video(tmp_path / "video.mp4")

    def test_the_second_opening_reads_no_packets(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept = tmp_path / "indexes" / "ab" / "video.npz"
        oracle, _ = all_frames(path)
        with open_video(path, index_path=str(kept)) as reader:
            seconds = reader.pts_seconds
        assert kept.is_file()

        def refuse(*args: Any) -> PacketIndex:
            raise AssertionError("the packets were read again")

        monkeypatch.setattr(frame_source, "read_packet_index", refuse)
        with open_video(path, index_path=str(kept)) as reader:
            np.testing.assert_array_equal(reader.pts_seconds, seconds)
            np.testing.assert_array_equal(reader.frames_at([40, 3, 3]).frames, oracle[[40, 3, 3]])
        with pytest.raises(AssertionError, match="read again"):
            open_video(path)

    @pytest.mark.parametrize("counted", [False, True])
    def test_what_is_loaded_equals_what_was_saved(self, tmp_path: Path, path: Path, counted: bool) -> None:
        if counted:
            path = write_video(tmp_path / "raw.h264")
        kept = str(tmp_path / "kept.npz")
        with PyAVReader(str(path), ReaderOptions(index_path=kept)) as reader:
            loaded = load_index(kept, file=path.stat(), stream_index=0)
            assert loaded is not None and loaded.counted == counted
            for name in PacketIndex.__dataclass_fields__:
                np.testing.assert_array_equal(getattr(loaded, name), getattr(reader.index, name))

    def test_an_index_of_another_file_stream_or_library_is_made_again(self, tmp_path: Path, path: Path) -> None:
        kept = str(tmp_path / "kept.npz")
        file = path.stat()
        with PyAVReader(str(path), ReaderOptions(index_path=kept)) as reader:
            index = reader.index
        (tmp_path / "other.mp4").write_bytes(path.read_bytes())
        assert load_index(kept, file=(tmp_path / "other.mp4").stat(), stream_index=0) is None
        assert load_index(kept, file=file, stream_index=1) is None
        with np.load(kept) as stored:
            arrays = {name: stored[name] for name in stored.files}
        about = json.loads(arrays["about"].tobytes())
        about["libraries"]["libavformat"] = [1, 2, 3]
        np.savez(kept, **{**arrays, "about": np.frombuffer(json.dumps(about).encode(), np.uint8)})
        assert load_index(kept, file=file, stream_index=0) is None
        with PyAVReader(str(path), ReaderOptions(index_path=kept)) as reader:
            assert len(reader.index) == len(index)
        assert load_index(kept, file=file, stream_index=0) is not None

    def test_a_file_replaced_by_one_of_the_same_size_gets_an_index_of_its_own(self, tmp_path: Path) -> None:
        kept = str(tmp_path / "kept.npz")
        long = write_video(tmp_path / "long.mp4")
        short = write_video(tmp_path / "short.mp4", ticks=range(20))
        data = [p.read_bytes() for p in (long, short)]
        path = tmp_path / "video.mp4"
        for content, expected in ((data[1].ljust(len(data[0]), b"\0"), 20), (data[0], NUM_FRAMES)):
            path.write_bytes(content)
            with open_video(path, index_path=kept) as reader:
                assert reader.num_frames == expected

    def test_an_index_that_a_limit_cut_short_is_not_kept(self, tmp_path: Path) -> None:
        small = write_video(tmp_path / "small.h264").read_bytes()
        large = write_video(tmp_path / "large.h264", size=(512, 768)).read_bytes()
        path = tmp_path / "changing.h264"
        path.write_bytes(small + large + small)
        kept = str(tmp_path / "kept.npz")
        with PyAVReader(str(path), ReaderOptions(index_path=kept, max_frame_pixels=64 * 96)) as reader:
            assert reader.is_truncated and len(reader.index) < 2 * NUM_FRAMES
        with PyAVReader(str(path), ReaderOptions(index_path=kept)) as reader:
            assert not reader.is_truncated and len(reader.index) == 3 * NUM_FRAMES

    @pytest.mark.parametrize("keep_bytes", [0, 100, -40])
    def test_a_torn_index_is_made_again(self, tmp_path: Path, path: Path, keep_bytes: int) -> None:
        kept = tmp_path / "kept.npz"
        open_video(path, index_path=str(kept)).close()
        whole = kept.read_bytes()
        kept.write_bytes(whole[:keep_bytes])
        with open_video(path, index_path=str(kept)) as reader:
            assert reader.num_frames == NUM_FRAMES
        assert kept.read_bytes() == whole

    def test_a_disk_that_refuses_the_index_costs_nothing_else(
        self, tmp_path: Path, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("no folder")
        with open_video(path, index_path=str(tmp_path / "file" / "kept.npz")) as reader:
            assert reader.num_frames == NUM_FRAMES
        assert "cannot be kept" in caplog.text

    def test_saving_is_byte_stable(self, tmp_path: Path, path: Path) -> None:
        with av.open(str(path)) as container:
            index = read_packet_index(container, container.streams.video[0], str(path))
        for name in ("a.npz", "b.npz"):
            save_index(str(tmp_path / name), index, file=path.stat(), stream_index=0)
        assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_picture_larger_than_allowed_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4")
    with pytest.raises(DecodeError, match="96 x 64 = 6144 pixels") as caught:
        open_video(path, max_frame_pixels=6143)
    assert caught.value.reason_code == "frame_too_large"
    with open_video(path, max_frame_pixels=6144) as reader:
        assert reader.frames_at([5]).frames.shape == (1, 3, 64, 96)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_damage_is_found_whatever_the_threads(tmp_path: Path, num_threads: int) -> None:
    from tests.unit.video_files import overwrite_frame

    path = write_video(tmp_path / "sound.mp4")
    oracle, _ = all_frames(path)
    broken = overwrite_frame(path, tmp_path / "broken.mp4", GOP + 4)
    with open_video(broken, num_threads=num_threads) as reader:
        sound = [*range(GOP), *range(2 * GOP, NUM_FRAMES)]
        np.testing.assert_array_equal(reader.frames_at(sound).frames, oracle[sound])
        with pytest.raises(DecodeError) as caught:
            reader.frames_at(range(NUM_FRAMES))
        assert caught.value.reason_code == "decode_error"


def test_a_decoder_that_could_not_reopen_its_file_does_so_at_the_next_request(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    with open_video(path) as reader:
        expected = reader.frames_at([7]).frames
    kept: dict[int, VideoFrame] = {}

    def keep(number: int, frame: VideoFrame) -> None:
        kept[number] = frame

    decoder = GopDecoder(str(path), ReaderOptions(), 1)
    index = read_packet_index(decoder.container, decoder.stream, str(path))
    path.rename(tmp_path / "away.mp4")
    for request in (decoder.reopen, lambda: decoder.stream, lambda: decoder.decode(index, plan_runs(index, [7]), keep)):
        with pytest.raises(DecodeError, match="does not exist"):
            request()
    (tmp_path / "away.mp4").rename(path)
    assert decoder.decode(index, plan_runs(index, [7]), keep).missing == set()
    picture = kept[7].to_ndarray(format="rgb24")
    np.testing.assert_array_equal(picture.transpose(2, 0, 1), expected[0])
    decoder.close()
