"""`load`: a model by its address, without executing anything that came with it."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from vlmvid.artifacts.digests import sha256_file
from vlmvid.config.addresses import check_address
from vlmvid.errors import ArtifactError
from vlmvid.serving.model import VideoTextModel
from vlmvid.serving.model_folder import MANIFEST
from vlmvid.tracking.registry import registry_address

_MLFLOW_MODEL = "MLmodel"


def load(uri: str | Path, *, device: str = "auto", tracking_uri: str | None = None) -> VideoTextModel:
    """The model at `uri`.

    Args:
        uri: a model folder, ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or ``runs:/RUN_ID/PATH``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.
        tracking_uri: of the registry; None means MLFLOW_TRACKING_URI, else SQLite in VLMVID_HOME.

    Only safetensors and JSON are read, so this works with MLflow's code execution and pickle
    loading switched off. Every file is checked against its hash first, and a registered model's list of
    hashes against the registry.

    Raises:
        ArtifactError: there is no model at `uri`, or a file of it was changed; the message names it.
        ConfigError: an address of another scheme.
        TrackingError: the registry does not know the model or does not answer.
    """
    return VideoTextModel.from_folder(fetch_model_folder(str(uri), tracking_uri), device)


def fetch_model_folder(uri: str, tracking_uri: str | None = None) -> Path:
    """The local model folder of a model address; fetches what is not local. Raises as `load`.

    The hashes of its files are for `verify_model_folder` to check; here only the list of them is, where the registry
    knows it.
    """
    check_address(uri, "model", "the model")
    if not uri.startswith(("models:/", "runs:/")):
        return find_model_folder(Path(uri))
    address = registry_address(tracking_uri)
    # Said before MLflow is imported, because it reads the variable then.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from vlmvid.tracking.mlflow_registry import download_model

    fetched = download_model(uri, address)
    folder = find_model_folder(fetched.folder)
    digest = sha256_file(folder / MANIFEST)
    if fetched.digest is not None and digest != fetched.digest:
        raise ArtifactError(
            f"{folder / MANIFEST} was changed: its sha256 is {digest}, {uri} was registered with {fetched.digest}; "
            "remove the folder if it is a cached one, or register the model again"
        )
    return folder


def find_model_folder(folder: Path) -> Path:
    """The model folder at `folder` or inside the MLflow model at `folder`; raises ArtifactError."""
    found = [
        path.parent for path in (folder / MANIFEST, *sorted(folder.glob(f"artifacts/*/{MANIFEST}"))) if path.is_file()
    ]
    if len(found) == 1:
        return found[0]
    if (folder / _MLFLOW_MODEL).is_file() and not found:
        raise ArtifactError(
            f"{folder} is {_what_it_is(folder / _MLFLOW_MODEL)}, which vlmvid did not make: it has no "
            f"artifacts/NAME/{MANIFEST}; load it with mlflow.pyfunc.load_model if you trust who made it"
        )
    raise ArtifactError(
        f"{folder} holds {len(found)} models, expected one: a folder with {MANIFEST}, "
        f"or an MLflow model with artifacts/NAME/{MANIFEST}"
    )


def _what_it_is(file: Path) -> str:
    """An MLflow model in words, by the file that describes it; nothing of it is executed."""
    try:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        said = None
    flavours = said.get("flavors") if isinstance(said, dict) else None
    if not isinstance(flavours, dict):
        return "an MLflow model"
    names = sorted(str(name) for name in flavours)
    module = flavours.get("python_function")
    loader = f" (loader {module['loader_module']})" if isinstance(module, dict) and "loader_module" in module else ""
    return f"an MLflow model of the flavours {', '.join(names)}{loader}"
