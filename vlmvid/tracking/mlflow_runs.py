"""Reading a pipeline's runs back from MLflow: what its stages were, and what they recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from vlmvid.errors import ConfigError
from vlmvid.tracking.filters import tags_filter
from vlmvid.tracking.mlflow_calls import mlflow_calls, new_client
from vlmvid.tracking.outage import probe, without_password

_PARENT = "mlflow.parentRunId"


@dataclass(frozen=True, slots=True)
class TrackedStage:
    """One stage, or part of one, as it was recorded; of a stage that was reused by the run that computed it.

    Attributes:
        name: ``align``, or ``train_vlm/NAME``.
        key: of its artifact.
        run_id: of the run that computed it.
        values: the latest value of each metric.
        steps: the points of each metric that has several, as (step, value).
        ended_seconds: when it ended, Unix time.
    """

    name: str
    key: str
    run_id: str
    values: Mapping[str, float]
    steps: Mapping[str, list[tuple[int, float]]]
    ended_seconds: float | None


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A pipeline's run with its stages, in the order in which they began."""

    run_id: str
    name: str
    tags: Mapping[str, str]
    stages: tuple[TrackedStage, ...]


class TrackedRuns:
    """The runs at an MLflow address."""

    def __init__(self, uri: str) -> None:
        probe(uri, must_exist=True)
        self._uri = uri
        with mlflow_calls(None):
            self._client: MlflowClient = new_client(uri)

    def pipeline(self, run_id: str) -> TrackedRun:
        """The pipeline that a run is, or belongs to; raises ConfigError for one that MLflow does not have."""
        with mlflow_calls(None):
            run = self._get(run_id)
            while _PARENT in run.data.tags:
                run = self._get(run.data.tags[_PARENT])
            return TrackedRun(run.info.run_id, str(run.info.run_name), dict(run.data.tags), tuple(self._stages(run)))

    def download(self, run_id: str, path: str, folder: Path) -> Path:
        """A file or folder of a run's artifacts, copied below `folder`; raises TrackingError when it is not there."""
        with mlflow_calls(None):
            return Path(self._client.download_artifacts(run_id, path, str(folder)))

    def _get(self, run_id: str) -> Run:
        try:
            return self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise ConfigError(
                f"MLflow at {without_password(self._uri)} has no run {run_id}; give the id of a run there, or set "
                "MLFLOW_TRACKING_URI to the address that has it"
            ) from error

    def _stages(self, run: Run) -> list[TrackedStage]:
        found: list[TrackedStage] = []
        order = ["attributes.start_time ASC"]
        where = tags_filter({_PARENT: run.info.run_id})
        for child in self._client.search_runs([run.info.experiment_id], where, max_results=500, order_by=order):
            tags = child.data.tags
            if "vlmvid.stage" not in tags:
                continue
            found += self._stages(child)  # parts before the stage that they are of
            made_by = self._get(tags["vlmvid.produced_by"]) if "vlmvid.produced_by" in tags else child
            found.append(self._stage(tags, made_by))
        return found

    def _stage(self, tags: Mapping[str, str], run: Run) -> TrackedStage:
        run_id = run.info.run_id
        values = dict(run.data.metrics)
        histories = {name: self._client.get_metric_history(run_id, name) for name in values if _is_curve(name)}
        steps = {name: sorted({point.step: point.value for point in h}.items()) for name, h in histories.items()}
        ended = run.info.end_time
        return TrackedStage(
            name=tags["vlmvid.stage"],
            key=tags["vlmvid.stage_key"],
            run_id=run_id,
            values=values,
            steps={name: points for name, points in steps.items() if len(points) > 1},
            ended_seconds=None if ended is None else ended / 1000,
        )


def _is_curve(name: str) -> bool:
    """Whether a metric may have several points: those of an evaluation name their task, counts and costs their kind."""
    return "/" not in name and not name.startswith("num_") and not name.endswith(("_seconds", "_bytes"))
