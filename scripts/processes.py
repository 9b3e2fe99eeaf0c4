"""Long-lived programs of one folder: started, watched, paused, ended, and none of them forgotten."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 240.0  # a slow machine with other work on it
STOP_SECONDS = 30.0
MARK = "VLMVID_PROCESSES"  # in the environment of every process, so that none is forgotten


class ServiceError(RuntimeError):
    """A program is missing on this machine, did not start, or ended by itself; the message names its log."""


@dataclass
class Service:
    """One program: how it is started, and how one sees that it answers."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    answers: Callable[[], bool]
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stdin: str | None = None
    cwd: Path = Path("/")
    process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.poll() is None


class Processes:
    """Programs that log into one folder. They end when the thread that started them ends, however it ends.

    Args:
        folder: where the logs go, one file per program.
        inherited: the environment that all of them get, each with its own on top.
    """

    def __init__(self, folder: Path, inherited: Mapping[str, str]) -> None:
        self.folder = folder
        self._mark = secrets.token_hex(8)
        self._inherited = {**inherited, MARK: self._mark}
        self._services: dict[str, Service] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The programs, in the order in which they were added."""
        return tuple(self._services)

    def add(self, service: Service) -> None:
        """Make a program known, without starting it."""
        self._services[service.name] = service

    def start(self, name: str, *, wait: bool = True) -> None:
        """Start a program that is not running; by default return when it answers."""
        service = self._service(name)
        if not service.is_running:
            service.process = self._spawn(service)
        if wait:
            self.wait_for(name)

    def wait_for(self, name: str, timeout_seconds: float = START_SECONDS) -> None:
        """Return when the program answers."""
        service = self._service(name)
        deadline = time.monotonic() + timeout_seconds
        while not service.answers():
            if not service.is_running:
                raise ServiceError(f"{name} ended while it started; the end of {self._tail(name)}")
            if time.monotonic() > deadline:
                raise ServiceError(f"{name} did not answer within {timeout_seconds:g} s; the end of {self._tail(name)}")
            time.sleep(0.2)

    def finish(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Run a command to its end; raise `ServiceError` when it fails."""
        with self.log(name).open("ab") as log:
            done = subprocess.run(command, env=self.full(environment), stdout=log, stderr=log, check=False)
        if done.returncode != 0:
            raise ServiceError(f"{name} failed ({shlex.join(command)}); the end of {self._tail(name)}")

    def stop(self, name: str) -> None:
        """Ask a program to end, as `docker stop` does; after 30 s kill it. What it started and left is killed too."""
        service = self._service(name)
        if service.process is None:
            return
        family = self.pids(name)
        if service.is_running:
            send(family, signal.SIGCONT)  # a paused program cannot end
            service.process.send_signal(service.stop_signal)
        try:
            service.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            service.process.kill()
            service.process.wait()
        kill(family[1:])
        service.process = None

    def kill9(self, name: str) -> None:
        """Kill a program and all that it started, without a warning."""
        service = self._service(name)
        if service.process is not None:
            kill(self.pids(name))
            service.process.wait()
            service.process = None

    def stop_all(self) -> None:
        """End everything, the last one first, and kill whatever carries this folder's mark still."""
        for name in reversed(self.names):
            self.stop(name)
        mark = f"{MARK}={self._mark}".encode()
        kill([pid for pid in _parents() if mark in _environment_of(pid)])

    def pids(self, name: str) -> list[int]:
        """The program's process, first, and those that it started, as far as their parents live."""
        process = self._service(name).process
        if process is None:
            return []
        found, parents = [process.pid], _parents()
        for known in found:
            found += [child for child, parent in parents.items() if parent == known]
        return found

    def log(self, name: str) -> Path:
        """The file that a program writes to."""
        return self.folder / f"{name}.log"

    def full(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The whole environment of a program whose own part is `environment`."""
        return {**self._inherited, **environment}

    def _service(self, name: str) -> Service:
        if name not in self._services:
            raise ServiceError(f"there is no service {name!r}; there are {', '.join(self._services)}")
        return self._services[name]

    def _spawn(self, service: Service) -> subprocess.Popen[bytes]:
        # setpriv changes the user and asks the kernel to end the program when the one that started it dies.
        command = ["setpriv", "--pdeathsig", service.stop_signal.name.removeprefix("SIG"), *as_user(service.user)]
        with self.log(service.name).open("ab") as log:
            process = subprocess.Popen(
                [*command, "--", *service.command],
                cwd=service.cwd,
                env=self.full(service.environment),
                stdin=subprocess.DEVNULL if service.stdin is None else subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if process.stdin is not None and service.stdin is not None:
            process.stdin.write(service.stdin.encode())
            process.stdin.close()
        return process

    def _tail(self, name: str) -> str:
        lines = self.log(name).read_text(errors="replace").splitlines() if self.log(name).exists() else []
        return "\n".join([f"{self.log(name)}:", *lines[-20:]])


def as_user(user: str | None) -> list[str]:
    """setpriv's options to run as `user`; none for the user that runs this."""
    return [] if user is None else ["--reuid", user, "--regid", user, "--clear-groups"]


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to processes, some of which may be gone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def kill(pids: Sequence[int]) -> None:
    """Kill processes and return when they are gone: then their ports are free."""
    send(pids, signal.SIGKILL)
    deadline = time.monotonic() + STOP_SECONDS
    while any(map(_is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)


def free_ports(count: int) -> list[int]:
    """Different loopback ports that nothing listens on now."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def answers(url: str) -> bool:
    """Whether `url` can be read within 5 s."""
    try:
        # The caller names a server that it started on loopback.
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310  # nosec B310
            return True
    except (OSError, urllib.error.URLError):
        return False


def listens(port: int) -> bool:
    """Whether something accepts connections on a loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _parents() -> dict[int, int]:
    """Every process of this machine with its parent."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            found[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    return found


def _environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it ended, or is another user's
        return []
