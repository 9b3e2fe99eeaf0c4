"""kill -9 anywhere, run again: the same bytes, no row lost or twice, no duplicate run, version or point."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.bench import Bench
from tests.e2e.faults import moments
from tests.e2e.kills import STAGES, draw, survive

pytestmark = pytest.mark.prefect
STAGES_IN_CI = ("decode", "train_vlm/tune", "register")


@pytest.fixture(scope="module")
def bench(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), prefect_api)


def test_killed_three_times_on_the_way(bench: Bench) -> None:
    """One home, killed in three of its stages one after the other; each run goes on where the last one was killed."""
    drawn = draw(bench.baseline.moments)
    assert {kill.moment.stage for kill in drawn} >= set(STAGES) and len(drawn) == 50
    flow = [kill.moment for kill in drawn if kill.victim == "flow"]
    home = bench.fresh("killed-three-times")
    for stage in STAGES_IN_CI:
        moment = next(moment for moment in flow if moment.stage == stage)
        # Earlier runs have told more, so only this stage's own moments count.
        number = sum(m.stage == stage and m.number <= moment.number for m in bench.baseline.moments)
        print(f"kill -9 at {moment}, number {number} of the stage")
        pipeline = bench.pipeline(home)
        assert pipeline.wait_until(lambda: count_of(home, stage) >= number), pipeline.said  # noqa: B023
        assert pipeline.kill() == -9
    bench.pipeline(home).finish()
    bench.settled(home, 4)


def count_of(home: Path, stage: str) -> int:
    return sum(moment.stage == stage for moment in moments(home))


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_killed_at_fifty_moments(bench: Bench) -> None:
    for kill in draw(bench.baseline.moments):
        survive(bench, kill)
