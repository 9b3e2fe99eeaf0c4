"""Which Prefect task runner carries the shards of a stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prefect import Task, get_run_logger
from prefect.context import FlowRunContext
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from vlmvid.pipeline import RunnerChoice, ShardReport, runner_choice


class SequentialTaskRunner(ThreadPoolTaskRunner[Any]):
    """Shards one after another in the flow's own thread.

    One shard already keeps all decode workers and the model of a machine busy, and here an interrupt ends it at once.
    """


class EnvironmentTaskRunner(SequentialTaskRunner):
    """The default of a sharded stage: the runner that VLMVID_TASK_RUNNER names when the flow starts.

    ``with_options(task_runner=...)`` of a flow takes its place.
    """

    def duplicate(self) -> TaskRunner[Any]:  # type: ignore[override]  # Prefect enters what it gets here
        """The runner for one flow run; raises ConfigError for a variable that names none."""
        return make_runner(runner_choice())


def given_to_this_flow() -> TaskRunner[Any] | None:
    """The runner that the user put in the place of a sequential one; None where nobody did."""
    context = FlowRunContext.get()
    runner = context.flow.task_runner if context is not None and context.flow is not None else None
    return None if isinstance(runner, SequentialTaskRunner) else runner


def run_shards(
    shard_task: Task[..., ShardReport],
    calls: Sequence[tuple[Any, ...]],
    on_done: Callable[[int], None] = lambda done: None,
) -> list[ShardReport]:
    """One task per call, on the runner of the flow that runs now; `on_done` is told how many are done.

    On the sequential one the first failure ends the loop. On others all shards are submitted at once and awaited; when
    some fail, the rest are finished and stored before the error of the first one, in the order of shards, is raised.
    """
    context = FlowRunContext.get()
    reports: list[ShardReport] = []
    if context is None or isinstance(context.task_runner, SequentialTaskRunner):
        for done, call in enumerate(calls, start=1):
            reports.append(shard_task(*call))
            on_done(done)
        return reports
    futures = [shard_task.submit(*call) for call in calls]
    errors: list[Exception] = []
    for done, future in enumerate(futures, start=1):
        try:
            reports.append(future.result())
        except Exception as error:
            errors.append(error)
        on_done(done)
    if errors:
        get_run_logger().error("%d of %d shards failed; the others are stored", len(errors), len(futures))
        raise errors[0]
    return reports


def make_runner(choice: RunnerChoice) -> TaskRunner[Any]:
    """A Prefect runner; its workers hold one shard at a time, for each has a model and decode workers of its own."""
    if choice.kind == "sequential":
        return SequentialTaskRunner()
    if choice.kind == "thread":
        return ThreadPoolTaskRunner(max_workers=choice.num_workers)
    if choice.kind == "process":
        return ProcessPoolTaskRunner(max_workers=choice.num_workers)
    if choice.kind == "ray":
        from prefect_ray.task_runners import RayTaskRunner

        ray: TaskRunner[Any] = RayTaskRunner(address=choice.address)
        return ray
    from prefect_dask.task_runners import DaskTaskRunner

    if choice.address is not None:
        return DaskTaskRunner(address=choice.address)
    cluster = {"n_workers": choice.num_workers, "threads_per_worker": 1, "dashboard_address": ":0"}
    return DaskTaskRunner(cluster_kwargs=cluster)
