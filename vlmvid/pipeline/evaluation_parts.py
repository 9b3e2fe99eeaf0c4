"""The parts of an evaluation, one for each task and benchmark: each is stored by itself and cached by its own key."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from vlmvid.artifacts import Facts, KeyParts, hash_json
from vlmvid.artifacts.code import code_closure, package_versions
from vlmvid.config.benchmarks import BenchmarkConfig
from vlmvid.config.evaluation_options import ALIGNMENT_TASKS, VLM_TASKS
from vlmvid.config.schema import EvaluateConfig
from vlmvid.data.boxes import Box, read_boxes
from vlmvid.errors import ArtifactError, ConfigError, DecodeError, EvaluationError, StageError
from vlmvid.evaluation.base import EvaluationData, TaskResult
from vlmvid.evaluation.battery import with_battery
from vlmvid.evaluation.benchmarks import get_benchmark
from vlmvid.evaluation.frame_order import ALL
from vlmvid.evaluation.runner import evaluate, read_results, write_results
from vlmvid.evaluation.scoring.base import Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.tasks import TASKS
from vlmvid.pipeline import end_to_end
from vlmvid.pipeline.align import split_clips
from vlmvid.pipeline.answering import ShownClips, training_captions, vlm_answerer
from vlmvid.pipeline.benchmark_answers import AlignmentAnswers, BenchmarkAnswers, VlmAnswers, not_in_key
from vlmvid.pipeline.clip_embeddings import ClipEmbeddings
from vlmvid.pipeline.context import RunContext
from vlmvid.pipeline.filter import training_clips
from vlmvid.pipeline.ingest import read_rows
from vlmvid.pipeline.media import (
    answered_by,
    benchmark_modules,
    digest_of,
    media_of,
    media_rows,
    models_of,
    open_benchmark,
    vlm_modules,
)
from vlmvid.pipeline.segmentation import segment_items
from vlmvid.pipeline.sources import SourceRow
from vlmvid.types import Question

logger = logging.getLogger(__name__)
PART = "evaluation"  # the stage name of parts in the store
_PACKAGES = {"numpy", "timm", "torch"}
_VLM_PACKAGES = {"tokenizers", "transformers"}
# Not the runner, which knows every task: a part's key depends on its own.
_COMMON = ("vlmvid.evaluation.battery", "vlmvid.models.embedding")


def part_names(config: EvaluateConfig) -> list[str]:
    """The names of the parts: tasks, then benchmarks."""
    return [*config.tasks, *(benchmark.label for benchmark in config.benchmarks)]


def code_roots(context: RunContext, name: str) -> tuple[str, ...]:
    """The modules that decide the result of one part."""
    chosen = [benchmark for benchmark in _config(context).benchmarks if benchmark.label == name]
    own = benchmark_modules(chosen) if chosen else (TASKS.get(name).__module__,)
    return (*_COMMON, *own, *(vlm_modules(context.recipe) if _reads(context, name) == "train_vlm" else ()))


def _reads(context: RunContext, name: str) -> Literal["align", "train_vlm"] | None:
    """The stage whose model one part measures; None for a task on the manifest alone."""
    chosen = next((benchmark for benchmark in _config(context).benchmarks if benchmark.label == name), None)
    if chosen is not None:
        by = answered_by(chosen, get_benchmark(chosen.name), models_of(context.recipe))
        return "align" if by == "alignment" else "train_vlm"
    return "align" if name in ALIGNMENT_TASKS else "train_vlm" if name in VLM_TASKS else None


def compute_part(context: RunContext, name: str) -> None:
    """Measure one task or benchmark and store the result, unless it is stored already.

    A stored one is measured again when videos failed for a passing reason, and with ``--retry failed`` when any did.
    """
    parts = part_keys(context, name)
    stored = context.store.manifest(PART, parts.key)
    if stored is not None:
        if context.why_failures_retried(stored.counts) is None:
            return
        _own_clips.cache_clear()  # it knows the failures of before
    config = _config(context)
    chosen = next((benchmark for benchmark in config.benchmarks if benchmark.label == name), None)
    results, failed = _task_results(context, name) if chosen is None else _benchmark_results(context, chosen)

    def write(folder: Path) -> None:
        write_results(results, folder)

    facts = Facts(
        recipe=context.recipe.name,
        counts={"results": len(results), **_failure_counts(failed)},
        adopted_code=False,
        revision=hash_json(sorted(failed))[:8] if failed else "",
    )
    context.store.publish(parts, "report", write, facts)


def failures(context: RunContext, names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Counts of the videos that could not be read for these parts, by kind, and what tells parts with gaps apart."""
    counts: dict[str, int] = {}
    revisions = []
    for name in names:
        manifest = context.store.manifest(PART, part_keys(context, name).key)
        if manifest is None or not manifest.revision:
            continue
        revisions.append(f"{name} {manifest.revision}")
        for kind, number in manifest.counts.items():
            if kind.startswith("failed"):
                counts[kind] = counts.get(kind, 0) + number
    return counts, revisions


