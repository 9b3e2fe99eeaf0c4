"""Running the tiny recipe's stages in a test, and looking at what they did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tiny import write_clip, write_recipe
from vlmvid.artifacts import ArtifactRef
from vlmvid.artifacts.ledger import read_lines
from vlmvid.pipeline import STAGES, RunRequest, make_request
from vlmvid.pipeline.plan import plan
from vlmvid.pipeline.session import pipeline_run
from vlmvid.video.readers.pyav import PyAVReader

NO_TRACKING = {"tracking": {"enabled": False}}


def run(request: RunRequest, *names: str) -> dict[str, ArtifactRef]:
    with pipeline_run(request) as context:
        return {name: STAGES[name].run(request) for name in names or context.recipe.stages()}  # type: ignore[index]


def statuses(request: RunRequest) -> dict[str, tuple[str, str]]:
    return {p.name: (p.status, p.reason) for p in plan(request)}


def request_for(
    tmp_path: Path, home: Path, manifest: Path, overrides: tuple[str, ...] = (), **sections: Any
) -> RunRequest:
    return make_request(write_recipe(tmp_path, manifest, **{**NO_TRACKING, **sections}), overrides, home=home)


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
