"""The parts of an evaluation, one for each task and benchmark: each is stored by itself and cached by its own key."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts import Facts, KeyParts, hash_json
from vlmvid.artifacts.code import code_closure, package_versions
from vlmvid.config.benchmarks import BenchmarkConfig
from vlmvid.config.schema import EvaluateConfig
from vlmvid.errors import ArtifactError, ConfigError, DecodeError, EvaluationError, StageError
from vlmvid.evaluation.base import EvaluationData, TaskResult
from vlmvid.evaluation.battery import NUM_SEEDS, battery, is_seeded
from vlmvid.evaluation.dual_encoder import answer
from vlmvid.evaluation.runner import evaluate, read_results, write_results
from vlmvid.evaluation.scoring.base import Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.tasks import TASKS
from vlmvid.pipeline import end_to_end
from vlmvid.pipeline.align import split_clips
from vlmvid.pipeline.clip_embeddings import ALL, ClipEmbeddings, nothing_left
from vlmvid.pipeline.context import RunContext
from vlmvid.pipeline.filter import training_clips
from vlmvid.pipeline.ingest import read_rows
from vlmvid.pipeline.media import benchmark_modules, digest_of, media_of, media_rows, open_benchmark
from vlmvid.pipeline.segmentation import segment_items
from vlmvid.pipeline.sources import SourceRow

logger = logging.getLogger(__name__)
PART = "evaluation"  # the stage name of parts in the store
_PACKAGES = {"numpy", "timm", "torch"}
# Not the runner, which knows every task: a part's key depends on its own.
_COMMON = ("vlmvid.evaluation.battery", "vlmvid.models.embedding")


def part_names(config: EvaluateConfig) -> list[str]:
    """The names of the parts: tasks, then benchmarks."""
    return [*config.tasks, *(benchmark.label for benchmark in config.benchmarks)]


def code_roots(config: EvaluateConfig, name: str) -> tuple[str, ...]:
    """The modules that decide the result of one part."""
    chosen = [benchmark for benchmark in config.benchmarks if benchmark.label == name]
    return (*_COMMON, *benchmark_modules(chosen)) if chosen else (*_COMMON, TASKS.get(name).__module__)


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
    own = f"benchmark {name}"
    if own in whole.inputs:
        inputs = {key: whole.inputs[key] for key in ("align", own)}
        # Features of other videos than the dataset's: by what decodes and encodes them.
        encoded = context.keys.parts("encode")
        about: dict[str, Any] = {"encode": encoded.config, "weights": encoded.weights}
        about["benchmark"] = next(some.key_config() for some in config.benchmarks if some.label == name)
    else:
        inputs = {key: value for key, value in whole.inputs.items() if not key.startswith("benchmark ")}
        about = {"task": name}
    modules, packages = code_closure(code_roots(config, name))
    shared = {k: v for k, v in config.key_config().items() if k not in ("tasks", "benchmarks")}
    return KeyParts(
        stage=PART,
        inputs=inputs,
        config={**about, "evaluate": shared},
        code=modules,
        packages=package_versions(package for package in packages if package in _PACKAGES),
    )


def _config(context: RunContext) -> EvaluateConfig:
    config = context.recipe.evaluate
    assert config is not None  # the stage exists only with its section
    return config


def _task_results(context: RunContext, name: str) -> tuple[list[TaskResult], dict[str, DecodeError]]:
    config = _config(context)
    only = config.model_copy(update={"tasks": (name,), "benchmarks": ()})
    embeddings = _own_clips(context, context.keys.key("align"))
    clips = tuple(row.clip for row in embeddings.rows)
    embed_texts = _text_embedder(context)

    def measured(condition: str, seed: int) -> TaskResult:
        data = EvaluationData(
            clips=clips,
            video_embeds=embeddings.embed(condition, seed),
            embed_texts=embed_texts,
            shuffled_video_embeds=embeddings.embed("shuffled", config.seed) if name == "temporal" else None,
            training_captions=_training_captions(context) if name == "concepts" else (),
        )
        return evaluate(data, only)[0]

    return _with_battery(config, measured), embeddings.failed


def _benchmark_results(context: RunContext, chosen: BenchmarkConfig) -> tuple[list[TaskResult], dict[str, DecodeError]]:
    config = _config(context)
    benchmark, items = open_benchmark(chosen)
    if benchmark.kind == "segmentation":
        return _segmented(context, chosen, benchmark, items)
    media = _BenchmarkMedia(context, *_known_media(context, chosen, benchmark, items))
    embed_texts = _text_embedder(context)
    as_they_are: list[Predictions] = []

    def measured(condition: str, seed: int) -> TaskResult:
        media.show(condition, seed)
        predictions = answer(benchmark, items, media, embed_texts)
        if condition == ALL:
            as_they_are.append(predictions)
        return _scored(config, chosen, benchmark, items, predictions, gaps=_gaps(chosen, media.lost))

    first, *more = _with_battery(config, measured)
    for compat in chosen.compat:
        try:
            result = _scored(
                config, chosen, benchmark, items, as_they_are[0], compat=compat, gaps=_gaps(chosen, media.lost)
            )
        except (ConfigError, EvaluationError) as error:  # where the released script stops, what was measured stands
            logger.warning("evaluate %s: compat %s not computed: %s", chosen.label, compat, error)
            first = replace(first, protocol=f"{first.protocol}; compat {compat} not computed: {error}")
        else:
            more.append(result)
    return [first, *more], media.failed


def _segmented(
    context: RunContext, chosen: BenchmarkConfig, benchmark: Benchmark, items: Sequence[Item]
) -> tuple[list[TaskResult], dict[str, DecodeError]]:
    """Masks of still pictures: there are no frames that a battery could change."""
    rows, absent = _known_media(context, chosen, benchmark, items)
    predictions, broken = segment_items(context, items, rows, _text_embedder(context))
    gaps = _gaps(chosen, [*absent, *broken])
    result = _scored(_config(context), chosen, benchmark, items, predictions, gaps=gaps)
    return [result], _not_in_key(absent) | {some.name: error for some, error in broken.items()}


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
    gaps: str,
) -> TaskResult:
    settings = ScoreSettings(
        compat=compat,
        missing=chosen.missing,
        options=chosen.options,
        num_bootstrap=config.num_bootstrap,
        seed=config.seed,
    )
    result = benchmark.scorer(settings)(items, predictions, settings)
    return result.renamed(chosen.label, result.protocol + gaps)


def _gaps(chosen: BenchmarkConfig, lost: Sequence[Media]) -> str:
    """What could not be shown, in words that end a protocol."""
    if not lost:
        return ""
    names = ", ".join(media.name for media in lost[:3])
    rule = "are left out" if chosen.missing == "skip" else "count as wrong"
    return f"; {len(lost)} videos or pictures are missing or cannot be read ({names}), their items {rule}"


def _not_in_key(absent: Mapping[Media, DecodeError]) -> dict[str, DecodeError]:
    """Of the files that were not there those that may be the next time; that others are missing is in the key."""
    return {media.name: error for media, error in absent.items() if error.transient}


def _training_captions(context: RunContext) -> tuple[str, ...]:
    clips = (clip for clip in training_clips(context) if clip.split == "train")
    return tuple(caption for clip in clips for caption in clip.captions)


def _with_battery(config: EvaluateConfig, measure: Any) -> list[TaskResult]:
    """The result with the frames as they are, and, if the recipe asks for it, that of the probe battery."""
    first: TaskResult = measure(ALL, config.seed)
    if not config.battery:
        return [first]
    found: dict[str, list[TaskResult]] = {ALL: [first]}
    for condition in config.battery:
        seeds = range(config.seed, config.seed + (NUM_SEEDS if is_seeded(condition) else 1))
        found[condition] = [measure(condition, seed) for seed in seeds]
    return [first, battery(found, seed=config.seed, num_bootstrap=config.num_bootstrap)]


class _BenchmarkMedia:
    """The embeddings of a benchmark's media, some of which are shown backwards."""

    def __init__(
        self, context: RunContext, rows: Mapping[Media, SourceRow], failed: Mapping[Media, DecodeError]
    ) -> None:
        self._rows, self._failed = rows, failed
        self._by_order = {
            order: ClipEmbeddings(context, [row for some, row in self._rows.items() if some.order == order])
            for order in dict.fromkeys(some.order for some in self._rows)
        }
        self._place: dict[Media, int] = {}
        if not any(clips.rows for clips in self._by_order.values()):
            raise nothing_left(self.failed)
        self._embeds: NDArray[np.float32] = np.empty((0, 0), np.float32)

    @property
    def embeds(self) -> NDArray[np.float32]:
        """Float32 (N, D), L2-normalised, under the condition that is shown."""
        return self._embeds

    def row_of(self, media: Media) -> int | None:
        """The row of `media` in `embeds`; None for what could not be read."""
        return self._place.get(media)

    def show(self, condition: str, seed: int) -> None:
        """Embed everything under a condition; what is shown backwards is turned round before it."""
        parts: list[NDArray[np.float32]] = []
        self._place = {}
        start = 0
        for order, clips in self._by_order.items():
            if not clips.rows:
                continue
            number = {id(row): place for place, row in enumerate(clips.rows)}
            for media, row in self._rows.items():
                if media.order == order and id(row) in number:
                    self._place[media] = start + number[id(row)]
            parts.append(clips.embed(condition, seed, backwards=order == "reversed"))
            start += len(parts[-1])
        self._embeds = np.concatenate(parts)

    @property
    def lost(self) -> list[Media]:
        """What could not be shown."""
        return [*self._failed, *(media for media in self._rows if media not in self._place)]

    @property
    def failed(self) -> dict[str, DecodeError]:
        """Why, by name; without the files that are not there, which the key of the result knows."""
        found = _not_in_key(self._failed)
        for clips in self._by_order.values():
            found |= clips.failed
        return found


@lru_cache(maxsize=2)
def _own_clips(context: RunContext, align_key: str) -> ClipEmbeddings:
    """The evaluated split; `align_key` makes it anew for another model of the same recipe."""
    by_id = {row.clip.video_id: row for row in read_rows(context)}
    clips = split_clips(context, _config(context).split)
    return ClipEmbeddings(context, [by_id[clip.video_id] for clip in clips])


def _text_embedder(context: RunContext) -> Any:
    from vlmvid.models.alignment import load_alignment
    from vlmvid.models.embedding import embed_texts

    model = load_alignment(context.folder("align"))
    read_texts = end_to_end.text_reader(context)
    return lambda texts: embed_texts(model, read_texts(texts))
