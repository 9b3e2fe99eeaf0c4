"""A server that a test starts, and may stop, freeze, kill and start again at the same address."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.unit.tracking_fixtures import free_port

START_TIMEOUT_SECONDS = 300.0


class ServerProcess:
    """A Python program that listens on loopback, in a process group of its own, and writes `server.log` in `folder`.

    A class below says what is started (`words`, with what in the environment) and which path answers when it runs.
    """

    health = "/health"
    environment: Mapping[str, str] = {}

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def words(self) -> Sequence[str]:
        """What stands behind ``python -m``."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """What the server has written."""
        return (self.folder / "server.log").read_text()

    def start(self) -> None:
        """Start it, at the same address as before, and wait until it answers."""
        environment = {**os.environ, "PYTHONWARNINGS": "default", **self.environment}
        environment.pop("PREFECT_API_URL", None)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.words],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(self.address + self.health, timeout=2).close()
                return
            except OSError:
                assert self.process.poll() is None, self.log
                time.sleep(0.1)
        raise AssertionError(self.log)

    def signal(self, number: signal.Signals) -> None:
        """To the server and all it started."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    @property
    def runs(self) -> bool:
        """Whether its process is there, frozen or not."""
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """SIGKILL to every process of the server, and wait for its end."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
