"""Every fault of the table but the kills; those that need no servers run in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.bench import Bench
from tests.e2e.cases import CASES, Case
from tests.e2e.small import SMALL, Tiny

NEEDS_ROOT = ("full disk, at every write", "full disk, under weights", "read-only store")
# Three seconds of CPU each.
RARELY = ("S3 breaks every third connection off", "S3 answers slowly")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("faults") / "tiny")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in RARELY else ()) for name in SMALL]
)
def test_a_small_fault(name: str, tiny: Tiny) -> None:
    if name in NEEDS_ROOT and (os.geteuid() != 0 or shutil.which("mount") is None or not may_mount(tiny.folder)):
        pytest.skip(
            "makes a disk of a few hundred kB, and only root with the right to mount may; a container often has none. "
            "tests/unit/test_pipeline_ledger.py fills a disk by a limit of file sizes, and needs no right"
        )
    SMALL[name](tiny)


def may_mount(folder: Path) -> bool:
    """Containers often may not, whoever asks."""
    place = folder / "probe"
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)], capture_output=True)
    if done.returncode == 0:
        subprocess.run(["umount", str(place)], check=True)
    return done.returncode == 0


@pytest.fixture(scope="module")
def bench(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), prefect_api)


@pytest.mark.long
@pytest.mark.prefect
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", [case for case in CASES if case.name not in SMALL], ids=lambda case: case.name)
def test_a_fault(case: Case, bench: Bench) -> None:
    case.survive(bench)
