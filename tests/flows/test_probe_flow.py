"""Alignment probing as a Prefect flow gives the artifact of the command."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.flows.test_pipeline_flow import task_runs_since
from tests.unit.test_pipeline_probing import RECIPE, dataset, write_probe  # noqa: F401
from vlmvid.pipeline.probing import run_probe

pytestmark = pytest.mark.prefect


def test_a_probe_is_one_task_and_its_result_the_same_as_without_prefect(
    prefect_api: str, home: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from flows.probe import probe

    path = write_probe(tmp_path, request.getfixturevalue("dataset"), vision=RECIPE["vision"][1:2], labels=None)
    started = datetime.now(UTC)
    ref = probe(str(path))
    assert task_runs_since(started) == [("probe", "Completed")]
    assert run_probe(path) == ref
