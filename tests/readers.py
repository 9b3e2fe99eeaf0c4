"""Which video readers are there, and which tests may be left out for that: those of optional packages only."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement

from vlmvid.video.readers.decord import decord_problem
from vlmvid.video.readers.torchcodec import torchcodec_problem

_PROBLEMS: dict[str, Callable[[], str | None]] = {"decord": decord_problem, "torchcodec": torchcodec_problem}


def why_absent(reader: str) -> str | None:
    """Why the reader's package is not there or does not load, and the mend; None when it does."""
    return _PROBLEMS[reader]() if reader in _PROBLEMS else None


def need(reader: str) -> None:
    """Skip the test with the reason when the reader is absent; fail it where vlmvid installs the package."""
    reason = why_absent(reader)
    if reason is None:
        return
    if _is_installed_with_vlmvid(reader):
        pytest.fail(f"vlmvid requires {reader} on this platform, so its tests are not skipped: {reason}")
    pytest.skip(reason)


def _is_installed_with_vlmvid(package: str) -> bool:
    """Whether vlmvid, without extras, requires the package on this platform."""
    found = [Requirement(line) for line in requires("vlmvid") or ()]
    return any(one.name == package and (one.marker is None or one.marker.evaluate({"extra": ""})) for one in found)
