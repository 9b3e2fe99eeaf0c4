"""A real site: videos, an index that `vlmvid index` made of them with a tiny model, `vlmvid serve` in a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from tests.tiny import COLOURS, write_clip, write_rows
from tests.unit.test_serving_vlm import folder_with
from vlmvid.pipeline.indexing import index_request
from vlmvid.pipeline.indexing_table import build_index
from vlmvid.video.writer import write_mp4

ROOT = Path(__file__).parents[2]
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
HOSTILE_FILE = "<img src=x onerror=hacked=1>.mp4"
FPS = 6
FILM_SECONDS = 4
NUM_CLIPS = 30
PART = "part"
MISSING = "missing"


@dataclass(frozen=True)
class Site:
    """A server that answers, and where its files are."""

    url: str
    folder: Path
    client: httpx.Client


def write_film(path: Path, first: int) -> Path:
    """Four seconds, each of another colour; `first` says which of them comes first."""
    colours = list(COLOURS.values())
    frames = np.empty((FILM_SECONDS * FPS, 3, 80, 128), np.uint8)
    for i in range(len(frames)):
        frames[i] = np.array(colours[(first + i // FPS) % 4], np.uint8)[:, None, None]
        frames[i, :, 30:50, 2 * i : 2 * i + 20] = 255
    write_mp4(path, frames, fps=FPS)
    return path


def write_videos(folder: Path) -> Path:
    """Films and short clips with a manifest: one is hostile, one part of a file, and one that will be missing."""
    names = list(COLOURS)
    rows = []
    for number in range(NUM_CLIPS):
        is_film = number < 4
        name = HOSTILE_FILE if number == 0 else f"clip {number}.mp4"
        if is_film:
            write_film(folder / name, number)
        else:
            write_clip(folder / name, COLOURS[names[number % 4]], shift=number)
        rows.append(
            {
                "video_id": HOSTILE_FILE if number == 0 else f"v{number}",
                "path": name,
                "captions": [HOSTILE if number == 0 else f"a {names[number % 4]} box moves", f"number {number}"],
                "attributes": {
                    "colour": names[number % 4],
                    "number": str(number % 8),
                    "kind": HOSTILE if number == 0 else "film" if is_film else "short",
                },
            }
        )
    rows.append({**rows[1], "video_id": PART, "start_seconds": 1.0, "end_seconds": 2.0, "captions": ["one second"]})
    write_clip(folder / "gone.mp4", (9, 9, 9))
    rows.append({**rows[5], "video_id": MISSING, "path": "gone.mp4", "captions": ["it is gone"]})
    return write_rows(folder / "manifest.jsonl", rows)


@contextmanager
def served(folder: Path) -> Iterator[Site]:
    """The site, for the time of the block."""
    manifest = write_videos(folder / "videos")
    model = folder_with("vision", "text", "alignment", "vlm")
    build_index(index_request(str(manifest), str(model), str(folder / "films"), decode_workers=0))
    (folder / "videos" / "gone.mp4").unlink()
    command = [sys.executable, "-m", "vlmvid.cli", "serve", "--model", str(model), "--index", str(folder / "films")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    log = folder / "serve.log"
    with log.open("w") as errors:
        server = subprocess.Popen(
            [*command, "--port", "0", "--json", "--max-upload-mb", "1"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            url = _told(server, log)
            with httpx.Client(base_url=url, timeout=60) as client:
                yield Site(url, folder, client)
        finally:
            server.terminate()
            server.wait(30)
            assert server.stdout is not None
            server.stdout.close()


def _told(server: subprocess.Popen[str], log: Path) -> str:
    """The address that the server prints as JSON once it answers."""
    assert server.stdout is not None
    text = ""
    while line := server.stdout.readline():
        text += line
        try:
            return str(json.loads(text)["url"])
        except json.JSONDecodeError:
            continue
    raise AssertionError(log.read_text())
