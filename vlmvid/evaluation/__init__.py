"""Evaluations: tasks that turn embeddings into metrics with intervals, and their reports."""

from vlmvid.evaluation.base import EvaluationData, TaskResult
from vlmvid.evaluation.report import format_table, markdown_report
from vlmvid.evaluation.runner import evaluate, write_results
from vlmvid.evaluation.tasks import TASKS

__all__ = ["TASKS", "EvaluationData", "TaskResult", "evaluate", "format_table", "markdown_report", "write_results"]
