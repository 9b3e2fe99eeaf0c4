"""kill -9 anywhere, run again: the same metrics, no duplicate run, version or point."""

from __future__ import annotations

import os
import random
import resource
import shutil
from pathlib import Path

import pytest

from tests.e2e.faults import Outcome, count_moments, outcome, run
from tests.unit.tracking_fixtures import client_of, fresh_home

pytestmark = pytest.mark.prefect
NUM_MOMENTS = 10
IN_CI = slice(0, None, 4)  # an early one, one in the middle, a late one


@pytest.fixture(scope="module")
def baseline(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, int]:
    """An undisturbed run: what it ends in, and how many moments it has."""
    home = fresh_home(tmp_path_factory.mktemp("baseline") / "home")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run(home, prefect_api) == 0, home.with_suffix(".log").read_text()[-3000:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"fault recipe: {cpu_seconds:.1f} s of CPU")
    found = outcome(home, client_of(home))
    assert set(found.runs.values()) == {"FINISHED"}
    assert found.versions == ["1"]
    moments = count_moments(home)
    shutil.rmtree(home)
    return found, moments


def check_moments(baseline: tuple[Outcome, int], prefect_api: str, folder: Path, which: slice) -> None:
    expected, total = baseline
    seed = int(os.environ.get("VLMVID_FAULT_SEED", "20"))
    drawn = sorted(random.Random(seed).sample(range(1, total), NUM_MOMENTS))[which]
    print(f"VLMVID_FAULT_SEED={seed}: kill at {drawn} of {total} moments")
    for moment in drawn:
        home = fresh_home(folder / f"killed-at-{moment}")
        assert run(home, prefect_api, kill_at=moment) == -9, f"moment {moment} of {total} did not come before the end"
        assert run(home, prefect_api) == 0, home.with_suffix(".log").read_text()[-3000:]
        assert outcome(home, client_of(home)) == expected, f"seed {seed}, killed at moment {moment}"
        shutil.rmtree(home)


def test_three_moments(baseline: tuple[Outcome, int], prefect_api: str, tmp_path: Path) -> None:
    check_moments(baseline, prefect_api, tmp_path, IN_CI)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_all_ten_moments(baseline: tuple[Outcome, int], prefect_api: str, tmp_path: Path) -> None:
    check_moments(baseline, prefect_api, tmp_path, slice(None))
