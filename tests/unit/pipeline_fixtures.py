"""Running the tiny recipe's stages in a test, and looking at what they did."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from tests.tiny import write_clip, write_recipe
from vlmvid.artifacts import ArtifactRef, LedgerRow
from vlmvid.artifacts.ledger import read_lines
from vlmvid.config.schema import StageName
from vlmvid.pipeline import STAGES, RunRequest, keys, make_request
from vlmvid.pipeline.context import open_context
from vlmvid.pipeline.index import IndexRow, read_index
from vlmvid.pipeline.plan import plan
from vlmvid.pipeline.session import pipeline_run
from vlmvid.video.readers.pyav import PyAVReader

NO_TRACKING = {"tracking": {"enabled": False}}
TOLERANT = "options.max_failed_fraction=0.5"


def run(request: RunRequest, *names: str) -> dict[str, ArtifactRef]:
    with pipeline_run(request) as context:
        return {name: STAGES[name].run(request) for name in names or context.recipe.stages()}  # type: ignore[index]


def statuses(request: RunRequest) -> dict[str, tuple[str, str]]:
    return {p.name: (p.status, p.reason) for p in plan(request)}


def request_for(
    tmp_path: Path, home: Path, manifest: Path, overrides: tuple[str, ...] = (), **sections: Any
) -> RunRequest:
    return make_request(write_recipe(tmp_path, manifest, **{**NO_TRACKING, **sections}), overrides, home=home)


def index_of(request: RunRequest, stage: StageName = "encode") -> list[IndexRow]:
    return read_index(open_context(request).folder(stage))


def features_of(request: RunRequest) -> NDArray[Any]:
    rows = [row.location for row in index_of(request) if row.status == "ok"]
    return open_context(request).store.clips("encode").gather("features", rows)


def ledger_of(request: RunRequest, stage: StageName = "decode") -> dict[str, LedgerRow]:
    rows = open_context(request).store.ledger(stage).rows().values()
    found = {row.video_id: row for row in rows}
    assert len(found) == len(rows), "more than one row for a clip"
    return found


def published(home: Path) -> list[str]:
    return [row["stage"] for row in read_lines(home / "events.jsonl") if row["event"] == "stage.published"]


def count_opens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    opened: list[str] = []
    original = PyAVReader.__init__

    def counted(self: Any, path: str, *args: Any, **kwargs: Any) -> None:
        opened.append(str(path))
        original(self, path, *args, **kwargs)

    monkeypatch.setattr(PyAVReader, "__init__", counted)
    return opened


def run_with_a_file_away(request: RunRequest, path: Path) -> dict[str, ArtifactRef]:
    """A run during which `path` holds other content from after ingest on; then it is as it was."""
    whole = path.read_bytes()
    with pipeline_run(request) as context:
        refs = {"ingest": STAGES["ingest"].run(request)}
        write_clip(path, (1, 2, 3), shift=5)
        refs |= {name: STAGES[name].run(request) for name in context.recipe.stages()[1:]}
    path.write_bytes(whole)
    return refs


def write_broken(folder: Path) -> list[dict[str, Any]]:
    """Files that fail to decode, beside a sound ``clip0.mp4``; returns their manifest rows."""
    whole = (folder / "clip0.mp4").read_bytes()
    files = {"truncated.mp4": whole[: len(whole) // 2], "empty.mp4": b"", "text.mp4": b"this is no video\n" * 50}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [{"video_id": Path(name).stem, "path": name, "captions": ["x"]} for name in files]


def run_until_killed(request: RunRequest, code: str) -> None:
    """Run `code`, which knows `STAGES` and `request` and ends in `kill()`, in a process of its own."""
    head = (
        "import os, signal, sys\n"
        "from vlmvid.pipeline import STAGES, RunRequest\n"
        "request = RunRequest.model_validate_json(sys.argv[1])\n"
        "kill = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", head + code, request.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def edit_code(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """From here on the source of `module` looks changed."""
    original = keys.code_closure

    def edited(roots: Any) -> Any:
        modules, packages = original(roots)
        return {m: "edited" if m == module else digest for m, digest in modules.items()}, packages

    monkeypatch.setattr(keys, "code_closure", edited)
