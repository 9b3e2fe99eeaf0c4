"""A service that is away costs seconds, and is left alone for a while."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tests.unit.tracking_fixtures import free_port
from vlmvid.tracking.outage import Breaker, Unreachable, probe, without_password


def test_breaker_waits_longer_after_each_failure_and_forgets_after_success() -> None:
    now = 0.0
    breaker = Breaker(lambda: now)
    assert breaker.allows()
    breaker.failed("down")
    assert breaker.broken
    now = 29.9
    assert not breaker.allows()
    now = 30.0
    assert breaker.allows()
    breaker.failed("still down")
    now = 89.0
    assert not breaker.allows()
    assert breaker.allows(last_chance=True)
    now = 90.0
    assert breaker.allows()
    for _ in range(10):
        breaker.failed("still down")
    now += 599.0
    assert not breaker.allows()
    now += 1.0
    assert breaker.allows()
    breaker.failed("still down")
    assert not breaker.allows()
    breaker.retry_now()
    assert breaker.allows() and breaker.broken
    breaker.succeeded()
    breaker.failed("down again")
    now += 30.0
    assert breaker.allows()
    assert breaker.reason == "down again"


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg2"])
def test_a_closed_port_is_noticed_at_once(scheme: str) -> None:
    started = time.monotonic()
    with pytest.raises(Unreachable, match="127.0.0.1"):
        probe(f"{scheme}://127.0.0.1:{free_port()}")
    assert time.monotonic() - started < 1


def test_a_server_that_accepts_and_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        started = time.monotonic()
        with pytest.raises(Unreachable, match="within 0.5 s"):
            probe(f"http://127.0.0.1:{server.getsockname()[1]}", timeout_seconds=0.5)
        assert time.monotonic() - started < 2


def test_a_file_that_is_no_database_and_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, and long enough to have no valid header" * 20)
    with pytest.raises(Unreachable, match="not a database"):
        probe(f"sqlite:///{tmp_path / 'notes.txt'}")
    with pytest.raises(Unreachable, match="VLMVID_HOME"):
        probe(f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}", must_exist=True)
    assert not (tmp_path / "new").exists()
    probe(f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}")
    assert (tmp_path / "new").is_dir()


def test_passwords_are_not_shown() -> None:
    assert without_password("http://me:secret@host:5000/x") == "http://host:5000/x"
    assert without_password("sqlite:////home/mlflow.db") == "sqlite:////home/mlflow.db"
