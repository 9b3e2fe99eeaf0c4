"""Aliases and versions in MLflow, and who may move them.

MLflow's aliases are written without looking: the last writer wins, and there is no lock. So whoever wants to move them
first makes a run, which says so, and only then looks for others: of two that begin at once at least one sees the other.
The one that began later gives up; the earlier one waits until it has. A run whose process has ended, or whose machine
has been silent for `LEASE_SECONDS`, counts no more. What is left: a process that is suspended for longer than that
between its last look and its write (two calls apart) writes all the same; the next call sees it and says so.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from vlmvid.errors import ArtifactError, ConfigError, PromotionError, TrackingError
from vlmvid.registry import nearest
from vlmvid.tracking.evaluation_files import files_digest
from vlmvid.tracking.filters import quoted, tags_filter
from vlmvid.tracking.mlflow_calls import mlflow_calls, new_client
from vlmvid.tracking.owner import owner_state, owner_tags
from vlmvid.tracking.registry import EVALUATION, EVALUATION_DIGEST, ModelVersion

LEASE_SECONDS = 300.0
WAIT_SECONDS = 60.0
_PAUSE_SECONDS = 0.2
_CLAIM = "vlmvid.promotion"  # of the run; the model's name


class MlflowRegistry:
    """The `Registry` of an MLflow server or database."""

    def __init__(self, uri: str) -> None:
        with mlflow_calls(None):
            self._client: MlflowClient = new_client(uri)
        self._uri = uri

    def version(self, name: str, which: str) -> ModelVersion:
        """See `Registry.version`."""
        with mlflow_calls(None):
            aliases = self._aliases(name)
            if which.isdecimal():
                number = which
            elif which in aliases:
                number = aliases[which]
            else:
                known = ", ".join(f"{alias} (version {number})" for alias, number in sorted(aliases.items())) or "none"
                raise ConfigError(
                    f"the model {name!r} has no alias {which!r}{nearest(which, sorted(aliases))}; it has: {known}. "
                    "Name one of them, or a version by its number"
                )
            try:
                found = self._client.get_model_version(name, number)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                numbers = sorted(
                    int(one.version) for one in self._client.search_model_versions(f"name = {quoted(name)}")
                )
                raise ConfigError(
                    f"the model {name!r} has no version {which}; it has: {', '.join(map(str, numbers)) or 'none'}"
                ) from error
        return ModelVersion(name, str(found.version), dict(found.tags), found.run_id or None, aliases)

    def evaluation(self, version: ModelVersion, folder: Path) -> Path:
        """See `Registry.evaluation`."""
        path = version.tags.get(EVALUATION)
        if path is None or version.run_id is None:
            raise ConfigError(
                f"version {version.version} of {version.name!r} was registered without an evaluation, and gates are "
                "about one; add an 'evaluate' section to its recipe and run it again"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with mlflow_calls(None):
            fetched = Path(self._client.download_artifacts(version.run_id, path, str(folder)))
        digest = files_digest(fetched)
        if digest != version.tags.get(EVALUATION_DIGEST):
            raise ArtifactError(
                f"the evaluation of version {version.version} of {version.name!r} was changed after it was registered: "
                f"its files give {digest[:12]}, expected {str(version.tags.get(EVALUATION_DIGEST))[:12]}; run its "
                "recipe again, which registers a sound one"
            )
        return fetched

    @contextmanager
    def promotion(self, version: ModelVersion, name: str, tags: Mapping[str, str]) -> Iterator[str]:
        """See `Registry.promotion`."""
        own = self._begin(version, name, tags)
        run_id = str(own.info.run_id)
        status = "KILLED"
        try:
            self._wait_for_others(own, version.name)
            yield run_id
            status = "FINISHED"
        except Exception as error:
            status = "KILLED" if isinstance(error, PromotionError) else "FAILED"
            with suppress(TrackingError), mlflow_calls(None):
                self._client.set_tag(run_id, "vlmvid.error", f"{type(error).__name__}: {error}"[:500])
            raise
        finally:
            # A claim that cannot be given back runs out by itself; what the caller did or met counts more.
            with suppress(TrackingError), mlflow_calls(None):
                self._client.set_terminated(run_id, status)

    def note(self, version: ModelVersion, name: str, tags: Mapping[str, str], files: Mapping[str, str]) -> str:
        """See `Registry.note`."""
        with mlflow_calls(None):
            experiment = self._experiment_of(version)
            where = f"{tags_filter(tags)} and attributes.status = 'FINISHED'"
            known = self._client.search_runs([experiment], where, max_results=1)
            if known:
                return str(known[0].info.run_id)
            run_id = str(self._client.create_run(experiment, tags={**tags, **owner_tags()}, run_name=name).info.run_id)
            for file, text in files.items():
                self._client.log_text(run_id, text, file)
            self._client.set_terminated(run_id, "FINISHED")
            return run_id

    def log(self, run_id: str, files: Mapping[str, str]) -> None:
        """See `Registry.log`."""
        with mlflow_calls(None):
            for file, text in files.items():
                self._client.log_text(run_id, text, file)

    def set_tags(self, version: ModelVersion, tags: Mapping[str, str | None]) -> None:
        """See `Registry.set_tags`."""
        with mlflow_calls(None):
            known = self._client.get_model_version(version.name, version.version).tags
            for key, value in tags.items():
                if value is not None and known.get(key) != value:
                    self._client.set_model_version_tag(version.name, version.version, key, value)
                elif value is None and key in known:
                    self._client.delete_model_version_tag(version.name, version.version, key)

    def set_alias(self, run_id: str, model: str, alias: str, version: str | None) -> None:
        """See `Registry.set_alias`."""
        with mlflow_calls(None):
            claim = self._client.get_run(run_id)
            age = time.time() - claim.info.start_time / 1000
            if claim.info.status != "RUNNING" or age > LEASE_SECONDS / 2:
                raise PromotionError(
                    f"the right of this process to change {model!r} has run out after {age:.0f} s; nothing was changed "
                    "by this step, call it again"
                )
            if version is not None:
                self._client.set_registered_model_alias(model, alias, version)
            elif alias in self._aliases(model):
                self._client.delete_registered_model_alias(model, alias)

    def _aliases(self, name: str) -> dict[str, str]:
        try:
            found = self._client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            known = sorted(model.name for model in self._client.search_registered_models())
            raise ConfigError(
                f"there is no registered model {name!r}{nearest(name, known)}; registered: {', '.join(known) or 'none'}"
            ) from error
        return {alias: str(version) for alias, version in found.aliases.items()}

    def _experiment_of(self, version: ModelVersion) -> str:
        if version.run_id is None:
            raise ConfigError(
                f"version {version.version} of {version.name!r} belongs to no run, so vlmvid did not register it"
            )
        return str(self._client.get_run(version.run_id).info.experiment_id)

    def _begin(self, version: ModelVersion, name: str, tags: Mapping[str, str]) -> Run:
        with mlflow_calls(None):
            experiment = self._experiment_of(version)
            claim = {**tags, **owner_tags(), _CLAIM: version.name}
            return self._client.create_run(experiment, tags=claim, run_name=name)

    def _wait_for_others(self, own: Run, model: str) -> None:
        """Until this is the only promotion of the model; raises PromotionError when an earlier one is under way."""
        deadline = time.monotonic() + WAIT_SECONDS
        while others := self._others(own, model):
            first = min(others, key=_precedence)
            if _precedence(first) < _precedence(own) or time.monotonic() > deadline:
                since = time.strftime("%H:%M:%S", time.gmtime(first.info.start_time / 1000))
                raise PromotionError(
                    f"another promotion of {model!r} is under way: {first.info.run_name} on "
                    f"{first.data.tags.get('vlmvid.host', 'another machine')}, run {first.info.run_id}, since {since} "
                    "UTC; this one has changed nothing. Look at the champion when the other has ended, then decide"
                )
            time.sleep(_PAUSE_SECONDS)

    def _others(self, own: Run, model: str) -> list[Run]:
        """Other promotions of the model that may still write; those that cannot are ended."""
        with mlflow_calls(None):
            where = f"{tags_filter({_CLAIM: model})} and attributes.status = 'RUNNING'"
            experiments = [experiment.experiment_id for experiment in self._client.search_experiments()]
            alive = []
            for run in self._client.search_runs(experiments, where):
                if run.info.run_id == own.info.run_id:
                    continue
                state = owner_state(run.data.tags)
                silent = time.time() - run.info.start_time / 1000 > LEASE_SECONDS
                if state == "ended" or silent:
                    self._client.set_terminated(run.info.run_id, "KILLED")
                else:
                    alive.append(run)
            return alive


def _precedence(run: Run) -> tuple[int, str]:
    return int(run.info.start_time), str(run.info.run_id)
