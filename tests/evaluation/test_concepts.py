from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.examples.zero_shot import CLASSES, write_captioned_labels
from vlmvid.errors import EvaluationError, MissingDataError
from vlmvid.evaluation.benchmarks import get_benchmark
from vlmvid.evaluation.concepts import (
    audit_result,
    concept_audit,
    concept_counts,
    frequency_bin,
    frequency_correlations,
    frequent_words,
    singular,
    words_of,
)
from vlmvid.evaluation.scoring.base import ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions

SETTINGS = ScoreSettings(num_bootstrap=100)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("dogs", "dog"),
        ("boxes", "box"),
        ("cities", "city"),
        ("churches", "church"),
        ("glasses", "glass"),
        ("glass", "glass"),
        ("bus", "bus"),
        ("tennis", "tennis"),
        ("ties", "tie"),
        ("dog's", "dog"),
        ("horses", "horse"),
        ("men", "men"),
        ("", ""),
    ],
)
def test_singular(word: str, expected: str) -> None:
    assert singular(word) == expected


def test_words() -> None:
    assert words_of("Two DOGS, don't_run: 3 cafés!") == ["two", "dog", "don't", "run", "3", "café"]


def slow_count(captions: list[str], concept: str) -> int:
    wanted = " ".join(words_of(concept))
    return sum(f" {wanted} " in f" {' '.join(words_of(caption))} " for caption in captions)


texts = st.lists(st.sampled_from(["dog", "dogs", "hot", "ball", "a", "Hot-dog", "ball's"]), max_size=5).map(" ".join)


@given(st.lists(texts, max_size=6), st.lists(texts.filter(str.strip), min_size=1, max_size=4, unique=True))
def test_counts_are_the_definition(captions: list[str], vocabulary: list[str]) -> None:
    expected = {concept: slow_count(captions, concept) for concept in vocabulary}
    assert concept_counts(captions, vocabulary) == expected


def test_a_caption_counts_once_and_words_are_whole() -> None:
    captions = ["a dog and a dog", "a hotdog", "hot dogs", "dogged"]
    assert concept_counts(captions, ["dog", "hot_dog", "Dogs"]) == {"dog": 2, "Dogs": 2, "hot_dog": 1}
    with pytest.raises(EvaluationError, match="holds no word"):
        concept_counts(captions, ["!"])


def test_frequent_words_leave_out_stop_words() -> None:
    assert frequent_words(["the dog and the cat", "a dog 7", "cats are here"], 5) == ["cat", "dog"]


def test_the_audit_finds_what_training_lacks() -> None:
    uses = concept_audit(["a dog", "dogs", "a cat"], ["a dog", "a zebra", "zebras", "a cat"])
    assert [(use.concept, use.training, use.evaluation) for use in uses] == [
        ("zebra", 0, 2),
        ("cat", 1, 1),
        ("dog", 2, 1),
    ]
    result = audit_result(["x"] * 3, uses, seed=0, num_bootstrap=100)
    assert result.metric("concept_coverage").value == pytest.approx(2 / 3)
    assert result.metric("concept_frequency_spearman").value == pytest.approx(-0.8660254)
    assert "1 are never named" in result.protocol and len(result.samples) == 3
    with pytest.raises(EvaluationError, match="no concept"):
        concept_audit(["a"], ["the"])


def test_correlations_need_three_concepts_and_leave_out_nan() -> None:
    counts = {"a": 0, "b": 9, "c": 99, "d": 5}
    values = {"a": 0.0, "b": 0.5, "c": 1.0, "d": float("nan")}
    found = frequency_correlations("x", counts, values, seed=0, num_bootstrap=100)
    assert {metric.name: round(metric.value, 6) for metric in found} == {"x_spearman": 1.0, "x_pearson": 1.0}
    assert frequency_correlations("x", {"a": 0, "b": 1}, values, seed=0, num_bootstrap=100) == []


def test_bins_are_decades() -> None:
    assert [frequency_bin(count) for count in (0, 1, 9, 10, 99, 100)] == [
        "0",
        "1-9",
        "1-9",
        "10-99",
        "10-99",
        "100-999",
    ]


def test_accuracy_by_frequency(tmp_path: Path) -> None:
    benchmark = get_benchmark("concept_frequency")
    items = benchmark.read(write_captioned_labels(tmp_path), {})
    # cat 1, dog 3 (two dogs, dog's, on a dog), hot dog 0.
    assert items[0].extra["counts"] == (1, 3, 0)
    values = {**CLASSES, "d": "cat", "b": "dog"}
    result = benchmark.score(items, Predictions(values), SETTINGS)
    found = {metric.name: metric.value for metric in result.metrics}
    assert found["accuracy_frequency_0"] == 0
    assert found["accuracy_frequency_1_9"] == pytest.approx(2 / 3)
    assert found["concept_coverage"] == pytest.approx(2 / 3)
    # Accuracy of cat, dog, hot dog is 0, 1, 0.
    expected = np.corrcoef(np.log10([2, 4, 1]), [0, 1, 0])[0, 1]
    assert found["accuracy_frequency_pearson"] == pytest.approx(expected)
    assert "1 classes are in no training caption (hot dog)" in result.protocol


def test_captions_may_be_json_lines(tmp_path: Path) -> None:
    write_captioned_labels(tmp_path)
    (tmp_path / "own.jsonl").write_text('{"caption": "a hot dog"}\n')
    items = get_benchmark("concept_frequency").read(tmp_path, {"captions": "own.jsonl"})
    assert items[0].extra["counts"] == (0, 1, 1)
    with pytest.raises(MissingDataError, match="nowhere"):
        get_benchmark("concept_frequency").read(tmp_path, {"captions": "nowhere.txt"})
