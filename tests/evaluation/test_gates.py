"""Gates on evaluations made by hand: each verdict is known beforehand."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.registry_fixtures import answered, lone, shares
from vlmvid.config.gates import GatesConfig, load_gates
from vlmvid.config.schema import RegisterConfig
from vlmvid.errors import ConfigError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.gates import GateVerdict, check_gates
from vlmvid.metrics import mean_result
from vlmvid.types import MetricResult

KNOWN = ("vqa", "retrieval", "hallucination", "bias")
ROOT = Path(__file__).resolve().parents[2]


def gates(*, thresholds: Any = (), no_regression: Any = ()) -> GatesConfig:
    return GatesConfig.model_validate(
        {"kind": "dual_encoder", "thresholds": thresholds, "no_regression": no_regression}
    )


def threshold(value: float, part: str = "worse_end", metric: str = "vqa/mcq_accuracy") -> dict[str, Any]:
    return {"metric": metric, "threshold": value, "part": part}


def one(found: list[GateVerdict]) -> GateVerdict:
    (verdict,) = found
    return verdict


def lost(candidate: TaskResult, champion: TaskResult, max_loss: float, metric: str = "vqa/mcq_accuracy") -> GateVerdict:
    asked = gates(no_regression=[{"metric": metric, "max_loss": max_loss}])
    return one(check_gates(asked, [candidate], [champion], KNOWN))


def test_a_threshold_is_held_by_the_part_that_is_asked_for() -> None:
    result = shares(150)  # 0.75, Wilson 0.686 to 0.805
    expected = {("worse_end", 0.68): True, ("worse_end", 0.70): False, ("value", 0.75): True, ("value", 0.76): False}
    expected |= {("ci_high", 0.80): True, ("ci_high", 0.81): False, ("ci_low", 0.69): False}
    for (part, value), passed in expected.items():
        verdict = one(check_gates(gates(thresholds=[threshold(value, part)]), [result], None, KNOWN))
        assert verdict.passed is passed, (part, value)
    assert verdict.reason == "ci_low is 0.6857, asked >= 0.69" and verdict.num_samples == 200


def test_of_a_metric_where_less_is_better_the_upper_end_counts() -> None:
    metric = MetricResult(
        name="false_yes_rate", value=0.1, num_samples=50, ci_low=0.05, ci_high=0.2, higher_is_better=False
    )
    for value, passed in ((0.2, True), (0.15, False)):
        asked = gates(thresholds=[threshold(value, metric="hallucination/false_yes_rate")])
        verdict = one(check_gates(asked, [lone("hallucination", metric)], None, KNOWN))
        assert (verdict.passed, verdict.gate) == (passed, f"ci_high <= {value:g}")


def test_what_was_not_evaluated_fails() -> None:
    asked = gates(
        thresholds=[threshold(0.1, metric="bias/ndkl")], no_regression=[{"metric": "bias/ndkl", "max_loss": 1}]
    )
    for verdict in check_gates(asked, [shares(150)], [shares(150)], KNOWN):
        assert (verdict.passed, verdict.value) == (False, None) and "not evaluated" in verdict.reason
    undefined = MetricResult(name="ndkl", value=float("nan"), num_samples=0)
    bare = MetricResult(name="ndkl", value=0.05, num_samples=30, higher_is_better=False)
    for metric, words in ((undefined, "its value is undefined"), (bare, "it has no ci_high")):
        verdict = check_gates(asked, [lone("bias", metric)], None, KNOWN)[0]
        assert not verdict.passed and words in verdict.reason
    # Of the champion: its evaluation lacks the task, or the metric has no interval.
    known = MetricResult(name="ndkl", value=0.05, num_samples=30, ci_low=0.04, ci_high=0.06, higher_is_better=False)
    for champion, words in (([shares(150)], "for the champion"), ([lone("bias", bare)], "no interval")):
        verdict = check_gates(asked, [lone("bias", known)], champion, KNOWN)[1]
        assert not verdict.passed and words in verdict.reason


def test_an_unknown_metric_or_task_is_an_error_that_names_the_known_ones() -> None:
    for name, words in (
        ("vqa/mcq_acuracy", r"no metric 'mcq_acuracy' \(did you mean 'mcq_accuracy'\?\); it has: mcq_accuracy"),
        ("vqaa/mcq_accuracy", r"no task or benchmark 'vqaa' \(did you mean 'vqa'\?\); evaluated: vqa; known: bias, "),
    ):
        for asked in (
            gates(thresholds=[threshold(0.1, metric=name)]),
            gates(no_regression=[{"metric": name, "max_loss": 0.1}]),
        ):
            with pytest.raises(ConfigError, match=words):
                check_gates(asked, [shares(150)], None, KNOWN)
    # The results of a benchmark under a reference scorer, and of the frame probe battery, are known by its name.
    for name in ("retrieval-official/r", "vqa_battery/gain"):
        verdict = one(check_gates(gates(thresholds=[threshold(0.1, metric=name)]), [shares(150)], None, KNOWN))
        assert verdict.reason == "not evaluated"


def test_a_regression_is_decided_on_the_paired_difference() -> None:
    champion = [index < 160 for index in range(200)]
    # Six questions lost of 200, none won: -0.03 with a narrow interval, because the same questions are compared.
    candidate = [index < 154 for index in range(200)]
    verdict = lost(answered(candidate), answered(champion), 0.06)
    assert verdict.passed and verdict.compared == "paired"
    assert verdict.difference == pytest.approx(-0.03) and verdict.champion_value == pytest.approx(0.8)
    low, high = verdict.difference_low, verdict.difference_high
    assert low is not None and high is not None and -0.06 < low < -0.03 < high < 0
    assert not lost(answered(candidate), answered(champion), 0.04).passed
    # In another order they are the same questions.
    order = np.random.default_rng(0).permutation(200)
    mixed = answered(np.array(candidate)[order], [f"q{index}" for index in order])
    again = lost(mixed, answered(champion), 0.06)
    assert again.compared == "paired" and again.difference == pytest.approx(-0.03)
    # The same answers leave nothing to doubt.
    same = lost(answered(champion), answered(champion), 0.0)
    assert same.passed and (same.difference_low, same.difference_high) == (0.0, 0.0)


def test_other_samples_are_compared_as_independent_values() -> None:
    champion, other = shares(160), answered([index < 154 for index in range(200)], [f"r{n}" for n in range(200)])
    verdict = lost(other, champion, 0.06)
    assert verdict.compared == "independent" and not verdict.passed and "independent" in verdict.reason
    ours, theirs = other.metrics[0], champion.metrics[0]
    assert ours.ci_low is not None and theirs.ci_high is not None
    spread = np.hypot(ours.value - ours.ci_low, theirs.ci_high - theirs.value)
    assert verdict.difference_low == pytest.approx(-0.03 - spread)
    assert lost(other, champion, 0.12).passed


def test_parts_of_a_log_and_ranks_are_paired_too() -> None:
    """R@5 of one direction, and a rate over absent objects: neither is the mean of the whole log."""
    rng = np.random.default_rng(1)

    def retrieval(ranks: Any) -> TaskResult:
        rows = [
            {"video_id": f"v{n}", "item_id": f"v{n}", "direction": "t2v", "rank": float(r)} for n, r in enumerate(ranks)
        ]
        rows += [{**row, "direction": "v2t", "rank": 1.0} for row in rows]
        metric = mean_result("t2v_r_at_5", np.array(ranks) <= 5, seed=0, num_bootstrap=100)
        return TaskResult("retrieval", "", (metric,), [dict(row) for row in rows])

    ranks = rng.integers(1, 12, 80)
    worse = np.where(np.arange(80) < 8, 9, ranks)
    verdict = lost(retrieval(worse), retrieval(ranks), 0.2, "retrieval/t2v_r_at_5")
    assert verdict.compared == "paired" and verdict.difference is not None and verdict.difference <= 0
    # Ranks of 1 alone: the median is 1 and so is R@5, but a median is the mean of nothing.
    ranked, median = retrieval(np.ones(80)), MetricResult(name="v2t_median_rank", value=1.0, num_samples=80)
    median = replace(median, ci_low=1.0, ci_high=2.0, higher_is_better=False)
    ranked = replace(
        ranked, metrics=(median,), samples=[{**row, "rank": 1.0 + n % 3} for n, row in enumerate(ranked.samples)]
    )
    assert lost(ranked, ranked, 2.0, "retrieval/v2t_median_rank").compared == "independent"

    def probes(yes: Any) -> TaskResult:
        rows: list[dict[str, Any]] = [
            {"video_id": f"v{n}", "question_id": f"q{n}", "label_yes": n % 2 == 0, "predicted_yes": bool(said)}
            for n, said in enumerate(yes)
        ]
        metric = mean_result("false_yes_rate", np.array(yes)[1::2], seed=0, num_bootstrap=100, higher_is_better=False)
        return TaskResult("hallucination", "", (metric,), rows)

    said = rng.random(120) < 0.3
    more = said.copy()
    more[[1, 3, 5]] = True
    verdict = lost(probes(more), probes(said), 0.2, "hallucination/false_yes_rate")
    assert verdict.compared == "paired" and verdict.passed and (verdict.difference or 0) > 0
    assert not lost(probes(more), probes(said), 0.0, "hallucination/false_yes_rate").passed


def test_repeated_samples_are_not_paired() -> None:
    result = shares(150)
    twice = replace(result, samples=[{**row, "question_id": "same", "video_id": "v"} for row in result.samples])
    assert lost(twice, twice, 0.5).compared == "independent"


@pytest.mark.parametrize(
    "name",
    ["skew_warm_at_40", "count_warm_at_40", "bias_at_5", "pair_a_minus_b_r", "effect_size_c", "gender_gap", "yes_ratio"]
    + [
        "random_yes_ratio",
        "yes_bias[x=1]",
        "false_yes_share",
        "ndkl/chance",
        "ndkl/permutation_p",
        "t2v_num_tied",
        "r/majority",
    ],
)
def test_a_metric_without_a_better_side_needs_a_direction(name: str) -> None:
    metric = MetricResult(name=name, value=0.1, num_samples=40, ci_low=0.0, ci_high=0.2)
    change: dict[str, Any] = {"metric": f"bias/{name}", "max_loss": 1}
    for asked in (gates(thresholds=[threshold(0.3, metric=f"bias/{name}")]), gates(no_regression=[change])):
        for results in ([lone("bias", metric)], [shares(150)]):  # evaluated or not
            with pytest.raises(ConfigError, match="neither more nor less of it is better.*'direction: higher'"):
                check_gates(asked, results, None, KNOWN)
    both = [
        {**threshold(end, metric=f"bias/{name}"), "direction": way} for end, way in ((0.3, "lower"), (0.05, "higher"))
    ]
    below, above = check_gates(gates(thresholds=both), [lone("bias", metric)], None, KNOWN)
    assert (below.gate, below.passed, above.gate, above.passed) == ("ci_high <= 0.3", True, "ci_low >= 0.05", False)
    moved = replace(metric, value=0.3, ci_low=0.2, ci_high=0.4)
    for way, passed in (("higher", True), ("lower", False)):
        asked = gates(no_regression=[{**change, "max_loss": 0.1, "direction": way}])
        assert one(check_gates(asked, [lone("bias", moved)], [lone("bias", metric)], KNOWN)).passed is passed


def test_a_direction_does_not_contradict_the_metric() -> None:
    for name in ("max_skew_at_40", "min_skew_at_40", "abs_bias_at_5", "effect_size_abs_mean", "false_yes_rate"):
        metric = MetricResult(name=name, value=0.1, num_samples=40, ci_low=0.0, ci_high=0.2, higher_is_better=False)
        assert check_gates(gates(thresholds=[threshold(1, metric=f"bias/{name}")]), [lone("bias", metric)], None, KNOWN)
    asked = gates(thresholds=[{**threshold(0.1), "direction": "lower"}])
    with pytest.raises(ConfigError, match="direction='lower', but higher is better"):
        check_gates(asked, [shares(150)], None, KNOWN)


def test_a_value_from_few_samples_is_none() -> None:
    few, many = shares(5, 5), shares(150)
    words = "not evaluated: n = 5 is fewer than 30"
    verdict = one(check_gates(gates(thresholds=[threshold(0.1)]), [few], None, KNOWN))
    assert (verdict.passed, verdict.reason, verdict.num_samples) == (False, words, 5)
    change: dict[str, Any] = {"metric": "vqa/mcq_accuracy", "max_loss": 1}
    for ours, theirs, reason in ((few, None, words), (few, [many], words), (many, [few], f"the champion's is {words}")):
        verdict = one(check_gates(gates(no_regression=[change]), [ours], theirs, KNOWN))
        assert (verdict.passed, verdict.reason) == (False, reason)
    lenient = gates(thresholds=[{**threshold(0.1), "min_samples": 5}], no_regression=[{**change, "min_samples": 5}])
    assert all(verdict.passed for verdict in check_gates(lenient, [few], [few], KNOWN))


def test_the_gates_of_the_quickstart_pass_with_its_numbers_of_samples() -> None:
    """Values, intervals and n as the README shows them."""
    shown: dict[str, tuple[float, float, float, int, bool]] = {}
    for line in (ROOT / "README.md").read_text().splitlines():
        found = re.match(r"  (\w+) +([\d.]+)( %)? +([\d.]+)\.\.([\d.]+) +(\d+)", line)
        if found:
            value, low, high = (float(found[part]) / (100 if found[3] else 1) for part in (2, 4, 5))
            less = re.search("false_yes|ndkl|gap", found[1]) is not None
            shown.setdefault(found[1], (value, low, high, int(found[6]), not less))
    asked = load_gates(ROOT / "configs" / "gates" / "default.yaml")
    results: dict[str, list[MetricResult]] = {}
    for asked_of in [gate.metric for gate in asked.thresholds] + [gate.metric for gate in asked.no_regression]:
        task, _, name = asked_of.partition("/")
        value, low, high, num, more = shown[name]
        metric = MetricResult(name=name, value=value, num_samples=num, ci_low=low, ci_high=high, higher_is_better=more)
        results.setdefault(task, []).append(metric)
    evaluation = [TaskResult(task, "", tuple(dict.fromkeys(metrics))) for task, metrics in results.items()]
    verdicts = check_gates(asked, evaluation, None, KNOWN)
    assert [verdict.reason for verdict in verdicts if not verdict.passed] == []


def test_files_of_gates(tmp_path: Path) -> None:
    quality = load_gates(ROOT / "configs" / "gates" / "default.yaml")
    assert quality.kind == "dual_encoder"
    tasks = {gate.metric.partition("/")[0] for gate in quality.thresholds}
    assert {"retrieval", "vqa", "hallucination", "bias"} <= tasks
    speaking = load_gates(ROOT / "configs" / "gates" / "vlm.yaml")
    assert speaking.kind == "vlm" and speaking.are_for("vlm") and not speaking.are_for("dual_encoder")
    assert speaking.are_for("dual_encoder_and_vlm") and quality.are_for("dual_encoder_and_vlm")
    both = quality.model_copy(update={"kind": "dual_encoder_and_vlm"})
    assert both.are_for("dual_encoder_and_vlm") and not both.are_for("vlm")
    for text, words in (
        ("kind: vlm", "there is no gate"),
        ("kind: cat\nthresholds: [{metric: a/b, threshold: 1}]", "kind"),
        ("kind: vlm\nthresholds: [{metric: accuracy, threshold: 1}]", "thresholds.0.metric"),
        ("kind: vlm\nthresholds: [{metric: a/b, threshold: .nan}]", "must be a finite number"),
        ("kind: vlm\nthresholds: [{metric: a/b, treshold: 1}]", "did you mean 'threshold'"),
        ("kind: vlm\nno_regression: [{metric: a/b, max_loss: -1}]", "max_loss"),
        ("kind: vlm\nno_regression: [{metric: a/b, max_loss: 1}, {metric: a/b, max_loss: 2}]", "two gates of one kind"),
    ):
        (tmp_path / "g.yaml").write_text(text)
        with pytest.raises(ConfigError, match=words):
            load_gates(tmp_path / "g.yaml")


@pytest.mark.parametrize("alias", ["champion", "previous", "latest", "3"])
def test_a_recipe_cannot_go_round_the_gates(alias: str) -> None:
    assert RegisterConfig(model_name="m").alias == "candidate"
    with pytest.raises(ValueError, match="not a recipe's to give"):
        RegisterConfig(model_name="m", alias=alias)
