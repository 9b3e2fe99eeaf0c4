"""Which addresses are opened, and that no data makes the library open one."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest
import yaml

import vlmvid
from tests.tiny import write_clip, write_dataset, write_recipe, write_rows
from tests.unit.pipeline_fixtures import TOLERANT, ledger_of, request_for, run
from vlmvid.artifacts import open_store
from vlmvid.config import addresses
from vlmvid.config.addresses import ALLOWED_SCHEMES, check_address, open_http, without_secrets
from vlmvid.config.load import load_recipe
from vlmvid.errors import ConfigError, EvaluationError
from vlmvid.evaluation.judges import EndpointJudge, judge_from_options
from vlmvid.tracking import resolve_tracking_uri
from vlmvid.video.paths import ALLOWED_PROTOCOLS

SECRET = "planted-8d21"
METADATA = "http://169.254.169.254/latest/meta-data"


class Listener(ThreadingHTTPServer):
    """Counts what is asked of it; answers with `status`, the request's own key, and `location` where it has one."""

    def __init__(self, status: int = 200, location: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.location = status, location
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Listener:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Listener

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(self.path)
        self.send_response(self.server.status)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.end_headers()
        self.wfile.write(f"no: {self.headers.get('Authorization')}".encode())

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as server:
        yield server


@pytest.mark.parametrize(
    ("address", "use"),
    [
        ("/data/home", "home"),
        ("C:/data/home", "home"),
        ("s3://bucket/home", "home"),
        ("sqlite:////data/mlflow.db", "tracking"),
        ("postgresql+psycopg2://mlflow@db/mlflow", "tracking"),
        ("https://mlflow.example", "tracking"),
        ("models:/name@champion", "model"),
        ("runs:/1/model", "model"),
        ("/models/one", "model"),
        ("http://127.0.0.1:8000/v1", "judge"),
    ],
)
def test_what_is_opened(address: str, use: addresses.AddressUse) -> None:
    assert check_address(address, use, "x") == address


@pytest.mark.parametrize(
    ("address", "use", "words"),
    [
        ("http://host/home", "home", "'http'"),
        ("ftp://host/home", "home", "'ftp'"),
        ("zip::s3://bucket/home.zip", "home", "no scheme"),
        ("file:///tmp/mlruns", "tracking", "'file'"),
        ("./mlruns", "tracking", "no scheme"),
        ("s3://bucket/model", "model", "'s3'"),
        ("http://host/model", "model", "'http'"),
        ("file:///etc/passwd", "judge", "'file'"),
        ("host/v1", "judge", "no scheme"),
    ],
)
def test_what_is_not_opened_is_named_with_what_is(address: str, use: addresses.AddressUse, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        check_address(address, use, "x")
    assert all(scheme in str(error.value) for scheme in ALLOWED_SCHEMES[use])


def test_every_entry_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(tmp_path, write_dataset(tmp_path, 1, 0))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///tmp/mlruns")
    entries = (
        lambda: open_store("github://owner:repo@main/home"),
        lambda: load_recipe(recipe, ["tracking.uri=file:///tmp/mlruns"]),
        lambda: resolve_tracking_uri(None, tmp_path),
        lambda: vlmvid.load("https://models.example/one"),
        lambda: judge_from_options({"judge": "ftp://host/v1#model"}),
    )
    for entry in entries:
        with pytest.raises(ConfigError, match="not opened here; allowed: "):
            entry()


def test_media_are_files_of_this_machine() -> None:
    assert ALLOWED_SCHEMES["media"] == ALLOWED_PROTOCOLS


def test_no_row_of_a_manifest_makes_a_connection(tmp_path: Path, listener: Listener) -> None:
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXTINF:1,\n{listener.url}/segment.ts\n")
    places = [f"{listener.url}/clip.mp4", METADATA, "s3://bucket/a.mp4", f"concat:{listener.url}/a.mp4", playlist.name]
    rows = [{"video_id": f"bad{i}", "path": place} for i, place in enumerate(places)]
    good = [{"video_id": f"good{i}", "path": write_clip(tmp_path / f"{i}.mp4", (9, 9, 40 * i)).name} for i in range(6)]
    manifest = write_rows(tmp_path / "m.jsonl", [*good, *rows])
    request = request_for(tmp_path, tmp_path / "home", manifest, (TOLERANT,), align=None, evaluate=None)
    run(request, "ingest", "decode")
    assert {name for name, row in ledger_of(request).items() if row.status == "ok"} == {f"good{i}" for i in range(6)}
    assert listener.asked == []


class TestRequests:
    def test_no_redirection_is_followed(self, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("JUDGE_KEY", SECRET)
        for target in (f"{listener.url}/other", "file:///etc/passwd", METADATA):
            with Listener(307, target) as first, pytest.raises(EvaluationError, match="HTTP 307") as error:
                EndpointJudge(first.url, "m", "2026-11-22", key_variable="JUDGE_KEY").replies(["a"])
            assert first.asked == ["/chat/completions"]
            assert SECRET not in "".join(traceback.format_exception(error.value))
        assert listener.asked == []

    def test_a_key_that_the_server_repeats_is_not_shown(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("JUDGE_KEY", SECRET)
        log = tmp_path / "replies.jsonl"
        for status in (401, 500):
            with Listener(status) as server, pytest.raises(EvaluationError) as error:
                judge = EndpointJudge(
                    server.url, "m", "2026-11-22", key_variable="JUDGE_KEY", log=log, attempts=1, pause_seconds=0
                )
                judge.replies(["a"])
            assert SECRET not in "".join(traceback.format_exception(error.value))
        assert not log.exists() or SECRET not in log.read_text()

    def test_only_http_is_opened(self) -> None:
        with pytest.raises(ConfigError, match="no http or https"):
            open_http(Request("file:///etc/passwd"), 1.0)


class TestSecretsInRecipes:
    @pytest.mark.parametrize(
        "address",
        [
            f"http://user:{SECRET}@127.0.0.1:5000",
            f"postgresql://mlflow:{SECRET}@db/mlflow",
            f"https://host/mlflow?token={SECRET}",
            f"https://host/mlflow?a=1&api_key={SECRET}",
        ],
    )
    def test_a_tracking_address_with_one_is_refused(self, tmp_path: Path, address: str) -> None:
        recipe = write_recipe(tmp_path, write_dataset(tmp_path, 1, 0), tracking={"uri": address})
        with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD in the environment") as error:
            load_recipe(recipe)
        assert SECRET not in "".join(traceback.format_exception(error.value))

    def test_no_traceback_of_a_refused_recipe_repeats_values(self, tmp_path: Path) -> None:
        recipe = write_recipe(tmp_path, write_dataset(tmp_path, 1, 0), tracking={"api_key": SECRET, "enabled": "x"})
        with pytest.raises(ConfigError, match="unknown key 'tracking.api_key'") as error:
            load_recipe(recipe)
        assert SECRET not in "".join(traceback.format_exception(error.value))

    def test_a_home_with_one_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY") as error:
            open_store(f"s3://key:{SECRET}@bucket/home")
        assert SECRET not in str(error.value)

    @pytest.mark.parametrize(
        "options",
        [
            {"judge": f"https://user:{SECRET}@host/v1#m"},
            {"judge": f"https://host/v1?key={SECRET}#m"},
            {"judge": f"https://user:{SECRET}@host/v1"},
            {"judge": "https://host/v1#m", "judge_key": f"sk-{SECRET}"},
        ],
    )
    def test_a_judge_with_one_is_refused(self, options: dict[str, str]) -> None:
        with pytest.raises(ConfigError) as error:
            judge_from_options(options)
        assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"API request to http://u:{SECRET}@h:5/api failed", "API request to http://h:5/api failed"),
        (f"'https://h/x?api_key={SECRET}&y=1'", "'https://h/x?api_key=***&y=1'"),
        (f"postgresql+psycopg2://u:{SECRET}@h/d", "postgresql+psycopg2://h/d"),
        (f"mysql://u:with/{SECRET}?@h/d and postgresql://h:5/d", "mysql://h/d and postgresql://h:5/d"),
        ("no address: a@b, c:d", "no address: a@b, c:d"),
        ("http://h/a@b?query=1", "http://h/a@b?query=1"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_the_recipe_in_the_home_is_the_recipe(tmp_path: Path) -> None:
    """What is kept is what was read: nothing of the environment gets into it."""
    request = request_for(tmp_path, tmp_path / "home", write_dataset(tmp_path, 2, 0), align=None, evaluate=None)
    kept = yaml.safe_load(Path(request.recipe).read_text())
    assert kept["tracking"]["uri"] is None and "environment" not in json.dumps(kept)
