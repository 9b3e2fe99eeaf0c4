"""The align stage: learn a pooling and projection heads on stored features or tokens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlmvid.artifacts import ArtifactRef
from vlmvid.artifacts.files import write_bytes
from vlmvid.artifacts.ledger import append_line, read_lines
from vlmvid.config.alignment import AlignConfig
from vlmvid.config.schema import StageName
from vlmvid.errors import ConfigError, DatasetError, StageError
from vlmvid.pipeline import end_to_end
from vlmvid.pipeline.context import RunContext, open_context
from vlmvid.pipeline.encode import feature_column, patch_column
from vlmvid.pipeline.filter import training_clips
from vlmvid.pipeline.index import NUM_EXAMPLES, IndexRow, read_index
from vlmvid.pipeline.ingest import read_clips
from vlmvid.pipeline.progress import is_reported
from vlmvid.pipeline.request import RunRequest
from vlmvid.pipeline.texts import text_column
from vlmvid.pipeline.torchrun import is_torchrun, joined
from vlmvid.types import Clip

if TYPE_CHECKING:
    from vlmvid.training.align import AlignmentData

STAGE: StageName = "align"
CURVES_FILE = "curves.jsonl"
_WORD_OBJECTIVES = {"captioning", "masked_language"}


def compute(request: RunRequest) -> ArtifactRef:
    """Train on the split `train`; resumes from the last checkpoint of the same stage key.

    Under torchrun this is the first process; the others are in `help_first`.
    """
    context = open_context(request)
    with joined(context) as processes:
        processes.from_first((context.keys.key(STAGE), False))
        # The others read what is encoded here, and only then.
        data, validation = _data(context)
        processes.wait_for_all()
        ref = _train(context, data, validation, processes.device)
        processes.wait_for_all()
        return ref


def confirm(request: RunRequest, ref: ArtifactRef) -> ArtifactRef:
    """A stored result stands; under torchrun the other processes are told so."""
    if is_torchrun():
        context = open_context(request)
        with joined(context) as processes:
            processes.from_first((context.keys.key(STAGE), True))
    return ref


def help_first_process(stage: str, request: RunRequest) -> ArtifactRef:
    """Take part in a stage that the first process runs; raises ConfigError for one that is not made for several."""
    if stage != STAGE:
        raise ConfigError(
            f"torchrun has started several processes, and stage {stage!r} runs in one; use it for align or train-vlm"
        )
    return help_first(request)


def help_first(request: RunRequest) -> ArtifactRef:
    """What the other processes of torchrun do: train along, write nothing, return the first one's result.

    Raises StageError when this process works out another stage key.
    """
    from vlmvid.training.align import train_alignment

    context = open_context(request)
    config = _config(context)
    key = context.keys.key(STAGE)
    with joined(context) as processes:
        first_key, is_cached = processes.from_first((key, False))
        if first_key != key:
            raise StageError(
                f"align: process {processes.rank} works out the stage key {key}, the first one {first_key}; install "
                "the same versions, and mount the same files, on every machine"
            )
        if not is_cached:
            processes.wait_for_all()
            data, validation = _data(context)
            work = context.store.work_folder(STAGE, key)
            train_alignment(config, data, work_dir=work, validation=validation, device=processes.device)
            processes.wait_for_all()
    context.store.refresh()
    return context.require(STAGE)


def _config(context: RunContext) -> AlignConfig:
    config = context.recipe.align
    if config is None:
        raise ConfigError(f"recipe {context.recipe.name!r} has no 'align' section; add one")
    if config.end_to_end is not None and is_torchrun():
        raise ConfigError("align.end_to_end trains in one process; run `vlmvid align` without torchrun")
    return config


def _train(context: RunContext, data: AlignmentData, validation: AlignmentData | None, device: str) -> ArtifactRef:
    from vlmvid.models.alignment import save_alignment
    from vlmvid.training.align import train_alignment

    config = _config(context)
    context.log_dataset(STAGE, len(data), "training")
    work = context.store.work_folder(STAGE, context.keys.key(STAGE))
    # The curves of an interrupted run are kept beside its checkpoints, so that the resumed one is whole.
    curves = {int(row["step"]): row for row in read_lines(work / CURVES_FILE)}
    on_step = _reporter(context, work / CURVES_FILE, curves, config.optim.num_steps)

    def on_checkpoint(step: int) -> None:
        context.store.events.emit("checkpoint.written", stage=STAGE, step=step)

    encoders = None
    if config.end_to_end is None:
        model = train_alignment(
            config,
            data,
            work_dir=work,
            validation=validation,
            on_step=on_step,
            on_checkpoint=on_checkpoint,
            device=device,
        )
    else:
        model, encoders = end_to_end.train(context, data, work_dir=work, on_step=on_step, on_checkpoint=on_checkpoint)
    rows = "".join(json.dumps(curves[step], sort_keys=True) + "\n" for step in sorted(curves))

    def write(folder: Path) -> None:
        save_alignment(model, folder)
        if encoders is not None:
            end_to_end.save_encoders(encoders, folder)
        write_bytes(folder / CURVES_FILE, rows.encode())

    constant = {f"constant_{side}_channels": n for side, n in data.constant_columns.items() if n}
    counts = {"clips": len(data), "texts": data.text_features.shape[0], "steps": len(curves), **constant}
    ref = context.publish(STAGE, "checkpoint", write, counts=counts)
    shutil.rmtree(work, ignore_errors=True)
    return ref


def _reporter(
    context: RunContext, path: Path, curves: dict[int, dict[str, float]], num_steps: int
) -> Callable[[int, dict[str, float]], None]:
    stage_run = context.stage_runs.get(STAGE)

    def on_step(step: int, values: dict[str, float]) -> None:
        # Counted from where a resumed training stands, so that the time left is that of what is left.
        context.progress.begin(STAGE, num_steps, "step", done=step - 1)
        row = {"step": step, **values}
        if step not in curves:
            append_line(path, json.dumps(row, sort_keys=True))
        curves[step] = row
        context.progress.advance(STAGE)
        # A look at the validation split is rare, and the last one may end the training.
        if is_reported(step, num_steps) or any(name.startswith("val_") for name in values):
            context.store.events.emit("train.step", stage=STAGE, step=step)
            if stage_run is not None:
                stage_run.log_metrics(values, step=step)

    return on_step


def _data(context: RunContext) -> tuple[AlignmentData, AlignmentData | None]:
    """What to train on, and the split `val` where early stopping looks at it."""
    train = _split_data(context, "train")
    if _config(context).early_stopping is None:
        return train, None
    try:
        return train, _split_data(context, "val")
    except DatasetError as error:
        raise ConfigError(f"align.early_stopping looks at the split 'val': {error}") from error


def _split_data(context: RunContext, split: str) -> AlignmentData:
    from vlmvid.models.caption_ids import CaptionVocabulary
    from vlmvid.training.align import AlignmentData

    recipe, config = context.recipe, _config(context)
    clips, rows = _split_rows(context, split, need_captions=True)
    with_false = split == "train" and config.hard_negatives.captions > 0
    groups = [clip.counterfactual_captions if with_false else () for clip in clips]
    texts = list(
        dict.fromkeys(text for clip, false in zip(clips, groups, strict=True) for text in (*clip.captions, *false))
    )
    number = {text: i for i, text in enumerate(texts)}
    ids = None
    if split == "train" and _WORD_OBJECTIVES & {objective.kind for objective in config.auxiliary}:
        vocabulary = CaptionVocabulary.of_captions(caption for clip in clips for caption in clip.captions)
        ids = (vocabulary.encode(texts), len(vocabulary))
    return AlignmentData(
        video_features=patch_column(context, rows) if _reads_patches(context) else feature_column(context, rows),
        text_features=text_column(context, texts),
        captions_of=tuple(tuple(number[caption] for caption in clip.captions) for clip in clips),
        counterfactuals_of=tuple(tuple(number[text] for text in false) for false in groups) if with_false else (),
        video_ids=tuple(clip.video_id for clip in clips),
        caption_ids=ids,
        encoders={"vision": recipe.encode.vision.backbone, "text": recipe.encode.needed_text.encoder},
    )


def split_clips(context: RunContext, split: str) -> list[Clip]:
    """The encoded clips of a split, with captions or without.

    Raises DatasetError when the split has no encoded clip, or clips whose ids are not among those that were encoded.
    """
    return _split_rows(context, split, need_captions=False)[0]


def _reads_patches(context: RunContext) -> bool:
    return context.recipe.align is not None and context.recipe.align.pooling.reads == "tokens"


def _split_rows(context: RunContext, split: str, *, need_captions: bool) -> tuple[list[Clip], list[IndexRow]]:
    index = {row.video_id: row for row in read_index(context.folder("encode"))}
    wanted = [
        clip
        for clip in (training_clips(context) if need_captions else read_clips(context))
        if clip.split == split and (clip.captions or not need_captions)
    ]
    _require_known(wanted, index, {clip.video_id for clip in read_clips(context)}, split)
    clips = [clip for clip in wanted if index[clip.video_id].status == "ok"]
    if not clips:
        raise DatasetError(
            f"dataset {context.recipe.data.name!r} has no encoded clip{' with a caption' if need_captions else ''} "
            f"in split {split!r}; check the manifest's splits and captions"
        )
    return clips, [index[clip.video_id] for clip in clips]


def _require_known(clips: Sequence[Clip], index: dict[str, IndexRow], known: set[str], split: str) -> None:
    """Raise DatasetError for clips that the index has never heard of; one that failed is in it, with its reason."""
    unknown = [clip.video_id for clip in clips if clip.video_id not in index]
    if unknown:
        others = [row.video_id for row in index.values() if row.video_id not in known]
        has = f"; these have {', '.join(map(repr, others[:NUM_EXAMPLES]))} instead" if others else ""
        raise DatasetError(
            f"{len(unknown)} of {len(clips)} clips of split {split!r} are not among the embeddings, e.g. "
            f"{', '.join(map(repr, unknown[:NUM_EXAMPLES]))}{has}; the ids of captions and embeddings must be the same"
        )
