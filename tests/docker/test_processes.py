"""What scripts/cluster.py starts ends with it, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.processes import Processes, Service, ServiceError, free_ports, listens
from tests.needs import ON_LINUX

pytestmark = ON_LINUX
LISTEN = "import http.server, sys; http.server.test(bind='127.0.0.1', port=int(sys.argv[1]))"
# A program with a child in a session of its own, and the pid of that child in a file.
PARENT = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_alive(pid)


def web(port: int) -> Service:
    return Service("web", [sys.executable, "-c", LISTEN, str(port)], {}, lambda: listens(port))


def test_start_pause_stop(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    processes = Processes(tmp_path, {"PATH": "/usr/bin:/bin"})
    processes.add(web(port))
    processes.start("web")
    (pid,) = processes.pids("web")
    processes.start("web")  # it runs already
    assert processes.pids("web") == [pid]
    processes.kill9("web")
    assert not listens(port) and processes.pids("web") == []
    processes.start("web")
    processes.stop("web")
    assert not listens(port) and processes.log("web").exists()
    processes.stop("web")


def test_what_does_not_start_says_why(tmp_path: Path) -> None:
    processes = Processes(tmp_path, {"PATH": "/usr/bin:/bin"})
    processes.add(Service("broken", ["sh", "-c", "echo no such disk >&2; exit 3"], {}, lambda: False))
    with pytest.raises(ServiceError, match=r"broken ended while it started(.|\n)*no such disk"):
        processes.start("broken")
    with pytest.raises(ServiceError, match=r"init failed \(sh -c 'echo bad; exit 1'\)(.|\n)*bad"):
        processes.finish("init", ["sh", "-c", "echo bad; exit 1"], {})


def test_a_program_that_never_answers_is_given_up(tmp_path: Path) -> None:
    processes = Processes(tmp_path, {"PATH": "/usr/bin:/bin"})
    processes.add(Service("silent", ["sleep", "60"], {}, lambda: False))
    processes.start("silent", wait=False)
    with pytest.raises(ServiceError, match=r"silent did not answer within 0\.1 s"):
        processes.wait_for("silent", timeout_seconds=0.1)
    processes.stop_all()


@pytest.mark.parametrize("kill_first", [False, True])
def test_no_child_is_left(kill_first: bool, tmp_path: Path) -> None:
    file = tmp_path / "child"
    processes = Processes(tmp_path, {"PATH": "/usr/bin:/bin"})
    processes.add(Service("parent", [sys.executable, "-c", PARENT, str(file)], {}, file.exists))
    processes.start("parent")
    while not file.read_text():
        time.sleep(0.01)
    pids = processes.pids("parent")
    assert pids[1:] == [int(file.read_text())]
    if kill_first:  # now the child's parent is another process, and only the mark tells whose it was
        subprocess.run(["kill", "-9", str(pids[0])], check=True)
        assert wait_until_gone(pids[0]) and is_alive(pids[1])
    processes.stop_all()
    assert all(map(wait_until_gone, pids))


def test_programs_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = f"""
import os, pathlib, sys, time
from scripts.processes import Processes, Service
processes = Processes(pathlib.Path({str(tmp_path)!r}), dict(os.environ))
processes.add(Service("sleeping", ["sleep", "60"], {{}}, lambda: True))
processes.start("sleeping")
pathlib.Path({str(file)!r}).write_text(str(processes.pids("sleeping")[0]))
time.sleep(60)
"""
    starter = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    while not (file.exists() and file.read_text()):
        assert starter.poll() is None
        time.sleep(0.02)
    pid = int(file.read_text())
    assert is_alive(pid)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    assert wait_until_gone(pid)
