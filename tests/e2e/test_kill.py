"""kill -9 anywhere, run again: the same metrics, no duplicate run, version or point."""

from __future__ import annotations

import dataclasses
import os
import random
import resource
import shutil
from pathlib import Path

import pytest

from tests.e2e.faults import Moment, Outcome, count_moments, moments, outcome, run
from tests.unit.tracking_fixtures import client_of, fresh_home
from vlmvid.artifacts.ledger import read_lines

pytestmark = pytest.mark.prefect
NUM_MOMENTS = 10
STAGES = ("ingest", "decode", "encode", "align", "evaluation", "evaluate", "register")
STAGES_IN_CI = ("decode", "align", "register")
MAX_CPU_SECONDS = 30.0


@pytest.fixture(scope="module")
def baseline(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, list[Moment]]:
    """An undisturbed run: what it ends in, and its moments."""
    home = fresh_home(tmp_path_factory.mktemp("baseline") / "home")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run(home, prefect_api) == 0, home.with_suffix(".log").read_text()[-3000:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # Said, not asserted: the same work costs twice as much where other programs share the cores.
    print(f"fault recipe: {cpu_seconds:.1f} s of CPU (meant to be at most {MAX_CPU_SECONDS:.0f})")
    found = outcome(home, client_of(home))
    assert set(found.runs.values()) == {"FINISHED"}
    assert found.versions == ["1"]
    all_moments = moments(home)
    assert {moment.stage for moment in all_moments} == set(STAGES)
    shutil.rmtree(home)
    return found, all_moments


def draw(all_moments: list[Moment]) -> list[Moment]:
    """Ten moments before the last: one in every stage, the others anywhere."""
    seed = int(os.environ.get("VLMVID_FAULT_SEED", "20"))
    rng = random.Random(seed)
    before_the_end = all_moments[:-1]
    drawn = [rng.choice([m for m in before_the_end if m.stage == stage]) for stage in STAGES]
    drawn += rng.sample([m for m in before_the_end if m not in drawn], NUM_MOMENTS - len(drawn))
    print(f"VLMVID_FAULT_SEED={seed}: {sorted(drawn, key=lambda m: m.number)} of {len(all_moments)}")
    return drawn


def check(moment: Moment, expected: Outcome, prefect_api: str, folder: Path) -> None:
    home = fresh_home(folder / f"killed-at-{moment.number}")
    killed = run(home, prefect_api, kill_when=lambda home: count_moments(home) >= moment.number)
    assert killed == -9, f"{moment} did not come before the end"
    assert run(home, prefect_api) == 0, home.with_suffix(".log").read_text()[-3000:]
    assert outcome(home, client_of(home)) == expected, f"killed at {moment}"
    shutil.rmtree(home)


@pytest.mark.parametrize("stage", STAGES_IN_CI)
def test_killed_in(stage: str, baseline: tuple[Outcome, list[Moment]], prefect_api: str, tmp_path: Path) -> None:
    expected, all_moments = baseline
    moment = next(moment for moment in draw(all_moments) if moment.stage == stage)
    check(moment, expected, prefect_api, tmp_path)


def test_killed_while_frames_go_from_the_decoder_to_the_backbone(
    baseline: tuple[Outcome, list[Moment]], prefect_api: str, tmp_path: Path
) -> None:
    """The frames are not kept, and two workers decode: still the bytes of the run that keeps them."""
    expected, _ = baseline
    home = fresh_home(tmp_path / "fused")
    fused = ("decode.keep_frames=false", "options.decode_workers=2")

    def first_shard_is_encoded(home: Path) -> bool:
        return any(moment.name == "shard.written" for moment in moments(home))

    assert run(home, prefect_api, *fused, kill_when=first_shard_is_encoded) == -9
    written = [row["stage"] for row in read_lines(home / "events.jsonl") if row["event"] == "shard.written"]
    assert set(written) == {"encode"} and len(written) < 3
    assert run(home, prefect_api, *fused) == 0, home.with_suffix(".log").read_text()[-3000:]
    runs = {stage: status for stage, status in expected.runs.items() if stage != "decode"}
    assert outcome(home, client_of(home)) == dataclasses.replace(expected, runs=runs)
    assert not (home / "clips" / "decode").exists()


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_all_ten_moments(baseline: tuple[Outcome, list[Moment]], prefect_api: str, tmp_path: Path) -> None:
    expected, all_moments = baseline
    for moment in draw(all_moments):
        check(moment, expected, prefect_api, tmp_path)
