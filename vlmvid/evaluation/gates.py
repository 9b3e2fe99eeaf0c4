"""Gates: does an evaluation reach what was asked, and is it no worse than the champion's?

A gate is passed only by what was measured: a metric that is not in the evaluation, is undefined or has no interval
where one is asked for fails. The same evaluations and gates give the same verdicts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from vlmvid.config.base import Config
from vlmvid.config.gates import GatesConfig, RegressionGate, ThresholdGate
from vlmvid.errors import ConfigError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.gate_samples import paired_difference
from vlmvid.registry import nearest
from vlmvid.types import MetricResult

_SIDELESS = re.compile(
    r"^(?:skew|count)_.+_at_\d+|^bias_at_\d+|^pair_.+_minus_|^effect_size_(?!abs_mean)|^p_|^gender_gap|^n_total|(?:^|_)num_"
    r"|(?:^|_)yes_(?:ratio|bias|share)|/(?:chance|majority|permutation_p)(?:$|\[)"
)  # signed values of which 0 is best, counts, shares of yes, p values, and what a guesser gets
_SHOWN = 40  # known names in one message


class GateVerdict(Config):
    """What became of one gate.

    Attributes:
        metric: TASK/METRIC.
        gate: what was asked.
        passed: whether it holds.
        reason: in words, with the numbers that decided.
        value: of the candidate; None = not evaluated.
        ci_low: of the candidate's 95 % interval.
        ci_high: likewise.
        num_samples: of the candidate's value.
        champion_value: of a gate against the champion.
        difference: candidate minus champion.
        difference_low: of the difference's 95 % interval.
        difference_high: likewise.
        compared: how the interval of the difference was made.
    """

    metric: str
    gate: str
    passed: bool
    reason: str
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    num_samples: int | None = None
    champion_value: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    compared: Literal["paired", "independent"] | None = None


def check_gates(
    gates: GatesConfig,
    candidate: Sequence[TaskResult],
    champion: Sequence[TaskResult] | None,
    known_tasks: Iterable[str],
) -> list[GateVerdict]:
    """The verdicts of all gates, thresholds first.

    Args:
        gates: what is asked.
        candidate: results with samples.
        champion: likewise; None = there is no champion, so nothing can regress.
        known_tasks: names of tasks and benchmarks, whether evaluated or not.

    Raises:
        ConfigError: a gate names a task that does not exist, or a metric that its evaluated task does not have; or it
            leaves open which side of a metric is better, or contradicts the metric.
    """
    ours, theirs = _by_task(candidate), None if champion is None else _by_task(champion)
    asked: list[ThresholdGate | RegressionGate] = [*gates.thresholds, *gates.no_regression]
    for gate in asked:
        _check_name(gate.metric, [ours, theirs or {}], set(known_tasks))
        _check_direction(gate, _metric(gate.metric, ours) or _metric(gate.metric, theirs or {}))
    verdicts = [_threshold(gate, ours) for gate in gates.thresholds]
    return verdicts + [_regression(gate, ours, theirs) for gate in gates.no_regression]


def _by_task(results: Sequence[TaskResult]) -> dict[str, TaskResult]:
    return {result.file_stem: result for result in results}


def _check_name(name: str, evaluations: Sequence[Mapping[str, TaskResult]], known_tasks: set[str]) -> None:
    task, _, metric = name.partition("/")
    found = [evaluation[task] for evaluation in evaluations if task in evaluation]
    metrics = sorted({known.name for result in found for known in result.metrics})
    if found and metric not in metrics:
        raise ConfigError(
            f"gate on {name!r}: the task {task!r} has no metric {metric!r}{nearest(metric, metrics)}; it has: "
            f"{_listed(metrics)}"
        )
    stem = task.removesuffix("_battery")
    is_known = task in known_tasks or stem in known_tasks or stem.rpartition("-")[0] in known_tasks
    if not found and not is_known:
        evaluated = sorted({task for evaluation in evaluations for task in evaluation})
        known = sorted(known_tasks | set(evaluated))
        raise ConfigError(
            f"gate on {name!r}: there is no task or benchmark {task!r}{nearest(task, known)}; evaluated: "
            f"{_listed(evaluated)}; known: {_listed(known)}"
        )


def _check_direction(gate: ThresholdGate | RegressionGate, metric: MetricResult | None) -> None:
    if _SIDELESS.search(gate.metric.partition("/")[2]):
        if gate.direction is None:
            raise ConfigError(
                f"gate on {gate.metric!r}: neither more nor less of it is better by itself; say which side is to pass "
                "with 'direction: higher' or 'direction: lower', or take another metric"
            )
    elif gate.direction is not None and metric is not None:
        own = "higher" if metric.higher_is_better else "lower"
        if gate.direction != own:
            raise ConfigError(
                f"gate on {gate.metric!r}: direction={gate.direction!r}, but {own} is better of this metric; leave "
                "'direction' out"
            )


def _more_is_better(gate: ThresholdGate | RegressionGate, metric: MetricResult) -> bool:
    return metric.higher_is_better if gate.direction is None else gate.direction == "higher"


def _too_few(gate: ThresholdGate | RegressionGate, metric: MetricResult) -> str | None:
    if metric.num_samples >= gate.min_samples:
        return None
    return f"not evaluated: n = {metric.num_samples} is fewer than {gate.min_samples}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more or "nothing"


def _metric(name: str, evaluation: Mapping[str, TaskResult]) -> MetricResult | None:
    task, _, metric = name.partition("/")
    if task not in evaluation:
        return None
    return next((known for known in evaluation[task].metrics if known.name == metric), None)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _verdict(name: str, asked: str, metric: MetricResult | None, *, passed: bool, reason: str) -> GateVerdict:
    return GateVerdict(
        metric=name,
        gate=asked,
        passed=passed,
        reason=reason,
        value=None if metric is None else _finite(metric.value),
        ci_low=None if metric is None else _finite(metric.ci_low),
        ci_high=None if metric is None else _finite(metric.ci_high),
        num_samples=None if metric is None else metric.num_samples,
    )


def _threshold(gate: ThresholdGate, ours: Mapping[str, TaskResult]) -> GateVerdict:
    metric = _metric(gate.metric, ours)
    if metric is None:
        asked = f"{gate.part} against {gate.threshold:g}"
        return _verdict(gate.metric, asked, None, passed=False, reason="not evaluated")
    more = _more_is_better(gate, metric)
    sign = ">=" if more else "<="
    part = gate.part
    if part == "worse_end":
        part = "ci_low" if more else "ci_high"
    asked = f"{part} {sign} {gate.threshold:g}"
    held = _finite({"value": metric.value, "ci_low": metric.ci_low, "ci_high": metric.ci_high}[part])
    if held is None:
        undefined = "its value is undefined" if _finite(metric.value) is None else f"it has no {part}"
        reason = f"not evaluated: {undefined} with n = {metric.num_samples}"
        return _verdict(gate.metric, asked, metric, passed=False, reason=reason)
    few = _too_few(gate, metric)
    if few is not None:
        return _verdict(gate.metric, asked, metric, passed=False, reason=few)
    passed = held >= gate.threshold if more else held <= gate.threshold
    reason = f"{part} is {held:.4g}, asked {sign} {gate.threshold:g}"
    return _verdict(gate.metric, asked, metric, passed=passed, reason=reason)


def _regression(
    gate: RegressionGate, ours: Mapping[str, TaskResult], theirs: Mapping[str, TaskResult] | None
) -> GateVerdict:
    asked = f"at most {gate.max_loss:g} worse than the champion"
    metric = _metric(gate.metric, ours)
    if metric is None or _finite(metric.value) is None:
        return _verdict(gate.metric, asked, metric, passed=False, reason="not evaluated")
    few = _too_few(gate, metric)
    if few is not None:
        return _verdict(gate.metric, asked, metric, passed=False, reason=few)
    if theirs is None:
        return _verdict(gate.metric, asked, metric, passed=True, reason="there is no champion yet")
    other = _metric(gate.metric, theirs)
    if other is None or _finite(other.value) is None:
        reason = "not evaluated for the champion; evaluate and register it anew with this task"
        return _verdict(gate.metric, asked, metric, passed=False, reason=reason)
    few = _too_few(gate, other)
    if few is not None:
        return _verdict(gate.metric, asked, metric, passed=False, reason=f"the champion's is {few}")
    task = gate.metric.partition("/")[0]
    paired = paired_difference((ours[task], metric), (theirs[task], other))
    interval = paired or independent_difference(metric, other)
    if interval is None:
        reason = "not evaluated: there is no interval of the difference, because one of the values has none"
        return _verdict(gate.metric, asked, metric, passed=False, reason=reason)
    low, high = interval
    lost = -low if _more_is_better(gate, metric) else high
    how = "paired by sample" if paired else "taken for independent: no mean over samples that both evaluations have"
    reason = f"{metric.value:.4g} after {other.value:.4g}: up to {max(0.0, lost):.4g} worse, {how}"
    found = _verdict(gate.metric, asked, metric, passed=lost <= gate.max_loss, reason=reason)
    return found.model_copy(
        update={
            "champion_value": other.value,
            "difference": metric.value - other.value,
            "difference_low": low,
            "difference_high": high,
            "compared": "paired" if paired else "independent",
        }
    )


def independent_difference(first: MetricResult, second: MetricResult) -> tuple[float, float] | None:
    """The interval of first minus second from both intervals (Newcombe's way, which holds for other values too)."""
    ends = [_finite(end) for end in (first.ci_low, first.ci_high, second.ci_low, second.ci_high)]
    if any(end is None for end in ends):
        return None
    low_1, high_1, low_2, high_2 = (float(end) for end in ends if end is not None)
    difference = first.value - second.value
    low = difference - math.hypot(first.value - low_1, high_2 - second.value)
    return low, difference + math.hypot(high_1 - first.value, second.value - low_2)
