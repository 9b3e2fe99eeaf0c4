"""`load`: a model by its address, without executing anything that came with it."""

from __future__ import annotations

import os
from pathlib import Path

from vlmvid.config.addresses import check_address
from vlmvid.errors import ArtifactError, ConfigError
from vlmvid.serving.model import VideoTextModel
from vlmvid.serving.model_folder import MANIFEST
from vlmvid.tracking.opening import resolve_tracking_uri


def load(uri: str | Path, *, device: str = "auto", tracking_uri: str | None = None) -> VideoTextModel:
    """The model at `uri`.

    Args:
        uri: a model folder, ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or ``runs:/RUN_ID/PATH``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.
        tracking_uri: of the registry; None means MLFLOW_TRACKING_URI, else SQLite in VLMVID_HOME.

    Only safetensors and JSON are read, so this works with MLflow's code execution and pickle
    loading switched off. Every file is checked against its hash first.

    Raises:
        ArtifactError: there is no model at `uri`, or a file of it was changed; the message names it.
        ConfigError: an address of another scheme.
        TrackingError: the registry does not know the model or does not answer.
    """
    return VideoTextModel.from_folder(find_model_folder(locate(str(uri), tracking_uri)), device)


def locate(uri: str, tracking_uri: str | None = None) -> Path:
    """The local folder of a model address; fetches what is not local."""
    check_address(uri, "model", "the model")
    if not uri.startswith(("models:/", "runs:/")):
        return Path(uri)
    home = os.environ.get("VLMVID_HOME") or ".vlmvid"
    if "://" in home and not (tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")):
        raise ConfigError(
            f"VLMVID_HOME={home} is not a local folder, so it holds no model registry; set MLFLOW_TRACKING_URI"
        )
    # Said before MLflow is imported, because it reads the variable then.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from vlmvid.tracking.mlflow_registry import download_model

    return download_model(uri, resolve_tracking_uri(tracking_uri, Path(home)))


def find_model_folder(folder: Path) -> Path:
    """The model folder at `folder` or inside the MLflow model at `folder`; raises ArtifactError."""
    found = [
        path.parent for path in (folder / MANIFEST, *sorted(folder.glob(f"artifacts/*/{MANIFEST}"))) if path.is_file()
    ]
    if len(found) != 1:
        raise ArtifactError(
            f"{folder} holds {len(found)} models, expected one: a folder with {MANIFEST}, "
            f"or an MLflow model with artifacts/NAME/{MANIFEST}"
        )
    return found[0]
