"""The web service over an index: what it finds and shows, and what it refuses, asked over a real connection."""

from __future__ import annotations

import asyncio
import io
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.requests import ClientDisconnect, Request

from tests.tiny import COLOURS, write_clip
from tests.unit.video_files import write_video
from tests.unit.video_index_fixtures import make_index, table_row, unit_rows
from tests.unit.web_fixtures import (
    HOSTILE,
    NUM_CLIPS,
    Running,
    error_of,
    running,
    speaking_model,
    tiny_index,
    tiny_model,
)
from vlmvid.errors import ConfigError, DecodeError
from vlmvid.serving.video_index import encoders_of
from vlmvid.serving.video_index_table import Maker
from vlmvid.serving.web.app import STATIC, make_app
from vlmvid.serving.web.batcher import Batcher
from vlmvid.serving.web.errors import WebError, clip_error, upload_error
from vlmvid.serving.web.files import video_response
from vlmvid.serving.web.options import ServeOptions
from vlmvid.serving.web.server import bind, hosts_for, url_of
from vlmvid.serving.web.service import Service, while_connected
from vlmvid.serving.web.threads import DaemonThreads

GONE = NUM_CLIPS - 1


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(speaking_model()) as found:
        yield found


def test_it_says_what_it_serves(server: Running) -> None:
    assert server.get("/health").json() == {"status": "ok", "clips": NUM_CLIPS}
    info = server.get("/api/info").json()
    assert info["model"] == {"name": "tiny", "digest": speaking_model().digest, "embeds": True, "speaks": True}
    assert info["index"] == {"clips": NUM_CLIPS, "dimension": 8, "name": "index"}
    assert info["limits"] == {"upload_bytes": 64 << 20, "query_characters": 1000, "top_k": 100}
    assert info["facets"]["colour"] == {"blue": 3, "green": 3, "red": 3, "yellow": 3}
    assert HOSTILE in info["examples"] and "something red" in info["examples"]


def test_a_text_finds_what_the_index_finds(server: Running) -> None:
    rows, scores = tiny_index().search(tiny_model().encode_text(["a red box"]), 5)
    found = server.get("/api/search", text="a red box", top_k=5).json()
    assert found["query"] == "a red box" and 0 < found["seconds"] < 60
    assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3, 4, 5]
    assert [hit["clip"]["row"] for hit in found["hits"]] == rows[0].tolist()
    assert [hit["score"] for hit in found["hits"]] == pytest.approx(scores[0].tolist(), abs=1e-5)
    assert len(server.get("/api/search", text="a red box", top_k=100).json()["hits"]) == NUM_CLIPS


def test_filters_leave_what_has_their_values(server: Running) -> None:
    where = ["colour:red", "colour:blue", "with: colon:no"]
    hits = server.get("/api/search", text="x", where=where).json()["hits"]
    assert {(hit["clip"]["attributes"]["colour"], hit["clip"]["attributes"]["with: colon"]) for hit in hits} == {
        ("red", "no"),
        ("blue", "no"),
    }
    assert error_of(server.get("/api/search", text="x", where="size:9")) == (404, "unknown_attribute")
    assert error_of(server.get("/api/search", text="x", where="colour:rot")) == (404, "unknown_value")
    assert error_of(server.get("/api/search", text="x", where="colour")) == (422, "bad_filter")
    assert error_of(server.get("/api/search", text="x", where=["colour:red"] * 21)) == (422, "bad_filter")


def test_a_filter_may_be_read_in_two_ways(tmp_path: Path) -> None:
    rows = [table_row(0, attributes={"a": "b:c", "a:b": "z"}), table_row(1, attributes={"a": "x", "a:b": "y"})]
    model = tiny_model()
    maker = Maker(model.embedding_digest, model.name, encoders_of(model))
    service = Service(model, make_index(tmp_path / "index", unit_rows(2, 8), rows, maker), ServeOptions())
    assert service.where(["a:b:c"]) == (("a", ("b:c",)),)
    assert service.where(["a:b:z", "a:x"]) == (("a", ("x",)), ("a:b", ("z",)))
    with pytest.raises(WebError, match="no clip has a:b='q'"):
        service.where(["a:b:q"])


