"""Maintenance: runs that nobody ends are closed, garbage goes, registered models and what they need stay."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import RECIPE, write_dataset
from tests.unit.pipeline_fixtures import request_for, run, statuses
from tests.unit.tracking_fixtures import client_of, fresh_home
from vlmvid.artifacts.garbage import find_temporaries
from vlmvid.errors import ConfigError
from vlmvid.pipeline import RunRequest
from vlmvid.pipeline.context import open_context
from vlmvid.pipeline.gc import collect_garbage
from vlmvid.pipeline.upkeep import maintain, maintenance_markdown

REGISTERED = {"tracking": {"enabled": True}, "evaluate": None, "register": {"model_name": "tiny"}}


@pytest.fixture
def tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, RunRequest]]:
    """A home with a registered model, and the request that made it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = fresh_home(tmp_path / "home")
    monkeypatch.setenv("VLMVID_HOME", str(home))
    request = request_for(tmp_path, home, write_dataset(tmp_path, num_train=4, num_test=0), **REGISTERED)
    run(request)
    yield home, request
    open_context.cache_clear()


def test_what_registered_models_were_made_of_stays(tracked: tuple[Path, RunRequest], tmp_path: Path) -> None:
    import vlmvid

    home, request = tracked
    manifest = tmp_path / "manifest.jsonl"
    vision = {**RECIPE["encode"]["vision"], "image_size": 16}
    sections = {"encode": {**RECIPE["encode"], "vision": vision}, "decode": {**RECIPE["decode"], "image_size": 16}}
    newer = request_for(tmp_path, home, manifest, **{**REGISTERED, "register": None, **sections})
    run(newer)
    before = set((home / "stages").glob("*/*"))
    # A registry that does not answer may know of any model.
    silent = Path(request.recipe).with_name("other-0123456789ab.yaml")
    silent.write_text(Path(request.recipe).read_text().replace('"uri": null', '"uri": "http://127.0.0.1:9"', 1))
    report = collect_garbage(home, dry_run=False, older_than_hours=0, superseded=True)
    assert any("the registry does not answer: http://127.0.0.1:9" in note for note in report.notes)
    assert set((home / "stages").glob("*/*")) == before and (home / "models").is_dir()
    silent.unlink()
    # The old variant is forgotten, but its model is registered.
    report = collect_garbage(home, dry_run=False, older_than_hours=0, superseded=True, keep_recipes=1)
    assert "recipe" in {item.kind for item in report.items} and not Path(request.recipe).exists()
    # Frames are no input of features by their key, so those of the old variant go.
    assert {path.parent.name for path in before - set((home / "stages").glob("*/*"))} == {"decode"}
    assert vlmvid.load("models:/tiny@candidate").encode_text(["a red picture"]).shape == (1, 16)
    # Without the registration they go; what the newer recipe needs does not.
    client = client_of(home)
    client.delete_registered_model("tiny")
    kept = home / "stages" / "register"
    report = collect_garbage(home, dry_run=False, older_than_hours=0, superseded=True, keep_recipes=1)
    assert report.failed == [] and kept.is_dir(), "the newest registration of a recipe stays"
    shutil.rmtree(kept)
    report = collect_garbage(home, dry_run=False, older_than_hours=0, superseded=True, keep_recipes=1)
    gone = {Path(item.place).relative_to(home).parts[1] for item in report.items if item.kind == "artifact"}
    assert gone == {"encode", "align"} and "model" in {item.kind for item in report.items}
    assert {status for status, _ in statuses(newer).values()} == {"cached"}
    assert find_temporaries(home) == []


def test_maintenance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = fresh_home(tmp_path / "home")
    # A process that opened runs and was killed.
    code = """
import os, signal, sys
from pathlib import Path
from vlmvid.config.schema import TrackingConfig
from vlmvid.tracking import open_tracker
tracker = open_tracker(TrackingConfig(), Path(sys.argv[1]))
tracker.start_pipeline(pipeline_key="k", name="killed", config={}, tags={})
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(home)], check=False)
    temporary = home / "stages" / "align" / ".k.0123456789ab.tmp"
    temporary.mkdir(parents=True)
    os.utime(temporary, (1e9, 1e9))
    told = maintain(home, older_than_hours=1, straggler_seconds=0)
    assert [(one.name, one.status) for one in told.stragglers] == [("killed", "KILLED")]
    assert temporary.exists() and told.problems == ()
    words = maintenance_markdown(told)
    assert "**Runs closed:** 1" in words and "| killed | KILLED |" in words and "would go" in words
    told = maintain(home, ended=lambda tags: "FAILED", delete=True, older_than_hours=1, straggler_seconds=0)
    assert told.stragglers == () and not temporary.exists()
    assert "removed" in maintenance_markdown(told)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_mistyped_home_is_refused_and_not_made(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMVID_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match=f"there is no store at {scheme}.*nowhere.*set VLMVID_HOME or --home"):
        maintain(f"{scheme}{tmp_path}/nowhere", delete=True)
    assert list(tmp_path.iterdir()) == []


def test_a_tracking_service_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    (tmp_path / "home").mkdir()
    told = maintain(tmp_path / "home")
    assert len(told.problems) == 1 and told.garbage.items == ()
    assert "- http://127.0.0.1:9: runs of 'vlmvid' not looked at" in maintenance_markdown(told)
