"""What every benchmark must do, on a small file of its own: one row per benchmark in tests/evaluation/examples."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.examples import all_examples
from tests.evaluation.examples.base import Example
from vlmvid.errors import ConfigError, EvaluationError, MissingDataError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks import BENCHMARKS, get_benchmark
from vlmvid.evaluation.scoring.base import Item, ScoreSettings
from vlmvid.evaluation.scoring.files import compared
from vlmvid.evaluation.scoring.predictions import Predictions

EXAMPLES = all_examples()
BY_ID = [name for name, example in EXAMPLES.items() if example.joins_by_id]
FAST = {"num_bootstrap": 100}


def items_of(example: Example, folder: Path) -> list[Item]:
    return get_benchmark(example.name).read(example.write(folder), example.options)


def run(example: Example, items: list[Item], values: dict[str, Any], **settings: Any) -> TaskResult:
    benchmark = get_benchmark(example.name)
    chosen = ScoreSettings(options=example.options, **{**FAST, **settings})
    return benchmark.scorer(chosen)(items, Predictions(values), chosen)


def numbers(result: TaskResult) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


def test_every_benchmark_has_a_row() -> None:
    assert set(EXAMPLES) == set(BENCHMARKS)


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_says_what_it_is(name: str) -> None:
    benchmark = get_benchmark(name)
    assert benchmark.name == name
    assert benchmark.title and benchmark.source and benchmark.files
    for file in benchmark.files:
        assert file.columns and file.publisher


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_perfect_model_scores_the_maximum(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    result = run(example, items_of(example, tmp_path), example.perfect)
    assert result.task == name and result.compat is None and result.printed is None
    main = result.metrics[0]
    assert main.value == pytest.approx(example.perfect_value)
    assert len({metric.name for metric in result.metrics}) == len(result.metrics)
    for metric in result.metrics:
        assert metric.ci_low is None or metric.ci_low <= metric.value + 1e-9, metric
        assert metric.ci_high is None or metric.ci_high >= metric.value - 1e-9, metric
    json.dumps(result.to_json(), allow_nan=False)


@pytest.mark.parametrize("name", [name for name in sorted(EXAMPLES) if EXAMPLES[name].constant is not None])
def test_a_constant_model_scores_what_the_labels_say(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    assert example.constant is not None and example.expected_constant is not None
    result = run(example, items_of(example, tmp_path), example.constant)
    assert result.metrics[0].value == pytest.approx(example.expected_constant)


@pytest.mark.parametrize("name", BY_ID)
def test_the_order_of_samples_changes_nothing(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    items = items_of(example, tmp_path)
    values = example.constant or example.perfect
    mixed = list(items)
    random.Random(7).shuffle(mixed)
    shuffled = dict(random.Random(8).sample(sorted(values.items()), len(values)))
    before, after = numbers(run(example, items, values)), numbers(run(example, mixed, shuffled))
    assert before.keys() == after.keys()
    for metric, value in before.items():
        assert after[metric] == pytest.approx(value, nan_ok=True), metric


@pytest.mark.parametrize("name", BY_ID)
def test_a_missing_prediction_is_wrong_and_listed(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    items = items_of(example, tmp_path)
    gone = items[0].item_id
    fewer = {key: value for key, value in example.perfect.items() if key != gone}
    whole, result = run(example, items, example.perfect), run(example, items, fewer)
    assert gone in result.protocol
    row = next(row for row in result.samples if row["item_id"] == gone)
    assert row["status"] == "missing"
    main, best = result.metrics[0], whole.metrics[0]
    assert main.value < best.value if best.higher_is_better else main.value > best.value
    assert main.num_samples == best.num_samples
    skipped = run(example, items, fewer, missing="skip")
    assert all(metric.name.endswith("[missing=skip]") for metric in skipped.metrics)
    assert skipped.metrics[0].num_samples < best.num_samples


@pytest.mark.parametrize("name", BY_ID)
def test_no_prediction_at_all_is_refused_or_zero(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    items = items_of(example, tmp_path)
    with pytest.raises(EvaluationError):
        run(example, items, {"unknown": next(iter(example.perfect.values()))}, missing="skip")


@pytest.mark.parametrize("name", BY_ID)
def test_predictions_for_unknown_ids_are_named(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    items = items_of(example, tmp_path)
    value = next(iter(example.perfect.values()))
    result = run(example, items, {**example.perfect, "nobody asked": value})
    assert "nobody asked" in result.protocol
    assert result.metrics[0].value == pytest.approx(example.perfect_value)


@pytest.mark.parametrize("name", [name for name in BY_ID if EXAMPLES[name].unparsable is not None])
def test_an_unparsable_answer_is_wrong_and_counted(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    items = items_of(example, tmp_path)
    values = {**example.perfect, items[0].item_id: example.unparsable}
    result = run(example, items, values)
    row = next(row for row in result.samples if row["item_id"] == items[0].item_id)
    assert row["status"] == "unparsed"
    assert numbers(result)["n_parsed"] == numbers(result)["n_total"] - 1
    assert "1 unparsed" in result.protocol


@pytest.mark.parametrize(
    ("name", "compat"), [(name, compat) for name in sorted(EXAMPLES) for compat in EXAMPLES[name].compat_values]
)
def test_compat_gives_the_reference_numbers(name: str, compat: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    values, expected = example.compat_values[compat]
    result = run(example, items_of(example, tmp_path), values, compat=compat)
    assert result.compat == compat and result.printed
    found = numbers(result)
    for metric, value in expected.items():
        assert found[metric] == pytest.approx(value, abs=1e-6), metric


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_every_compat_has_a_vector(name: str) -> None:
    assert set(get_benchmark(name).compat) == set(EXAMPLES[name].compat_values)


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_unknown_compat_and_options_are_refused(name: str) -> None:
    benchmark = get_benchmark(name)
    with pytest.raises(ConfigError, match="no compat 'nobody'"):
        benchmark.check(ScoreSettings(compat="nobody"))
    with pytest.raises(ConfigError, match="no option 'colour'"):
        benchmark.check(ScoreSettings(options={"colour": "red"}))


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_a_missing_file_says_where_it_is_published(name: str, tmp_path: Path) -> None:
    benchmark = get_benchmark(name)
    with pytest.raises(MissingDataError) as caught:
        benchmark.read(tmp_path, EXAMPLES[name].options)
    message = str(caught.value)
    assert any(file.publisher in message and file.columns[0] in message for file in benchmark.files)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_score_is_the_same_twice_and_logs_every_sample(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    items = items_of(example, tmp_path)
    first, second = (run(example, items, example.perfect) for _ in range(2))
    assert first.to_json() == second.to_json()
    assert all({"item_id", "video_id", "status", "score"} <= row.keys() for row in first.samples)
    assert len(first.samples) >= len(items)
    assert all(not isinstance(v, float) or math.isfinite(v) for row in first.samples for v in row.values())


@pytest.mark.parametrize("name", [name for name in sorted(EXAMPLES) if EXAMPLES[name].constant is not None])
def test_a_comparison_is_of_the_main_metric(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    assert example.constant is not None
    items = items_of(example, tmp_path)
    best, worst = run(example, items, example.perfect), run(example, items, example.constant)
    found = compared(best, worst, ScoreSettings(**FAST), tmp_path)
    base, bracket, label = best.metrics[0].name.partition("[")
    expected = best.metrics[0].value - worst.metrics[0].value
    assert found.metric(f"{base}/difference{bracket}{label}").value == pytest.approx(expected)
    assert found.metric(f"{base}/against{bracket}{label}").value == worst.metrics[0].value


def test_scoring_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from vlmvid.evaluation.benchmarks import BENCHMARKS, get_benchmark\n"
        "for name in BENCHMARKS: get_benchmark(name)\n"
        "print([m for m in ('torch', 'mlflow', 'prefect', 'av', 'transformers', 'pyarrow', 'scipy', 'nltk') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
