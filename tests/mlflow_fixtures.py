"""One MLflow server over HTTP for the whole session; tests may stop it, kill it and start it again."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.servers import ServerProcess
from tests.unit.tracking_fixtures import migrated_database


class MlflowServer(ServerProcess):
    """One `mlflow server` over SQLite."""

    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # for judges of language models: seven processes
    }

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        shutil.copy(migrated_database(), folder / "server.db")
        self.uri = self.address

    @property
    def words(self) -> Sequence[str]:
        words = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        words += ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        return [*words, "--artifacts-destination", str(self.folder / "artifacts")]

    def go_on(self) -> None:
        """Undo a SIGSTOP, so that the next one can ask."""
        if self.runs:
            self.signal(signal.SIGCONT)

    def ensure(self) -> None:
        """Start the server unless it runs."""
        if not self.runs:
            self.start()

    def client(self) -> MlflowClient:
        """A client behind the tracker's back."""
        return MlflowClient(self.uri, registry_uri=self.uri)


@pytest.fixture(scope="session")
def session_mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """The one server; tests take `mlflow_server`, which looks after it."""
    server = MlflowServer(tmp_path_factory.mktemp("mlflow") / "server")
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def mlflow_server(session_mlflow_server: MlflowServer) -> Iterator[MlflowServer]:
    """A real MLflow server that answers when the test begins; a test may stop or kill it."""
    session_mlflow_server.ensure()
    yield session_mlflow_server
    session_mlflow_server.go_on()
