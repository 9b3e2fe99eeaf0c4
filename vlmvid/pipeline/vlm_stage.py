"""One training stage of a vision-language model: from the model it starts from to its own."""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from vlmvid.artifacts import Facts
from vlmvid.artifacts.files import write_bytes, write_json
from vlmvid.artifacts.ledger import append_line, read_lines
from vlmvid.config.vlm import VlmStageConfig
from vlmvid.pipeline.context import RunContext
from vlmvid.pipeline.progress import is_reported
from vlmvid.pipeline.torchrun import Processes
from vlmvid.pipeline.vlm_data import StageSamples, StoredMedia, stage_samples, stored_media, vlm_config
from vlmvid.pipeline.vlm_keys import PART, stage_folder, stage_keys
from vlmvid.pipeline.vlm_start import MODEL, STAGE_FILE, features_made_from, start_model
from vlmvid.tracking.base import StageRun

if TYPE_CHECKING:
    from torch import nn

    from vlmvid.models.vlm.adapters import LanguageAdapters
    from vlmvid.models.vlm.model import VisionLanguageModel
    from vlmvid.training.vlm_objectives import StageObjective, Unit
    from vlmvid.training.vlm_plan import StagePlan

logger = logging.getLogger(__name__)
REWARD = "reward"
CURVES_FILE, LENGTHS_FILE = "curves.jsonl", "lengths.txt"
_CHANGE_LANGUAGE = {"language", "norms", "embeddings", "adapters"}


@dataclass(frozen=True)
class _Result:
    """What a training stage leaves: its model, the key of the stage that holds the language model, and what it told."""

    model: VisionLanguageModel
    objective: StageObjective
    holder: str | None
    curves: Mapping[int, dict[str, float]]
    lengths: str
    counts: dict[str, int]


def train_stage(context: RunContext, name: str, run: StageRun, processes: Processes) -> None:
    """Train one stage on the split ``train`` and store its model; goes on from the last checkpoint of the same key."""
    from vlmvid.models.vlm.adapters import add_adapters
    from vlmvid.models.vlm.freezing import select_trained
    from vlmvid.training.vlm import VlmData, train_vlm_stage
    from vlmvid.training.vlm_plan import StagePlan

    stage, key = vlm_config(context).stages[name], stage_keys(context, name).key
    media = stored_media(context)
    model, holder = start_model(context, name, media, processes.device)
    adapters = None if stage.adapters is None else add_adapters(model, stage.adapters, stage.seed)
    if adapters is not None:
        _warn_of_half_precision(name, model)
    trained = select_trained(model, stage.trains, adapters, stage.num_trained)
    samples = stage_samples(name, stage, media, model.tokenizer, model.visual)
    objective = _objective(stage, model, adapters, samples.units, media)
    plan = StagePlan(stage, samples.units, objective, name=f"train_vlm/{name}")
    lengths = _lengths(samples.units)
    counts = _counts(stage, samples, trained, objective)
    _record(context, name, run, {**counts, "updates": len(plan.updates)})
    if processes.rank == 0:
        start = stage.start or vlm_config(context).language.model
        _say(_beginning(f"train_vlm/{name}", plan, counts, start) + "\n" + lengths)
    work, started = context.store.work_folder(PART, key), time.perf_counter()
    report = _Report(context, name, work / CURVES_FILE, run, len(plan.updates))
    try:
        train_vlm_stage(
            plan,
            model,
            VlmData(samples.units, media, samples.identity),
            trained=trained,
            objective=objective,
            work_dir=work,
            on_step=report.step,
            on_checkpoint=report.checkpoint,
        )
    finally:
        context.progress.end(report.label)
    if processes.rank > 0:
        return
    if adapters is not None:
        adapters.merge()
    if _CHANGE_LANGUAGE & set(stage.trains):
        holder = key
    _publish(context, name, _Result(model, objective, holder, report.curves, lengths, counts))
    _say(f"train_vlm/{name}: {_ending(report.curves, report.done_before, time.perf_counter() - started)}")
    run.log_file(stage_folder(context, name) / LENGTHS_FILE)
    shutil.rmtree(work, ignore_errors=True)
    _show_samples(context, name, model, run, len(plan.updates))


def _warn_of_half_precision(name: str, model: VisionLanguageModel) -> None:
    embedding: Any = model.language.get_input_embeddings()
    dtype = str(embedding.weight.dtype).removeprefix("torch.")
    if dtype != "float32":
        logger.warning(
            "train_vlm/%s: adapters learn in float32 and are merged into weights of %s, which rounds away what is "
            "smaller than a step between two of its numbers; set language.dtype: float32 to keep all of it",
            name,
            dtype,
        )


def _objective(
    stage: VlmStageConfig,
    model: VisionLanguageModel,
    adapters: LanguageAdapters | None,
    units: list[Unit],
    media: StoredMedia,
) -> StageObjective:
    from vlmvid.training.vlm_objectives import NextToken

    if stage.objective == "next_token":
        return NextToken()
    from vlmvid.training.vlm_preference import preference_objective

    return preference_objective(stage, model, adapters, units, media)


def _lengths(units: Sequence[Unit]) -> str:
    from vlmvid.training.packing import length_histogram

    return length_histogram([len(sample) for unit in units for sample in unit])


def _counts(
    stage: VlmStageConfig, samples: StageSamples, trained: Mapping[str, nn.Parameter], objective: StageObjective
) -> dict[str, int]:
    learns = [*trained.values(), *(weight for module in objective.modules.values() for weight in module.parameters())]
    return {
        "samples": len(samples.units),
        **({"left_out": samples.left_out} if stage.too_long == "leave_out" else {}),
        "sample_tokens": sum(len(sample) for unit in samples.units for sample in unit),
        "trained_parameters": sum(parameter.numel() for parameter in learns),
    }


