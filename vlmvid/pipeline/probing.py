"""Alignment probing: every pair of encoders through the stages of a pipeline, then measures of their features.

A pair is a recipe of its own in the same store, so frames are decoded, features encoded and heads trained once,
whatever the probe, and an interrupted probe goes on where it was. An encoder that fails is named and left out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts import ArtifactRef, Facts, KeyParts, Store, hash_json, open_store
from vlmvid.artifacts.code import code_closure, package_versions
from vlmvid.artifacts.files import read_json, write_bytes, write_json
from vlmvid.config.probing import NamedText, NamedVision, ProbeRecipe, load_probe
from vlmvid.errors import ConfigError, StageError
from vlmvid.evaluation.probing import (
    MODALITIES,
    Modality,
    ProbedEncoder,
    ProbedPair,
    ProbeFailure,
    correlate,
    points_of,
)
from vlmvid.evaluation.probing_report import ProbeResult, probe_report, write_figures
from vlmvid.evaluation.representation import label_metrics, pair_metrics, retrieval_metrics
from vlmvid.evaluation.runner import read_samples, write_samples
from vlmvid.models.weights import text_weights_digest, vision_weights_digest
from vlmvid.pipeline.context import RunContext, open_context
from vlmvid.pipeline.encode import read_features, vision_backbone
from vlmvid.pipeline.index import read_index
from vlmvid.pipeline.ingest import read_clips
from vlmvid.pipeline.progress import StageProgress
from vlmvid.pipeline.request import DEFAULT_HOME, RunRequest, check_tracking, request_of
from vlmvid.pipeline.session import pipeline_run
from vlmvid.pipeline.stages import STAGES
from vlmvid.pipeline.texts import text_encoder, text_features
from vlmvid.tracking import open_tracker
from vlmvid.tracking.base import StageRun, status_of
from vlmvid.types import Clip, MetricResult

logger = logging.getLogger(__name__)
STAGE = "probe"
PROBE_FILE = "probe.json"
MEASURES_FILE = "measures.parquet"
REPORT_FILE = "report.md"
# k-NN and silhouettes compare every clip with every other.
MAX_CLIPS = 10_000
_CODE_ROOTS = ("vlmvid.evaluation.probing_report", "vlmvid.evaluation.runner")
_PACKAGES = ("numpy", "scikit-learn")


@dataclass
class _Run:
    """A probe under way: what has been made and what has failed."""

    probe: ProbeRecipe
    store: Store
    requests: dict[tuple[str, str], list[RunRequest]] = field(default_factory=dict)  # one per seed, all stages done
    keys: dict[str, str] = field(default_factory=dict)
    failures: list[ProbeFailure] = field(default_factory=list)
    broken: set[tuple[Modality, str]] = field(default_factory=set)


def run_probe(recipe: str | Path, overrides: Sequence[str] = (), *, home: str | Path | None = None) -> ArtifactRef:
    """Probe all pairs of the recipe; the artifact holds probe.json, measures.parquet, report.md and the figures.

    Raises ConfigError for a wrong recipe or an unknown label attribute, whatever ingest raises, and StageError when no
    pair could be probed; an encoder that fails beside others is a row of ``failures``.
    """
    probe = load_probe(recipe, overrides)
    store = open_store(str(home or os.environ.get("VLMVID_HOME") or DEFAULT_HOME))
    check_tracking(probe.tracking, store)
    config = probe.model_dump(mode="json")
    tracker = open_tracker(probe.tracking, store.home)
    tracker.start_pipeline(
        pipeline_key=hash_json([STAGE, config]), name=probe.name, config=config, tags={"vlmvid.recipe": probe.name}
    )
    try:
        run = _Run(probe, store)
        _check_weights(run)
        _check_data(run)
        _run_pairs(run)
        parts = _key_parts(run)
        ref = store.ref(STAGE, parts.key)
        with tracker.stage(STAGE, parts.key, cached=ref is not None) as stage_run:
            if ref is None:
                ref = _publish(run)
                _track(stage_run, store.open_artifact(STAGE, ref.key))
    except BaseException as error:
        tracker.finish(status_of(error))
        raise
    tracker.finish("FINISHED")
    return ref


def read_probe(ref: ArtifactRef, *, home: str | Path | None = None) -> tuple[dict[str, Any], str]:
    """The JSON document and the report of a finished probe."""
    store = open_store(str(home or os.environ.get("VLMVID_HOME") or DEFAULT_HOME))
    folder = store.open_artifact(STAGE, ref.key)
    document: dict[str, Any] = read_json(folder / PROBE_FILE)
    return document, (folder / REPORT_FILE).read_text(encoding="utf-8")


def _pairs(run: _Run) -> list[tuple[str, str]]:
    """The pairs of which neither encoder is known to fail; raises StageError when there is none."""
    pairs = run.probe.names_of_pairs(run.broken)
    if not pairs:
        raise _nothing_left(run)
    return pairs


def _nothing_left(run: _Run) -> StageError:
    reasons = "; ".join(f"{failure.what}: {failure.error}" for failure in run.failures)
    return StageError(f"probe {run.probe.name!r}: no pair of encoders could be probed: {reasons}")


def _check_weights(run: _Run) -> None:
    """Find the files of every encoder, so that a missing one costs no time later."""
    for vision in run.probe.vision:
        with _noting(run, vision.name, "load", "vision"):
            vision_weights_digest(vision.config(), hash_file=run.store.digests.digest)
    for text in run.probe.language:
        with _noting(run, text.name, "load", "language"):
            text_weights_digest(text.config(), hash_file=run.store.digests.digest)


def _check_data(run: _Run) -> None:
    """Ingest, and look for the labels: a mistake in the data is no fault of an encoder."""
    vision, language = _pairs(run)[0]
    request = request_of(run.probe.recipe_of(vision, language, run.probe.seeds[0]), run.store)
    with pipeline_run(request) as context:
        STAGES["ingest"].run(request)
        clips = read_clips(context)
    labels = run.probe.labels
    if labels is None:
        return
    values: dict[str, set[str]] = {}
    for clip in clips:
        for name, value in clip.attributes.items():
            values.setdefault(name, set()).add(str(value))
    if labels.attribute not in values:
        known = ", ".join(f"{name} ({len(found)} values)" for name, found in sorted(values.items()))
        raise ConfigError(
            f"labels.attribute: no clip of dataset {run.probe.data.name!r} has an attribute {labels.attribute!r}; "
            f"they have: {known or 'none'}; name one of them, or set labels: null"
        )


def _run_pairs(run: _Run) -> None:
    tried: set[tuple[str, str]] = set()
    progress = StageProgress()
    progress.begin(STAGE, len(_pairs(run)), "pair")
    # An encoder that fails changes which pairs there are: another anchor may take its place.
    while todo := [pair for pair in _pairs(run) if pair not in tried]:
        tried.add(todo[0])
        _run_pair(run, *todo[0])
        progress.advance(STAGE)
    progress.end(STAGE)
    if not run.requests:
        raise _nothing_left(run)


def _run_pair(run: _Run, vision: str, language: str) -> None:
    """All stages of a pair, once per seed; a failure is noted and the others go on."""
    requests = []
    for seed in run.probe.seeds:
        request = request_of(run.probe.recipe_of(vision, language, seed), run.store)
        with pipeline_run(request) as context:
            if not _encode(run, context, vision, language):
                return
            for stage in ("align", "evaluate"):
                with _noting(run, f"{vision} with {language}, seed {seed}", stage) as failed:
                    STAGES[stage].run(request)
                if failed:
                    return
            run.keys[f"{vision} {language} {seed}"] = run.store.input_key("evaluate", context.keys.key("evaluate"))
        requests.append(request)
    logger.info("probe: %s with %s: done", vision, language)
    run.requests[vision, language] = requests


def _encode(run: _Run, context: RunContext, vision: str, language: str) -> bool:
    """The stage encode, for which each encoder is loaded by itself first, so that the one at fault is known."""
    if context.why_stale("encode") is not None:
        with _noting(run, vision, "load", "vision") as failed:
            vision_backbone(context)
        if failed:
            return False
        with _noting(run, language, "load", "language") as failed:
            text_encoder(context)
        if failed:
            return False
    with _noting(run, f"{vision} with {language}", "encode") as failed:
        STAGES["encode"].run(context.request)
    return not failed


@contextmanager
def _noting(run: _Run, what: str, stage: str, broken: Modality | None = None) -> Iterator[list[ProbeFailure]]:
    """Turn an exception into a failure of the probe, which the block's list then holds.

    With `broken` it is an encoder of that modality that fails, and no other pair needs to try it.
    """
    failed: list[ProbeFailure] = []
    try:
        yield failed
    except Exception as error:  # encoders are other people's code and raise anything
        failed.append(ProbeFailure(what, stage, f"{type(error).__name__}: {error}"))
        run.failures += failed
        if broken is not None:
            run.broken.add((broken, what))
        logger.warning("probe: %s fails (%s) and is left out: %s", what, stage, error)
        logger.debug("the failure in full", exc_info=error)


def _key_parts(run: _Run) -> KeyParts:
    config = run.probe.model_dump(mode="json", exclude={"data", "decode", "align", "tracking", "options"})
    config["max_clips"] = MAX_CLIPS
    config["failures"] = [vars(failure) for failure in run.failures]
    code, _ = code_closure(_CODE_ROOTS)
    return KeyParts(stage=STAGE, inputs=run.keys, config=config, code=code, packages=package_versions(_PACKAGES))


@dataclass(frozen=True, eq=False)
class _Features:
    """The clips of one pair with the features of both encoders, float32, means over frames and first captions."""

    clips: list[Clip]
    video: NDArray[np.float32]
    text: NDArray[np.float32]


def _features(run: _Run, request: RunRequest) -> _Features:
    """At most `MAX_CLIPS` captioned, encoded clips of the splits that the probe reads, in manifest order."""
    context = open_context(request)
    index = {row.video_id: row for row in read_index(context.folder("encode")) if row.status == "ok"}
    clips = [c for c in read_clips(context) if c.captions and c.video_id in index]
    clips = [c for c in clips if c.split in ("train", run.probe.split)]
    if len(clips) > MAX_CLIPS:
        chosen = np.random.default_rng(run.probe.seed).choice(len(clips), MAX_CLIPS, replace=False)
        clips = [clips[i] for i in np.sort(chosen)]
    video = read_features(context, [index[c.video_id] for c in clips]).mean(axis=1)
    return _Features(clips, video, text_features(context, [c.captions[0] for c in clips]))


def _publish(run: _Run) -> ArtifactRef:
    result = _measure(run)
    # Only now, because measuring can fail too: what failed is part of the key, so that the next run tries it again.
    parts = _key_parts(run)

    def write(folder: Path) -> None:
        write_json(folder / PROBE_FILE, result.to_json())
        write_samples(result.rows(), folder / MEASURES_FILE)
        write_bytes(folder / REPORT_FILE, probe_report(result).encode())
        write_figures(result, folder)

    counts = {"pairs": len(result.pairs), "encoders": len(result.encoders), "failures": len(result.failures)}
    return run.store.publish(parts, "report", write, Facts(recipe=run.probe.name, counts=counts))


def _measure(run: _Run) -> ProbeResult:
    probe = run.probe
    options = {"num_bootstrap": probe.num_bootstrap, "seed": probe.seed}
    encoders: dict[tuple[Modality, str], ProbedEncoder] = {}
    pairs: list[ProbedPair] = []
    notes: dict[str, None] = {}
    tried: set[tuple[Modality, str]] = set()
    for (vision, language), requests in run.requests.items():
        found = _features(run, requests[0])
        sides: tuple[tuple[Modality, str, NDArray[np.float32]], ...] = (
            ("vision", vision, found.video),
            ("language", language, found.text),
        )
        for modality, name, features in sides:
            if (modality, name) not in tried:
                tried.add((modality, name))
                with _noting(run, name, "measure"):
                    encoders[modality, name] = _encoder(run, (modality, name), found.clips, features, notes)
        logs = [read_samples(open_context(request).folder("evaluate"), "retrieval") for request in requests]
        trained = retrieval_metrics(logs, **options)
        first_of: dict[str, int] = {}
        for i, clip in enumerate(found.clips):
            first_of.setdefault(clip.captions[0], i)
        distinct = list(first_of.values())
        with _noting(run, f"{vision} with {language}", "measure"):
            untrained = pair_metrics(found.video[distinct], found.text[distinct], mutual_k=probe.mutual_k, **options)
            pairs.append(ProbedPair(vision, language, (*trained, *untrained)))
    measured = tuple(encoders.values())
    points = {m: points_of(m, measured, pairs, _partners(run, m)) for m in MODALITIES}
    correlations = [c for modality in MODALITIES for c in correlate(modality, points[modality], **options)]
    return ProbeResult(
        name=probe.name,
        protocol=_protocol(probe),
        encoders=measured,
        pairs=tuple(pairs),
        points=points,
        correlations=tuple(correlations),
        failures=tuple(run.failures),
        notes=tuple(notes),
    )


def _encoder(
    run: _Run, key: tuple[Modality, str], clips: Sequence[Clip], features: NDArray[np.float32], notes: dict[str, None]
) -> ProbedEncoder:
    modality, name = key
    probe = run.probe
    config: NamedVision | NamedText = next(e for e in getattr(probe, modality) if e.name == name)
    if isinstance(config, NamedVision):
        weights, is_random = (
            f"{config.backbone}, {'trained' if config.pretrained else config.seed}",
            not config.pretrained,
        )
    else:
        weights, is_random = config.encoder, False
    metrics: tuple[MetricResult, ...] = ()
    labels = probe.labels
    if labels is not None:
        rows = [i for i, clip in enumerate(clips) if str(clip.attributes.get(labels.attribute, ""))]
        if len(rows) < len(clips):
            notes[f"{len(clips) - len(rows)} of {len(clips)} clips have no attribute {labels.attribute!r}"] = None
        metrics = label_metrics(
            features[rows],
            [str(clips[i].attributes[labels.attribute]) for i in rows],
            np.array([clips[i].split == "train" for i in rows], dtype=np.bool_),
            labels,
            seeds=probe.seeds,
            num_bootstrap=probe.num_bootstrap,
            seed=probe.seed,
        )
        missing = [k for k in labels.k if not any(m.name == f"knn_{k}_accuracy" for m in metrics)]
        if missing:
            notes[f"k-NN with k = {', '.join(map(str, missing))} is left out: there are too few clips"] = None
    return ProbedEncoder(name, modality, weights, is_random, metrics)


def _partners(run: _Run, modality: Modality) -> list[str]:
    """The encoders of the other modality that every encoder of `modality` is compared with."""
    at = 1 if modality == "vision" else 0
    names = list(dict.fromkeys(pair[at] for pair in run.probe.names_of_pairs(run.broken)))
    return names[:1] if run.probe.pairs == "anchors" else names


def _protocol(probe: ProbeRecipe) -> str:
    heads = f"LayerNorm and linear, {probe.align.loss} loss, {probe.align.optim.num_steps} updates"
    text = (
        f"R@10 is the mean of T2V and V2T R@10 on split {probe.split!r}, in percent, over {len(probe.seeds)} "
        f"trainings of the heads ({heads}) on split 'train'. CKA and mutual k-NN (k = {probe.mutual_k}) compare the "
        "mean features of clips with the features of their first captions, one clip per caption."
    )
    labels = probe.labels
    if labels is not None:
        how = (
            f"split {probe.split!r} by split 'train'"
            if labels.protocol == "held_out"
            else f"every clip by the others (linear: {labels.num_folds} folds)"
        )
        text += (
            f" Labels: attribute {labels.attribute!r}, {how}; k-NN votes exp(cosine / {labels.temperature}); linear: "
            f"logistic regression, C = {labels.inverse_l2}; NMI and cluster silhouette of k-means."
        )
    return f"{text} Intervals are 95 %; those of r resample networks with all their depths."


def _track(stage_run: StageRun, folder: Path) -> None:
    document = read_json(folder / PROBE_FILE)
    for pair in document["pairs"]:
        stage_run.log_metrics(_numbers(pair["metrics"], f"{pair['vision']}/{pair['language']}"))
    for encoder in document["encoders"]:
        stage_run.log_metrics(_numbers(encoder["metrics"], encoder["name"]))
    for path in sorted(folder.iterdir()):
        stage_run.log_file(path)


def _numbers(metrics: Sequence[dict[str, Any]], prefix: str) -> dict[str, float]:
    # MLflow takes no + in names.
    name = prefix.replace("+", "_")
    return {f"{name}/{metric['name']}": metric["value"] for metric in metrics if metric["value"] is not None}
