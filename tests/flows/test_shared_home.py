"""The encode flow with a home in S3, its shards on two Dask workers that have nothing in common but the store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.flows.test_runners import features_of, fused_recipe, ledger_of, num_shards_written, pids_of
from tests.unit.s3_fixtures import bucket, s3_server
from vlmvid.artifacts import open_store
from vlmvid.errors import ConfigError
from vlmvid.pipeline import make_request
from vlmvid.pipeline.context import open_context

__all__ = ["bucket", "s3_server"]
pytestmark = pytest.mark.prefect


@pytest.mark.parametrize("runner", ["sequential", pytest.param("dask", marks=pytest.mark.long)])
def test_the_encode_flow_runs_on_a_home_in_s3(
    runner: str,
    prefect_api: str,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,  # noqa: F811
) -> None:
    from flows.encode import encode
    from flows.ingest import ingest

    recipe = fused_recipe(tmp_path)
    ingest(str(recipe), home=str(tmp_path / "plain"))
    encode(str(recipe), home=str(tmp_path / "plain"))
    plain = open_store(tmp_path / "plain")
    monkeypatch.setenv("VLMVID_CACHE", str(tmp_path / "one"))
    monkeypatch.setenv("VLMVID_HOME", bucket)
    ingest(str(recipe))
    if runner == "dask":
        import distributed

        elsewhere = {**os.environ, "VLMVID_CACHE": str(tmp_path / "workers")}
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", env=elsewhere
        ) as cluster:
            monkeypatch.setenv("VLMVID_TASK_RUNNER", f"dask:{cluster.scheduler_address}")
            ref = encode(str(recipe))
    else:
        ref = encode(str(recipe))
    assert ref.uri == f"{bucket}/stages/encode/{ref.key}"
    # A third machine reads it all; with nothing left to do it computes nothing.
    monkeypatch.setenv("VLMVID_CACHE", str(tmp_path / "three"))
    open_context.cache_clear()
    store = open_store(bucket)
    found = read_features(store, ref.key)
    assert found == features_of(plain) and len(found) == 9
    assert ledger_of(store) == ledger_of(plain)
    assert encode(str(recipe)) == ref
    assert num_shards_written(store) == 5
    assert (os.getpid() in pids_of(store)) is (runner == "sequential")
    open_context.cache_clear()


def read_features(store: Any, key: str) -> dict[str, bytes]:
    from vlmvid.pipeline.index import read_index

    rows = [row for row in read_index(store.open_artifact("encode", key)) if row.status == "ok"]
    clips = store.clips("encode")
    return {row.video_id: np.ascontiguousarray(clips.gather("features", [row.location])).tobytes() for row in rows}


def test_a_shared_home_needs_a_shared_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("VLMVID_CACHE", str(tmp_path))
    recipe = fused_recipe(tmp_path)
    with pytest.raises(ConfigError, match="shared by machines, but MLFLOW_TRACKING_URI is not set"):
        make_request(recipe, ["tracking.enabled=true"], home="memory://home")
    request = make_request(recipe, ["tracking.enabled=true", "tracking.uri=http://127.0.0.1:9"], home="memory://home")
    assert request.home == "memory://home" and request.recipe.startswith("memory://home/recipes/")
    assert make_request(request.recipe, home=request.home) == request
