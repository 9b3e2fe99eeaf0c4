"""Draw the report of a run: the last step of the pipeline."""

from __future__ import annotations

from prefect import task

from flows._policies import TASK_OPTIONS
from flows._show import show_report
from vlmvid.pipeline import RunRequest, pipeline_report


@task(name="report", task_run_name="report", **TASK_OPTIONS)
def report(request: RunRequest) -> dict[str, str]:
    """One HTML page and Markdown of all that was run; what cannot be drawn is a warning."""
    drawn = pipeline_report(request)
    show_report(request, drawn)
    return drawn
