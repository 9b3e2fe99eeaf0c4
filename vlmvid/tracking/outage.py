"""Is the tracking service there? Answers within seconds, and does not ask again too soon."""

from __future__ import annotations

import base64
import http.client
import os
import socket
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vlmvid.config.addresses import open_http, without_secrets
from vlmvid.errors import TrackingError

PROBE_TIMEOUT_SECONDS = 3.0
FIRST_PAUSE_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 600.0
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


class Unreachable(TrackingError):
    """The service did not answer or failed by itself; the same request may succeed later."""


class RunVanished(Unreachable):
    """The run that was open is not there any more; it is looked for again."""


class Refused(TrackingError):
    """The service read the request and said no; the same request will fail again."""


class Breaker:
    """After a failure, keeps callers away from the service: for 30 s, then twice as long each time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed_at: float | None = None
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self.reason = ""

    @property
    def broken(self) -> bool:
        """True from a failure until the next success."""
        return self._failed_at is not None

    def allows(self, *, last_chance: bool = False) -> bool:
        """May the service be asked now? At the end of a run the longer pauses do not count."""
        if self._failed_at is None:
            return True
        pause = FIRST_PAUSE_SECONDS if last_chance else self._pause_seconds
        return self._clock() - self._failed_at >= pause

    def retry_now(self) -> None:
        """Let the next caller ask at once; if that fails too, the pause goes on growing."""
        if self._failed_at is not None:
            self._failed_at = self._clock() - LONGEST_PAUSE_SECONDS

    def failed(self, reason: str) -> None:
        """Remember a failure and start the pause."""
        if self._failed_at is not None:
            self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)
        self._failed_at = self._clock()
        self.reason = reason

    def succeeded(self) -> None:
        """Forget earlier failures."""
        self._failed_at = None
        self._pause_seconds = FIRST_PAUSE_SECONDS


def probe(uri: str, timeout_seconds: float = PROBE_TIMEOUT_SECONDS, *, must_exist: bool = False) -> None:
    """Ask the service for a sign of life; raises Unreachable. Unknown kinds of address pass.

    An HTTP server must answer ``/health``, a database server must accept a connection, an SQLite
    file must be readable and its folder writable (the folder is created; with `must_exist` the
    file must be there). MLflow itself would retry each of these for minutes.
    """
    parts = urlsplit(uri)
    kind = parts.scheme.split("+")[0]
    if kind in ("http", "https"):
        _probe_http(uri, timeout_seconds)
    elif kind == "sqlite":
        path = Path(parts.path[1:])
        if must_exist and not path.is_file():
            raise Unreachable(f"there is no tracking database {path}; set VLMVID_HOME or MLFLOW_TRACKING_URI")
        _probe_sqlite(path, timeout_seconds)
    elif kind in _DATABASE_PORTS and parts.hostname:
        address = (parts.hostname, parts.port or _DATABASE_PORTS[kind])
        try:
            socket.create_connection(address, timeout_seconds).close()
        except OSError as error:
            raise Unreachable(f"{parts.hostname}:{address[1]} does not accept a connection: {error}") from error


def _probe_http(uri: str, timeout_seconds: float) -> None:
    try:
        with open_http(_health_request(uri), timeout_seconds):
            return
    except urllib.error.HTTPError as error:
        error.close()
        # Gateways and hosted services have no /health; that something answers is enough.
        if error.code >= 500:
            raise Unreachable(f"{without_password(uri)} answers /health with HTTP {error.code}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise Unreachable(
            f"{without_password(uri)} does not answer /health within {timeout_seconds:g} s: {reason}"
        ) from error


def _health_request(uri: str) -> urllib.request.Request:
    """The question, with the user and the password of `uri` or of MLflow's variables as urllib wants them."""
    parts = urlsplit(uri)
    user = unquote(parts.username or os.environ.get("MLFLOW_TRACKING_USERNAME", ""))
    password = unquote(parts.password or "") or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    headers = {"Authorization": f"Basic {encoded}"} if user else {}
    # S310: open_http opens http and https alone.
    return urllib.request.Request(without_password(uri).rstrip("/") + "/health", headers=headers)  # noqa: S310


def _probe_sqlite(path: Path, timeout_seconds: float) -> None:
    if str(path) in ("", ".", ":memory:"):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
            raise Unreachable(f"{path} is not writable; make it writable or set tracking.uri")
        connection = sqlite3.connect(path, timeout=timeout_seconds)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as error:
        raise Unreachable(f"the tracking database {path} cannot be opened: {error}") from error


def without_password(uri: str) -> str:
    """`uri` as it may be shown: without user, password and the values of secret fields."""
    return without_secrets(uri)
