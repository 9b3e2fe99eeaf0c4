"""Which process has a run open, written in the run's tags, and whether that process is still there.

A killed process leaves its runs RUNNING for ever. A number alone does not name a process: numbers are used again, and
every container and machine has its own, so the tag says more, and where it does not fit this machine nothing is known.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from vlmvid.tracking.base import RunStatus

HOST_TAG = "vlmvid.host"
PID_TAG = "vlmvid.pid"
_ENDED_STATES = ("Z", "X", "x")

OwnerState = Literal["this", "running", "ended", "unknown"]


def owner_tags() -> dict[str, str]:
    """The tags that name this process: host, and process number with what tells it from others of that number.

    ``vlmvid.pid`` is ``NUMBER start=CLOCK_TICKS boot=ID machine=ID namespace=NUMBER``; outside Linux only the number.
    """
    pid = os.getpid()
    started = _start_of(pid)
    words = [str(pid), *([f"start={started}", *_surroundings()] if started is not None else [])]
    return {HOST_TAG: socket.gethostname(), PID_TAG: " ".join(words)}


def owner_state(tags: Mapping[str, str]) -> OwnerState:
    """What has become of the process that the tags name, as far as this process can see."""
    own = owner_tags()
    if {HOST_TAG: tags.get(HOST_TAG), PID_TAG: tags.get(PID_TAG)} == own:
        return "this"
    if tags.get(HOST_TAG) != own[HOST_TAG]:
        return "unknown"
    number, said = _parsed(tags.get(PID_TAG, ""))
    _, here = _parsed(own[PID_TAG])
    if not number or set(said) != set(here) or not said:
        return "unknown"
    if said["boot"] != here["boot"]:
        # Another machine may have the same name; one that was restarted has the same number.
        same_machine = said["machine"] == here["machine"] != ""
        return "ended" if same_machine else "unknown"
    if said["namespace"] != here["namespace"]:
        return "unknown"
    return "running" if _start_of(number) == said["start"] else "ended"


def owner_ended(tags: Mapping[str, str]) -> RunStatus | None:
    """KILLED when the process that the tags name has ended on this machine; None when it runs or nothing is known."""
    return "KILLED" if owner_state(tags) == "ended" else None


def _start_of(pid: int) -> str | None:
    """When a process of this machine started, in clock ticks since the machine did; None where it is not there."""
    try:
        # The second field is the program's name in brackets, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in _ENDED_STATES else fields[19]


@cache
def _surroundings() -> tuple[str, ...]:
    boot = _read("/proc/sys/kernel/random/boot_id")
    machine = _read("/etc/machine-id")
    digest = hashlib.sha256(machine.encode()).hexdigest()[:8] if machine else ""
    try:
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        namespace = ""
    return (f"boot={boot[:13]}", f"machine={digest}", f"namespace={namespace}")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _parsed(text: str) -> tuple[int, dict[str, str]]:
    number, *words = text.split() or [""]
    said = dict(word.partition("=")[::2] for word in words)
    return (int(number) if number.isdecimal() else 0), said
