"""A report of a run in MLflow: from the store where it holds the results, else from what MLflow itself recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vlmvid.artifacts import open_store
from vlmvid.artifacts.files import read_json, scratch_folder
from vlmvid.errors import TrackingError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.report_run import Cost, Curve, RunRecord, StageRecord
from vlmvid.evaluation.runner import METRICS_FILE, read_samples, result_of
from vlmvid.pipeline.report_runs import FoundRun, run_of_keys, versions_of
from vlmvid.tracking import resolve_tracking_uri

_SAMPLES = "samples"


def run_of_id(run_id: str, home: str) -> FoundRun | RunRecord:
    """The run with this id in MLflow, at the address that the environment or the home gives.

    Raises ConfigError when MLflow does not have it, TrackingError when it does not answer.
    """
    from vlmvid.tracking.mlflow_runs import TrackedRun, TrackedRuns

    store = open_store(home)
    runs = TrackedRuns(resolve_tracking_uri(None, store.home))
    tracked: TrackedRun = runs.pipeline(run_id)
    keys = {stage.name: stage.key for stage in tracked.stages}
    found = run_of_keys(store, keys, tracked.name, f"MLflow run {tracked.run_id}")
    if "evaluate" in found.manifests or ("evaluate" not in keys and found.manifests):
        return found
    stages = tuple(
        StageRecord(
            name=stage.name,
            key=stage.key,
            counts={k.removeprefix("num_"): int(v) for k, v in stage.values.items() if k.startswith("num_")},
            created_seconds=stage.ended_seconds,
            cost=_cost(stage.values),
        )
        for stage in tracked.stages
    )
    curves = []
    for stage in tracked.stages:
        rows: dict[int, dict[str, float]] = {}
        for name, points in stage.steps.items():
            for step, value in points:
                rows.setdefault(step, {"step": float(step)})[name] = value
        curves.append(Curve(stage.name, [rows[step] for step in sorted(rows)]))
    record = RunRecord(
        name=tracked.name,
        source=found.source,
        stages=stages,
        curves=tuple(curves),
        versions=versions_of(tracked.tags),
        notes=(
            f"The store {store.uri} does not hold this run's results: what is here is what MLflow recorded, without "
            "frames, dataset and heat map. --home names another store.",
        ),
    )
    evaluated = next((stage.run_id for stage in tracked.stages if stage.name == "evaluate"), None)
    return record if evaluated is None else replace(record, results=_results(runs, evaluated))


def _cost(values: object) -> Cost | None:
    known = dict(values) if isinstance(values, dict) else {}
    if "wall_seconds" not in known:
        return None
    return Cost(known["wall_seconds"], known.get("cpu_seconds"), known.get("peak_memory_bytes"))


def _results(runs: object, run_id: str) -> tuple[TaskResult, ...]:
    from vlmvid.tracking.mlflow_runs import TrackedRuns

    assert isinstance(runs, TrackedRuns)
    with scratch_folder() as scratch:
        document = read_json(runs.download(run_id, METRICS_FILE, scratch))
        results = [result_of(value) for value in document]
        try:
            folder: Path | None = runs.download(run_id, _SAMPLES, scratch)
        except TrackingError:  # none were logged
            folder = None
        return tuple(
            replace(result, samples=read_samples(folder, result.file_stem)) if folder is not None else result
            for result in results
        )