def _failure_counts(failed: Mapping[str, DecodeError]) -> dict[str, int]:
    transient = sum(error.transient for error in failed.values())
    counts = {"failed_transient": transient, "failed_permanent": len(failed) - transient}
    return {kind: number for kind, number in counts.items() if number}


def stored_results(context: RunContext, name: str) -> list[TaskResult]:
    """What `compute_part` has stored, with its samples; raises ArtifactError when it has not."""
    parts = part_keys(context, name)
    if context.store.ref(PART, parts.key) is None:
        raise ArtifactError(f"the result of {name!r} (key {parts.key}) is not in {context.store.uri}; evaluate again")
    return read_results(context.store.open_artifact(PART, parts.key))


def part_keys(context: RunContext, name: str) -> KeyParts:
    """What one part depends on: the model, the data or the benchmark's files, and the code of this part alone."""
    config = _config(context)
    whole = context.keys.parts("evaluate")
    own, model = f"benchmark {name}", _reads(context, name)
    # Of two models a part depends on the one that it measures.
    others = {stage for stage in ("align", "train_vlm") if stage != model}
    inputs = {key: value for key, value in whole.inputs.items() if key not in others}
    about: dict[str, Any]
    if own in whole.inputs:
        inputs = {key: value for key, value in inputs.items() if key in (model, own)}
        of_own_clips = {"cluster_attribute"}
        # Features of other videos than the dataset's: by what decodes and encodes them.
        encoded = context.keys.parts("encode")
        about = {"encode": encoded.config, "weights": encoded.weights}
        about["benchmark"] = next(some.key_config() for some in config.benchmarks if some.label == name)
    else:
        inputs = {key: value for key, value in inputs.items() if not key.startswith("benchmark ")}
        about = {"task": name}
        of_own_clips = set()
    modules, packages = code_closure(code_roots(context, name))
    unread = {"tasks", "benchmarks", *of_own_clips, *(() if model == "train_vlm" else ("vlm",))}
    shared = {key: value for key, value in config.key_config().items() if key not in unread}
    wanted = _PACKAGES | (_VLM_PACKAGES if model == "train_vlm" else set())
    return KeyParts(
        stage=PART,
        inputs=inputs,
        config={**about, "evaluate": shared},
        code=modules,
        packages=package_versions(package for package in packages if package in wanted),
    )


def _config(context: RunContext) -> EvaluateConfig:
    config = context.recipe.evaluate
    assert config is not None  # the stage exists only with its section
    return config


def _task_results(context: RunContext, name: str) -> tuple[list[TaskResult], dict[str, DecodeError]]:
    config = _config(context)
    only = config.model_copy(update={"tasks": (name,), "benchmarks": ()})
    reads = _reads(context, name)
    if reads == "train_vlm":
        return _vlm_task_results(context, only)
    if reads is None:
        clips = tuple(split_clips(context, config.split))
        data = EvaluationData(clips=clips, training_captions=_training_captions(context))
        return _with_battery(config, lambda condition, seed: evaluate(data, only)[0]), {}
    embeddings = _own_clips(context, context.keys.key("align"))
    clips = tuple(row.clip for row in embeddings.rows)
    embed_texts = text_embedder(context)

    def measured(condition: str, seed: int) -> TaskResult:
        data = EvaluationData(
            clips=clips,
            video_embeds=embeddings.embed(condition, seed),
            embed_texts=embed_texts,
            shuffled_video_embeds=embeddings.embed("shuffled", config.seed) if name == "temporal" else None,
        )
        return evaluate(data, only)[0]

    return _with_battery(config, measured), embeddings.failed


def _vlm_task_results(context: RunContext, only: EvaluateConfig) -> tuple[list[TaskResult], dict[str, DecodeError]]:
    rows = {row.clip.video_id: row for row in split_rows(context, only.split)}
    clips = ShownClips(context, rows)
    answerer = vlm_answerer(context, clips)
    shown = [rows[name] for name in rows if name in clips.names]
    training = training_captions(context, shown) if "vlm_caption" in only.tasks else None
    boxes = _training_boxes(context) if "vlm_grounding" in only.tasks else ()
    questions = _training_questions(context) if "vlm_vqa" in only.tasks else ()

    def measured(condition: str, seed: int) -> TaskResult:
        data = EvaluationData(
            clips=tuple(row.clip for row in shown),
            answerer=answerer,
            training=training if condition == ALL else None,
            training_boxes=boxes if condition == ALL else (),
            training_questions=questions if condition == ALL else (),
            condition=condition,
            seed=seed,
        )
        return evaluate(data, only)[0]

    return _with_battery(only, measured), clips.failed


