"""The readers that the zoo is read with, and the bugs of theirs that are known and not yet mended."""

from __future__ import annotations

import importlib.util

import pytest

from vlmvid.video import READERS
from vlmvid.video.readers.torchcodec import torchcodec_problem

EXACT = ("auto", "pyav")
"""These must read every sound member."""

NAMES = ("auto", *READERS.names())

KNOWN: dict[tuple[str, str], str] = {}
"""(reader, member) to what is wrong: these tests must fail until it is mended."""


def why_absent(reader: str) -> str | None:
    """Why the reader's package is not there or does not load; None when it does."""
    if reader == "torchcodec":
        return torchcodec_problem()
    if reader == "decord" and importlib.util.find_spec("decord") is None:
        return "decord is not installed"
    return None


def need(reader: str) -> None:
    """Skip when the reader's package is not there or does not load."""
    if reason := why_absent(reader):
        pytest.skip(reason)


def case(reader: str, member: str, *values: object) -> object:
    """Parameters of one test, which is expected to fail where a bug is known."""
    reason = KNOWN.get((reader, member))
    marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
    return pytest.param(*values, marks=marks, id=f"{member}-{reader}")
