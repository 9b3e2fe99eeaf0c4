"""Finding what a report is about: the finished stages of a recipe, or of an artifact, and what they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmvid.artifacts import Manifest, Store, open_store
from vlmvid.artifacts.files import read_json
from vlmvid.artifacts.ledger import read_lines
from vlmvid.artifacts.store import MANIFEST_FILE
from vlmvid.config import Recipe
from vlmvid.config.schema import STAGE_ORDER, EvaluateConfig
from vlmvid.errors import ArtifactError, ConfigError, VlmvidError
from vlmvid.evaluation.benchmarks import BENCHMARKS
from vlmvid.evaluation.report_run import Cost, Curve, Defect, RunRecord, SplitCount, StageRecord
from vlmvid.evaluation.runner import read_results
from vlmvid.pipeline.align import CURVES_FILE
from vlmvid.pipeline.context import RESULT_FILE, RunContext, open_context
from vlmvid.pipeline.costs import COST_EVENT
from vlmvid.pipeline.index import INDEX_FILE, read_index
from vlmvid.pipeline.request import RunRequest
from vlmvid.pipeline.sources import CLIPS_FILE
from vlmvid.pipeline.vlm_keys import PART
from vlmvid.tracking.environment import code_tags

_WITHOUT_RESULT = ("failed_permanent", "failed_transient", "filtered")
_LONGEST_OPTION = 60


@dataclass(frozen=True)
class FoundRun:
    """A run in a store.

    Attributes:
        name: of the recipe.
        source: what was asked for.
        store: that holds it.
        manifests: of the finished stages, in order; parts of `train_vlm` as ``train_vlm/NAME`` before it.
        context: to compute more with, where the recipe is known.
        unfinished: stages of the recipe that have no result.
    """

    name: str
    source: str
    store: Store
    manifests: Mapping[str, Manifest]
    context: RunContext | None = None
    unfinished: tuple[str, ...] = field(default=())

    @property
    def recipe(self) -> Recipe | None:
        """The recipe, where it is known."""
        return None if self.context is None else self.context.recipe

    def folder(self, stage: str) -> Path | None:
        """The folder of a finished stage's artifact."""
        manifest = self.manifests.get(stage)
        return None if manifest is None else self.store.open_artifact(manifest.stage, manifest.key)

    @property
    def rows_folder(self) -> Path | None:
        """The folder that lists the clips which later stages read."""
        return self.folder("curate") or self.folder("ingest")


def run_of_recipe(request: RunRequest) -> FoundRun:
    """What of a recipe is finished, as its files and code are now."""
    context = open_context(request)
    if not context.is_running:
        context.refresh()
    manifests: dict[str, Manifest] = {}
    unfinished = []
    for stage in context.recipe.stages():
        try:
            manifest = context.store.manifest(stage, context.keys.key(stage))
        except VlmvidError:  # e.g. a search whose model is not registered yet
            manifest = None
        if manifest is None:
            unfinished.append(stage)
        else:
            manifests |= {**_parts_of(context.store, manifest), stage: manifest}
    name = context.recipe.name
    return FoundRun(name, name, context.store, manifests, context, tuple(unfinished))


def run_of_artifact(folder: Path) -> FoundRun:
    """What the stage in `folder` was made of: it, and all stages before it that the store still holds.

    Raises ArtifactError when the folder is no artifact of a store.
    """
    try:
        manifest = Manifest.model_validate(read_json(folder / MANIFEST_FILE))
        home = folder.resolve().parents[2]
    except (ArtifactError, ValueError, IndexError) as error:
        raise ArtifactError(
            f"{folder} is no artifact of a store: {error}; give the folder that `vlmvid evaluate` prints"
        ) from error
    store = open_store(home)
    found = _with_parents(store, {manifest.stage: manifest})
    return FoundRun(manifest.recipe, str(folder), store, found, _context_of(store, found))


def run_of_keys(store: Store, keys: Mapping[str, str], name: str, source: str) -> FoundRun:
    """The stages with these keys, as far as the store holds them."""
    wanted = {stage: store.manifest(stage, key) for stage, key in keys.items() if stage in STAGE_ORDER}
    found = _with_parents(store, {stage: manifest for stage, manifest in wanted.items() if manifest is not None})
    return FoundRun(name, source, store, found, _context_of(store, found) if found else None)


