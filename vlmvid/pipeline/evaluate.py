"""The evaluate stage: embed a split with the aligned model and measure it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlmvid.artifacts import ArtifactRef
from vlmvid.artifacts.files import write_bytes
from vlmvid.evaluation.base import EvaluationData, TaskResult
from vlmvid.evaluation.frame_order import shuffle_frames
from vlmvid.evaluation.report import markdown_report
from vlmvid.evaluation.runner import evaluate, write_results
from vlmvid.pipeline import end_to_end
from vlmvid.pipeline.align import split_features
from vlmvid.pipeline.context import RunContext, open_context
from vlmvid.pipeline.request import RunRequest

STAGE = "evaluate"
REPORT_FILE = "report.md"


def compute(request: RunRequest) -> ArtifactRef:
    """Run the recipe's tasks; writes metrics.json, per-sample Parquet and report.md."""
    from vlmvid.models.alignment import load_alignment
    from vlmvid.models.embedding import embed_texts, embed_videos

    context = open_context(request)
    config = context.recipe.evaluate
    assert config is not None  # the stage exists only with its section
    clips, features = split_features(context, config.split, need_captions=False)
    if "vision" in context.recipe.adapted_encoders:
        features = end_to_end.video_features(context, clips)
    read_texts = end_to_end.text_reader(context)
    context.log_dataset("evaluate", len(clips), "evaluation")
    model = load_alignment(context.folder("align"))
    data = EvaluationData(
        clips=tuple(clips),
        video_embeds=embed_videos(model, features),
        shuffled_video_embeds=embed_videos(model, shuffle_frames(features, config.seed)),
        embed_texts=lambda texts: embed_texts(model, read_texts(texts)),
    )
    results = evaluate(data, config)
    ref = context.publish(
        "evaluate",
        "report",
        lambda folder: _write(context, results, folder),
        counts={"clips": len(clips), "tasks": len(results)},
    )
    _track(context, results, context.store.open_artifact(STAGE, ref.key))
    return ref


def _write(context: RunContext, results: Sequence[TaskResult], folder: Path) -> None:
    write_results(results, folder)
    recipe = context.recipe
    header = {
        "recipe": recipe.name,
        "dataset": recipe.data.name,
        "vision backbone": recipe.encode.vision.backbone,
        "text encoder": recipe.encode.text.encoder,
        "pooling": recipe.align.pooling.kind if recipe.align else "none",
        # Without decode: the report is the same whether the recipe keeps frames or not.
        **{f"{stage} key": context.keys.key(stage) for stage in recipe.stages() if stage not in ("decode", "register")},
    }
    write_bytes(folder / REPORT_FILE, markdown_report(results, header).encode())


def _track(context: RunContext, results: Sequence[TaskResult], folder: Path) -> None:
    run = context.stage_runs.get(STAGE)
    if run is None:
        return
    for result in results:
        for metric in result.metrics:
            name = f"{result.task}/{metric.name}"
            bounds = {"": metric.value, "/ci_low": metric.ci_low, "/ci_high": metric.ci_high}
            run.log_metrics(
                {
                    f"{name}{suffix}": value
                    for suffix, value in bounds.items()
                    if value is not None and np.isfinite(value)
                }
            )
    for path in sorted(folder.iterdir()):
        run.log_file(path, "samples" if path.suffix == ".parquet" else None)
