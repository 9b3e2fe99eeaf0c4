"""Files of references and predictions to a result: what ``vlmvid score`` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vlmvid.errors import ConfigError, EvaluationError
from vlmvid.evaluation.base import Sample, TaskResult
from vlmvid.evaluation.benchmarks import Benchmark, get_benchmark
from vlmvid.evaluation.scoring.base import Item, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions, read_predictions
from vlmvid.metrics import paired_comparison
from vlmvid.types import MetricResult

NUM_BOOTSTRAP = 1000


@dataclass(frozen=True)
class ScoreFiles:
    """The files of one score.

    Attributes:
        predictions: what the model answered.
        references: the benchmark's annotation file, or the folder that holds it.
        blind: answers of the same model without the video: a baseline.
        against: answers of another model, compared sample by sample.
        probes: answers under other conditions of the frames, by condition; see `vlmvid.evaluation.battery`.
    """

    predictions: Path
    references: Path
    blind: Path | None = None
    against: Path | None = None
    probes: Mapping[str, Path] = field(default_factory=dict)


def score_files(name: str, files: ScoreFiles, settings: ScoreSettings) -> TaskResult:
    """The score of the benchmark `name`.

    Raises:
        ConfigError: an unknown benchmark, compat mode or option.
        MissingDataError: an annotation file is not there; the message says where its authors publish it.
        DatasetError: an annotation file is not in its authors' format.
        EvaluationError: predictions that cannot be read or joined.
    """
    benchmark = get_benchmark(name)
    benchmark.check(settings)
    items = benchmark.read(files.references, settings.options)
    if files.blind is not None:
        settings = replace(settings, blind=read_for(benchmark, files.blind, items))
    scorer = benchmark.scorer(settings)
    result = scorer(items, read_for(benchmark, files.predictions, items), settings)
    if files.against is not None:
        other = scorer(items, read_for(benchmark, files.against, items), settings)
        result = compared(result, other, settings, files.against)
    if files.probes:
        result = _with_battery(result, benchmark, items, files, settings)
    return result


def read_for(benchmark: Benchmark, path: Path, items: Sequence[Item]) -> Predictions:
    """The predictions in `path`, in the benchmark's own format if it has one."""
    if benchmark.read_predictions is not None:
        return benchmark.read_predictions(path, items)
    if benchmark.prediction_keys is not None:
        return read_predictions(path, *benchmark.prediction_keys)
    return read_predictions(path)


def compared(first: TaskResult, second: TaskResult, settings: ScoreSettings, source: Path) -> TaskResult:
    """`first` with the paired comparison of its main metric with that of `second`.

    ``NAME/difference`` (first minus second, bootstrap over clusters), ``NAME/permutation_p`` and, where every sample is
    right or wrong, ``NAME/mcnemar_p``. Only samples that both results scored count.
    """
    pairs = joined(first.samples, second.samples)
    if not pairs:
        raise EvaluationError(f"{source} shares no scored sample with the predictions; are they of one benchmark?")
    found = paired_comparison(
        [float(a["score"] or 0) for a, _ in pairs],
        [float(b["score"] or 0) for _, b in pairs],
        clusters=[str(a["video_id"]) for a, _ in pairs],
        seed=settings.seed,
        num_bootstrap=settings.num_bootstrap,
    )
    main = first.metrics[0]
    values = {"permutation_p": found.permutation_p, "mcnemar_p": found.mcnemar_p}
    metrics = [
        MetricResult(
            name=f"{main.name}/difference",
            value=found.difference,
            num_samples=found.num_samples,
            ci_low=found.ci_low,
            ci_high=found.ci_high,
            higher_is_better=main.higher_is_better,
        ),
        *(
            MetricResult(name=f"{main.name}/{name}", value=value, num_samples=found.num_samples, higher_is_better=False)
            for name, value in values.items()
            if value is not None
        ),
    ]
    words = f"difference = this minus {source}, {found.only_first} samples better and {found.only_second} worse"
    return replace(first, metrics=(*first.metrics, *metrics), protocol=f"{first.protocol}; {words}")


def joined(first: Sequence[Sample], second: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """The samples of the main metric that both results hold, joined by id (and direction, where there are two)."""

    def keyed(samples: Sequence[Sample]) -> dict[tuple[object, object], Sample]:
        main = samples[0].get("direction") if samples else None
        return {(row["item_id"], main): row for row in samples if row.get("direction") == main}

    others = keyed(second)
    return [(row, others[key]) for key, row in keyed(first).items() if key in others]


def parse_options(texts: Sequence[str]) -> dict[str, str]:
    """``name=value`` texts as a mapping; raises ConfigError for another form or a name given twice."""
    found: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise ConfigError(f"{text!r} must look like name=value")
        if name in found:
            raise ConfigError(f"{name!r} is given twice; keep one")
        found[name] = value
    return found


def _with_battery(
    result: TaskResult, benchmark: Benchmark, items: Sequence[Item], files: ScoreFiles, settings: ScoreSettings
) -> TaskResult:
    from vlmvid.evaluation.battery import battery, condition_of

    scorer = benchmark.scorer(settings)
    by_condition: dict[str, list[TaskResult]] = {"all": [result]}
    for name, path in files.probes.items():
        found = scorer(items, read_for(benchmark, path, items), settings)
        by_condition.setdefault(condition_of(name), []).append(found)
    probed = battery(by_condition, seed=settings.seed, num_bootstrap=settings.num_bootstrap)
    return replace(
        result,
        metrics=(*result.metrics, *probed.metrics),
        protocol=f"{result.protocol}; {probed.protocol}",
        samples=[*result.samples],
    )
