"""The readers that the zoo is read with, and the bugs of theirs that are known and not yet mended."""

from __future__ import annotations

import pytest

from vlmvid.video import READERS

EXACT = ("auto", "pyav")
"""These must read every sound member."""

NAMES = ("auto", *READERS.names())

KNOWN: dict[tuple[str, str], str] = {}
"""(reader, member) to what is wrong: these tests must fail until it is mended."""


def case(reader: str, member: str, *values: object) -> object:
    """Parameters of one test, which is expected to fail where a bug is known."""
    reason = KNOWN.get((reader, member))
    marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
    return pytest.param(*values, marks=marks, id=f"{member}-{reader}")