def test_many_at_once_get_what_each_gets_alone(server: Running) -> None:
    texts = [f"{word} {number}" for word in ("red", "box", "blue") for number in range(8)]
    rows, _ = tiny_index().search(tiny_model().encode_text(texts), 3)
    with ThreadPoolExecutor(len(texts)) as threads:
        answers = list(threads.map(lambda text: httpx.get(f"{server.url}/api/search", params={"text": text}), texts))
    for text, expected, answer in zip(texts, rows.tolist(), answers, strict=True):
        assert answer.json()["query"] == text
        assert [hit["clip"]["row"] for hit in answer.json()["hits"]][:3] == expected


@pytest.mark.parametrize(
    ("values", "code", "said"),
    [
        ({}, "empty_query", "is empty"),
        ({"text": ""}, "empty_query", "is empty"),
        ({"text": " \n\t"}, "empty_query", "is empty"),
        ({"text": "x" * 10_000}, "query_too_long", "10,000 characters; at most 1,000"),
        ({"text": "ß" * 10_000}, "query_too_long", "10,000 characters; at most 1,000"),
        ({"text": "x", "top_k": 0}, "bad_top_k", "top_k='0' must be a whole number from 1 to 100"),
        ({"text": "x", "top_k": 101}, "bad_top_k", "1 to 100"),
        ({"text": "x", "top_k": "many"}, "bad_top_k", "'many'"),
    ],
)
def test_a_bad_query_is_told_what_is_wrong(server: Running, values: dict[str, object], code: str, said: str) -> None:
    answer = server.get("/api/search", **values)
    assert error_of(answer) == (422, code)
    assert said in answer.json()["error"]["message"]


def test_any_text_is_a_query(server: Running) -> None:
    for text in ("\x00", "\x1b[2J", "😀" * 1000, "a\u202eb", "' OR 1=1 --", HOSTILE):
        assert server.get("/api/search", text=text).json()["query"] == text


def test_clips_like_one_leave_it_out(server: Running) -> None:
    rows, _ = tiny_index().like(4, 3)
    found = server.get("/api/clips/4/similar", top_k=3).json()
    assert [hit["clip"]["row"] for hit in found["hits"]] == rows[0].tolist()
    assert found["query"] == "v4" and all(hit["moment"] is None for hit in found["hits"])
    only = server.get("/api/clips/4/similar", where="colour:green").json()["hits"]
    assert {hit["clip"]["attributes"]["colour"] for hit in only} == {"green"}