def _with_parents(store: Store, first: Mapping[str, Manifest]) -> dict[str, Manifest]:
    """These stages and those that they were made from, in the order of a pipeline."""
    found = dict(first)
    waiting = list(first.values())
    while waiting:
        for stage, key in waiting.pop().parents.items():
            manifest = store.manifest(stage, key.partition("+")[0]) if stage in STAGE_ORDER else None
            if manifest is not None and stage not in found:
                found[stage] = manifest
                waiting.append(manifest)
    ordered: dict[str, Manifest] = {}
    for stage in STAGE_ORDER:
        if stage in found:
            ordered |= {**_parts_of(store, found[stage]), stage: found[stage]}
    return ordered


def _parts_of(store: Store, manifest: Manifest) -> dict[str, Manifest]:
    """The training stages of a vision-language model."""
    if manifest.stage != "train_vlm":
        return {}
    keys: dict[str, str] = read_json(store.open_artifact("train_vlm", manifest.key) / RESULT_FILE)["keys"]
    parts = {f"train_vlm/{name}": store.manifest(PART, key) for name, key in keys.items()}
    found = [(name, part) for name, part in parts.items() if part is not None]
    return dict(sorted(found, key=lambda item: item[1].created_seconds))


def _context_of(store: Store, found: Mapping[str, Manifest]) -> RunContext | None:
    """The recipe of the store that makes these stages today; None when none does."""
    last = next(reversed([manifest for stage, manifest in found.items() if "/" not in stage]))
    for path in sorted((store.home / "recipes").glob("*.yaml")):
        context = open_context(RunRequest(recipe=str(path), home=store.uri))
        if not context.is_running:
            context.refresh()
        try:
            if context.recipe.name == last.recipe and context.keys.key(last.stage) == last.key:  # type: ignore[arg-type]
                return context
        except VlmvidError:  # an old variant of the recipe whose files are gone
            continue
    return None


# What the stages hold.


def record_of(found: FoundRun) -> RunRecord:
    """Everything that the store knows of the run; what needs a model or a video is left to others."""
    evaluated = found.folder("evaluate")
    notes = []
    if found.unfinished:
        notes.append(f"Not finished: {', '.join(found.unfinished)}; run the recipe again for a whole report.")
    if found.context is None:
        notes.append(
            "The recipe's files or code have changed since this run, so that nothing is computed anew: there is no "
            "heat map, and no frame of a benchmark's videos."
        )
    return RunRecord(
        name=found.name,
        source=found.source,
        facts=_facts(found),
        stages=_stages(found),
        splits=_splits(found),
        results=() if evaluated is None else tuple(read_results(evaluated)),
        topics={} if found.recipe is None or found.recipe.evaluate is None else topics_of(found.recipe.evaluate),
        curves=tuple(_curves(found)),
        defects=tuple(_defects(found)),
        versions={f"drawn with {name}": value for name, value in versions_of(code_tags()).items()},
        notes=tuple(notes),
    )


def versions_of(tags: Mapping[str, str]) -> dict[str, str]:
    """What of a run's tags says which code it was."""
    names = {"vlmvid.version": "vlmvid", "git.sha": "commit"}
    return {words: tags[name][:12] for name, words in names.items() if name in tags}


def topics_of(config: EvaluateConfig) -> dict[str, str]:
    """Name of each benchmark's results -> the group that the benchmark belongs to."""
    places = {some.label: BENCHMARKS.get(some.name) for some in config.benchmarks}
    return {label: place.replace("/", ".").partition(".")[0] for label, place in places.items()}


def _stages(found: FoundRun) -> tuple[StageRecord, ...]:
    costs = costs_of(found.store.events.read())
    return tuple(
        StageRecord(
            name=name,
            key=manifest.key,
            counts=manifest.counts,
            created_seconds=manifest.created_seconds,
            parts=manifest.parts,
            revision=manifest.revision,
            adopted_code=manifest.adopted_code,
            cost=costs.get((name, manifest.key)),
        )
        for name, manifest in found.manifests.items()
    )


def costs_of(events: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Cost]:
    """(stage, key) -> what its last computation cost; of runs that measured no more, the time alone."""
    found: dict[tuple[str, str], Cost] = {}
    begun: dict[tuple[str, str], float] = {}
    for event in events:
        key = (str(event.get("stage")), str(event.get("key")))
        if event["event"] == "stage.started" and not event.get("cached"):
            begun[key] = float(event["time_seconds"])
        elif event["event"] == COST_EVENT:
            found[key] = Cost(
                wall_seconds=float(event["wall_seconds"]),
                cpu_seconds=float(event["cpu_seconds"]),
                peak_memory_bytes=float(event["peak_memory_bytes"]),
                units=int(event["units"]),
                unit=str(event["unit"]),
            )
            begun.pop(key, None)
        elif event["event"] == "stage.finished" and key in begun:
            found[key] = Cost(float(event["time_seconds"]) - begun.pop(key))
    return found


