"""The align stage: learn a pooling and projection heads on stored features or tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts import ArtifactRef
from vlmvid.artifacts.files import write_bytes
from vlmvid.artifacts.ledger import append_line, read_lines
from vlmvid.errors import DatasetError
from vlmvid.pipeline.context import RunContext, open_context
from vlmvid.pipeline.encode import read_features, read_patches
from vlmvid.pipeline.index import read_index
from vlmvid.pipeline.ingest import read_clips
from vlmvid.pipeline.request import RunRequest
from vlmvid.pipeline.texts import text_features
from vlmvid.types import Clip

STAGE = "align"
CURVES_FILE = "curves.jsonl"
REPORT_EVERY = 10


def compute(request: RunRequest) -> ArtifactRef:
    """Train on the split `train`; resumes from the last checkpoint of the same stage key."""
    from vlmvid.models.alignment import save_alignment
    from vlmvid.training.align import AlignmentData, train_alignment

    context = open_context(request)
    config = context.recipe.align
    assert config is not None  # the stage exists only with its section
    clips, features = split_features(context, "train", need_captions=True)
    texts = list(dict.fromkeys(caption for clip in clips for caption in clip.captions))
    number = {text: i for i, text in enumerate(texts)}
    data = AlignmentData(
        video_features=features,
        text_features=text_features(context, texts),
        captions_of=tuple(tuple(number[caption] for caption in clip.captions) for clip in clips),
    )
    context.log_dataset("align", len(clips), "training")
    parts = context.keys.parts("align")
    work = context.store.work_folder(STAGE, parts.key)
    # The curves of an interrupted run are kept beside its checkpoints, so that the resumed one is whole.
    curves = {int(row["step"]): row for row in read_lines(work / CURVES_FILE)}
    stage_run = context.stage_runs.get(STAGE)
    context.progress.begin(STAGE, config.optim.num_steps, "step")

    def on_step(step: int, values: dict[str, float]) -> None:
        row = {"step": step, **values}
        if step not in curves:
            append_line(work / CURVES_FILE, json.dumps(row, sort_keys=True))
        curves[step] = row
        context.progress.advance(STAGE)
        if step % REPORT_EVERY == 0 or step == config.optim.num_steps:
            context.store.events.emit("train.step", stage=STAGE, step=step)
            if stage_run is not None:
                stage_run.log_metrics(values, step=step)

    model = train_alignment(
        config,
        data,
        work_dir=work,
        on_step=on_step,
        on_checkpoint=lambda step: context.store.events.emit("checkpoint.written", stage=STAGE, step=step),
        device=context.device,
    )
    rows = "".join(json.dumps(curves[step], sort_keys=True) + "\n" for step in sorted(curves))

    def write(folder: Path) -> None:
        save_alignment(model, folder)
        write_bytes(folder / CURVES_FILE, rows.encode())

    counts = {"clips": len(clips), "texts": len(texts), "steps": config.optim.num_steps}
    ref = context.publish("align", "checkpoint", write, counts=counts)
    shutil.rmtree(work, ignore_errors=True)
    return ref


def split_features(context: RunContext, split: str, *, need_captions: bool) -> tuple[list[Clip], NDArray[np.float32]]:
    """The encoded clips of a split and what the recipe's pooling reads of them, float32, joined by video_id.

    Frame features (N, S, D), or patch tokens (N, S, P, D) for a pooling over patches.

    Raises DatasetError when the split has no encoded clip, or with `need_captions` none with a caption.
    """
    index = {row.video_id: row for row in read_index(context.folder("encode")) if row.status == "ok"}
    clips = [
        clip
        for clip in read_clips(context)
        if clip.split == split and clip.video_id in index and (clip.captions or not need_captions)
    ]
    if not clips:
        raise DatasetError(
            f"dataset {context.recipe.data.name!r} has no encoded clip{' with a caption' if need_captions else ''} "
            f"in split {split!r}; check the manifest's splits and captions"
        )
    rows = [index[clip.video_id] for clip in clips]
    align = context.recipe.align
    over_patches = align is not None and align.pooling.reads == "tokens"
    return clips, read_patches(context, rows) if over_patches else read_features(context, rows)
