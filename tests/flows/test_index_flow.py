"""The index as a Prefect flow: a task a shard, and none where nothing is new."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.flows.test_pipeline_flow import task_runs_since
from tests.tiny import write_clip
from tests.unit.test_serving_load import template
from vlmvid.serving.video_index import VideoIndex

pytestmark = pytest.mark.prefect


def test_new_clips_are_tasks_and_known_ones_are_not(prefect_api: str, tmp_path: Path) -> None:
    from flows.index import index

    videos, out = tmp_path / "videos", tmp_path / "index"
    videos.mkdir()
    write_clip(videos / "red.mp4", (200, 0, 0))
    (videos / "broken.mp4").write_bytes(b"no video")
    started = datetime.now(UTC)
    report = index(str(videos), str(template()[0]), str(out))
    assert (report.clips, report.embedded, report.failed) == (1, 1, 1)
    assert dict(task_runs_since(started)) == {"index shard 1": "Completed", "index table": "Completed"}
    assert VideoIndex.open(out).clip(0).video_id == "red.mp4"
    started = datetime.now(UTC)
    assert index(str(videos), str(template()[0]), str(out)).embedded == 0
    assert dict(task_runs_since(started)) == {"index table": "Completed"}
