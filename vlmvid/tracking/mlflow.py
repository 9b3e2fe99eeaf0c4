"""Runs and datasets in MLflow.

Always an explicit address and run id: MLflow's active run is thread-local and its default address
depends on the working folder. Runs are found by tags, because MLflow's run names are not unique.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.tracking import MlflowClient

from vlmvid.artifacts.digests import sha256_text
from vlmvid.errors import TrackingError
from vlmvid.tracking.backend import OpenRun, RunSpec
from vlmvid.tracking.base import RegisteredModel, Registration, StageRun
from vlmvid.tracking.environment import code_tags, file_bytes
from vlmvid.tracking.filters import in_batches, tags_filter
from vlmvid.tracking.mlflow_calls import mlflow_calls, new_client
from vlmvid.tracking.mlflow_registry import register_model
from vlmvid.tracking.outage import Refused, Unreachable, probe, without_password
from vlmvid.tracking.owner import HOST_TAG, owner_state, owner_tags
from vlmvid.tracking.spool import Record
from vlmvid.tracking.spooled_tracker import SpooledTracker
from vlmvid.tracking.tables import send_table

_PARENT = "mlflow.parentRunId"
_MAX_DIGEST_CHARS = 36
_SHORT_SECONDS = 5
_UPLOAD_BYTES_PER_SECOND = 2_000_000
_LARGE_BYTES = 10_000_000
_OLDEST_FIRST = ["attributes.start_time ASC"]
PAGES_VARIABLE = "VLMVID_MLFLOW_PAGES"


class MlflowBackend:
    """The `Backend` for an MLflow server or database at `uri`."""

    def __init__(self, uri: str, experiment: str, artifact_location: str | None) -> None:
        self.uri = uri
        self.scope = sha256_text(f"{without_password(uri)} {experiment}")[:16]
        self._experiment = experiment
        self._artifact_location = artifact_location
        self._experiment_id: str | None = None
        self._client: MlflowClient | None = None

    def check(self) -> None:
        """Ask for a sign of life; raises Unreachable within seconds."""
        probe(self.uri)

    def client(self) -> MlflowClient:
        """The client, made at first use; a new SQLite file is migrated then."""
        if self._client is None:
            self._client = new_client(self.uri)
        return self._client

    def open_run(self, spec: RunSpec, parent_id: str | None) -> OpenRun:
        """Find the run by its tags and reopen it, or create it."""
        with mlflow_calls(_SHORT_SECONDS):
            client = self.client()
            identity = {**spec.identity, **({_PARENT: parent_id} if parent_id else {})}
            found = self._found(client, identity)
            if found is None:
                created = self._create(client, spec, identity)
                # Nothing keeps two processes from creating the same run at once; the older one is the one.
                found = self._found(client, identity)
                if found is None or found.info.run_id == created.run_id:
                    return created
                client.delete_run(created.run_id)
            return self._reopen(client, found, spec)

    def send(self, run: OpenRun, records: list[Record]) -> list[str]:
        """Record everything; the order within a batch does not matter, except that the status is last."""
        unknown = [record["kind"] for record in records if record["kind"] not in _KINDS]
        if unknown:
            raise Refused(f"unknown kinds of record: {unknown}")
        size = sum(file_bytes(Path(record["path"])) for record in records if record["kind"] == "file")
        if size > _LARGE_BYTES:
            self.check()  # a service that hangs should not hold us for as long as the file may take
        with mlflow_calls(_SHORT_SECONDS + size // _UPLOAD_BYTES_PER_SECOND):
            client = self.client()
            left_out = _send_values(client, run, records)
            for record in records:
                _send_item(client, run.run_id, record)
            status = [record for record in records if record["kind"] == "status"]
            if status and not run.settled and _may_end(client, run, status[-1]["status"]):
                client.set_terminated(run.run_id, status[-1]["status"], end_time=status[-1]["end_time_ms"])
        return left_out

    def close(self, run: OpenRun) -> None:
        """End `run` as KILLED if it is still running and its owner has ended."""
        with mlflow_calls(_SHORT_SECONDS):
            client = self.client()
            now = client.get_run(run.run_id)
            if now.info.status == "RUNNING" and _is_left(now, by_us=False):
                client.set_terminated(run.run_id, "KILLED")

    def close_children(self, parent_id: str) -> None:
        """End children that an ended process left running; this process has none any more."""
        with mlflow_calls(_SHORT_SECONDS):
            client = self.client()
            where = f"{tags_filter({_PARENT: parent_id})} and attributes.status = 'RUNNING'"
            for run in client.search_runs([self._experiment_of(client)], where):
                if _is_left(run, by_us=True):
                    self.close_children(run.info.run_id)
                    client.set_terminated(run.info.run_id, "KILLED")

    def page(self, run_id: str) -> str | None:
        """The run's page of MLflow's own; of a server at ``http(s)://``, without user and password.

        VLMVID_MLFLOW_PAGES is the server's address for browsers, where that is another than for programs.
        """
        base = without_password(os.environ.get(PAGES_VARIABLE) or self.uri).rstrip("/")
        if not base.startswith(("http://", "https://")) or self._experiment_id is None:
            return None
        return f"{base}/#/experiments/{self._experiment_id}/runs/{run_id}"

    def _found(self, client: MlflowClient, identity: Mapping[str, str]) -> Run | None:
        where = tags_filter(identity)
        found = client.search_runs([self._experiment_of(client)], where, max_results=1, order_by=_OLDEST_FIRST)
        return found[0] if found else None

    def _experiment_of(self, client: MlflowClient) -> str:
        if self._experiment_id is None:
            known = client.get_experiment_by_name(self._experiment)
            if known is not None and known.lifecycle_stage == "deleted":
                raise Unreachable(
                    f"the experiment {self._experiment!r} is deleted at {without_password(self.uri)}; "
                    "restore it with 'mlflow experiments restore' or set tracking.experiment to another name"
                )
            self._experiment_id = (
                known.experiment_id
                if known is not None
                else client.create_experiment(self._experiment, artifact_location=self._artifact_location)
            )
        return self._experiment_id

    def _create(self, client: MlflowClient, spec: RunSpec, identity: Mapping[str, str]) -> OpenRun:
        tags = {**spec.tags, **identity}
        if not spec.replayed:
            tags |= owner_tags()
        if _PARENT in identity:
            tags |= self._reuse_tags(client, spec)
        run = client.create_run(self._experiment_of(client), tags=tags, run_name=spec.name)
        return OpenRun(run.info.run_id)

    def _reopen(self, client: MlflowClient, run: Run, spec: RunSpec) -> OpenRun:
        run_id, tags = run.info.run_id, run.data.tags
        is_running = run.info.status == "RUNNING"
        settled = run.info.status == "FINISHED" and not spec.computed
        owned = not (is_running and owner_state(tags) == "running")
        if not settled and not spec.replayed:
            new_tags = owner_tags() if owned else {}
            if not spec.computed and run.info.status in ("FAILED", "KILLED"):
                new_tags |= self._reuse_tags(client, spec, run_id)
            # Before the status: who looks for runs without an owner should not find this one.
            if new_tags:
                client.log_batch(run_id, tags=[RunTag(*item) for item in new_tags.items()], synchronous=True)
            client.update_run(run_id, status="RUNNING")
        values = dict(run.data.metrics)
        return OpenRun(
            run_id,
            params=dict(run.data.params),
            values=values,
            last_steps={key: max(m.step for m in client.get_metric_history(run_id, key)) for key in values},
            settled=settled,
            owned=owned,
        )

    def _reuse_tags(self, client: MlflowClient, spec: RunSpec, own_id: str | None = None) -> dict[str, str]:
        """Whether the stage was computed in its run and, if not, which other run did it."""
        if spec.computed:
            return {"vlmvid.cached": "false"}
        where = tags_filter({**spec.identity, "vlmvid.cached": "false"})
        producers = client.search_runs([self._experiment_of(client)], where, max_results=2)
        others = [run.info.run_id for run in producers if run.info.run_id != own_id]
        if own_id is not None and producers and not others:
            return {}  # it made the result and was ended before it could say so
        return {"vlmvid.cached": "true", **({"vlmvid.produced_by": others[0]} if others else {})}


def _may_end(client: MlflowClient, run: OpenRun, status: str) -> bool:
    """May this process end `run`? Not while another process that runs has it open too, and FINISHED stays so."""
    if run.owned:
        return True
    now = client.get_run(run.run_id)
    if now.info.status == "RUNNING":
        return owner_state(now.data.tags) != "running"
    return now.info.status != "FINISHED" or status == "FINISHED"


def _is_left(run: Run, *, by_us: bool) -> bool:
    """Has the process ended that had `run` open? `by_us`: a run of this process counts as left."""
    tags = run.data.tags
    state = owner_state(tags)
    return HOST_TAG not in tags or state == "ended" or (by_us and state == "this")


class MlflowTracker(SpooledTracker):
    """The `Tracker` for MLflow.

    Args:
        uri: server (``http://``) or database (``sqlite:///``) address, never taken from the
            environment here.
        experiment: created at first use.
        spool_folder: where records wait while the service is away.
        artifact_location: of a new experiment; None leaves it to the service.

    Sets MLFLOW_DISABLE_TELEMETRY to ``true`` for this process unless it is set.
    """

    def __init__(self, uri: str, experiment: str, spool_folder: Path, artifact_location: str | None = None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._mlflow = MlflowBackend(uri, experiment, artifact_location)
        super().__init__(self._mlflow, spool_folder, code_tags())

    def register(self, wanted: Registration, stage_run: StageRun) -> RegisteredModel:
        """Register a model folder as a pyfunc model (models from code), once per fingerprint.

        The files go under the stage's run, the version is created with its tags in one call, then
        the alias moves. Interrupted anywhere, a second call ends in the same single version.
        """
        if stage_run.run_id is None:
            raise TrackingError(
                f"cannot register {wanted.model_name!r}: the service at {without_password(self._mlflow.uri)} has not "
                "answered, so the stage has no run to hold the files; start the service and run the stage again"
            )
        return register_model(self._mlflow, wanted, stage_run.run_id)


def _send_values(client: MlflowClient, run: OpenRun, records: list[Record]) -> list[str]:
    """Send metrics, parameters and tags; returns the parameters whose first value stands."""
    points = run.new_points(records)
    params: dict[str, str] = {}
    left_out = []
    for record in (r for r in records if r["kind"] == "param"):
        known = run.params.get(record["key"], params.setdefault(record["key"], record["value"]))
        if record["key"] in run.params:
            params.pop(record["key"], None)
        if known != record["value"]:
            left_out.append(
                f"parameter {record['key']!r} stays {known!r}: MLflow's parameters cannot change, {record['value']!r} "
                "is left out"
            )
    tags = {r["key"]: r["value"] for r in records if r["kind"] == "tag"}
    if points:
        metrics = [Metric(p["key"], p["value"], p["timestamp_ms"], p["step"] or 0) for p in points]
        client.log_batch(run.run_id, metrics=metrics, synchronous=True)
        run.recorded(points)
    for part in in_batches(params):
        client.log_batch(run.run_id, params=[Param(*item) for item in part], synchronous=True)
    for part in in_batches(tags):
        client.log_batch(run.run_id, tags=[RunTag(*item) for item in part], synchronous=True)
    run.params.update(params)
    return left_out


def _send_item(client: MlflowClient, run_id: str, record: Record) -> None:
    """Send a file, a JSON value or a dataset."""
    if record["kind"] == "json":
        client.log_text(run_id, json.dumps(record["value"], indent=2, sort_keys=True), record["name"])
    elif record["kind"] == "table":
        send_table(client, run_id, record["name"], record["rows"])
    elif record["kind"] == "file":
        path = Path(record["path"])
        _require_readable(path)
        (client.log_artifacts if path.is_dir() else client.log_artifact)(run_id, str(path), record["folder"])
    elif record["kind"] == "dataset":
        dataset = Dataset(
            name=record["name"],
            digest=record["digest"][:_MAX_DIGEST_CHARS],
            source_type="vlmvid",
            source=json.dumps({"uri": record["source"]}),
            profile=json.dumps({"num_rows": record["num_rows"]}),
        )
        client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", record["context"])])])


def _require_readable(path: Path) -> None:
    """Raise Refused for a file or folder that is gone or may not be read; MLflow does not say whose it is."""

    def fail(error: OSError) -> None:
        raise error

    try:
        if not path.exists():
            raise Refused("the file does not exist any more")
        inner = (Path(folder, name) for folder, _, names in os.walk(path, onerror=fail) for name in names)
        for file in inner if path.is_dir() else (path,):
            file.open("rb").close()
    except (PermissionError, FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise Refused(f"a local file cannot be read: {error}") from error


_KINDS = ("metric", "param", "tag", "json", "table", "file", "dataset", "status")
