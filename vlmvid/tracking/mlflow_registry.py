"""Registered models in MLflow: written once, read by anybody who has the address of the service."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import mlflow.artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from vlmvid.artifacts.digests import sha256_text
from vlmvid.artifacts.files import scratch_folder
from vlmvid.errors import TrackingError
from vlmvid.tracking.base import RegisteredModel, Registration
from vlmvid.tracking.environment import serving_requirements
from vlmvid.tracking.evaluation_files import files_digest
from vlmvid.tracking.filters import quoted, tags_filter
from vlmvid.tracking.mlflow_calls import mlflow_calls, new_client, quiet
from vlmvid.tracking.outage import probe, without_password
from vlmvid.tracking.registry import (
    EVALUATE_KEY,
    EVALUATION,
    EVALUATION_DIGEST,
    EVALUATION_RUNS,
    FINGERPRINT,
    MODEL_DIGEST,
    FetchedModel,
)

_SERVING = Path(__file__).resolve().parent.parent / "serving"
_MOST_RUNS = 20


class Backend(Protocol):
    """What registering needs of the tracker's connection."""

    def check(self) -> None:
        """Ask for a sign of life; raises Unreachable within seconds."""

    def client(self) -> MlflowClient:
        """The client, made at first use."""


def register_model(backend: Backend, wanted: Registration, run_id: str) -> RegisteredModel:
    """One version for the fingerprint, with its files under the run, and the alias on it.

    The evaluation, a folder of files, lies beside the model: whoever reads the registry needs nothing else.
    """
    backend.check()
    model_name, fingerprint, evaluation = wanted.model_name, wanted.fingerprint, wanted.evaluation
    all_tags = {**wanted.tags, FINGERPRINT: fingerprint}
    with mlflow_calls(None):
        client = backend.client()
        known = _versions_of(client, model_name, fingerprint)
        if known:
            version = known[0]
            all_tags |= _evaluation_tags(client, version, evaluation)
            if EVALUATION_RUNS not in version.tags:
                all_tags |= _evaluation_runs(client, run_id, wanted.tags)
            for key, value in all_tags.items():
                if version.tags.get(key) != value:
                    client.set_model_version_tag(model_name, version.version, key, value)
        else:
            _create_registered_model(client, model_name)
            source = _upload_model(client, run_id, wanted.model_folder, fingerprint)
            all_tags |= {
                **_upload_evaluation(client, run_id, evaluation),
                **_evaluation_runs(client, run_id, wanted.tags),
            }
            client.create_model_version(model_name, source, run_id=run_id, tags=all_tags, await_creation_for=0)
        number = str(_leave_one(client, model_name, fingerprint).version)
        before = client.get_registered_model(model_name).aliases.get(wanted.alias)
        client.set_registered_model_alias(model_name, wanted.alias, number)
    moved_from = None if before is None or str(before) == number else str(before)
    return RegisteredModel(model_name, number, moved_from)


def _versions_of(client: MlflowClient, model_name: str, fingerprint: str) -> list[ModelVersion]:
    where = f"name = {quoted(model_name)} and {tags_filter({FINGERPRINT: fingerprint})}"
    return sorted(client.search_model_versions(where), key=lambda version: int(version.version))


def _leave_one(client: MlflowClient, model_name: str, fingerprint: str) -> ModelVersion:
    """The first version of the fingerprint; later ones go.

    MLflow makes a version for whoever asks. Of two that register one model at once each looks only after its version is
    there, so both find the same first one.
    """
    first, *others = _versions_of(client, model_name, fingerprint)
    for other in others:
        try:
            client.delete_model_version(model_name, other.version)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # the process that made it was faster
                raise
    return first


def _evaluation_tags(client: MlflowClient, version: ModelVersion, evaluation: Path | None) -> dict[str, str]:
    """Tags of a version that lacks this evaluation, which is put beside its model; no tags where it has it."""
    if evaluation is None or version.tags.get(EVALUATION_DIGEST) == files_digest(evaluation) or not version.run_id:
        return {}
    return _upload_evaluation(client, version.run_id, evaluation)


def _upload_evaluation(client: MlflowClient, run_id: str, evaluation: Path | None) -> dict[str, str]:
    if evaluation is None:
        return {}
    digest = files_digest(evaluation)
    folder = f"evaluation/{digest[:16]}"
    client.log_artifacts(run_id, str(evaluation), folder)
    return {EVALUATION: folder, EVALUATION_DIGEST: digest}


def _evaluation_runs(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> dict[str, str]:
    """The runs that computed the evaluation, else those that reused it, in the experiment of `run_id`."""
    if EVALUATE_KEY not in tags:
        return {}
    experiment = client.get_run(run_id).info.experiment_id
    where = tags_filter({"vlmvid.stage": "evaluate", "vlmvid.stage_key": tags[EVALUATE_KEY]})
    runs = client.search_runs([experiment], where, max_results=_MOST_RUNS, order_by=["attributes.start_time DESC"])
    computed = [run for run in runs if run.data.tags.get("vlmvid.cached") != "true"]
    found = ",".join(str(run.info.run_id) for run in computed or runs)
    return {EVALUATION_RUNS: found} if found else {}


def download_model(uri: str, tracking_uri: str, cache: Path | None = None) -> FetchedModel:
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
            source, digest = _source_of(new_client(tracking_uri), uri)
            if source.startswith(("/", "file:")):
                if not Path(source.removeprefix("file://")).exists():
                    raise TrackingError(
                        f"its files lie at {source}, which is not on this machine; run the MLflow server with "
                        "--artifacts-destination, so that it hands them out, or copy the folder here"
                    )
                place = mlflow.artifacts.download_artifacts(artifact_uri=source, tracking_uri=tracking_uri)
                return FetchedModel(Path(place), digest)
            root = cache or Path(os.environ.get("VLMVID_CACHE") or Path.home() / ".cache" / "vlmvid")
            # With the digest: what lies at an address may be exchanged, what was registered may not.
            folder = root / "models" / sha256_text(f"{tracking_uri} {source} {digest or ''}")[:24]
            if not folder.is_dir():
                _download(source, tracking_uri, folder)
            return FetchedModel(folder, digest)
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


def _source_of(client: MlflowClient, uri: str) -> tuple[str, str | None]:
    """Where the files of a model address are, and the digest that was registered with them."""
    kind, _, rest = uri.partition(":/")
    rest = rest.strip("/")
    name, separator, last = rest.partition("@") if "@" in rest else rest.partition("/")
    if kind == "runs" and last:
        return f"{client.get_run(name).info.artifact_uri.rstrip('/')}/{last}", None
    if kind == "models" and separator == "@":
        found = client.get_model_version_by_alias(name, last)
    elif kind == "models" and last.isdecimal():
        found = client.get_model_version(name, last)
    else:
        raise TrackingError(
            f"{uri!r} is not a model address; expected models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN_ID/PATH"
        )
    return str(client.get_model_version_download_uri(name, found.version)), found.tags.get(MODEL_DIGEST)


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
