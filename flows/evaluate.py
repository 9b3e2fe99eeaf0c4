"""Measure the aligned model: one task per evaluation or benchmark, and a summary."""

from __future__ import annotations

from flows._stages import sharded_flow

evaluate = sharded_flow(
    "evaluate",
    "Measure the aligned model: one task per evaluation or benchmark, and a summary.",
    shard="One evaluation on the recipe's own data, or one benchmark",
    last="summary",
    about_last="The report over all of them, and what MLflow records.",
    unit="benchmark",
)
