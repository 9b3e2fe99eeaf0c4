"""Videos that visitors send: what is told of them, what is refused, and that nothing of it stays on the disk."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.tiny import COLOURS, write_clip
from tests.unit.video_files import write_audio, write_prefix, write_video
from tests.unit.web_fixtures import HOSTILE, Running, error_of, running, speaking_model, tiny_index, tiny_model

MEBIBYTE = 1 << 20


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's place for temporary files, for one test alone."""
    speaking_model(), tiny_model(), tiny_index()  # they stay, in a folder of their own
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def server(scratch: Path) -> Iterator[Running]:
    limits = {"max_upload_bytes": MEBIBYTE, "max_uploads": 2, "max_receiving": 1, "idle_seconds": 1.0}
    with running(speaking_model(), **limits) as found:
        yield found
    assert files_in(scratch) == [], "nothing outlives the service"
    assert list(scratch.iterdir()) == []


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


def bytes_without_names(folder: Path) -> int:
    """The sizes of the open files below `folder` that have no name; spooled uploads are such."""
    size = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(descriptor)
            size += os.stat(descriptor).st_size if target.startswith(str(folder)) and "(deleted)" in target else 0
        except OSError:  # closed meanwhile
            continue
    return size


def clip_bytes(folder: Path, colour: str = "green") -> bytes:
    return write_clip(folder / "mine.mp4", COLOURS[colour], shift=1).read_bytes()


def test_an_upload_is_described_shown_asked_about_and_removed(server: Running, scratch: Path, tmp_path: Path) -> None:
    data = clip_bytes(tmp_path)
    answer = server.upload(data)
    found = answer.json()
    assert answer.status_code == 200, answer.text
    assert found["seconds"] == pytest.approx(1.0)
    assert found["caption"] == speaking_model().caption(tmp_path / "mine.mp4")
    embedding = tiny_model().encode_video([tmp_path / "mine.mp4"])
    rows, scores = tiny_index().search(embedding, 12)
    assert [hit["clip"]["row"] for hit in found["similar"]] == rows[0].tolist()
    assert [hit["score"] for hit in found["similar"]] == pytest.approx(scores[0].tolist(), abs=1e-5)
    assert [text for text, _ in found["tags"]] == [text for text, _ in tiny_index().text_tags(embedding[0], 8)]
    assert server.get(found["thumbnail"]).headers["content-type"] == "image/jpeg"
    video = server.client.get(found["video"], headers={"Range": "bytes=4-7"})
    assert (video.status_code, video.content, video.headers["content-type"]) == (206, b"ftyp", "video/mp4")
    asked = server.client.post(f"/api/uploads/{found['upload']}/ask", json={"question": "what colour?"})
    assert asked.json() == {"answer": speaking_model().answer(tmp_path / "mine.mp4", "what colour?")}
    assert len(files_in(scratch)) == 1
    assert server.client.delete(f"/api/uploads/{found['upload']}").status_code == 204
    for path in (found["thumbnail"], found["video"]):
        assert error_of(server.get(path)) == (404, "unknown_upload")
    assert error_of(server.client.delete(f"/api/uploads/{found['upload']}")) == (404, "unknown_upload")
    assert files_in(scratch) == []


