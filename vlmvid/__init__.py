"""vlmvid: from a folder of videos with text to a registered, evaluated video-language model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlmvid.serving.model import VideoTextModel

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def load(uri: str | Path, *, device: str = "auto", tracking_uri: str | None = None) -> VideoTextModel:
    """A registered or local model, its hashes verified; never runs code from the model.

    Args:
        uri: ``models:/NAME@alias``, ``models:/NAME/VERSION`` or a model folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.
        tracking_uri: MLflow's address; None = MLFLOW_TRACKING_URI, else ``VLMVID_HOME/mlflow.db``.

    Raises:
        ArtifactError: a file of the model is missing or was changed.
        TrackingError: the registry does not know the model or does not answer.
    """
    from vlmvid.serving.load import load as load_model

    return load_model(uri, device=device, tracking_uri=tracking_uri)
