"""An MLflow database that is migrated once and copied for each test."""

from __future__ import annotations

import shutil
import socket
import tempfile
from functools import cache
from pathlib import Path

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from vlmvid.config.schema import TrackingConfig
from vlmvid.tracking import open_tracker
from vlmvid.tracking.mlflow import MlflowTracker

EXPERIMENT = "vlmvid-tests"


@cache
def migrated_database() -> Path:
    """A database as MLflow's migrations leave it, made by the tracker itself."""
    home = Path(tempfile.mkdtemp(prefix="vlmvid-mlflow-"))
    tracker = open_home(home)
    tracker.start_pipeline(pipeline_key="k", name="migrate", config={}, tags={})
    assert tracker.gaps == []
    return home / "mlflow.db"


def open_home(home: Path) -> MlflowTracker:
    """The tracker of a recipe without a tracking address, in `home`."""
    tracker = open_tracker(TrackingConfig(experiment=EXPERIMENT, uri=f"sqlite:///{home / 'mlflow.db'}"), home)
    assert isinstance(tracker, MlflowTracker)
    return tracker


def fresh_home(home: Path) -> Path:
    """`home` with an empty migrated database in it."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(migrated_database(), home / "mlflow.db")
    client = client_of(home)
    # The template's experiment keeps its artifacts elsewhere.
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    client.rename_experiment(experiment.experiment_id, "template")
    return home


def client_of(home: Path) -> MlflowClient:
    """A client that looks into the database of `home` behind the tracker's back."""
    uri = f"sqlite:///{home / 'mlflow.db'}"
    return MlflowClient(uri, registry_uri=uri)


def runs_by_name(home: Path) -> dict[str, Run]:
    """The runs in the database of `home`, each of a name of its own."""
    client = client_of(home)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
