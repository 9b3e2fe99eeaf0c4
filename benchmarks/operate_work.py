"""What benchmarks.operate starts in processes of their own.

python -m benchmarks.operate_work plain RECIPE HOME [a.b=c ...]      the stages as functions
python -m benchmarks.operate_work empty HOME                         a flow and a tracked run without work
python -m benchmarks.operate_work flow RECIPE HOME [a.b=c ...]       the flow, and what Prefect's API says of it
python -m benchmarks.operate_work clip NUMBER NUMBER FOLDER          videos NUMBER to NUMBER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

SIDE, NUM_FRAMES, CELL = 64, 8, 8
PAGE = 200


def plain(recipe: str, home: str, *overrides: str) -> None:
    """The stages and the report as functions, without Prefect and MLflow."""
    from vlmvid.pipeline import STAGES, make_request, pipeline_report, pipeline_run

    request = make_request(recipe, [*overrides, "tracking.enabled=false"], home=home)
    with pipeline_run(request) as context:
        for stage in context.recipe.stages():
            STAGES[stage].run(request)
        pipeline_report(request)


def empty(home: str) -> None:
    """Everything that orchestration costs once: imports, both servers' databases, one flow and one run."""
    _patient_server()
    from prefect import flow

    from vlmvid.config.schema import TrackingConfig
    from vlmvid.tracking.opening import open_tracker

    @flow(name="empty")
    def nothing() -> None:
        tracker = open_tracker(TrackingConfig(), Path(home))
        tracker.start_pipeline(pipeline_key="empty", name="empty", config={}, tags={})
        tracker.finish("FINISHED")

    nothing()


def flow(recipe: str, home: str, *overrides: str) -> None:
    """The whole flow; writes how many task runs the API knows, and the start and end of each stage."""
    _patient_server()
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.sorting import FlowRunSort

    from flows.pipeline import pipeline

    pipeline(recipe=recipe, overrides=list(overrides), home=home)
    with get_client(sync_client=True) as client:
        run = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=PAGE)
        main = next(found for found in run if found.parent_task_run_id is None)
        stages = [
            found for found in run if found.start_time and main.start_time and found.start_time >= main.start_time
        ]
        tasks: list[Any] = []
        while page := client.read_task_runs(offset=len(tasks), limit=PAGE):
            tasks += page
    ids = {found.id for found in stages}
    own = [found for found in tasks if found.flow_run_id in ids]
    called = {task.id: task.name.rpartition("-")[0] for task in own}  # Prefect numbers the calls
    times = {called.get(found.parent_task_run_id, "pipeline"): (found.start_time, found.end_time) for found in stages}
    document = {
        "task_runs": len(own),
        "stage_flows": len(stages) - 1,
        "states": sorted({found.state_name or "" for found in own}),
        "stages": {
            name: [moment.timestamp() for moment in moments if moment is not None] for name, moments in times.items()
        },
    }
    sys.stdout.write(json.dumps(document) + "\n")


def clip(first: str, last: str, folder: str) -> None:
    """Videos of 64 x 64 pixels and 8 frames, each of 64 coloured squares a frame that the number draws."""
    from vlmvid.video.writer import write_mp4

    for number in range(int(first), int(last)):
        cells = np.random.default_rng(number).integers(
            0, 256, (NUM_FRAMES, 3, SIDE // CELL, SIDE // CELL), dtype=np.uint8
        )
        write_mp4(Path(folder, name_of(number)), cells.repeat(CELL, 2).repeat(CELL, 3), fps=8)


def name_of(number: int) -> str:
    """The file of a video."""
    return f"{number:05d}.mp4"


def _patient_server() -> None:
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "300")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")


if __name__ == "__main__":
    {"plain": plain, "empty": empty, "flow": flow, "clip": clip}[sys.argv[1]](*sys.argv[2:])
