from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.evaluation.examples.bias import WEAT
from vlmvid.errors import DatasetError, EvaluationError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks.bias import weat
from vlmvid.evaluation.scoring.base import Item, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.metrics.association import association_test, associations, effect_interval, effect_size

X, Y, A, B = ([WEAT[f"{name}{number}"] for number in (1, 2)] for name in "xyab")


def test_the_vector_of_the_reference_study() -> None:
    x, y = associations(X, A, B), associations(Y, A, B)
    assert effect_size(x, y) == pytest.approx(1.728744, abs=1e-6)
    assert effect_size(x, y, ddof=0) == pytest.approx(1.996182, abs=1e-6)
    found = association_test(x, y, seed=0)
    assert (found.p_value, found.num_partitions, found.exact, found.num_ties) == (1 / 6, 6, True, 0)
    assert found.p_two_sided == pytest.approx(1 / 3)


def test_associations_equal_the_double_loop() -> None:
    rng = np.random.default_rng(1)
    w, a, b = rng.normal(size=(5, 4)), rng.normal(size=(3, 4)), rng.normal(size=(2, 4))

    def cosine(u: np.ndarray, v: np.ndarray) -> float:
        return float(u @ v / math.sqrt(u @ u) / math.sqrt(v @ v))

    wanted = [np.mean([cosine(u, v) for v in a]) - np.mean([cosine(u, v) for v in b]) for u in w]
    assert associations(3 * w, a, b) == pytest.approx(wanted)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4).flatmap(lambda n: arrays(np.int64, 2 * n, elements=st.integers(-3, 3))))
def test_the_exact_p_counts_every_partition_with_its_ties(numbers: np.ndarray) -> None:
    values = numbers / 10
    half = len(values) // 2
    if half == 0 or len(set(values.tolist())) == 1:
        return
    found = association_test(values[:half], values[half:], seed=0)
    whole = [sum(numbers[list(part)]) for part in itertools.combinations(range(2 * half), half)]
    observed, total = int(numbers[:half].sum()), int(numbers.sum())
    assert found.p_value == pytest.approx(np.mean([part >= observed for part in whole]))
    assert found.p_two_sided == pytest.approx(
        np.mean([abs(2 * part - total) >= abs(2 * observed - total) for part in whole])
    )
    assert found.num_ties == whole.count(observed) - 1


def test_many_targets_are_drawn_with_a_seed_and_the_observed_partition() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=8) + 20, rng.normal(size=8)
    first, second = (association_test(x, y, seed=5) for _ in range(2))
    assert first == second
    assert (first.exact, first.num_partitions) == (False, 10_000)
    # No drawn partition but the observed one itself is as extreme: p is a multiple of 1/10,000 and never 0.
    assert 1 / 10_000 <= first.p_value <= 5 / 10_000
    exact = association_test(x[:7], y[:7], seed=5)
    assert (exact.exact, exact.num_partitions, exact.p_value) == (True, 3432, 1 / 3432)


def test_drawn_p_agrees_with_the_exact_one() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=8) + 0.4, rng.normal(size=8)
    both, observed = np.concatenate([x, y]), x.sum()
    exact = np.mean([both[list(p)].sum() >= observed - 1e-12 for p in itertools.combinations(range(16), 8)])
    assert association_test(x, y, seed=0).p_value == pytest.approx(exact, abs=0.02)


