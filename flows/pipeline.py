"""The whole pipeline: every stage of a recipe, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import Flow, flow
from prefect.task_runners import TaskRunner

from flows._forms import Home, Overrides, RecipeFile, RetryFailed, Verify
from flows._runners import SequentialTaskRunner, given_to_this_flow
from flows._show import shown
from flows._stages import is_parallel
from flows.align import align
from flows.curate import curate
from flows.decode import decode
from flows.encode import encode
from flows.evaluate import evaluate
from flows.filter import filter
from flows.ingest import ingest
from flows.register import register
from flows.report import report
from flows.search import search
from flows.train_vlm import train_vlm
from vlmvid.artifacts import ArtifactRef
from vlmvid.config.schema import StageName
from vlmvid.pipeline import (
    RunRequest,
    check_training_clips,
    make_request,
    preflight,
    runner_choice,
)

STAGE_FLOWS: dict[str, Flow[..., ArtifactRef]] = {
    flow.name: flow for flow in (ingest, curate, decode, encode, filter, align, train_vlm, evaluate, register, search)
}
UNLESS_GIVEN: TaskRunner[Any] = SequentialTaskRunner()


@flow(name="vlmvid-pipeline", task_runner=UNLESS_GIVEN)
def pipeline(
    recipe: RecipeFile,
    overrides: Overrides = (),
    home: Home = "",
    retry_failed: RetryFailed = False,
    verify: Verify = False,
) -> dict[str, ArtifactRef]:
    """From videos with text to a registered, evaluated model, and its report; one artifact per stage.

    The sharded stages take the task runner that ``with_options`` gave to this flow, if it did.
    """
    request = make_request(recipe, overrides, home=home, retry_failed=retry_failed, verify=verify)
    runner_choice()  # a wrong VLMVID_TASK_RUNNER should not cost the first stages
    preflight(request)
    with shown(request) as stages:
        results = _run_stages(request, stages)
        report(request)
        return results


def run_stages_before(request: RunRequest, stage: StageName, stages: Sequence[StageName]) -> None:
    """Those of `stages` that come before `stage`, each as a flow of its own below the one that runs now."""
    if stage in stages:
        preflight(request)
        _run_stages(request, stages[: stages.index(stage)])


def _run_stages(request: RunRequest, stages: Sequence[StageName]) -> dict[str, ArtifactRef]:
    runner = given_to_this_flow()
    options = {"home": request.home, "retry_failed": request.retry_failed, "verify": request.verify}
    results: dict[str, ArtifactRef] = {}
    for stage in stages:
        runs = STAGE_FLOWS[stage].with_options(task_runner=runner if is_parallel(stage) else None)
        results[stage] = runs(recipe=request.recipe, **options)
        if stage == "ingest":
            check_training_clips(request)  # too few clips should not cost the stages before align
    return results
