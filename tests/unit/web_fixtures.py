"""A web service as it runs: uvicorn on a port of this machine, a tiny model, an index of real clips."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import httpx
import numpy as np

from tests.tiny import COLOURS, write_clip
from tests.unit.test_serving_vlm import folder_with
from tests.unit.video_index_fixtures import make_index, table_row
from vlmvid.serving.load import load
from vlmvid.serving.model import VideoTextModel
from vlmvid.serving.video_index import VideoIndex, encoders_of
from vlmvid.serving.video_index_table import Maker
from vlmvid.serving.web.app import make_app
from vlmvid.serving.web.options import ServeOptions
from vlmvid.serving.web.server import WebServer, bind, url_of

NUM_CLIPS = 12
HOSTILE = '<script>alert("1")</script>\x1b[31m'


@cache
def tiny_model() -> VideoTextModel:
    """It embeds and gives no words."""
    return load(folder_with("vision", "text", "alignment"), device="cpu")


@cache
def speaking_model() -> VideoTextModel:
    """The same with words."""
    return load(folder_with("vision", "text", "alignment", "vlm"), device="cpu")


def clip_index(folder: Path, model: VideoTextModel) -> VideoIndex:
    """Clips of four colours; the first caption is hostile, the last row's video does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(COLOURS)
    paths = [folder / f"clip {number}.mp4" for number in range(NUM_CLIPS)]
    for number, path in enumerate(paths):
        write_clip(path, COLOURS[names[number % 4]], shift=number)
    embeddings = model.encode_video(paths).astype(np.float16)
    paths[-1].unlink()
    rows = [
        table_row(
            number,
            path=str(path),
            captions=(HOSTILE if number == 0 else f"something {names[number % 4]}",),
            attributes={"colour": names[number % 4], "with: colon": "yes" if number % 2 else "no"},
        )
        for number, path in enumerate(paths)
    ]
    maker = Maker(model.embedding_digest, model.name, encoders_of(model))
    return make_index(folder / "index", embeddings, rows, maker)


@cache
def tiny_index() -> VideoIndex:
    return clip_index(Path(mkdtemp(prefix="vlmvid-web-")), tiny_model())


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    url: str
    client: httpx.Client

    def get(self, path: str, **params: Any) -> httpx.Response:
        return self.client.get(path, params=params or None)

    def upload(self, data: bytes, name: str = "a.mp4") -> httpx.Response:
        return self.client.post("/api/uploads", files={"file": (name, data, "video/mp4")})


@contextmanager
def running(model: VideoTextModel | None = None, index: VideoIndex | None = None, **options: Any) -> Iterator[Running]:
    """Serve within the block."""
    app = make_app(model or tiny_model(), index or tiny_index(), ServeOptions(decode_workers=1, **options))
    ready = threading.Event()
    server = WebServer(app, ready.set)
    with bind("127.0.0.1", 0) as listening:
        url = url_of(listening)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            assert ready.wait(60)
            with httpx.Client(base_url=url, timeout=60) as client:
                yield Running(url, client)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def error_of(response: httpx.Response) -> tuple[int, str]:
    """Status and code; fails unless the answer has the one shape of failures."""
    (found,) = response.json().values()
    assert set(found) == {"code", "message"} and found["message"]
    return response.status_code, found["code"]
