"""A Prefect server that a test may stop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.servers import ServerProcess


class PrefectServer(ServerProcess):
    """One `prefect server` with a database of its own."""

    health = "/api/health"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.environment = {"PREFECT_HOME": str(folder)}
        self.uri = f"{self.address}/api"

    @property
    def words(self) -> Sequence[str]:
        return ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
