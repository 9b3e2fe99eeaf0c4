"""vlmvid: from a folder of videos with text to a registered, evaluated video-language model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlmvid.serving.evaluation_results import EvaluationResults
    from vlmvid.serving.model import VideoTextModel

__all__ = ["__version__", "load", "results"]
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


def results(place: str | Path, *, tracking_uri: str | None = None) -> EvaluationResults:
    """What an evaluation measured, with its samples; shows itself as tables, and gives data frames.

    Args:
        place: the folder of an evaluation, as ``vlmvid evaluate`` prints it, or ``models:/NAME@alias`` or
            ``models:/NAME/VERSION`` for the evaluation that a model was registered with.
        tracking_uri: as for `load`.

    Raises:
        ArtifactError: no evaluation lies there, or it is damaged.
        ConfigError: a model that is not there, or that was registered without an evaluation.
        TrackingError: the registry does not answer.
    """
    from vlmvid.serving.evaluation_results import load_results

    return load_results(place, tracking_uri=tracking_uri)
