"""Files that must not be opened, and what becomes of them in the pipeline: a row with a reason, never a crash."""

from __future__ import annotations

import http.server
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.tiny import RECIPE, write_recipe, write_rows
from tests.unit.pipeline_fixtures import NO_TRACKING, run, statuses
from tests.unit.video_files import NUM_FRAMES, frame_numbers, write_audio, write_video
from vlmvid.artifacts import Store
from vlmvid.config.schema import DecodeConfig
from vlmvid.errors import ConfigError, DatasetError, DecodeError
from vlmvid.pipeline import RunRequest, make_request
from vlmvid.pipeline.index import read_index
from vlmvid.video import open_video
from vlmvid.video.clip_decoder import decode_clip
from vlmvid.video.containers import as_decode_error, open_container, select_stream
from vlmvid.video.isolation.process import crash_error, timeout_error
from vlmvid.video.isolation.worker import attempt
from vlmvid.video.options import ClipJob, DecodeLimits
from vlmvid.video.paths import check_file, is_inside, local_path, open_regular, printable

ODD_NAMES = [
    b"with space.mp4",
    b"new\nline.mp4",
    b"quo\"te's.mp4",
    b"per%03dcent.mp4",
    b"-dash.mp4",
    b"co:lon.mp4",
    b"http:clip.mp4",
    b"file:clip.mp4",
    b"concat:a|b.mp4",
    b"# hash ? & ;.mp4",
    "é漢🎬.mp4".encode(),
]
NOT_UTF8 = b"caf\xe9 \xff.mp4"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture
def requests_seen() -> Iterator[tuple[str, list[str]]]:
    """A web server of this machine: its address, and the paths that were asked of it."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
        server.shutdown()
        thread.join()


def reason(action: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(DecodeError) as caught:
        action(*args, **kwargs)
    str(caught.value).encode()  # a message that no ledger can hold would end the run
    return caught.value.reason_code


def make_special(folder: Path, sockets: list[socket.socket]) -> dict[str, str]:
    """Things that are no video files, under names that say so; what each must be called."""
    os.mkfifo(folder / "pipe.mp4")
    (folder / "loop.mp4").symlink_to("loop2.mp4")
    (folder / "loop2.mp4").symlink_to("loop.mp4")
    (folder / "dangling.mp4").symlink_to("nowhere.mp4")
    (folder / "device.mp4").symlink_to("/dev/zero")
    (folder / "pipe_link.mp4").symlink_to("pipe.mp4")
    server = socket.socket(socket.AF_UNIX)
    sockets.append(server)
    server.bind(os.path.relpath(folder / "socket.mp4"))
    return {
        "pipe.mp4": "not_a_file",
        "pipe_link.mp4": "not_a_file",
        "device.mp4": "not_a_file",
        "socket.mp4": "not_a_file",
        "loop.mp4": "symlink_loop",
        "loop2.mp4": "symlink_loop",
        "dangling.mp4": "missing_file",
    }


@pytest.fixture
def special(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, dict[str, str]]]:
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)  # the path of a socket may have 107 bytes only
    sockets: list[socket.socket] = []
    yield folder, make_special(folder, sockets)
    for server in sockets:
        server.close()


class TestLocalPath:
    @pytest.mark.parametrize(
        ("location", "protocol"),
        [
            ("http://host/a.mp4", "http"),
            ("HTTPS://host/a.mp4", "https"),
            ("s3://bucket/a.mp4", "s3"),
            ("rtsp://host/live", "rtsp"),
            ("concat:a.mp4|b.mp4", "concat"),
            ("subfile,,start,0,end,9,,:/etc/passwd", "subfile"),
            ("crypto+file:a.mp4", "crypto+file"),
            ("data:video/mp4;base64,AAAA", "data"),
            ("pipe:0", "pipe"),
            ("fd:", "fd"),
            ("cache:http://host/a.mp4", "cache"),
        ],
    )
    def test_addresses_of_other_protocols_are_refused_with_the_allowed_ones(self, location: str, protocol: str) -> None:
        for action in (local_path, open_container, open_video):
            with pytest.raises(DecodeError, match="allowed: file;") as caught:
                action(location)
            assert caught.value.reason_code == "protocol_not_allowed"
            assert f"the protocol {protocol!r}" in str(caught.value)

    @pytest.mark.parametrize("location", ["movie: the end.mp4", "a:b.mp4", "C:\\clip.mp4", "12:30.mp4", "./http:a.mp4"])
    def test_a_colon_may_stand_in_a_name(self, location: str) -> None:
        assert local_path(location) == location

    def test_a_file_of_this_name_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "http:a.mp4").touch()
        assert local_path("http:a.mp4", tmp_path) == str(tmp_path / "http:a.mp4")
        assert reason(local_path, "http:a.mp4", tmp_path / "elsewhere") == "protocol_not_allowed"

    def test_file_addresses_are_paths(self, clip: Path) -> None:
        for location in (f"file:{clip}", f"file://{clip}", f"FILE:{clip}"):
            assert local_path(location) == str(clip)
            with open_video(location) as video:
                assert video.num_frames == NUM_FRAMES

    @given(st.text(st.characters(codec="utf-8", exclude_characters=":\0"), min_size=1))
    def test_whatever_has_no_colon_is_a_path(self, name: str) -> None:
        assert local_path(name) == name
        assert printable(name) == name

    @given(st.binary(min_size=1))
    def test_any_name_can_be_printed(self, name: bytes) -> None:
        text = printable(os.fsdecode(name))
        assert text.encode()
        assert (text == os.fsdecode(name)) == (name == text.encode())

    def test_half_a_character_is_no_name(self) -> None:
        assert printable("\ud800.mp4") == "\\ud800.mp4"
        assert reason(open_video, "\ud800.mp4") == "missing_file"
        assert reason(open_video, "a\0b.mp4") == "missing_file"


class TestCheckFile:
    def test_what_is_no_regular_file_is_named_and_not_opened(self, special: tuple[Path, dict[str, str]]) -> None:
        folder, expected = special
        for action in (check_file, open_regular, open_container, open_video):
            found = {name: reason(action, str(folder / name)) for name in expected}
            assert found == expected
            assert reason(action, str(folder)) == "not_a_file"
            assert reason(action, str(folder / "absent.mp4")) == "missing_file"
            assert reason(action, str(folder / ("x" * 300))) == "unreadable"

    def test_a_pipe_that_took_the_place_of_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The look and the opening are two steps; between them the file may change."""
        os.mkfifo(tmp_path / "pipe.mp4")
        monkeypatch.setattr("vlmvid.video.paths.check_file", lambda path: None)
        before = len(os.listdir("/proc/self/fd"))
        assert reason(open_regular, tmp_path / "pipe.mp4") == "not_a_file"
        assert len(os.listdir("/proc/self/fd")) == before

    def test_inside_and_outside_of_the_root(self, tmp_path: Path) -> None:
        root, other = tmp_path / "root", tmp_path / "root2"
        for folder in (root, other):
            folder.mkdir()
            (folder / "a.mp4").write_bytes(b"x")
        (root / "link.mp4").symlink_to(other / "a.mp4")
        (root / "inner.mp4").symlink_to(root / "a.mp4")
        (tmp_path / "root_link").symlink_to(root)
        for path in (
            root / "a.mp4",
            root / "inner.mp4",
            tmp_path / "root_link" / "a.mp4",
            other / ".." / "root" / "a.mp4",
        ):
            assert is_inside(path, root) and is_inside(path, tmp_path / "root_link")
            check_file(path, root)
        for path in (other / "a.mp4", root / "link.mp4", root / ".." / "root2" / "a.mp4"):
            assert reason(check_file, path, root) == "outside_root"

    def test_no_descriptor_is_left_open(self, clip: Path, tmp_path: Path) -> None:
        (tmp_path / "text.mp4").write_text("no video")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with open_video(clip) as video:
                video.frames_at([3])
            assert reason(open_video, tmp_path / "text.mp4") == "unreadable"
        assert len(os.listdir("/proc/self/fd")) == before


