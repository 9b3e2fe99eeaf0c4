"""Make videos searchable, one task per shard of new clips, or bring their index up to date."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.task_runners import TaskRunner

from flows._forms import AcceptCode, IndexFolder, IndexVideos, ModelAddress, Replace, RetryFailed, Verify
from flows._logs import share_logs
from flows._policies import TASK_OPTIONS
from flows._runners import SequentialTaskRunner, run_shards
from flows._show import show
from vlmvid.pipeline import ShardReport
from vlmvid.pipeline.indexing import IndexJob, IndexRequest, building, index_request, plan_index, run_index_shard
from vlmvid.pipeline.indexing_model import model_facts
from vlmvid.pipeline.indexing_table import IndexReport, finish_index, index_markdown


@task(name="index shard", task_run_name="index shard {name}", **TASK_OPTIONS)
def index_shard(request: IndexRequest, job: IndexJob, name: str) -> ShardReport:
    """Embed one shard of clips; `name` is its number, from 1."""
    return run_index_shard(request, job)


@task(name="index table", task_run_name="index table", **TASK_OPTIONS)
def index_table(request: IndexRequest, embedded: int, model_digest: str) -> IndexReport:
    """The table of all clips, which makes the index."""
    return finish_index(request, embedded, model_digest)


RUNNER: TaskRunner[Any] = SequentialTaskRunner()


@flow(name="index", task_runner=RUNNER)
def index(
    videos: IndexVideos,
    model: ModelAddress,
    out: IndexFolder,
    retry_failed: RetryFailed = False,
    verify: Verify = False,
    accept_code_change: AcceptCode = False,
    replace: Replace = False,
) -> IndexReport:
    """Make videos searchable, one task per shard of new clips, or bring their index up to date."""
    share_logs()
    options = {"accept_code_change": accept_code_change, "replace": replace}
    request = index_request(videos, model, out, retry_failed=retry_failed, verify=verify, **options)
    with building(request):
        model_digest = model_facts(request.model).digest
        calls = [(request, job, job.task_name) for job in plan_index(request)]
        reports = run_shards(index_shard, calls)
        report = index_table(request, sum(one.ok for one in reports), model_digest)
    text = index_markdown(report)
    show(lambda: create_markdown_artifact(text, key="vlmvid-index", description="What the index holds."))
    return report
