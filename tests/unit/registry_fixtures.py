"""Versions of a registered model with evaluations made by hand."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from tests.unit.tracking_fixtures import client_of
from vlmvid.config.schema import TrackingConfig
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.runner import write_results
from vlmvid.metrics import mean_result
from vlmvid.tracking import Registration, open_tracker
from vlmvid.tracking.evaluation_files import files_digest
from vlmvid.tracking.mlflow import MlflowTracker
from vlmvid.tracking.registry import EVALUATION, EVALUATION_DIGEST, FINGERPRINT, KIND
from vlmvid.types import MetricResult

NAME, EXPERIMENT = "demo", "promotions"
GATES = """\
kind: dual_encoder
thresholds:
  - {metric: vqa/mcq_accuracy, threshold: 0.6}
no_regression:
  - {metric: vqa/mcq_accuracy, max_loss: 0.1}
"""


def answered(right: Sequence[bool] | NDArray[np.bool_], names: Sequence[str] | None = None) -> TaskResult:
    """A result of the task `vqa`: one question a clip, answered as `right` says."""
    keys = names or [f"q{number}" for number in range(len(right))]
    metric = mean_result("mcq_accuracy", np.asarray(right, dtype=np.bool_), seed=0, num_bootstrap=200)
    samples = [
        {"video_id": f"v-{key}", "question_id": key, "kind": "mcq", "question": "which?", "correct": bool(hit)}
        for key, hit in zip(keys, right, strict=True)
    ]
    return TaskResult("vqa", "made by hand", (metric,), [dict(sample) for sample in samples])


def shares(number_right: int, total: int = 200) -> TaskResult:
    """`number_right` of `total` answers right."""
    return answered([index < number_right for index in range(total)])


def lone(task: str, metric: MetricResult) -> TaskResult:
    """A result of one metric without samples."""
    return TaskResult(task, "made by hand", (metric,))


def tracker_at(uri: str, home: Path) -> MlflowTracker:
    """A tracker whose spool lies in `home`."""
    location = home / "mlartifacts" if uri.startswith("sqlite:") else None
    tracker = open_tracker(TrackingConfig(uri=uri, experiment=EXPERIMENT), home)
    assert isinstance(tracker, MlflowTracker)
    if location is not None:
        location.mkdir(parents=True, exist_ok=True)
    return tracker


def register_version(
    uri: str,
    home: Path,
    fingerprint: str,
    results: Sequence[TaskResult] | None,
    kind: str | None = "dual_encoder",
    alias: str = "candidate",
) -> str:
    """Register a model of that evaluation; returns its version."""
    scratch = Path(mkdtemp(prefix="vlmvid-version-"))
    (scratch / "model").mkdir()
    (scratch / "model" / "model.json").write_text(f'{{"made": "{fingerprint}"}}')
    if results is not None:
        (scratch / "evaluation").mkdir()
        write_results(results, scratch / "evaluation")
    tracker = tracker_at(uri, home)
    tracker.start_pipeline(pipeline_key="p", name="demo", config={}, tags={})
    with tracker.stage("register", fingerprint) as run:
        registered = tracker.register(
            Registration(
                model_folder=scratch / "model",
                model_name=NAME,
                alias=alias,
                fingerprint=fingerprint,
                tags={} if kind is None else {KIND: kind},
                evaluation=None if results is None else scratch / "evaluation",
            ),
            run,
        )
    tracker.finish("FINISHED")
    assert tracker.gaps == []
    shutil.rmtree(scratch)
    return registered.version


def put_version(home: Path, fingerprint: str, results: Sequence[TaskResult] | None, alias: str, **tags: str) -> str:
    """As `register_version` in the database of `home`, without model files and so in a fraction of the time."""
    client = client_of(home)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    where = str(home / "mlartifacts")
    number = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT, artifact_location=where)
    run_id = client.create_run(number).info.run_id
    tags = {FINGERPRINT: fingerprint, **tags}
    if results is not None:
        folder = Path(mkdtemp(prefix="vlmvid-version-"))
        write_results(results, folder)
        client.log_artifacts(run_id, str(folder), f"evaluation/{fingerprint}")
        tags |= {EVALUATION: f"evaluation/{fingerprint}", EVALUATION_DIGEST: files_digest(folder)}
        shutil.rmtree(folder)
    with suppress(MlflowException):
        client.create_registered_model(NAME)
    made = client.create_model_version(NAME, f"{where}/{fingerprint}", run_id=run_id, tags=tags, await_creation_for=0)
    client.set_registered_model_alias(NAME, alias, made.version)
    return str(made.version)
