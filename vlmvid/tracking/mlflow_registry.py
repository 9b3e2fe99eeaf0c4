"""Registered models in MLflow: written once, read by anybody who has the address of the service."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import mlflow.artifacts
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from vlmvid.artifacts.digests import sha256_text
from vlmvid.artifacts.files import scratch_folder
from vlmvid.errors import TrackingError
from vlmvid.tracking.base import RegisteredModel
from vlmvid.tracking.environment import serving_requirements
from vlmvid.tracking.filters import quoted, tags_filter
from vlmvid.tracking.mlflow_calls import mlflow_calls, new_client, quiet
from vlmvid.tracking.outage import probe, without_password

_SERVING = Path(__file__).resolve().parent.parent / "serving"
_FINGERPRINT = "vlmvid.fingerprint"


class Backend(Protocol):
    """What registering needs of the tracker's connection."""

    def check(self) -> None:
        """Ask for a sign of life; raises Unreachable within seconds."""

    def client(self) -> MlflowClient:
        """The client, made at first use."""


def register_model(
    backend: Backend,
    model_folder: Path,
    model_name: str,
    alias: str,
    fingerprint: str,
    tags: Mapping[str, str],
    run_id: str,
) -> RegisteredModel:
    """One version of `model_name` for `fingerprint`, with its files under the run, and `alias` on it."""
    backend.check()
    all_tags = {**tags, _FINGERPRINT: fingerprint}
    with mlflow_calls(None):
        client = backend.client()
        where = f"name = {quoted(model_name)} and {tags_filter({_FINGERPRINT: fingerprint})}"
        known = sorted(int(version.version) for version in client.search_model_versions(where))
        if known:
            version = str(known[0])
            for key, value in all_tags.items():
                client.set_model_version_tag(model_name, version, key, value)
        else:
            _create_registered_model(client, model_name)
            source = _upload_model(client, run_id, model_folder, fingerprint)
            version = str(
                client.create_model_version(
                    model_name, source, run_id=run_id, tags=all_tags, await_creation_for=0
                ).version
            )
        before = client.get_registered_model(model_name).aliases.get(alias)
        client.set_registered_model_alias(model_name, alias, version)
    moved_from = None if before is None or str(before) == version else str(before)
    return RegisteredModel(model_name, version, moved_from)


def download_model(uri: str, tracking_uri: str, cache: Path | None = None) -> Path:
    """The local folder of ``models:/NAME/VERSION``, ``models:/NAME@ALIAS`` or ``runs:/RUN/PATH``.

    Files that are local already are used in place. Others are downloaded once into `cache`
    (default VLMVID_CACHE, else ``~/.cache/vlmvid``) under their resolved address. No code of the
    model is executed.

    Raises:
        TrackingError: the address does not exist or the service does not answer.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        probe(tracking_uri, must_exist=True)
        with mlflow_calls(None):
            source = _source_of(new_client(tracking_uri), uri)
            if source.startswith(("/", "file:")):
                return Path(mlflow.artifacts.download_artifacts(artifact_uri=source, tracking_uri=tracking_uri))
            root = cache or Path(os.environ.get("VLMVID_CACHE") or Path.home() / ".cache" / "vlmvid")
            folder = root / "models" / sha256_text(f"{tracking_uri} {source}")[:24]
            if not folder.is_dir():
                _download(source, tracking_uri, folder)
            return folder
    except TrackingError as error:
        raise TrackingError(f"cannot fetch the model {uri!r} from {without_password(tracking_uri)}: {error}") from error


def _download(source: str, tracking_uri: str, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder.parent) as temporary:
        # MLflow puts the files into a folder of its own below the one it is given.
        fetched = mlflow.artifacts.download_artifacts(
            artifact_uri=source, dst_path=str(temporary), tracking_uri=tracking_uri
        )
        try:
            os.rename(fetched, folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise


def _source_of(client: MlflowClient, uri: str) -> str:
    """Where the files of a model address are."""
    kind, _, rest = uri.partition(":/")
    rest = rest.strip("/")
    name, separator, last = rest.partition("@") if "@" in rest else rest.partition("/")
    if kind == "runs" and last:
        return f"{client.get_run(name).info.artifact_uri.rstrip('/')}/{last}"
    if kind == "models" and separator == "@":
        found = client.get_model_version_by_alias(name, last)
        return str(client.get_model_version_download_uri(name, found.version))
    if kind == "models" and last.isdecimal():
        return str(client.get_model_version_download_uri(name, last))
    raise TrackingError(
        f"{uri!r} is not a model address; expected models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN_ID/PATH"
    )


def _create_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _upload_model(client: MlflowClient, run_id: str, model_folder: Path, fingerprint: str) -> str:
    """Put the MLflow model under the run, in a folder named by content; returns its address."""
    folder = f"model/{fingerprint[:16]}"
    answers = (model_folder / "vlm").is_dir()
    with scratch_folder() as temporary:
        saved = temporary / "model"
        with quiet():
            import mlflow.pyfunc

            mlflow.pyfunc.save_model(
                path=str(saved),
                python_model=str(_SERVING / ("pyfunc_vlm.py" if answers else "pyfunc_model.py")),
                artifacts={"model": str(model_folder)},
                model_config={"device": "auto"},
                pip_requirements=serving_requirements(),
            )
        client.log_artifacts(run_id, str(saved), folder)
    return f"{client.get_run(run_id).info.artifact_uri.rstrip('/')}/{folder}"
