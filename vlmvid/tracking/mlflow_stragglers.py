"""Runs that nobody will end any more: their process was killed, or its machine is gone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from vlmvid.tracking.base import RunStatus
from vlmvid.tracking.mlflow_calls import mlflow_calls, new_client
from vlmvid.tracking.outage import probe
from vlmvid.tracking.owner import HOST_TAG, PID_TAG

logger = logging.getLogger(__name__)

_PAGE = 500


@dataclass(frozen=True, slots=True)
class ClosedRun:
    """A run that was left open, and the status that it has now; `owner` is the host and process of its tags."""

    run_id: str
    name: str
    status: RunStatus
    owner: str


def close_stragglers(
    tracking_uri: str,
    experiment: str,
    ended: Callable[[Mapping[str, str]], RunStatus | None],
    *,
    older_than_seconds: float = 60.0,
) -> list[ClosedRun]:
    """End the runs of an experiment that are RUNNING although their owner has ended.

    Args:
        tracking_uri: MLflow's address.
        experiment: its name; one that does not exist has no runs.
        ended: gets a run's tags and says how the run ended, or None: it runs, or nothing is known of it. Such a run
            is left alone. `vlmvid.tracking.owner_ended` knows the processes of this machine.
        older_than_seconds: younger runs are left alone.

    Raises:
        TrackingError: the service does not answer or refuses; what was closed before stays closed.
    """
    probe(tracking_uri, must_exist=True)
    closed: list[ClosedRun] = []
    with mlflow_calls(None):
        client = new_client(tracking_uri)
        known = client.get_experiment_by_name(experiment)
        if known is None:
            return closed
        latest = time.time() * 1000 - older_than_seconds * 1000
        for run in list(_running(client, known.experiment_id)):
            tags = dict(run.data.tags)
            status = ended(tags) if run.info.start_time <= latest else None
            # Its pipeline may have been started again while we asked.
            if status is None or not _is_as_it_was(client, run):
                continue
            client.set_terminated(run.info.run_id, status)
            owner = f"{tags.get(HOST_TAG, '?')} {tags.get(PID_TAG, '?').split()[0]}"
            closed.append(ClosedRun(run.info.run_id, str(run.info.run_name), status, owner))
            logger.info("run %s (%s) of %s is %s now", run.info.run_name, run.info.run_id, owner, status)
    return closed


def _running(client: MlflowClient, experiment_id: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment_id], "attributes.status = 'RUNNING'", max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _is_as_it_was(client: MlflowClient, run: Run) -> bool:
    now = client.get_run(run.info.run_id)
    same_owner = all(now.data.tags.get(tag) == run.data.tags.get(tag) for tag in (HOST_TAG, PID_TAG))
    return same_owner and now.info.status == "RUNNING"
