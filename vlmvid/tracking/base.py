"""What the pipelines ask of a tracker, whichever service records the runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from vlmvid.errors import TrackingError

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

# A cancelled flow or future says so with an ordinary exception; those of Prefect are known here by name alone.
_CANCELLATIONS = {"CancelledError", "CancelledRun"}


def status_of(error: BaseException) -> RunStatus:
    """How a run ends that `error` left: KILLED for an interrupt, a termination or a cancellation, else FAILED."""
    cancelled = not isinstance(error, Exception) or type(error).__name__ in _CANCELLATIONS
    return "KILLED" if cancelled else "FAILED"


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """One version in the model registry; `uri` is ``models:/NAME/VERSION``.

    `moved_from` is the version that the alias pointed to before, where that was another one.
    """

    name: str
    version: str
    moved_from: str | None = field(default=None, compare=False)  # of the call, not of the version

    @property
    def uri(self) -> str:
        """The address that `vlmvid.load` and MLflow understand."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A model to be registered.

    Attributes:
        model_folder: its files.
        model_name: of the registered model that the version belongs to.
        alias: is pointed at the version.
        fingerprint: says which model it is; the same one is registered once.
        tags: of the version.
        evaluation: folder of files that go beside the model.
    """

    model_folder: Path
    model_name: str
    alias: str
    fingerprint: str
    tags: Mapping[str, str]
    evaluation: Path | None = None


class StageRun(Protocol):
    """One stage of one pipeline in the tracking service. No method ever raises for an outage."""

    @property
    def run_id(self) -> str | None:
        """The service's id of the run; None while the service has not answered."""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record settings; nested mappings become dotted names, at most 100, 500 characters each."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers with the present time; `step` counts up per name and is never recorded twice."""

    def log_file(self, path: Path, artifact_folder: str | None = None) -> None:
        """Attach a file (or a folder's content) to the run; the same name replaces the earlier one."""

    def log_json(self, name: str, value: object) -> None:
        """Attach `value` as the JSON file `name`, e.g. ``"reports/retrieval.json"``."""

    def log_table(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Add `rows`, by column, to the table `name`, e.g. ``"samples.json"``; a row that it has is not repeated."""

    def log_dataset(self, name: str, digest: str, source: str, num_rows: int, context: str) -> None:
        """Record which data the run read: metadata only, `context` is e.g. ``"training"``."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Record labels; a later value replaces the earlier one."""


class Tracker(Protocol):
    """Records a pipeline as one parent run with one child run per stage, and below it one per part of a stage."""

    @property
    def gaps(self) -> list[str]:
        """What could not be recorded so far, why, and what becomes of it; empty when all is well."""

    def start_pipeline(
        self, *, pipeline_key: str, name: str, config: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        """Open the parent run; a run with the same `pipeline_key` is reopened."""

    def stage(self, stage: str, key: str, *, cached: bool = False) -> AbstractContextManager[StageRun]:
        """Open the child run of a stage; the same `key` under the same parent is reopened.

        ``"STAGE/PART"`` is a part of a stage: its run is a child of that stage's run, if that is open.

        Leaving the block ends the run as FINISHED, with an exception as `status_of` says; the exception goes on.
        """

    def register(self, wanted: Registration, stage_run: StageRun) -> RegisteredModel:
        """Register a model once per fingerprint, with its files below the stage's run, and point the alias at it.

        Raises:
            TrackingError: the registry refused or did not answer; nothing is half registered.
        """

    def note_origin(self, tags: Mapping[str, str]) -> None:
        """Put `tags` on the parent run, if it is open, and on the runs that are opened until `finish`."""

    def log_pipeline_file(self, path: Path) -> None:
        """Attach a file to the parent run, if it is open; the same name replaces the earlier one."""

    def links(self) -> dict[str, str]:
        """Addresses of the latest pipeline's runs for a browser: of the parent as ``pipeline``, of stages by name.

        Without those that are not open yet, and empty where the service has no pages.
        """

    def finish(self, status: RunStatus) -> None:
        """End the parent run; children left open by killed processes become KILLED."""


class NullRun:
    """A stage run that records nothing."""

    @property
    def run_id(self) -> str | None:
        """Always None."""
        return None

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record nothing."""

    def log_file(self, path: Path, artifact_folder: str | None = None) -> None:
        """Record nothing."""

    def log_json(self, name: str, value: object) -> None:
        """Record nothing."""

    def log_table(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Record nothing."""

    def log_dataset(self, name: str, digest: str, source: str, num_rows: int, context: str) -> None:
        """Record nothing."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Record nothing."""


class NullTracker:
    """The tracker of ``tracking.enabled: false``."""

    @property
    def gaps(self) -> list[str]:
        """Always empty: nothing was asked to be recorded."""
        return []

    def start_pipeline(
        self, *, pipeline_key: str, name: str, config: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        """Record nothing."""

    @contextmanager
    def stage(self, stage: str, key: str, *, cached: bool = False) -> Iterator[StageRun]:
        """Record nothing."""
        yield NullRun()

    def register(self, wanted: Registration, stage_run: StageRun) -> RegisteredModel:
        """Always raises TrackingError: there is no registry."""
        raise TrackingError(
            f"cannot register {wanted.model_name!r}: tracking.enabled is false, so there is no model registry; "
            "set tracking.enabled to true or remove the 'register' section"
        )

    def note_origin(self, tags: Mapping[str, str]) -> None:
        """Record nothing."""

    def log_pipeline_file(self, path: Path) -> None:
        """Record nothing."""

    def links(self) -> dict[str, str]:
        """Always empty."""
        return {}

    def finish(self, status: RunStatus) -> None:
        """Record nothing."""