def _facts(found: FoundRun) -> tuple[tuple[str, str], ...]:
    recipe = found.recipe
    if recipe is None:
        return (("recipe", found.name),)
    sampling, vision = recipe.decode.sampling, recipe.encode.vision
    options = ", ".join(f"{name} {_option(value)}" for name, value in recipe.data.options.items())
    facts = [
        ("recipe", recipe.name),
        ("dataset", recipe.data.name + (f" ({options})" if options else "")),
        ("frames", f"{sampling.num_frames} a clip, {sampling.policy}, {recipe.decode.image_size} pixels"),
        (
            "vision backbone",
            f"{vision.backbone}, frozen" if "vision" not in recipe.adapted_encoders else vision.backbone,
        ),
    ]
    if recipe.encode.text is not None:
        facts.append(("text encoder", recipe.encode.text.encoder))
    if recipe.align is not None:
        align = recipe.align
        heads = f"{align.video_head.kind} and {align.text_head.kind} heads to {align.projection_dim} dimensions"
        facts.append(("alignment", f"{align.pooling.kind} pooling, {heads}, {align.optim.num_steps:,} updates at most"))
    if recipe.train_vlm is not None:
        vlm = recipe.train_vlm
        facts.append(("language model", vlm.language.model))
        facts.append(("training stages", f"{', '.join(vlm.order())}; {vlm.mask} mask; {vlm.result_stage} is evaluated"))
    if recipe.evaluate is not None:
        names = [*recipe.evaluate.tasks, *(some.label for some in recipe.evaluate.benchmarks)]
        facts.append(("evaluation", f"{', '.join(names)}; own data on split {recipe.evaluate.split!r}"))
    return tuple(facts)


def _option(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_OPTION else f"{text[: _LONGEST_OPTION - 3]}..."


def _splits(found: FoundRun) -> tuple[SplitCount, ...]:
    counts: Counter[tuple[str, str]] = Counter()
    for row in clip_rows(found):
        clip = row["clip"]
        counts[clip["split"], "clips"] += 1
        for name in ("captions", "questions"):
            counts[clip["split"], name] += len(clip[name])
    splits = sorted({split for split, _ in counts}, key=("train", "val", "test").index)
    return tuple(
        SplitCount(split, *(counts[split, name] for name in ("clips", "captions", "questions"))) for split in splits
    )


def clip_rows(found: FoundRun) -> Iterator[dict[str, Any]]:
    """The clips of the dataset that later stages read, as JSON values: there may be a million of them."""
    folder = found.rows_folder
    return iter(()) if folder is None else read_lines(folder / CLIPS_FILE)


def _curves(found: FoundRun) -> Iterator[Curve]:
    for name in found.manifests:
        folder = found.folder(name)
        if folder is not None and (folder / CURVES_FILE).is_file():
            yield Curve(name, list(read_lines(folder / CURVES_FILE)))


def _defects(found: FoundRun) -> Iterator[Defect]:
    yield from _ingest_defects(found)
    seen: set[tuple[str, str]] = set()
    for stage in ("curate", "decode", "encode"):
        folder = found.folder(stage)
        if folder is None or not (folder / INDEX_FILE).is_file():
            continue
        for row in read_index(folder):
            # What could not be decoded has no features either: it is told once.
            if row.status in _WITHOUT_RESULT and (row.video_id, row.reason_code) not in seen:
                seen.add((row.video_id, row.reason_code))
                yield Defect(stage, row.video_id, row.status, row.reason_code, row.message)


def _ingest_defects(found: FoundRun) -> Iterator[Defect]:
    """Items of the dataset that did not become clips: the ledger tells why, the dataset which are its own."""
    manifest = found.manifests.get("ingest")
    if manifest is None or found.context is None or not sum(manifest.counts.get(s, 0) for s in _WITHOUT_RESULT):
        return
    folder = found.folder("ingest")
    assert folder is not None  # it has a manifest
    known = {row["clip"]["video_id"] for row in read_lines(folder / CLIPS_FILE)}
    sources = found.context.sources
    clips, defects = sources.dataset.clips(sources.folder)
    own = {clip.video_id for clip in clips} | {defect.video_id for defect in defects}
    for row in found.store.ledger("ingest").rows().values():
        if row.status in _WITHOUT_RESULT and row.video_id in own - known:
            yield Defect("ingest", row.video_id, row.status, row.reason_code, row.message)


def require_something(found: FoundRun) -> None:
    """Raise ConfigError for a run of which nothing is finished."""
    if not found.manifests:
        raise ConfigError(
            f"{found.source}: none of its stages is finished in {found.store.uri}; run `vlmvid run` with the recipe, "
            "or give the home that holds its results (--home)"
        )