def picture_bomb() -> bytes:
    """A PNG of 12 kB that unpacks to 10,000 x 10,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + 1250) * 10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def broken_uploads(folder: Path) -> dict[str, tuple[bytes, int, str]]:
    whole = write_video(folder / "whole.mp4", options={"movflags": "+faststart"})
    return {
        "empty": (b"", 415, "no_video"),
        "text": (b"no video at all", 415, "no_video"),
        "noise": (np.random.default_rng(0).bytes(200_000), 415, "no_video"),
        "page": (b"<!doctype html><script>alert(1)</script>", 415, "no_video"),
        "playlist": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", 415, "no_video"),
        "sound": (write_audio(folder / "sound.mp4").read_bytes(), 415, "no_video"),
        "no index": (
            write_prefix(write_video(folder / "tail.mp4"), folder / "cut.mp4", 0.5).read_bytes(),
            415,
            "no_video",
        ),
        "truncated": (write_prefix(whole, folder / "half.mp4", 0.5).read_bytes(), 422, "damaged_video"),
        "large": (b"\0" * (MEBIBYTE + 1), 413, "too_large"),
    }


def test_what_is_refused_leaves_nothing(server: Running, scratch: Path, tmp_path: Path) -> None:
    for name, (data, status, code) in broken_uploads(tmp_path).items():
        answer = server.upload(data, f"{name}.mp4")
        assert error_of(answer) == (status, code), (name, answer.text)
        assert str(scratch) not in answer.text, "no path of the server is told"
        assert files_in(scratch) == [] and bytes_without_names(scratch) == 0, name
    assert "1 MiB" in server.upload(b"\0" * (MEBIBYTE + 1)).text


def test_a_bomb_is_refused_by_what_it_would_cost(scratch: Path, tmp_path: Path) -> None:
    data = clip_bytes(tmp_path)
    for limits in ({"max_frame_pixels": 32 * 32 - 1}, {"decode_seconds": 1e-4}):
        with running(**limits) as server:
            answer = server.upload(data)
            assert error_of(answer) == (422, "too_costly") and str(scratch) not in answer.text
            assert server.get("/health").status_code == 200
            assert files_in(scratch) == []
    with running() as server:
        answer = server.upload(picture_bomb())
        assert error_of(answer) == (422, "too_costly") and "10000" in answer.text
        assert files_in(scratch) == []


def test_an_upload_without_end_is_stopped_while_it_comes(server: Running, scratch: Path) -> None:
    spooled = []

    def body() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(64):
            spooled.append(bytes_without_names(scratch))
            yield b"\0" * MEBIBYTE

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert error_of(server.client.post("/api/uploads", content=body(), headers=headers)) == (413, "too_large")
    assert max(spooled) <= 2 * MEBIBYTE, "what is too much is not written"
    assert bytes_without_names(scratch) == 0 and files_in(scratch) == []


def test_forms_that_hold_no_video(server: Running, scratch: Path) -> None:
    post = server.client.post
    two = [("file", ("a", b"x")), ("file", ("b", b"y"))]
    for answer in (
        post("/api/uploads"),
        post("/api/uploads", json={"file": "x"}),
        post("/api/uploads", files={"other": ("a.mp4", b"x")}),
        post("/api/uploads", files={"other": ("a.mp4", b"x")}, data={"file": "text"}),
        post("/api/uploads", files={"file": ("a.mp4", b"x")}, data={"more": "text"}),
        post("/api/uploads", files=two),
        post("/api/uploads", content=b"--x", headers={"Content-Type": "multipart/form-data"}),
        post("/api/uploads", content=b"garbage", headers={"Content-Type": "multipart/form-data; boundary=x"}),
    ):
        assert error_of(answer) == (422, "no_file"), answer.text
        assert "send a form with the video as 'file'" in answer.text
    assert files_in(scratch) == [] and bytes_without_names(scratch) == 0


def test_a_hostile_name_is_never_a_path(server: Running, scratch: Path, tmp_path: Path) -> None:
    for name in (
        "../../../etc/cron.d/x",
        "/etc/passwd",
        HOSTILE,
        "a\x00b",
        "\u202e4pm.exe",
        "x" * 3000,
        "-rf",
        "con:aux|x",
    ):
        assert server.upload(clip_bytes(tmp_path), name).status_code == 200
    assert {path.name for path in files_in(scratch)} == {"video"}
    assert len(files_in(scratch)) == 2, "the oldest go for new ones"


def test_a_client_that_goes_away_or_stalls_leaves_nothing(server: Running, scratch: Path) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    head = (
        b"POST /api/uploads HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        b'Content-Length: 900000\r\n\r\n--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    with socket.create_connection((host, int(port))) as stalled:
        stalled.sendall(head + b"\0" * 100_000)
        while (busy := server.upload(b"x")).status_code == 415:  # the other one has not arrived yet
            time.sleep(0.02)
        assert error_of(busy) == (503, "busy") and busy.headers["retry-after"] == "5"
        stalled.settimeout(30)
        assert b" 408 " in stalled.recv(4096)
    with socket.create_connection((host, int(port))) as gone:
        gone.sendall(head + b"\0" * 100_000)
    deadline = time.monotonic() + 20
    while (files_in(scratch) or bytes_without_names(scratch)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert files_in(scratch) == [] and bytes_without_names(scratch) == 0
    assert server.get("/health").status_code == 200


def test_a_slow_sender_and_one_that_is_refused_take_nobody_s_place(scratch: Path, tmp_path: Path) -> None:
    limits = {"max_upload_bytes": MEBIBYTE, "max_receiving": 1, "grace_seconds": 0.5, "least_bytes_a_second": 100_000}
    head = (
        "POST /api/uploads HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        "Content-Length: {}\r\n\r\n"
    )
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    with running(**limits) as server:
        address = server.url.removeprefix("http://").split(":")[0], int(server.url.rpartition(":")[2])
        with socket.create_connection(address) as slow:
            slow.sendall(head.format(900_000).encode() + part)
            slow.settimeout(0.05)
            answer, deadline = b"", time.monotonic() + 20
            while b"}}" not in answer and time.monotonic() < deadline:  # head and body may come apart
                if not answer:
                    slow.sendall(b"\0")  # never idle
                with suppress(TimeoutError):
                    answer += slow.recv(4096)
            assert b" 408 " in answer and b"100,000 bytes a second" in answer
        with socket.create_connection(address) as large:
            large.sendall(head.format(64 * MEBIBYTE).encode() + part)
            time.sleep(0.3)  # it is refused, and the rest of it is taken and forgotten
            assert server.upload(clip_bytes(tmp_path)).status_code == 200


def test_uploads_go_after_a_while(scratch: Path, tmp_path: Path) -> None:
    with running(upload_seconds=0.3) as server:
        answer = server.upload(clip_bytes(tmp_path)).json()
        deadline = time.monotonic() + 20
        while files_in(scratch) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert files_in(scratch) == []
        assert error_of(server.get(answer["video"])) == (404, "unknown_upload")
        assert answer["caption"] is None and answer["tags"]
        assert error_of(httpx.get(f"{server.url}/api/uploads/{'0' * 31}/video")) == (422, "bad_request")
