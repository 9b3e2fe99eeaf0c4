"""Where runs are recorded: the protocol, the local spool and the MLflow implementation."""

from vlmvid.tracking.base import NullTracker, RegisteredModel, RunStatus, StageRun, Tracker
from vlmvid.tracking.opening import open_tracker, resolve_tracking_uri

__all__ = [
    "NullTracker",
    "RegisteredModel",
    "RunStatus",
    "StageRun",
    "Tracker",
    "open_tracker",
    "resolve_tracking_uri",
]