def test_what_is_no_request_is_told_so_in_plain_text(server: Running) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for head in (b"GET\r\n\r\n", b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(head)
            answer = connection.recv(4096).lower()
            assert answer.startswith(b"http/1.1 400 ") and b"content-type: text/plain" in answer


def test_only_rows_of_the_index_can_be_addressed(server: Running) -> None:
    for part in ("", "/similar", "/thumbnail", "/video"):
        assert error_of(server.get(f"/api/clips/{NUM_CLIPS}{part}")) == (404, "unknown_clip")
        assert error_of(server.get(f"/api/clips/-1{part}")) == (422, "bad_request")
    for path in (
        "/api/clips/..%2F..%2Fetc%2Fpasswd/video",
        "/..%2f..%2fapp.py",
        "/../app.py",
        "/%2e%2e/app.py",
        "//etc/passwd",
    ):
        answer = server.get(path)
        assert answer.status_code in (404, 422) and error_of(answer)
    assert error_of(server.client.post("/api/clips/999/caption")) == (404, "unknown_clip")


def test_a_thumbnail_is_the_frame_that_was_asked_for(server: Running) -> None:
    answer = server.get("/api/clips/5/thumbnail", seconds=0.4)
    picture = Image.open(io.BytesIO(answer.content))
    assert (answer.headers["content-type"], picture.format, picture.size) == ("image/jpeg", "JPEG", (32, 32))
    colour = np.median(np.asarray(picture).reshape(-1, 3), axis=0)
    assert np.abs(colour - COLOURS["green"]).max() < 30
    # The bar of clip 5 moves by 5 pixels a frame, of which there are 6 a second: at 0.4 s frame 2 is shown.
    assert np.asarray(picture).sum(axis=(0, 2)).argmax() in (13, 14, 15)
    middle = server.get("/api/clips/5/thumbnail").content
    assert middle == server.get("/api/clips/5/thumbnail", seconds=0.5).content != answer.content
    # Addresses have milliseconds: frame 2 begins at a third of a second.
    assert server.get("/api/clips/5/thumbnail", seconds=0.333).content == answer.content
    last = server.get("/api/clips/5/thumbnail", seconds=1e9).content
    assert last == server.get("/api/clips/5/thumbnail", seconds=0.9).content
    for seconds in (-1, "nan", "inf", "x"):
        assert error_of(server.get("/api/clips/5/thumbnail", seconds=seconds)) == (422, "bad_request")


def test_a_deleted_video_is_shown_as_missing(server: Running) -> None:
    assert server.get(f"/api/clips/{GONE}").json()["missing"] is True
    assert server.get("/api/clips/0").json()["missing"] is False
    hits = server.get("/api/search", text="x", top_k=100).json()["hits"]
    assert {hit["clip"]["row"] for hit in hits if hit["clip"]["missing"]} == {GONE}
    for answer in (
        server.get(f"/api/clips/{GONE}/thumbnail"),
        server.get(f"/api/clips/{GONE}/video"),
        server.client.post(f"/api/clips/{GONE}/caption"),
        server.client.post(f"/api/clips/{GONE}/ask", json={"question": "what?"}),
    ):
        assert error_of(answer) == (404, "missing_video")
        message = answer.json()["error"]["message"]
        assert f"'v{GONE}'" in message and "/" not in message, "no path of the server is told"


@pytest.mark.parametrize(
    ("wanted", "status", "part"),
    [
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=5-99999999", 206, slice(5, None)),
        ("Bytes = 3 - 4", 206, slice(3, 5)),
        ("bytes=9-3", 200, slice(None)),
        ("bytes=x-y", 200, slice(None)),
        ("bytes=-", 200, slice(None)),
        ("bytes=0-1,5-6", 200, slice(None)),
        ("seconds=0-1", 200, slice(None)),
        (f"bytes={'0' * 5000}-", 200, slice(None)),  # more digits than Python makes a number of
        (f"bytes=-{'9' * 5000}", 200, slice(None)),
        (f"bytes=0-{'9' * 5000}", 200, slice(None)),
        (f"bytes={'9' * 19}-", 416, None),
        ("bytes=99999999-", 416, None),
        ("bytes=-0", 416, None),
    ],
)
def test_a_player_gets_the_range_that_it_asks_for(
    server: Running, wanted: str, status: int, part: slice | None
) -> None:
    data = Path(tiny_index().clip(2).path).read_bytes()
    answer = server.client.get("/api/clips/2/video", headers={"Range": wanted})
    assert answer.status_code == status
    if part is None:
        assert error_of(answer) == (416, "no_such_range")
        assert answer.headers["content-range"] == f"bytes */{len(data)}"
    else:
        assert answer.content == data[part]
        assert answer.headers["content-type"] == "video/mp4" and answer.headers["accept-ranges"] == "bytes"
        start = len(data[: part.start]) if status == 206 else 0
        if status == 206:
            assert answer.headers["content-range"] == f"bytes {start}-{start + len(answer.content) - 1}/{len(data)}"


def test_a_model_with_words_gives_captions_and_answers(server: Running) -> None:
    path = tiny_index().clip(2).path
    assert server.client.post("/api/clips/2/caption").json() == {"caption": speaking_model().caption(path)}
    answer = server.client.post("/api/clips/2/ask", json={"question": " what colour? "})
    assert answer.json() == {"answer": speaking_model().answer(path, "what colour?")}
    for question, code in (("", "empty_question"), (" ", "empty_question"), ("x" * 10_000, "question_too_long")):
        assert error_of(server.client.post("/api/clips/2/ask", json={"question": question})) == (422, code)
    for body, status in (
        (b'{"question": "\\ud800"}', 422),  # half of a character
        (b'{"question": 0.5}', 422),
        (b'{"question": "a", "more": 1}', 422),
        (b"{", 422),
        (b"", 422),
        (b'{"question": ' + b"9" * 5000 + b"}", 400),
        (b"\xff", 400),
    ):
        sent = server.client.post("/api/clips/2/ask", content=body, headers={"Content-Type": "application/json"})
        assert error_of(sent) == (status, "bad_request"), body
    assert error_of(server.client.post("/api/clips/2/ask", json={"question": "x" * 999})) == (422, "refused")
    assert error_of(server.client.post("/api/clips/2/ask", content=b" " * (64 << 10) + b"{}")) == (413, "too_large")
    chunks = (b" " * 1000 for _ in range(100))
    assert error_of(server.client.post("/api/clips/2/ask", content=chunks)) == (413, "too_large")


def test_every_answer_keeps_browsers_from_running_what_a_caption_says(server: Running) -> None:
    for path in ("/api/clips/0", "/api/clips/0/video", "/api/clips/0/thumbnail", "/api/nothing", "/health"):
        answer = server.get(path)
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';") and "unsafe" not in policy
        assert answer.headers["content-type"].split(";")[0] in ("application/json", "video/mp4", "image/jpeg")
    assert server.get("/api/clips/0").json()["captions"] == [HOSTILE]


def test_the_page_is_served_and_no_other_file(server: Running) -> None:
    page = server.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    names = set(re.findall(r'(?:src|href)="([\w.-]+)"', page.text)) - {"openapi.json"}
    assert {"app.js", "style.css"} <= names
    for name in names:
        found = server.get(f"/{name}")
        assert found.content == (STATIC / name).read_bytes()
        again = server.client.get(f"/{name}", headers={"If-None-Match": found.headers["etag"]})
        assert again.status_code == 304
    for path in ("/index.html", "/static/app.js", "/app.py", "/app.js/", "/docs", "/redoc"):
        assert error_of(server.get(path)) == (404, "not_found"), path
    wrong = server.client.post("/")
    assert error_of(wrong) == (405, "method_not_allowed") and "GET" in wrong.headers["allow"]


def test_a_model_without_words_says_so() -> None:
    with running(tiny_model()) as server:
        assert server.get("/api/info").json()["model"]["speaks"] is False
        assert error_of(server.client.post("/api/clips/2/caption")) == (409, "no_words")
        answer = server.client.post("/api/clips/2/ask", json={"question": "what?"})
        assert error_of(answer) == (409, "no_words") and "vision-language part" in answer.text


def test_another_model_s_index_is_refused_by_both_names(tmp_path: Path) -> None:
    index = make_index(tmp_path / "other", unit_rows(3, 8))
    with pytest.raises(
        ConfigError, match="made with the model 'tiny' \\(vision: eyes.*this is the model 'tiny'.*test_vit"
    ):
        make_app(tiny_model(), index)


def test_videos_that_cannot_be_read_cost_their_own_request(tmp_path: Path) -> None:
    files = {"text.mp4": b"no video", "empty.mp4": b"", "page.html": b"<!doctype html><script>alert(1)</script>"}
    paths = [tmp_path / name for name in files]
    for path, data in zip(paths, files.values(), strict=True):
        path.write_bytes(data)
    paths += [write_clip(tmp_path / "good.mp4", (200, 0, 0)), tmp_path]
    rows = [table_row(number, path=str(path), start_seconds=0.0) for number, path in enumerate(paths)]
    rows.append(table_row(5, path=str(paths[3]), start_seconds=50.0, end_seconds=60.0))
    model = speaking_model()
    maker = Maker(model.embedding_digest, model.name, encoders_of(model))
    index = make_index(tmp_path / "index", unit_rows(len(rows), 8), rows, maker)
    with running(model, index) as server:
        for row in range(3):
            assert error_of(server.get(f"/api/clips/{row}/thumbnail")) == (409, "no_video")
            assert str(tmp_path) not in server.get(f"/api/clips/{row}/thumbnail").text
            assert error_of(server.client.post(f"/api/clips/{row}/caption")) == (409, "no_video")
        assert server.get("/api/clips/3/thumbnail").status_code == 200
        assert error_of(server.get("/api/clips/1/video")) == (409, "no_video")
        assert error_of(server.get("/api/clips/2/video")) == (409, "no_video")
        assert server.get("/api/clips/4").json()["missing"] is True, "a folder is no video"
        assert error_of(server.get("/api/clips/4/video")) == (404, "missing_video")
        assert error_of(server.client.post("/api/clips/5/caption")) == (409, "no_video")
    with running(model, index, decode_seconds=1e-4) as server:
        assert error_of(server.get("/api/clips/3/thumbnail")) == (409, "too_costly")
        assert server.get("/health").status_code == 200
    with running(model, index, max_frame_pixels=1000) as server:
        assert error_of(server.get("/api/clips/3/thumbnail")) == (409, "too_costly")


def test_what_took_the_place_of_a_video_is_not_served(tmp_path: Path) -> None:
    secret, path = tmp_path / "passwd", write_clip(tmp_path / "clip.mp4", COLOURS["red"])
    secret.write_text("root:x:0:0:root:/root:/bin/bash\n" * 50)
    model = tiny_model()
    maker = Maker(model.embedding_digest, model.name, encoders_of(model))
    index = make_index(tmp_path / "index", unit_rows(1, 8), [table_row(0, path=str(path))], maker)
    with running(model, index) as server:
        assert server.get("/api/clips/0/video").headers["content-type"] == "video/mp4"
        path.unlink()
        path.symlink_to(secret)
        for headers in ({}, {"Range": "bytes=0-99"}):
            answer = server.client.get("/api/clips/0/video", headers=headers)
            assert error_of(answer) == (409, "no_video") and "root:" not in answer.text
            assert "'v0' is not served" in answer.text and str(tmp_path) not in answer.text


@pytest.mark.parametrize(
    ("name", "codec", "options", "media_type"),
    [
        ("a.mp4", "libx264", {}, "video/mp4"),
        ("fragments.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}, "video/mp4"),
        ("a.mov", "libx264", {}, "video/mp4"),
        ("a.3gp", "mpeg4", {}, "video/mp4"),
        ("a.mkv", "libx264", {}, "video/webm"),
        ("a.webm", "libvpx", {}, "video/webm"),
        ("a.ogv", "libvpx", {}, "video/ogg"),
        ("a.avi", "mpeg4", {}, "video/x-msvideo"),
        ("a.flv", "flv", {}, "video/x-flv"),
        ("a.wmv", "wmv2", {}, "video/x-ms-asf"),
        ("a.ts", "libx264", {}, "video/mp2t"),
        ("a.m2ts", "libx264", {"mpegts_m2ts_mode": "1"}, "video/mp2t"),
        ("a.mpg", "mpeg1video", {}, "video/mpeg"),
        ("a.vob", "mpeg2video", {}, "video/mpeg"),
        ("a.m2v", "mpeg2video", {}, "video/mpeg"),
        ("a.h264", "libx264", {}, "video/mpeg"),
        ("a.y4m", "wrapped_avframe", {}, "video/x-yuv4mpeg"),
        ("a.ivf", "libvpx", {}, "video/x-ivf"),
        ("a.mxf", "mpeg2video", {}, "application/mxf"),
        ("a.nut", "mpeg4", {}, "video/x-nut"),
    ],
)
def test_every_kind_of_video_is_known_by_its_start(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], media_type: str
) -> None:
    path = write_video(tmp_path / name, codec=codec, codec_options={}, options=options, ticks=range(6))
    assert asyncio.run(video_response(str(path))).media_type == media_type


@pytest.mark.parametrize("suffix", ["gif", "jpg", "png", "webp", "bmp", "tiff"])
def test_every_kind_of_picture_is_known_by_its_start(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (32, 32), "red").save(path)
    assert asyncio.run(video_response(str(path))).media_type.startswith("image/")


def test_what_is_no_video_has_no_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    for data in (
        b"root:x:0:0:root:/root:/bin/bash\n",
        b"\x7fELF\x02\x01",
        b"MZ\x90\0",
        b"PK\x03\x04",
        b"\0" * 999,
    ):
        path.write_bytes(data * 9)
        with pytest.raises(DecodeError, match="starts as no video or picture does"):
            asyncio.run(video_response(str(path)))


def test_a_service_of_this_machine_answers_to_its_names_alone() -> None:
    listening = bind("127.0.0.1", 0)
    port = listening.getsockname()[1]
    hosts = hosts_for(listening, ["Proxy.example"])
    with pytest.raises(ConfigError, match=f"cannot listen at '127.0.0.1', port {port}: .*choose another --port"):
        bind("127.0.0.1", port)
    listening.close()
    with pytest.raises(ConfigError, match="cannot listen at"):
        bind("127.0.0.1", 99_999)
    with bind("0.0.0.0", 0) as everywhere:
        assert hosts_for(everywhere, []) == () and url_of(everywhere).startswith("http://0.0.0.0:")
    with running(hosts=hosts) as server:
        for host in (f"localhost:{port}", "127.0.0.1", "[::1]:80", "proxy.example"):
            assert server.client.get("/health", headers={"Host": host}).status_code == 200
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
            assert error_of(server.client.get("/health", headers={"Host": host})) == (403, "unknown_host")
        from_elsewhere = {"Sec-Fetch-Site": "cross-site"}
        assert error_of(server.client.post("/api/clips/0/caption", headers=from_elsewhere)) == (403, "cross_site")
        assert server.client.get("/health", headers=from_elsewhere).status_code == 200


def test_pages_of_other_sites_may_not_send_anything(server: Running) -> None:
    """`server` answers to any name, as one on 0.0.0.0 does; over plain HTTP, browsers tell it the origin alone."""
    own = server.url.removeprefix("http://")
    post = partial(server.client.post, "/api/clips/2/ask", json={"question": "what?"})
    for origin in ("http://evil.example", "http://127.0.0.1:1", f"http://localhost:{own[-5:]}", "null", "", "file://"):
        assert error_of(post(headers={"Origin": origin})) == (403, "cross_site"), origin
        assert error_of(server.client.delete(f"/api/uploads/{'0' * 32}", headers={"Origin": origin}))[0] == 403
        assert server.client.get("/health", headers={"Origin": origin}).status_code == 200
    for origin, host in (
        (server.url, own),
        ("http://Box:80", "box"),
        ("https://box", "box:443"),
        ("http://[::1]:80", "[::1]"),
    ):
        assert post(headers={"Origin": origin, "Host": host}).status_code == 200, origin
    assert post().status_code == 200, "what is no browser tells no origin"
    with running(hosts=("127.0.0.1", "localhost", "[::1]", "videos.example")) as behind:
        remove = partial(behind.client.delete, f"/api/uploads/{'0' * 32}")
        assert remove(headers={"Origin": "https://videos.example:8443"}).status_code == 404, "the proxy's page"
        for origin in (
            "http://localhost:1",
            "http://[::1]:1",
            "http://127.0.0.1",
            "http://videos.example.evil.example",
        ):
            assert error_of(remove(headers={"Origin": origin})) == (403, "cross_site"), origin


def test_what_waits_is_done_together_and_no_more_than_may() -> None:
    calls: list[list[int]] = []
    begun, go_on = threading.Event(), threading.Event()

    def work(items: Sequence[int]) -> list[int]:
        calls.append(list(items))
        begun.set()
        assert go_on.wait(30)
        if 13 in items:
            raise ValueError("13")
        return [item * 10 for item in items]

    async def scenario() -> list[object]:
        batcher = Batcher(work, name="it", most_waiting=5, most_together=4, retry_seconds=7)
        async with batcher.running():
            first = asyncio.ensure_future(batcher.do(0))
            await asyncio.to_thread(begun.wait)
            others = [asyncio.ensure_future(batcher.do(item)) for item in (1, 13, 2, 3, 4)]
            await asyncio.sleep(0)
            with pytest.raises(WebError) as refused:
                await batcher.do(5)
            assert (refused.value.status_code, refused.value.headers) == (503, {"Retry-After": "7"})
            others[3].cancel()
            go_on.set()
            return await asyncio.gather(first, *others, return_exceptions=True)

    results = asyncio.run(scenario())
    assert [*results[:2], *results[3:4], results[5]] == [0, 10, 20, 40]
    assert isinstance(results[2], ValueError) and isinstance(results[4], asyncio.CancelledError)
    assert calls == [[0], [1, 13, 2, 4], [1], [13], [2], [4]], "only the bad one fails"


def test_what_was_given_up_keeps_no_place() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(items: Sequence[int]) -> list[int]:
        begun.set()
        assert go_on.wait(30)
        return list(items)

    async def scenario() -> list[int]:
        batcher = Batcher(work, name="it", most_waiting=3, most_together=1, retry_seconds=1)
        async with batcher.running():
            first = asyncio.ensure_future(batcher.do(0))
            await asyncio.to_thread(begun.wait)
            waiting = [asyncio.ensure_future(batcher.do(item)) for item in (1, 2, 3)]
            await asyncio.sleep(0)
            for given_up in waiting[1:]:
                given_up.cancel()
            await asyncio.sleep(0)
            more = [asyncio.ensure_future(batcher.do(item)) for item in (4, 5)]
            await asyncio.sleep(0)
            with pytest.raises(WebError):
                await batcher.do(6)
            go_on.set()
            return await asyncio.gather(first, waiting[0], *more)

    assert asyncio.run(scenario()) == [0, 1, 4, 5]


def test_the_end_does_not_wait_for_the_model() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(items: Sequence[int]) -> list[int]:
        begun.set()
        go_on.wait(30)
        return list(items)

    async def scenario() -> list[object]:
        batcher = Batcher(work, name="it", most_waiting=5, most_together=1, retry_seconds=1)
        async with batcher.running():
            asked = [asyncio.ensure_future(batcher.do(item)) for item in (1, 2)]
            await asyncio.to_thread(begun.wait)
        with pytest.raises(WebError, match="ending"):
            await batcher.do(3)
        return await asyncio.gather(*asked, return_exceptions=True)

    started = time.monotonic()
    try:
        for refused in asyncio.run(scenario()):
            assert isinstance(refused, WebError)
            assert (refused.status_code, refused.code) == (503, "busy") and "ending" in refused.detail
        assert time.monotonic() - started < 10
    finally:
        go_on.set()


def test_a_file_system_that_hangs_holds_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, isfile = threading.Event(), os.path.isfile
    hung = tiny_index().clip(1).path

    def look(path: str) -> bool:
        if path == hung:
            go_on.wait(30)
        return isfile(path)

    with running(speaking_model()) as server:
        monkeypatch.setattr(os.path, "isfile", look)
        try:
            started = time.monotonic()
            hits = server.get("/api/search", text="x", top_k=100).json()["hits"]
            assert len(hits) == NUM_CLIPS and time.monotonic() - started < 10
            assert not any(hit["clip"]["missing"] for hit in hits if hit["clip"]["row"] == 1)
            assert server.get("/api/clips/1").json()["missing"] is False
            for answer in (server.get("/api/clips/1/video"), server.client.post("/api/clips/1/caption")):
                assert error_of(answer) == (503, "read_error") and "'v1' does not answer" in answer.text
            assert server.get("/api/clips/0/video").status_code == 200
        finally:
            go_on.set()


def test_what_is_not_begun_is_dropped_at_the_end() -> None:
    threads, begun, go_on = DaemonThreads(1, "it"), threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return go_on.wait(30)

    first, second = threads.submit(work), threads.submit(work)
    assert begun.wait(30) and threads.num_waiting == 1
    threads.shutdown()
    assert second.cancelled() and not first.done()
    with pytest.raises(RuntimeError, match="after the end"):
        threads.submit(int)
    go_on.set()
    threads.shutdown(wait=True)
    assert first.result() is True
    again = DaemonThreads(2, "again")
    with pytest.raises(ValueError, match="'x'"):
        again.submit(int, "x").result(30)
    assert again.submit(int, "7").result(30) == 7
    again.shutdown(wait=True)


def test_work_for_a_client_that_went_away_is_given_up() -> None:
    ended: list[str] = []

    async def work() -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return "done"

    async def disconnected() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def scenario() -> None:
        request = Request({"type": "http"}, disconnected)
        assert await while_connected(request, asyncio.sleep(0.01, "in time")) == "in time"
        with pytest.raises(ClientDisconnect):
            await while_connected(request, work())

    asyncio.run(scenario())
    assert ended == ["cancelled"]


def test_a_failure_of_the_storage_is_one_for_the_moment() -> None:
    error = DecodeError("/secret/a.mp4 could not be read; try again", reason_code="read_error", transient=True)
    for refused in (clip_error(error, "/secret/a.mp4", "v1"), upload_error(error, "/secret/a.mp4")):
        assert (refused.status_code, refused.code, refused.headers) == (503, "read_error", {"Retry-After": "5"})
        assert "/secret" not in refused.detail