class TestPlaylists:
    """FFmpeg follows lists of other files; a dataset must not make it read the machine or the network."""

    def lists(self, clip: Path, address: str) -> dict[str, str]:
        hls = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
        dash = (
            '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" '
            'bandwidth="1"><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>'
        )
        return {
            "http.m3u8": hls.format(f"{address}/a.ts"),
            "passwd.m3u8": hls.format("/etc/passwd"),
            "local.m3u8": hls.format(clip),
            "http.mp4": hls.format(f"{address}/b.ts"),
            "relative.mp4": "ffconcat version 1.0\nfile clip.mp4\n",
            "absolute.ffconcat": f"ffconcat version 1.0\nfile '{clip}'\n",
            "passwd.txt.mp4": "ffconcat version 1.0\nfile '/etc/passwd'\n",
            "http.ffconcat": f"ffconcat version 1.0\nfile {address}/c.mp4\n",
            "http.mpd": dash.format(f"{address}/d.mp4"),
            "local.mpd": dash.format(clip),
            "stream.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        }

    def test_none_is_followed(self, clip: Path, tmp_path: Path, requests_seen: tuple[str, list[str]]) -> None:
        address, seen = requests_seen
        shutil.copy(clip, tmp_path / "clip.mp4")
        for name, text in self.lists(clip, address).items():
            (tmp_path / name).write_text(text)
            with pytest.raises(DecodeError) as caught:
                open_video(tmp_path / name)
            assert (name, caught.value.reason_code) == (name, "protocol_not_allowed")
            assert "names other files or addresses" in str(caught.value)
        assert seen == []

    def test_a_bare_ffmpeg_would_follow_them(self, clip: Path, tmp_path: Path) -> None:
        """Else the test above proves nothing."""
        shutil.copy(clip, tmp_path / "clip.mp4")
        (tmp_path / "relative.mp4").write_text(self.lists(clip, "")["relative.mp4"])
        with av.open(str(tmp_path / "relative.mp4")) as container:
            assert container.format.name == "concat" and len(list(container.decode(video=0))) == NUM_FRAMES

    @pytest.mark.parametrize("reader", ["torchcodec", "decord"])
    def test_other_readers_do_not_follow_them_either(self, clip: Path, tmp_path: Path, reader: str) -> None:
        (tmp_path / "list.m3u8").write_text(self.lists(clip, "")["local.m3u8"])
        with pytest.raises((DecodeError, ConfigError)) as caught:  # ConfigError where the package is not installed
            open_video(tmp_path / "list.m3u8", reader)
        assert getattr(caught.value, "reason_code", "protocol_not_allowed") == "protocol_not_allowed"


class TestNames:
    @pytest.mark.parametrize("name", [*ODD_NAMES, NOT_UTF8], ids=repr)
    def test_a_name_is_only_a_name(
        self, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes
    ) -> None:
        monkeypatch.chdir(tmp_path)
        path = os.fsdecode(name)
        shutil.copy(clip, path)
        with open_video(path) as video:
            assert frame_numbers(video.frames_at([9, 40]).frames) == [9, 40]

    def test_messages_of_a_name_that_is_not_utf8_can_be_printed(self, clip: Path, tmp_path: Path) -> None:
        path = os.fsdecode(bytes(tmp_path) + b"/" + NOT_UTF8)
        shutil.copy(clip, path)
        write_audio(tmp_path / "audio.mp4")
        silent = os.fsdecode(bytes(tmp_path) + b"/audio \xff.mp4")
        (tmp_path / "audio.mp4").rename(silent)
        config = DecodeConfig.model_validate({"sampling": {"num_frames": 99, "short_video": "error"}, "image_size": 32})
        jobs = (ClipJob(path, 2.0, 1.0), ClipJob(path, 90.0), ClipJob(path))
        calls = [
            *(partial(decode_clip, job, config) for job in jobs),
            partial(open_video, path, stream_index=7),
            partial(open_video, silent),
            partial(attempt, ClipJob(path), None, DecodeLimits()),
        ]
        with open_video(path) as video:
            calls += [partial(video.frames_at, wrong) for wrong in ([99], [[0]])]
            calls += [partial(video.frames_at_seconds, wrong) for wrong in ([99.0], [[0.0]])]
            for call in calls:
                with pytest.raises((ConfigError, DecodeError), match=r"(caf\\xe9|audio) \\xff\.mp4") as caught:
                    call()
                str(caught.value).encode()
        for error in (timeout_error(path, DecodeLimits()), crash_error(path, -11, "", DecodeLimits())):
            assert r"caf\xe9 \xff.mp4" in str(error)

    @pytest.mark.parametrize("name", [b"a%03d.jpg", b"caf\xe9.jpeg", b"x:y.JPG"], ids=repr)
    def test_a_picture_is_one_picture(self, tmp_path: Path, name: bytes) -> None:
        """FFmpeg takes %03d in a picture's name for a pattern, and a second picture in a file for a frame."""
        for number in range(2):
            pixels = np.full((32, 48, 3), 60 + 80 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"a{number:03d}.jpg")
        path = tmp_path / os.fsdecode(name)
        path.write_bytes((tmp_path / "a001.jpg").read_bytes() + (tmp_path / "a000.jpg").read_bytes())
        with open_video(path) as video:
            assert video.num_frames == 1
            assert abs(float(video.frames_at([0]).frames.mean()) - 140) < 2


class TestDamageIsNotAFailingStorage:
    def test_errors_of_the_system_for_damaged_bytes_are_permanent(self, clip: Path) -> None:
        for error in (av.error.OSError(5, "Input/output error"), av.error.BlockingIOError(11, "try again")):
            for action, code in (("open", "unreadable"), ("decode", "decode_error")):
                found = as_decode_error(error, str(clip), action)
                assert (found.reason_code, found.transient) == (code, False)

    def test_a_file_that_cannot_be_read_is_transient(self, tmp_path: Path) -> None:
        # Reading the memory of the process at address 0 fails as a failing disk does.
        found = as_decode_error(av.error.OSError(5, "Input/output error"), "/proc/self/mem", "decode")
        assert (found.reason_code, found.transient) == ("read_error", True)

    def test_a_stream_without_decoder_is_unsupported(self, clip: Path, tmp_path: Path) -> None:
        (tmp_path / "unknown.mp4").write_bytes(clip.read_bytes().replace(b"avc1", b"zzzz"))
        with open_container(str(tmp_path / "unknown.mp4")) as container:
            assert reason(select_stream, container, "unknown.mp4", None) == "unsupported"


class TestPipeline:
    """Through the real ingest: each bad file is one ledger row."""

    def request(self, tmp_path: Path, home: Path, data: dict[str, Any], **options: Any) -> RunRequest:
        sections = {"data": data, "decode": {**RECIPE["decode"], "keep_frames": True}}
        limits = {"max_failed_fraction": 1.0, "shard_size": 1024}
        recipe = write_recipe(tmp_path, tmp_path, **NO_TRACKING, **sections, options=limits)
        return make_request(recipe, home=home, **options)

    def folder(self, root: Path, **data: Any) -> dict[str, Any]:
        return {"name": "folder", "options": {"root": str(root)}, **data}

    def manifest(self, path: Path, **data: Any) -> dict[str, Any]:
        return {"name": "manifest", "options": {"path": str(path)}, **data}

    def ledger(self, home: Path) -> dict[str, tuple[str, str]]:
        rows = Store(home).ledger("ingest").rows().values()
        return {row.video_id: (row.status, row.reason_code) for row in rows}

    def test_a_folder_of_special_files(
        self, clip: Path, tmp_path: Path, home: Path, special: tuple[Path, dict[str, str]]
    ) -> None:
        folder, expected = special
        shutil.copy(clip, folder / "good.mp4")
        request = self.request(tmp_path, home, self.folder(folder))
        run(request, "ingest")
        ledger = self.ledger(home)
        assert ledger.pop("good.mp4") == ("ok", "")
        assert ledger == {name: ("failed_permanent", code) for name, code in expected.items()}
        assert statuses(request)["ingest"][0] == "cached"

    def test_a_manifest_of_special_files_and_addresses(
        self, clip: Path, tmp_path: Path, home: Path, special: tuple[Path, dict[str, str]]
    ) -> None:
        folder, expected = special
        shutil.copy(clip, folder / "good.mp4")
        (folder / "sub").mkdir()
        addresses = ["http://host/a.mp4", "concat:good.mp4|good.mp4", "pipe:0", "s3://bucket/good.mp4"]
        paths = ["good.mp4", f"file:{folder}/good.mp4", "sub", *expected, *addresses]
        rows = [{"video_id": f"v{number}", "path": path} for number, path in enumerate(paths)]
        run(self.request(tmp_path, home, self.manifest(write_rows(folder / "m.jsonl", rows))), "ingest")
        codes = {**expected, "sub": "not_a_file", **dict.fromkeys(addresses, "protocol_not_allowed")}
        assert self.ledger(home) == {
            f"v{number}": ("failed_permanent", codes[path]) if path in codes else ("ok", "")
            for number, path in enumerate(paths)
        }

    def test_odd_names_in_a_folder_and_in_a_manifest(self, clip: Path, tmp_path: Path, home: Path) -> None:
        root = tmp_path / "data"
        root.mkdir()
        for name in [*ODD_NAMES, NOT_UTF8]:
            shutil.copy(clip, root / os.fsdecode(name))
        refs = run(self.request(tmp_path, home, self.folder(root)), "ingest", "decode")
        good = {name.decode(): ("ok", "") for name in ODD_NAMES}
        assert self.ledger(home) == {**good, "caf\\xe9 \\xff.mp4": ("failed_permanent", "name_not_utf8")}
        decoded = {row.video_id: row.status for row in read_index(Path(refs["decode"].uri))}
        assert decoded == dict.fromkeys(good, "ok")
        rows = [{"video_id": f"m{number}", "path": name.decode()} for number, name in enumerate(ODD_NAMES)]
        request = self.request(tmp_path, home, self.manifest(write_rows(root / "m.jsonl", rows)))
        run(request, "ingest")
        assert {code for video_id, (_, code) in self.ledger(home).items() if video_id.startswith("m")} == {""}

    def test_a_file_outside_of_the_root_is_refused_and_the_result_not_reused(
        self, clip: Path, tmp_path: Path, home: Path
    ) -> None:
        root, outside = tmp_path / "root", tmp_path / "outside"
        for folder in (root, outside):
            folder.mkdir()
            shutil.copy(clip, folder / "a.mp4")
        (root / "link.mp4").symlink_to(outside / "a.mp4")
        manifest = write_rows(
            tmp_path / "m.jsonl",  # the manifest itself may lie elsewhere
            [
                {"video_id": "in", "path": "root/a.mp4"},
                {"video_id": "link", "path": "root/link.mp4"},
                {"video_id": "dots", "path": "root/../outside/a.mp4"},
                {"video_id": "absolute", "path": str(outside / "a.mp4")},
            ],
        )
        open_request = self.request(tmp_path, home, self.manifest(manifest))
        run(open_request, "ingest")
        assert set(self.ledger(home).values()) == {("ok", "")}
        strict = self.request(tmp_path, home, self.manifest(manifest, restrict_root=str(root)))
        assert statuses(strict)["ingest"][0] == "run"
        run(strict, "ingest")
        refused = ("failed_permanent", "outside_root")
        rows = Store(home).ledger("ingest").rows().values()
        newest = {row.video_id: (row.status, row.reason_code) for row in sorted(rows, key=lambda row: row.time_seconds)}
        assert newest == {"in": ("ok", ""), "link": refused, "dots": refused, "absolute": refused}
        assert statuses(strict)["ingest"][0] == "cached"

    def test_the_root_holds_for_captions_and_pictures_too(self, clip: Path, tmp_path: Path, home: Path) -> None:
        root = tmp_path / "root"
        root.mkdir()
        (tmp_path / "secret.txt").write_text("a secret")
        for name in ("a", "b"):
            shutil.copy(clip, root / f"{name}.mp4")
        (root / "a.txt").symlink_to(tmp_path / "secret.txt")
        (root / "b.txt").write_text("no secret")
        run(self.request(tmp_path, home, self.folder(root, restrict_root=str(root))), "ingest")
        assert self.ledger(home) == {"a.mp4": ("failed_permanent", "outside_root"), "b.mp4": ("ok", "")}

    def test_pictures_that_are_no_files_and_lie_outside(self, tmp_path: Path, home: Path) -> None:
        root = tmp_path / "pictures"
        root.mkdir()
        for name in ("red", "green", "blue"):
            Image.new("RGB", (32, 32), name).save(root / f"{name}.png")
            (root / f"{name}.txt").write_text(f"something {name}")
        Image.new("RGB", (32, 32), "black").save(tmp_path / "outside.png")
        (root / "outside.png").symlink_to(tmp_path / "outside.png")
        os.mkfifo(root / "pipe.png")
        shutil.copy(root / "red.png", os.fsencode(root) + b"/caf\xe9.png")
        for name in ("outside.txt", "pipe.txt"):
            (root / name).write_text("something else")
        options = {"root": str(root), "num_test": 1, "image_size": 32, "num_frames": 2}
        data = {"name": "image_text", "options": options, "restrict_root": str(root)}
        run(self.request(tmp_path, home, data), "ingest")
        ledger = self.ledger(home)
        assert {name: code for name, (_, code) in ledger.items() if code} == {
            "outside": "outside_root",
            "pipe": "not_a_file",
            "caf\\xe9": "name_not_utf8",
        }
        assert {name for name, (status, _) in ledger.items() if status == "ok"} == {"red", "green", "blue"}

    def test_a_root_that_is_no_folder_and_a_manifest_that_is_no_file(self, tmp_path: Path, home: Path) -> None:
        os.mkfifo(tmp_path / "m.jsonl")
        with pytest.raises(DatasetError, match="named pipe.*data.options.path"):
            run(self.request(tmp_path, home, self.manifest(tmp_path / "m.jsonl")), "ingest")
        with pytest.raises(ConfigError, match="data.restrict_root: .*nowhere is no folder"):
            run(self.request(tmp_path, home, self.manifest(tmp_path / "m.jsonl", restrict_root="nowhere")), "ingest")

    def test_the_work_grows_with_the_number_of_files_only(self, tmp_path: Path, home: Path) -> None:
        calls = [self.calls_of_ingest(tmp_path, home, number) for number in (100, 200, 400)]
        per_file = [(b - a) / n for a, b, n in zip(calls, calls[1:], (100, 200), strict=False)]
        assert per_file[1] <= 1.05 * per_file[0]

    def test_ten_thousand_files_in_one_folder(self, tmp_path: Path, home: Path) -> None:
        root = self.empty_files(tmp_path, 10_000)
        run(self.request(tmp_path, home, self.folder(root)), "ingest")
        assert self.ledger(home) == {f"{number:05d}.mp4": ("ok", "") for number in range(10_000)}

    def empty_files(self, tmp_path: Path, number: int) -> Path:
        root = tmp_path / f"files{number}"
        root.mkdir()
        for i in range(number):
            (root / f"{i:05d}.mp4").touch()
        return root

    def calls_of_ingest(self, tmp_path: Path, home: Path, number: int) -> int:
        request = self.request(tmp_path, home, self.folder(self.empty_files(tmp_path, number)))
        count = 0

        def called(frame: FrameType, event: str, argument: object) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(called)
        try:
            run(request, "ingest")
        finally:
            sys.setprofile(None)
        return count
