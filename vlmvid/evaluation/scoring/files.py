"""Files of references and predictions to a result: what ``vlmvid score`` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vlmvid.errors import ConfigError, EvaluationError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.battery import battery, condition_of, sample_reader, sample_table
from vlmvid.evaluation.benchmarks import Benchmark, get_benchmark
from vlmvid.evaluation.scoring.base import Item, Scorer, ScoreSettings
from vlmvid.evaluation.scoring.predictions import ID_KEYS, VALUE_KEYS, Predictions, read_predictions
from vlmvid.metrics import paired_comparison
from vlmvid.types import MetricResult

_JOINED = ("choice", "open", "yes_no", "caption", "classification", "segmentation")  # kinds whose answers have ids
_SHOWN = 3


@dataclass(frozen=True)
class ScoreFiles:
    """The files of one score.

    Attributes:
        predictions: what the model answered.
        references: the benchmark's annotation file, or the folder that holds it.
        blind: answers of the same model without the video: a baseline.
        against: answers of another model, compared sample by sample.
        probes: answers under other conditions of the frames, by condition; see `vlmvid.evaluation.battery`.
        id_key: name of the id in lists of objects; empty = those that the benchmark, or everybody, uses.
        value_key: name of the answer, likewise.
    """

    predictions: Path
    references: Path
    blind: Path | None = None
    against: Path | None = None
    probes: Mapping[str, Path] = field(default_factory=dict)
    id_key: str = ""
    value_key: str = ""


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
    scorer = benchmark.scorer(settings)
    predictions = read_for(benchmark, files.predictions, items, files)
    if files.blind is None:
        result = scorer(items, predictions, settings)
    else:
        blind = read_for(benchmark, files.blind, items, files)
        result = _with_blind(scorer(items, predictions, replace(settings, blind=blind)), scorer, items, blind, settings)
    if files.against is not None:
        other = scorer(items, read_for(benchmark, files.against, items, files), settings)
        result = compared(result, other, settings, files.against)
    if files.probes:
        result = _with_battery(result, benchmark, items, files, settings)
    return result


def read_for(benchmark: Benchmark, path: Path, items: Sequence[Item], files: ScoreFiles) -> Predictions:
    """The predictions in `path`: by the keys that `files` names, else in the benchmark's own format if it has one.

    Raises EvaluationError when they answer none of the items: they are of another benchmark, or their ids are others.
    """
    id_keys, value_keys = benchmark.prediction_keys or (ID_KEYS, VALUE_KEYS)
    if files.id_key or files.value_key:
        id_keys = (files.id_key,) if files.id_key else id_keys
        value_keys = (files.value_key,) if files.value_key else value_keys
        found = read_predictions(path, id_keys, value_keys)
    elif benchmark.read_predictions is not None:
        found = benchmark.read_predictions(path, items)
    else:
        found = read_predictions(path, id_keys, value_keys)
    if benchmark.kind in _JOINED and found.values and not any(item.item_id in found.values for item in items):
        theirs, ours = list(found.values)[:_SHOWN], [item.item_id for item in items[:_SHOWN]]
        raise EvaluationError(
            f"{path} answers none of the {len(items)} items of {benchmark.name}: it has the ids {', '.join(theirs)}, "
            f"expected {', '.join(ours)}; take the ids of the references, or name their key with --id-key"
        )
    return found


def _with_blind(
    result: TaskResult, scorer: Scorer, items: Sequence[Item], blind: Predictions, settings: ScoreSettings
) -> TaskResult:
    """`result` with the main metric of the blind predictions, where its scorer did not put it there."""
    if any("/blind" in metric.name for metric in result.metrics):
        return result
    main = scorer(items, blind, settings).metrics[0]
    name, bracket, label = main.name.partition("[")
    beside = replace(main, name=f"{name}/blind{bracket}{label}")
    return replace(result, metrics=(*result.metrics, beside))


def compared(first: TaskResult, second: TaskResult, settings: ScoreSettings, source: Path) -> TaskResult:
    """`first` with the paired comparison of its main metric with that of `second`.

    ``NAME/against`` is that of `second`, ``NAME/difference`` the first minus the second. Where the metric is a mean
    over samples or units, these are paired: the difference has a bootstrap interval over clusters,
    ``NAME/permutation_p`` flips whole clusters, and ``NAME/mcnemar_p`` is there where every sample is right or wrong.
    Where missing predictions are skipped, only samples that both results scored count.
    """
    if not first.samples or not second.samples:
        raise EvaluationError(
            f"compat {first.compat} keeps no samples that could be compared; compare without --compat"
        )
    main, other = first.metrics[0], second.metrics[0]
    name, bracket, label = main.name.partition("[")
    label = bracket + label
    beside = [replace(other, name=f"{name}/against{label}")]
    reader = sample_reader([first, second])
    if reader is None:
        change = replace(main, name=f"{name}/difference{label}", value=main.value - other.value, stderr=None)
        words = f"difference = this minus {source}; the metric is no mean over samples, so there is nothing to pair"
        metrics = (*first.metrics, *beside, replace(change, ci_low=None, ci_high=None))
        return replace(first, metrics=metrics, protocol=f"{first.protocol}; {words}")
    ours, theirs = (sample_table(result, reader) for result in (first, second))
    shared = [key for key in ours if key in theirs]
    if not shared:
        raise EvaluationError(f"{source} shares no scored sample with the predictions; are they of one benchmark?")
    found = paired_comparison(
        [ours[key][1] for key in shared],
        [theirs[key][1] for key in shared],
        clusters=[ours[key][0] for key in shared],
        seed=settings.seed,
        num_bootstrap=settings.num_bootstrap,
    )
    change = MetricResult(
        name=f"{name}/difference{label}",
        value=found.difference,
        num_samples=found.num_samples,
        ci_low=found.ci_low,
        ci_high=found.ci_high,
        higher_is_better=main.higher_is_better,
    )
    tests = {"permutation_p": found.permutation_p, "mcnemar_p": found.mcnemar_p}
    beside += [change] + [
        MetricResult(name=f"{name}/{test}{label}", value=value, num_samples=found.num_samples)
        for test, value in tests.items()
        if value is not None
    ]
    better, worse = found.only_first, found.only_second
    if not main.higher_is_better:
        better, worse = worse, better
    words = f"difference = this minus {source}, {better} of {len(shared)} pairs better and {worse} worse"
    return replace(first, metrics=(*first.metrics, *beside), protocol=f"{first.protocol}; {words}")


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
    scorer = benchmark.scorer(settings)
    by_condition: dict[str, list[TaskResult]] = {"all": [result]}
    for name, path in files.probes.items():
        found = scorer(items, read_for(benchmark, path, items, files), settings)
        by_condition.setdefault(condition_of(name), []).append(found)
    probed = battery(by_condition, seed=settings.seed, num_bootstrap=settings.num_bootstrap)
    return replace(
        result,
        metrics=(*result.metrics, *probed.metrics),
        protocol=f"{result.protocol}; {probed.protocol}",
        samples=[*result.samples],
    )
