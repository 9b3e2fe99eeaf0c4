"""Stages as Prefect flows: one task, or a task per shard of clips and one that finishes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Flow, Task, flow, task
from prefect.runtime import flow_run
from prefect.task_runners import TaskRunner

from flows._forms import EarlierStages, Home, Overrides, RecipeFile, RetryFailed, Verify
from flows._logs import share_logs
from flows._policies import TASK_OPTIONS
from flows._runners import EnvironmentTaskRunner, SequentialTaskRunner, run_shards
from flows._show import show_progress, shown
from vlmvid.artifacts import ArtifactRef
from vlmvid.config.schema import StageName
from vlmvid.pipeline import (
    SHARDED_STAGES,
    STAGES,
    RunRequest,
    ShardJob,
    ShardReport,
    StageTicket,
    join_run,
    make_request,
    stage_run,
    stage_ticket,
)

P = ParamSpec("P")
R = TypeVar("R")
FIRST_STAGE: StageName = "ingest"


def is_parallel(stage: StageName) -> bool:
    """Whether the tasks of a stage may run at once."""
    return stage in SHARDED_STAGES and not SHARDED_STAGES[stage].in_order


def whole_flow(stage: StageName, about: str) -> Flow[..., ArtifactRef]:
    """The flow of a stage that is one task; `about` is what Prefect says of it."""

    def run(request: RunRequest) -> ArtifactRef:
        return STAGES[stage].run(request)

    run_task = _task(stage, _named(run, stage, f"{stage}_task", "The stage as one task."))
    return _flow(stage, about, run_task)


def sharded_flow(
    stage: StageName, about: str, *, shard: str, last: str, about_last: str, unit: str = "shard"
) -> Flow[..., ArtifactRef]:
    """The flow of a stage that is one task per shard, then a last one; `flows._runners` says where the tasks run.

    Args:
        stage: its name, and the flow's.
        about: what Prefect says of the flow.
        shard: what it says of a shard's task.
        last: name of the last task, without the stage.
        about_last: what Prefect says of that.
        unit: what one of the tasks works on, part of its name.
    """
    steps = SHARDED_STAGES[stage]

    def run_shard(request: RunRequest, job: ShardJob, ticket: StageTicket, name: str) -> ShardReport:
        share_logs()  # this may be a process of its own
        join_run(request, ticket)
        return steps.run_shard(request, job)

    def finish(request: RunRequest) -> ArtifactRef:
        return steps.finish(request)

    about_shard = f"{shard}; `name`, or a number that counts from 1, names the task run."
    shard_task = _task(f"{stage} {unit}", _named(run_shard, stage, f"{stage}_{unit}", about_shard), " {name}")
    last_task = _task(f"{stage} {last}", _named(finish, stage, f"{stage}_{last}", about_last))

    def run(request: RunRequest) -> ArtifactRef:
        with stage_run(request, stage) as cached:
            if cached is not None:
                return steps.confirm(request, cached)
            ticket = stage_ticket(request, stage, run=str(flow_run.id))
            calls = [(request, job, ticket, job.task_name) for job in steps.plan_shards(request)]
            run_shards(shard_task, calls, lambda done: show_progress(stage, done, len(calls)))
            return last_task(request)

    return _flow(stage, about, run)


def _flow(stage: StageName, about: str, run: Callable[[RunRequest], ArtifactRef]) -> Flow[..., ArtifactRef]:
    """The flow that makes a request of what the user gives and hands it to `run`."""

    def first(
        recipe: RecipeFile,
        overrides: Overrides = (),
        home: Home = "",
        retry_failed: RetryFailed = False,
        verify: Verify = False,
    ) -> ArtifactRef:
        request = make_request(recipe, overrides, home=home, retry_failed=retry_failed, verify=verify)
        with shown(request, stage):
            return run(request)

    def later(
        recipe: RecipeFile,
        overrides: Overrides = (),
        home: Home = "",
        retry_failed: RetryFailed = False,
        verify: Verify = False,
        earlier_stages: EarlierStages = "require",
    ) -> ArtifactRef:
        request = make_request(recipe, overrides, home=home, retry_failed=retry_failed, verify=verify)
        with shown(request, stage) as stages:
            if earlier_stages == "run":
                from flows.pipeline import run_stages_before  # which imports the flows that are made here

                run_stages_before(request, stage, stages)
            return run(request)

    start: Callable[..., ArtifactRef] = first if stage == FIRST_STAGE else later
    runner: TaskRunner[Any] = EnvironmentTaskRunner() if is_parallel(stage) else SequentialTaskRunner()
    return flow(name=stage, task_runner=runner)(_named(start, stage, stage, about))


def _task(name: str, function: Callable[P, R], run_suffix: str = "") -> Task[P, R]:
    return task(name=name, task_run_name=f"{name}{run_suffix}", **TASK_OPTIONS)(function)


def _named(function: Callable[P, R], stage: StageName, name: str, about: str) -> Callable[P, R]:
    """`function` as if it stood in the stage's own module: Prefect shows, loads and tells apart by these names."""
    function.__module__, function.__name__, function.__qualname__ = f"flows.{stage}", name, name
    function.__doc__ = about
    return function
