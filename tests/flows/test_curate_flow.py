"""Curation as a Prefect flow, alone and in its place in the pipeline."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.flows.test_pipeline_flow import runs_of, task_runs_since
from tests.tiny import write_dataset, write_recipe
from vlmvid.pipeline.index import read_index

pytestmark = pytest.mark.prefect


def test_curation_runs_after_ingest_and_only_once(prefect_api: str, tracked_home: Path, tmp_path: Path) -> None:
    from flows.curate import curate
    from flows.ingest import ingest
    from flows.pipeline import pipeline

    # The bar of clip v0 does not move.
    recipe = write_recipe(tmp_path, write_dataset(tmp_path), align=None, evaluate=None, curate={"min_motion": 1})
    started = datetime.now(UTC)
    ingest(str(recipe))
    ref = curate(str(recipe))
    names = dict(task_runs_since(started))
    assert {name for name in names if name.startswith("curate")} == {
        "curate shard 1",
        "curate shard 2",
        "curate shard 3",
        "curate decision",
    }
    assert set(names.values()) == {"Completed"}
    results = pipeline(str(recipe))
    assert list(results)[:2] == ["ingest", "curate"] and results["curate"] == ref
    assert [row.video_id for row in read_index(Path(results["encode"].uri))] == [f"v{n}" for n in range(1, 10)]
    recorded = {run.data.tags.get("vlmvid.stage"): run for run in runs_of(tracked_home)}
    assert recorded["curate"].data.metrics["num_filtered"] == 1
    assert pipeline(str(recipe)) == results
