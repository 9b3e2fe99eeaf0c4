"""One Prefect server and one migrated MLflow database for the whole session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.tracking_fixtures import fresh_home


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[str]:
    """The address of a real Prefect server on a temporary database."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    # The first start migrates the database, which a slow machine needs a minute for.
    with prefect_test_harness(server_startup_timeout=180):
        url = PREFECT_API_URL.value()
        assert url is not None
        yield url


@pytest.fixture
def tracked_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A VLMVID_HOME whose MLflow database is migrated already."""
    home = fresh_home(tmp_path / "home")
    monkeypatch.setenv("VLMVID_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    os.environ.pop("MLFLOW_RUN_ID", None)
    return home
