"""Filtering as a Prefect flow, alone and in its place in the pipeline."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.flows.test_pipeline_flow import runs_of, task_runs_since
from tests.tiny import write_dataset, write_recipe

pytestmark = pytest.mark.prefect


def test_filtering_runs_between_encode_and_align_and_only_once(
    prefect_api: str, tracked_home: Path, tmp_path: Path
) -> None:
    from flows.filter import filter
    from flows.pipeline import pipeline

    rules = {"captions": {"patterns": ["speed 2"]}}
    recipe = write_recipe(tmp_path, write_dataset(tmp_path), filter=rules)
    results = pipeline(str(recipe))
    assert list(results) == ["ingest", "decode", "encode", "filter", "align", "evaluate"]
    recorded = {run.data.tags.get("vlmvid.stage"): run for run in runs_of(tracked_home)}
    assert recorded["filter"].data.metrics["num_filtered"] == 1 and recorded["filter"].data.metrics["num_ok"] == 5
    started = datetime.now(UTC)
    assert filter(str(recipe)) == results["filter"]
    assert dict(task_runs_since(started)) == {"filter": "Completed"}
