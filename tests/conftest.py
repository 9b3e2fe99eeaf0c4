"""What all tests share: no network but loopback, temporary homes, quiet services."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Prefect and MLflow read these when they are imported, so they are set before any test module is.
_SCRATCH = Path(tempfile.mkdtemp(prefix="vlmvid-tests-"))
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{_SCRATCH}/mlflow.db",
        "PREFECT_HOME": str(_SCRATCH / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "VLMVID_HOME": str(_SCRATCH / "home"),
        "TOKENIZERS_PARALLELISM": "false",
    }
)

# A background job of a shell begins with SIGINT ignored, and so would all that tests start and end with it.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402

# One server of each kind for all folders: a second start costs a minute on a slow machine.
pytest_plugins = ["tests.mlflow_fixtures", "tests.prefect_fixtures"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail on any connection that leaves this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple):
            host = str(address[0])
            if host not in ("localhost", "::1") and not host.startswith("127."):
                raise AssertionError(f"a test connects to {address}; tests stay on this machine")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)
    yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh VLMVID_HOME with its own MLflow database."""
    folder = tmp_path / "home"
    monkeypatch.setenv("VLMVID_HOME", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    return folder
