"""What a check of `vlmvid doctor` says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from vlmvid.config import Config

Status = Literal["ok", "warning", "error"]


class Finding(Config):
    """One thing that was looked at: what was seen and, unless all is well, how to mend it."""

    name: str
    status: Status
    seen: str
    mend: str = ""


Check = Callable[[], list[Finding]]


def ok(name: str, seen: str) -> Finding:
    """All is well."""
    return Finding(name=name, status="ok", seen=seen)


def warning(name: str, seen: str, mend: str) -> Finding:
    """Runs work, but not as they should."""
    return Finding(name=name, status="warning", seen=seen, mend=mend)


def error(name: str, seen: str, mend: str) -> Finding:
    """Runs would fail."""
    return Finding(name=name, status="error", seen=seen, mend=mend)