def _say(text: str) -> None:
    """Tell whoever waits, terminal or not; a training takes hours and is told of without being asked."""
    tqdm.write(text, file=sys.stderr)


def _beginning(label: str, plan: StagePlan, counts: Mapping[str, int], start: str) -> str:
    trained = f"{', '.join(plan.stage.trains)} ({counts['trained_parameters']:,} parameters)"
    work = f"{counts['samples']:,} samples, {plan.updates[-1].tokens_seen:,} tokens, {len(plan.updates):,} updates"
    return f"{label}: trains {trained}, starting from {start}: {work}"


def _ending(curves: Mapping[int, dict[str, Any]], done_before: int | None, seconds: float) -> str:
    """The end of a stage, and where it was resumed, after `done_before` updates, what this run did of it."""
    last = curves[max(curves)] if curves else {}
    total = int(last.get("tokens", 0))
    told = f"loss {last.get('loss', math.nan):.4g} after {total:,} tokens"
    if done_before == 0:
        return f"{told}, {seconds:.0f} seconds"
    # None: all updates were done, and the model alone was to be stored.
    before = total if done_before is None else int(curves.get(done_before, {}).get("tokens", 0))
    return f"{told}; this run: {total - before:,} tokens in {seconds:.0f} seconds"


def _record(context: RunContext, name: str, run: StageRun, counts: Mapping[str, int]) -> None:
    """What the stage is about to do, as parameters and dataset of its run."""
    config = vlm_config(context)
    stage = config.stages[name]
    values = stage.model_dump(mode="json", exclude={"data", "trains"})
    data = {str(number): task.model_dump(mode="json") for number, task in enumerate(stage.data)}
    model = {"language": config.language.model, "mask": config.mask, "connector": config.visual.connector.kind}
    run.log_params({**values, "trains": ", ".join(stage.trains), "data": data, "model": model, **counts})
    context.log_dataset("train_vlm", counts["samples"], "training")


def _publish(context: RunContext, name: str, result: _Result) -> None:
    from vlmvid.models.vlm.reward import RewardHead, save_reward
    from vlmvid.models.vlm.saving import save_vlm

    parts, curves = stage_keys(context, name), result.curves
    rows = "".join(json.dumps(curves[step], sort_keys=True) + "\n" for step in sorted(curves))
    last = curves[max(curves)] if curves else {}

    def write(folder: Path) -> None:
        whole = result.holder == parts.key
        save_vlm(result.model, folder / MODEL, with_language=whole, made_from=features_made_from(context))
        for module in result.objective.modules.values():
            assert isinstance(module, RewardHead)  # the only objective with a module of its own
            save_reward(module, folder / REWARD)
        write_bytes(folder / CURVES_FILE, rows.encode())
        write_bytes(folder / LENGTHS_FILE, result.lengths.encode())
        write_json(folder / STAGE_FILE, {"stage": name, "language": result.holder, "last": last})

    facts = Facts(
        recipe=context.recipe.name,
        counts={**result.counts, "steps": len(curves), "tokens": int(last.get("tokens", 0))},
        adopted_code=context.keys.adopted("train_vlm"),
        revision="",
    )
    context.store.publish(parts, "checkpoint", write, facts)


@dataclass
class _Report:
    """Tells of a training stage's steps: file of curves, progress bar, event log, tracker.

    The curves of an interrupted run are kept beside its checkpoints, so that the resumed one is whole.
    """

    context: RunContext
    name: str
    path: Path
    run: StageRun
    num_steps: int
    curves: dict[int, dict[str, Any]] = field(init=False)
    done_before: int | None = field(init=False, default=None)  # updates of earlier runs; None until the first of this

    def __post_init__(self) -> None:
        self.curves = {int(row["step"]): row for row in read_lines(self.path)}

    @property
    def label(self) -> str:
        return f"train_vlm/{self.name}"

    def step(self, step: int, values: dict[str, float]) -> None:
        if self.done_before is None:
            self.done_before = step - 1
            if step > 1:
                _say(f"{self.label}: goes on at update {step:,} of {self.num_steps:,}")
        # Counted from where a resumed training stands, so that the time left is that of what is left.
        self.context.progress.begin(self.label, self.num_steps, "step", done=step - 1)
        row = {"step": step, **values}
        if step not in self.curves:
            append_line(self.path, json.dumps(row, sort_keys=True))
        self.curves[step] = row
        self.context.progress.note(self.label, loss=values["loss"])
        self.context.progress.advance(self.label)
        if is_reported(step, self.num_steps):
            self.context.store.events.emit("train.step", stage=self.label, step=step)
            self.run.log_metrics(values, step=step)

    def checkpoint(self, step: int) -> None:
        self.context.store.events.emit("checkpoint.written", stage=self.label, step=step)
        logger.info("%s: step %d of %d, loss %.4g", self.label, step, self.num_steps, self.curves[step]["loss"])


def _show_samples(context: RunContext, name: str, model: VisionLanguageModel, run: StageRun, step: int) -> None:
    from vlmvid.pipeline.vlm_samples import sample_generations

    try:
        rows = sample_generations(context, name, model.eval(), step)
    except Exception as error:
        # Whatever it is: what is for people to read must not cost what was trained, nor the stages after it.
        logger.warning("train_vlm/%s: no samples are generated: %s", name, error)
        logger.debug("train_vlm/%s", name, exc_info=True)
        return
    for row in rows[:3]:
        logger.info("train_vlm/%s: %s", name, json.dumps(row, ensure_ascii=False))
    if rows:
        run.log_table("generations.json", rows)
