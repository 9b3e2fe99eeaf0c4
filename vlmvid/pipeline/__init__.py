"""The use cases: (request) -> ArtifactRef, called by the flows and by the command line.

Light until a stage runs: torch, MLflow and the video readers are imported where they are used.
"""

from vlmvid.pipeline.prefect_api import check_api_url, require_api
from vlmvid.pipeline.preflight import check_training_clips, preflight
from vlmvid.pipeline.report import pipeline_report
from vlmvid.pipeline.request import RunRequest, ShardJob, ShardReport, make_request
from vlmvid.pipeline.runners import RunnerChoice, runner_choice
from vlmvid.pipeline.session import (
    StageTicket,
    join_run,
    note_origin,
    origin_stands,
    pipeline_run,
    run_links,
    stage_run,
    stage_ticket,
    watched_progress,
)
from vlmvid.pipeline.stages import SHARDED_STAGES, STAGES, is_transient
from vlmvid.pipeline.summary import results_rows, summarise, summary_markdown, summary_text
from vlmvid.tracking import owner_ended

__all__ = [
    "SHARDED_STAGES",
    "STAGES",
    "RunRequest",
    "RunnerChoice",
    "ShardJob",
    "ShardReport",
    "StageTicket",
    "check_api_url",
    "is_transient",
    "join_run",
    "make_request",
    "note_origin",
    "origin_stands",
    "owner_ended",
    "pipeline_report",
    "pipeline_run",
    "check_training_clips",
    "preflight",
    "run_links",
    "require_api",
    "results_rows",
    "runner_choice",
    "stage_run",
    "stage_ticket",
    "summarise",
    "summary_markdown",
    "summary_text",
    "watched_progress",
]
