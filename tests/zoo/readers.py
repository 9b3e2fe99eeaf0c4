"""The readers that the zoo is read with."""

from __future__ import annotations

import pytest

from vlmvid.video import READERS

EXACT = ("auto", "pyav")
"""These must read every sound member."""

NAMES = ("auto", *READERS.names())


def case(reader: str, member: str, *values: object) -> object:
    """Parameters of one test, named by member and reader."""
    return pytest.param(*values, id=f"{member}-{reader}")