def test_effect_interval() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=30) + 1, rng.normal(size=30)
    low, high = effect_interval(x, y, num_bootstrap=200, seed=0) or (0.0, 0.0)
    assert low < effect_size(x, y) < high < 2
    assert effect_interval([1.0], [2.0], num_bootstrap=10, seed=0) is None
    assert effect_interval([1.0, 1.0], [2.0, 2.0], num_bootstrap=10, seed=0) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: association_test([1.0], [1.0, 2.0], seed=0), "as many targets in X as in Y"),
        (lambda: association_test([1.0], [1.0], seed=0), "nothing to test"),
        (lambda: associations([[0.0, 0.0]], A, B), "row 0 of targets is all zeros"),
        (lambda: associations(X, [[1.0]], B), "dimensions"),
        (lambda: associations([[math.nan, 1.0]], A, B), "finite"),
        (lambda: effect_size([], [1.0]), "finite associations"),
    ],
)
def test_wrong_input_raises(call: object, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        call()  # type: ignore[operator]


def run(folder: Path, text: str, values: dict[str, object]) -> TaskResult:
    path = folder / "weat.json"
    path.write_text(text, encoding="utf-8")
    return weat.score(weat.read(path, {}), Predictions(values), ScoreSettings(num_bootstrap=50))


TWO_TESTS = (
    '{"Men / women": {"X": ["x1", "x2"], "Y": ["y1", "y2"], "A": ["a1", "a2"], "B": ["b1", "b2"]},'
    '"turned": {"X": ["y1", "y2"], "Y": ["x1", "x2"], "A": ["a1", "a2"], "B": ["b1", "b2"]}}'
)


def test_several_tests_and_the_sign(tmp_path: Path) -> None:
    result = run(tmp_path, TWO_TESTS, dict(WEAT))
    assert result.metrics[0].name == "effect_size_abs_mean"
    assert result.metric("effect_size_men_women").value == pytest.approx(1.728744, abs=1e-6)
    assert result.metric("effect_size_turned").value == pytest.approx(-1.728744, abs=1e-6)
    assert result.metric("p_men_women").value == pytest.approx(1 / 6)
    assert result.metric("p_turned").value == 1.0
    assert result.metric("p_two_sided_turned").value == pytest.approx(1 / 3)
    assert [row["score"] for row in result.samples[:2]] == pytest.approx([1.728744] * 2, abs=1e-6)


ONE_TEST = '{"turned": {"X": ["y1", "y2"], "Y": ["x1", "x2"], "A": ["a1", "a2"], "B": ["b1", "b2"]}}'


def test_one_test_leads_with_its_sign(tmp_path: Path) -> None:
    result = run(tmp_path, ONE_TEST, dict(WEAT))
    assert [metric.name for metric in result.metrics[:2]] == ["effect_size_turned", "p_turned"]
    assert result.metrics[0].value == result.samples[0]["score"] == pytest.approx(-1.728744, abs=1e-6)
    assert "effect_size_abs_mean" not in {metric.name for metric in result.metrics}


@pytest.mark.parametrize("wrong", ["no vector", {"a": 1}, [10**400, 1], [None, 1.0], [math.inf, 1.0], 1.0])
def test_what_is_no_embedding_is_named(wrong: object, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="y1: an embedding is|shapes"):
        run(tmp_path, ONE_TEST, {**WEAT, "y1": wrong})


def test_a_test_cannot_skip_its_stimuli(tmp_path: Path) -> None:
    path = tmp_path / "weat.json"
    path.write_text(ONE_TEST, encoding="utf-8")
    with pytest.raises(EvaluationError, match="weat cannot skip missing predictions"):
        weat.score(weat.read(path, {}), Predictions(dict(WEAT)), ScoreSettings(missing="skip"))


def test_embeddings_from_npz_in_both_forms(tmp_path: Path) -> None:
    items: list[Item] = []
    np.savez(tmp_path / "rows.npz", ids=np.array(list(WEAT)), embeddings=np.array(list(WEAT.values())))
    np.savez(tmp_path / "named.npz", **{name: np.array(row) for name, row in WEAT.items()})
    for name in ("rows.npz", "named.npz"):
        values = weat.read_embeddings(tmp_path / name, items).values
        assert {key: row.tolist() for key, row in values.items()} == {k: list(map(float, v)) for k, v in WEAT.items()}
    (tmp_path / "broken.npz").write_bytes(b"PK no")
    for name, message in (("none.npz", "does not exist"), ("broken.npz", "cannot be read as .npz")):
        with pytest.raises(EvaluationError, match=message):
            weat.read_embeddings(tmp_path / name, items)
    np.savez(tmp_path / "twice.npz", ids=np.array(["x", "x"]), embeddings=np.eye(2))
    with pytest.raises(EvaluationError, match="more than once"):
        weat.read_embeddings(tmp_path / "twice.npz", items)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"X": ["1"], "Y": ["2", "3"], "A": ["4"], "B": ["5"]}', "1 and 2 ids"),
        ('{"X": ["1", "1"], "Y": ["2", "3"], "A": ["4"], "B": ["5"]}', "one twice"),
        ('{"some test": {"X": ["1"]}}', "Y is no list"),
        ("{}", "no item"),
    ],
)
def test_wrong_tests_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        run(tmp_path, text, {})


def test_a_stimulus_without_embedding_is_named(tmp_path: Path) -> None:
    values = {name: row for name, row in WEAT.items() if name != "a2"}
    with pytest.raises(EvaluationError, match="no embedding for 1 ids of A in turned, e.g. a2"):
        run(
            tmp_path,
            TWO_TESTS.replace("Men / women", "turned", 1).replace('"turned": {"X": ["y1"', '"z": {"X": ["y1"'),
            values,
        )
    with pytest.raises(EvaluationError, match="shapes"):
        run(tmp_path, TWO_TESTS, {**WEAT, "x1": [1.0]})
