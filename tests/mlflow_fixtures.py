"""One MLflow server over HTTP for the whole session; tests may stop it, kill it and start it again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.unit.tracking_fixtures import free_port, migrated_database

START_TIMEOUT_SECONDS = 240.0


class MlflowServer:
    """One `mlflow server` on a loopback port, in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        shutil.copy(migrated_database(), folder / "server.db")
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.log").open("ab") as log:
            environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONWARNINGS": "default"}
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "server.log").read_text()
                time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text())

    def signal(self, number: signal.Signals) -> None:
        """To the server and its workers."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def go_on(self) -> None:
        """Undo a SIGSTOP, so that the next one can ask."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)

    def ensure(self) -> None:
        """Start the server unless it runs."""
        if self.process is None or self.process.poll() is not None:
            self.start()

    def client(self) -> MlflowClient:
        """A client behind the tracker's back."""
        return MlflowClient(self.uri, registry_uri=self.uri)

    def kill(self) -> None:
        """SIGKILL to every process of the server, and wait for its end."""
        self.close()

    def close(self) -> None:
        """End every process of the server."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="session")
def session_mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """The one server; tests take `mlflow_server`, which looks after it."""
    server = MlflowServer(tmp_path_factory.mktemp("mlflow") / "server")
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def mlflow_server(session_mlflow_server: MlflowServer) -> Iterator[MlflowServer]:
    """A real MLflow server that answers when the test begins; a test may stop or kill it."""
    session_mlflow_server.ensure()
    yield session_mlflow_server
    session_mlflow_server.go_on()
