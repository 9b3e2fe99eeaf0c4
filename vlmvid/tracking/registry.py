"""What promotions ask of a model registry, whichever service keeps it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vlmvid.errors import ConfigError
from vlmvid.tracking.opening import resolve_tracking_uri
from vlmvid.tracking.outage import probe

# Tags of a version.
FINGERPRINT = "vlmvid.fingerprint"
KIND = "vlmvid.kind"
MODEL_DIGEST = "vlmvid.model_digest"
EVALUATE_KEY = "vlmvid.evaluate_key"
EVALUATION = "vlmvid.evaluation"  # folder of its files among those of the version's run
EVALUATION_DIGEST = "vlmvid.evaluation_digest"
EVALUATION_RUNS = "vlmvid.evaluation_runs"  # separated by commas, the latest first


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version in the registry, as it was when it was read."""

    name: str
    version: str
    tags: Mapping[str, str]
    run_id: str | None
    aliases: Mapping[str, str] = field(default_factory=dict)  # of the model: alias -> version

    def alias(self, name: str) -> str | None:
        """The version that an alias of the model points to."""
        return self.aliases.get(name)


@dataclass(frozen=True, slots=True)
class FetchedModel:
    """Files of a registered model on this machine; `digest` is the sha256 of its manifest as it was registered.

    None where the registry does not say: of a run's files, and of models that were registered before it did.
    """

    folder: Path
    digest: str | None = None


class Registry(Protocol):
    """Reads versions and moves aliases. Every method raises TrackingError when the service fails or refuses."""

    def version(self, name: str, which: str) -> ModelVersion:
        """A version by alias or number; raises ConfigError for a model, alias or number that is not there."""

    def evaluation(self, version: ModelVersion, folder: Path) -> Path:
        """Fetch the evaluation that was registered with a version below `folder`; ArtifactError when it was changed."""

    def promotion(self, version: ModelVersion, name: str, tags: Mapping[str, str]) -> AbstractContextManager[str]:
        """A run called `name` that alone may change the model's aliases; gives its id.

        Raises PromotionError when another one is under way. Leaving the block ends the run.
        """

    def note(self, version: ModelVersion, name: str, tags: Mapping[str, str], files: Mapping[str, str]) -> str:
        """A finished run with these tags and text files, made once; gives its id. It claims nothing."""

    def log(self, run_id: str, files: Mapping[str, str]) -> None:
        """Attach text files to a run."""

    def set_tags(self, version: ModelVersion, tags: Mapping[str, str | None]) -> None:
        """Set tags of a version; None removes one."""

    def set_alias(self, run_id: str, model: str, alias: str, version: str | None) -> None:
        """Point an alias to a version, None removes it; raises PromotionError when the run's claim has run out."""


def registry_address(tracking_uri: str | None, home: str | None = None) -> str:
    """Where models are registered: `tracking_uri`, else MLFLOW_TRACKING_URI, else SQLite in `home` (VLMVID_HOME).

    Raises ConfigError where none of these names a registry.
    """
    place = home or os.environ.get("VLMVID_HOME") or ".vlmvid"
    if "://" in place and not (tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")):
        raise ConfigError(
            f"VLMVID_HOME={place} is not a local folder, so it holds no model registry; set MLFLOW_TRACKING_URI"
        )
    return resolve_tracking_uri(tracking_uri, Path(place))


def open_registry(tracking_uri: str) -> Registry:
    """The registry at `tracking_uri`; raises TrackingError within seconds when it does not answer."""
    # Read by MLflow when it is imported, which happens here.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    probe(tracking_uri, must_exist=True)
    from vlmvid.tracking.mlflow_promotion import MlflowRegistry

    return MlflowRegistry(tracking_uri)
