"""What a test needs of the machine: where it is absent the test is skipped with the reason, and in CI it fails."""

from __future__ import annotations

import os
import sys

import pytest

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, which is Linux's; CI runs on Linux")
ON_POSIX = pytest.mark.skipif(os.name != "posix", reason="users, forks and limits are of POSIX; CI runs on Linux")


def absent(reason: str) -> None:
    """Skip the test for something that .ci/run and the Makefile install; where CI runs it must be there."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}; CI may not go without, so .ci/run and the Makefile install it")
    pytest.skip(reason)