def _benchmark_results(context: RunContext, chosen: BenchmarkConfig) -> tuple[list[TaskResult], dict[str, DecodeError]]:
    config = _config(context)
    benchmark, items = open_benchmark(chosen, models_of(context.recipe))
    if benchmark.kind == "segmentation":
        return _segmented(context, chosen, benchmark, items)
    rows, absent = _known_media(context, chosen, benchmark, items)
    model: BenchmarkAnswers
    if _reads(context, chosen.label) == "train_vlm":
        model = VlmAnswers(context, chosen, benchmark, items, rows, absent)
    else:
        model = AlignmentAnswers(context, benchmark, items, rows, absent, text_embedder(context))
    as_they_are: list[Predictions] = []

    def told() -> str:
        return model.protocol + _gaps(chosen, model.lost)

    def measured(condition: str, seed: int) -> TaskResult:
        predictions = model.predictions(condition, seed)
        if condition == ALL:
            as_they_are.append(predictions)
        return _scored(config, chosen, benchmark, items, predictions, beside=told())

    first, *more = _with_battery(config, measured)
    for compat in chosen.compat:
        try:
            result = _scored(config, chosen, benchmark, items, as_they_are[0], compat=compat, beside=told())
        except (ConfigError, EvaluationError) as error:  # where the released script stops, what was measured stands
            logger.warning("evaluate %s: compat %s not computed: %s", chosen.label, compat, error)
            first = replace(first, protocol=f"{first.protocol}; compat {compat} not computed: {error}")
        else:
            more.append(result)
    return [first, *more], model.failed


def _segmented(
    context: RunContext, chosen: BenchmarkConfig, benchmark: Benchmark, items: Sequence[Item]
) -> tuple[list[TaskResult], dict[str, DecodeError]]:
    """Masks of still pictures: there are no frames that a battery could change."""
    rows, absent = _known_media(context, chosen, benchmark, items)
    predictions, broken = segment_items(context, items, rows, text_embedder(context))
    gaps = _gaps(chosen, [*absent, *broken])
    result = _scored(_config(context), chosen, benchmark, items, predictions, beside=gaps)
    return [result], not_in_key(absent) | {some.name: error for some, error in broken.items()}


def _known_media(
    context: RunContext, chosen: BenchmarkConfig, benchmark: Benchmark, items: Sequence[Item]
) -> tuple[dict[Media, SourceRow], dict[Media, DecodeError]]:
    """The files as `media_rows` finds them; raises StageError when they are not those that the key was made of."""
    hash_file = context.store.digests.digest
    rows, failed = media_rows(chosen, media_of(items), hash_file)
    now = digest_of(chosen, benchmark, items, rows, failed, hash_file)
    known = context.keys.benchmark_inputs[f"benchmark {chosen.label}"]
    if now != known and not any(error.transient for error in failed.values()):
        raise StageError(
            f"evaluate: the files of {chosen.label} changed after this run had looked at them; run again to take them "
            "as they are now"
        )
    return rows, failed


def _scored(
    config: EvaluateConfig,
    chosen: BenchmarkConfig,
    benchmark: Benchmark,
    items: Sequence[Item],
    predictions: Predictions,
    *,
    compat: str | None = None,
    beside: str,
) -> TaskResult:
    settings = ScoreSettings(
        compat=compat,
        missing=chosen.missing,
        options=chosen.options,
        num_bootstrap=config.num_bootstrap,
        seed=config.seed,
    )
    result = benchmark.scorer(settings)(items, predictions, settings)
    return result.renamed(chosen.label, result.protocol + beside)


def _gaps(chosen: BenchmarkConfig, lost: Sequence[Media]) -> str:
    """What could not be shown, in words that end a protocol."""
    if not lost:
        return ""
    names = ", ".join(media.name for media in lost[:3])
    rule = "are left out" if chosen.missing == "skip" else "count as wrong"
    return f"; {len(lost)} videos or pictures are missing or cannot be read ({names}), their items {rule}"


def _training_captions(context: RunContext) -> tuple[str, ...]:
    clips = (clip for clip in training_clips(context) if clip.split == "train")
    return tuple(caption for clip in clips for caption in clip.captions)


def _training_boxes(context: RunContext) -> tuple[Mapping[str, Box], ...]:
    return tuple(read_boxes(clip) for clip in training_clips(context) if clip.split == "train")


def _training_questions(context: RunContext) -> tuple[Question, ...]:
    clips = (clip for clip in training_clips(context) if clip.split == "train")
    return tuple(question for clip in clips for question in clip.questions if question.task == "vqa")


def _with_battery(config: EvaluateConfig, measure: Callable[[str, int], TaskResult]) -> list[TaskResult]:
    return with_battery(measure, config.battery, seed=config.seed, num_bootstrap=config.num_bootstrap)


@lru_cache(maxsize=2)
def _own_clips(context: RunContext, align_key: str) -> ClipEmbeddings:
    """The evaluated split; `align_key` makes it anew for another model of the same recipe."""
    return ClipEmbeddings(context, split_rows(context, _config(context).split))


def split_rows(context: RunContext, split: str) -> list[SourceRow]:
    """The encoded clips of a split with their files."""
    by_id = {row.clip.video_id: row for row in read_rows(context)}
    return [by_id[clip.video_id] for clip in split_clips(context, split)]


def text_embedder(context: RunContext) -> Any:
    """What embeds texts with the aligned model."""
    from vlmvid.models.alignment import load_alignment
    from vlmvid.models.embedding import embed_texts

    model = load_alignment(context.folder("align"))
    read_texts = end_to_end.text_reader(context)
    return lambda texts: embed_texts(model, read_texts(texts))
