"""Where runs are recorded: the protocol, the local spool and the MLflow implementation."""

from vlmvid.tracking.base import NullTracker, RegisteredModel, Registration, RunStatus, StageRun, Tracker
from vlmvid.tracking.opening import open_tracker, resolve_tracking_uri
from vlmvid.tracking.owner import owner_ended

__all__ = [
    "NullTracker",
    "RegisteredModel",
    "Registration",
    "RunStatus",
    "StageRun",
    "Tracker",
    "open_tracker",
    "owner_ended",
    "resolve_tracking_uri",
]
