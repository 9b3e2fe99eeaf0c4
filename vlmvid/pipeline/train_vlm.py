"""The train_vlm stage: the training stages of a vision-language model, one after another."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmvid.artifacts import ArtifactRef
from vlmvid.artifacts.files import read_json, write_json
from vlmvid.config.schema import StageName
from vlmvid.errors import StageError
from vlmvid.pipeline.context import RESULT_FILE, RunContext, open_context
from vlmvid.pipeline.costs import costed
from vlmvid.pipeline.filter import training_clips
from vlmvid.pipeline.request import RunRequest, ShardJob, ShardReport
from vlmvid.pipeline.torchrun import is_torchrun, joined
from vlmvid.pipeline.vlm_data import require_samples_of_stages, vlm_config
from vlmvid.pipeline.vlm_keys import PART, is_trained, stage_folder, stage_keys
from vlmvid.pipeline.vlm_stage import REWARD, train_stage
from vlmvid.pipeline.vlm_start import STAGE_FILE, check_samples, load_stage
from vlmvid.tracking.base import NullRun

if TYPE_CHECKING:
    from vlmvid.models.vlm.model import VisionLanguageModel

logger = logging.getLogger(__name__)
STAGE: StageName = "train_vlm"


def plan_shards(request: RunRequest) -> list[ShardJob]:
    """One job for each training stage, in the order in which they start from each other.

    Raises DatasetError where a later stage would find nothing to learn from, and as `check_samples` does where it would
    stop at its samples: it should not cost the earlier ones.
    """
    context = open_context(request)
    require_samples_of_stages(vlm_config(context), training_clips(context))
    check_samples(context)
    names = vlm_config(context).order()
    return [ShardJob(stage=STAGE, index=i, count=len(names), name=name) for i, name in enumerate(names)]


def run_shard(request: RunRequest, job: ShardJob) -> ShardReport:
    """Train one stage, in a run of its own below the pipeline's; one whose model is stored ends at once.

    Under torchrun this is the first process; the others are in `help_first`.
    """
    context = open_context(request)
    key = stage_keys(context, job.name).key
    # Another recipe that begins alike may be training the same stage.
    with context.store.lock(PART, key), joined(context) as processes:
        stored = is_trained(context, job.name)
        processes.from_first((key, stored))
        with context.tracker.stage(f"{STAGE}/{job.name}", key, cached=stored) as run:
            logger.info("train_vlm/%s: %s (key %s)", job.name, "cached" if stored else "running", key)
            if not stored:
                processes.wait_for_all()
                with costed(context, f"{STAGE}/{job.name}", key, run):
                    train_stage(context, job.name, run, processes)
        processes.wait_for_all()
    return ShardReport(ok=1, failed=0)


def finish(request: RunRequest) -> ArtifactRef:
    """Name the stage whose model is the result."""
    context = open_context(request)
    config = vlm_config(context)
    counts = {"stages": len(config.stages)}
    for name in config.order():
        manifest = context.store.manifest("vlm", stage_keys(context, name).key)
        counts |= {f"{name}/{kind}": count for kind, count in (manifest.counts if manifest else {}).items()}
    result = {"result": config.result_stage, "keys": {name: stage_keys(context, name).key for name in config.order()}}
    return context.publish(STAGE, "checkpoint", lambda folder: write_json(folder / RESULT_FILE, result), counts=counts)


def confirm(request: RunRequest, ref: ArtifactRef) -> ArtifactRef:
    """A stored result stands; under torchrun the other processes are told so, stage by stage."""
    if is_torchrun():
        context = open_context(request)
        for name in vlm_config(context).order():
            with joined(context) as processes:
                processes.from_first((stage_keys(context, name).key, True))
                processes.wait_for_all()
    return ref


def help_first(request: RunRequest) -> None:
    """What the other processes of torchrun do: train along, and write nothing.

    Raises StageError when this process works out another key of a stage.
    """
    context = open_context(request)
    for name in vlm_config(context).order():
        with joined(context) as processes:
            key = stage_keys(context, name).key
            first_key, stored = processes.from_first((key, False))
            if first_key != key:
                raise StageError(
                    f"train_vlm/{name}: process {processes.rank} works out the key {key}, the first one {first_key}; "
                    "install the same versions, and mount the same files, on every machine"
                )
            if not stored:
                processes.wait_for_all()
                train_stage(context, name, NullRun(), processes)
            processes.wait_for_all()
        context.store.refresh()


def trained_stages(context: RunContext) -> list[dict[str, Any]]:
    """What became of each training stage, in order: its name, samples, steps, tokens and last loss."""
    found: list[dict[str, Any]] = []
    for name in vlm_config(context).order():
        folder = stage_folder(context, name)
        last = read_json(folder / STAGE_FILE)["last"]
        steps, tokens = (int(last.get(key, 0)) for key in ("step", "tokens"))
        manifest = context.store.manifest(PART, stage_keys(context, name).key)
        samples = manifest.counts.get("samples", 0) if manifest else 0
        found.append({"stage": name, "samples": samples, "steps": steps, "tokens": tokens, "loss": last.get("loss")})
    return found


def mark_cached(context: RunContext, stages: list[dict[str, Any]]) -> None:
    """Set `cached` of what `trained_stages` gave: whether the model was there before the recipe's last run began."""
    begun = [
        float(row["time_seconds"])
        for row in context.store.events.read()
        if row["event"] == "pipeline.started" and row.get("recipe") == context.recipe.name
    ]
    for one in stages:
        manifest = context.store.manifest(PART, stage_keys(context, one["stage"]).key)
        one["cached"] = manifest is not None and (not begun or manifest.created_seconds < begun[-1])


def training_line(one: dict[str, Any]) -> str:
    """One training stage, as `trained_stages` gives it, for a terminal."""
    loss = "no loss" if one["loss"] is None else f"loss {one['loss']:.4g}"
    cached = {True: "cached, ", False: "trained, ", None: ""}[one.get("cached")]
    done = f"{one['samples']:,} samples, {one['steps']:,} updates, {one['tokens']:,} tokens"
    return f"{one['stage']}: {cached}{done}, {loss}"


def reward_folder(context: RunContext) -> Path | None:
    """The folder of the reward model; None where the recipe names none."""
    name = vlm_config(context).reward
    return None if name is None else stage_folder(context, name) / REWARD


def result_model(context: RunContext, device: str = "cpu") -> VisionLanguageModel:
    """The model of the result, whole; raises ArtifactError when the stage has not run."""
    context.require(STAGE)
    return load_stage(context, vlm_config(context).result_stage, device).eval()
