"""`vlmvid serve` as it is called: it tells where it is, ends when it is told to, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.tiny import COLOURS, write_clip
from tests.unit.test_serving_vlm import folder_with
from tests.unit.video_index_fixtures import make_index, unit_rows
from tests.unit.web_fixtures import tiny_index
from vlmvid.cli import main
from vlmvid.serving.web.server import bind

ROOT = Path(__file__).parents[2]


def model_folder() -> str:
    return str(folder_with("vision", "text", "alignment"))


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_end(tmp_path: Path, number: signal.Signals) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "vlmvid.cli", "serve", "--model", model_folder(), "--port", "0", "--json"]
    process = subprocess.Popen(
        [*command, "--index", str(tiny_index().folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    told = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
    assert told["clips"] == tiny_index().num_clips and told["model"] == "tiny"
    data = write_clip(tmp_path / "mine.mp4", COLOURS["red"]).read_bytes()
    with httpx.Client(base_url=told["url"], timeout=60) as client:
        assert client.get("/health").json()["status"] == "ok"
        assert client.get("/health", headers={"Host": "evil.example"}).status_code == 403
        assert client.post("/api/uploads", files={"file": ("a.mp4", data)}).status_code == 200
        assert list(scratch.rglob("video"))
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in said) == (0, False), said
    assert list(scratch.iterdir()) == [], "uploads go with the service"


_BUSY = """
import sys, time, torch
from vlmvid.cli import main
from vlmvid.serving.web import service

def look(model, looks):
    print("looking", file=sys.stderr, flush=True)
    until = time.monotonic() + 120
    while time.monotonic() < until:
        torch.ones(500, 500) @ torch.ones(500, 500)

service.look = look
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.long
def test_it_ends_in_time_while_the_model_works(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-c", _BUSY, "serve", "--model", model_folder(), "--port", "0", "--json"]
    process = subprocess.Popen(
        [*command, "--index", str(tiny_index().folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        told = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
        data = write_clip(tmp_path / "mine.mp4", COLOURS["red"]).read_bytes()
        with ThreadPoolExecutor(1) as thread:
            sent = thread.submit(httpx.post, f"{told['url']}/api/uploads", files={"file": ("a.mp4", data)}, timeout=60)
            assert any("looking" in line for line in process.stderr)
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
            seconds = time.monotonic() - started
            refused = sent.result()
    finally:
        process.kill()
        process.wait()
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5") and "is ending" in refused.text
    assert (process.returncode, "Traceback" in said) == (0, False), said
    assert seconds < 15, "five, and what a busy machine adds"
    assert list(scratch.iterdir()) == []


def test_what_it_refuses_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = str(tiny_index().folder)

    def refused(*arguments: str) -> str:
        assert main(["serve", "--model", model_folder(), *arguments]) in (1, 2)
        said = capsys.readouterr().err
        assert said.startswith("vlmvid: ") and said.count("\n") == 1
        return said

    make_index(tmp_path / "other", unit_rows(3, 8))
    said = refused("--index", str(tmp_path / "other"), "--port", "0")
    assert "made with the model 'tiny' (vision: eyes, text: ears" in said and "this is the model 'tiny' (" in said
    assert "index" in refused("--index", str(tmp_path), "--port", "0")
    assert "--max-upload-mb 0 must be more than 0" in refused("--index", index, "--max-upload-mb", "0")
    with bind("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen at '127.0.0.1', port {port}" in refused("--index", index, "--port", port)
