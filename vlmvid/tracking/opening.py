"""Which tracker a recipe gets, and at which address."""

from __future__ import annotations

import os
from pathlib import Path

from vlmvid.config.addresses import check_address
from vlmvid.config.schema import TrackingConfig
from vlmvid.tracking.base import NullTracker, Tracker


def resolve_tracking_uri(uri: str | None, home: Path) -> str:
    """The explicit tracking address: `uri`, else MLFLOW_TRACKING_URI, else SQLite in `home`.

    Raises ConfigError for a scheme that is not opened; `vlmvid.config.addresses` lists those that are.
    """
    given = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not given:
        return f"sqlite:///{home.resolve() / 'mlflow.db'}"
    return check_address(given, "tracking", "tracking.uri" if uri else "MLFLOW_TRACKING_URI")


def open_tracker(config: TrackingConfig, home: Path) -> Tracker:
    """The tracker that `config` asks for; opens no connection yet.

    Unless the variable is set already, MLFLOW_DISABLE_TELEMETRY becomes ``true`` for this process
    and its children: MLflow reads it when it is imported, which happens here.
    """
    if not config.enabled:
        return NullTracker()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from vlmvid.tracking.mlflow import MlflowTracker

    uri = resolve_tracking_uri(config.uri, home)
    return MlflowTracker(
        uri,
        config.experiment,
        home.resolve() / "tracking" / "spool",
        artifact_location=str(home.resolve() / "mlartifacts") if uri.startswith("sqlite:") else None,
    )
