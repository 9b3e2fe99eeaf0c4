"""Secrets are planted; then everything that a run wrote is searched for them."""

from __future__ import annotations

import base64
import logging
import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from tests.mlflow_fixtures import MlflowServer
from tests.security.planting import SECRETS, found_in, holds, leaks, with_password
from tests.tiny import write_dataset, write_recipe
from tests.unit.pipeline_fixtures import run
from tests.unit.tracking_fixtures import free_port
from vlmvid.errors import StageError, TrackingError
from vlmvid.pipeline import make_request, summarise
from vlmvid.tracking.mlflow_registry import download_model

ROOT = Path(__file__).parents[2]
REGISTER = {"register": {"model_name": "planted-model"}}


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", with_password(f"http://127.0.0.1:{free_port()}"))


def test_the_look_finds_them(tmp_path: Path) -> None:
    for number, value in enumerate([*SECRETS.values(), with_password("http://h")]):
        (tmp_path / f"{number}.txt").write_text(f"before {value} after")
    assert len(leaks([tmp_path])) == len(SECRETS) + 1


@pytest.mark.usefixtures("planted")
def test_a_run_whose_tracking_service_is_away_writes_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    with caplog.at_level(logging.DEBUG, logger="vlmvid"):
        request = make_request(write_recipe(tmp_path, write_dataset(tmp_path), **REGISTER), home=home)
        run(request)
        summary = summarise(request)
        for clip in tmp_path.glob("clip*.mp4"):
            clip.write_bytes(b"")
        with pytest.raises(StageError) as failed:
            run(request)
        with pytest.raises(TrackingError) as unreachable:
            download_model("models:/planted-model@candidate", os.environ["MLFLOW_TRACKING_URI"])
    assert summary["tracking"]["gaps"] and holds(home, "planted-model")
    said = [caplog.text, *capfd.readouterr(), str(summary)]
    said += ["".join(traceback.format_exception(error.value)) for error in (failed, unreachable)]
    assert "the service at http://127.0.0.1" in caplog.text
    assert [found_in(text.encode()) for text in said] == [[]] * len(said)
    assert leaks([home]) == {}


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_prefect_mlflow_and_the_home_hold_none(tmp_path: Path, mlflow_server: MlflowServer) -> None:
    """A run that ends well, one that fails, and one without its tracking service, in the words of a user."""
    home, prefect_home = tmp_path / "home", tmp_path / "prefect"
    prefect_home.mkdir()
    recipe = write_recipe(tmp_path, write_dataset(tmp_path), **REGISTER)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    said: list[str] = []

    def run_it(uri: str, *options: str) -> int:
        environment = {**kept, **SECRETS, "PREFECT_HOME": str(prefect_home), "MLFLOW_TRACKING_URI": with_password(uri)}
        environment["PREFECT_LOGGING_LEVEL"] = "DEBUG"
        command = [sys.executable, "-m", "vlmvid.cli", "run", str(recipe), "--home", str(home), *options]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
        said.extend((done.stdout, done.stderr))
        return done.returncode

    assert run_it(mlflow_server.uri) == 0, said[-1]
    assert run_it(f"http://127.0.0.1:{free_port()}", "-o", "align.seed=1") == 0, said[-1]
    for clip in tmp_path.glob("clip*.mp4"):
        clip.write_bytes(b"")
    assert run_it(mlflow_server.uri) == 1
    for folder in (home, mlflow_server.folder, prefect_home):
        assert holds(folder, "planted-model") or holds(folder, "tiny"), f"nothing of the runs is in {folder}"
    assert leaks([home, mlflow_server.folder, prefect_home]) == {}
    assert [found_in(text.encode()) for text in said] == [[]] * len(said)
    stored = [base64.b64decode(path.read_bytes()) for path in (prefect_home / "storage").rglob("*") if path.is_file()]
    # Prefect writes the exception of a failed flow whatever `persist_result` says: of the stage, and of the pipeline.
    assert len(stored) == 2
    for content in stored:
        assert b"StageError" in content and found_in(content) == []


@pytest.mark.prefect
def test_a_secret_block_fills_the_environment_of_a_worker(prefect_api: str) -> None:
    """As docs/security.md has it: the pool's job variables name the block, and only the worker reads it."""
    import asyncio

    from prefect.blocks.system import Secret
    from prefect.utilities.templating import resolve_block_document_references

    Secret(value=SECRETS["MLFLOW_TRACKING_PASSWORD"]).save("mlflow-password", overwrite=True)
    variables = {"env": {"MLFLOW_TRACKING_PASSWORD": "{{ prefect.blocks.secret.mlflow-password }}"}}
    resolved = asyncio.run(resolve_block_document_references(variables))
    assert resolved == {"env": {"MLFLOW_TRACKING_PASSWORD": SECRETS["MLFLOW_TRACKING_PASSWORD"]}}
