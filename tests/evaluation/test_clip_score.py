from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vlmvid.config.schema import EvaluateConfig
from vlmvid.errors import EvaluationError
from vlmvid.evaluation.base import EvaluationData
from vlmvid.evaluation.tasks import TASKS
from vlmvid.evaluation.tasks.clip_score import score_candidates
from vlmvid.metrics.clip_score import (
    PREFIX,
    clip_score,
    coarse_match,
    em_score,
    em_score_with_references,
    greedy_match,
    inverse_document_frequencies,
    ref_clip_score,
)
from vlmvid.types import Clip

CONFIG = EvaluateConfig(num_bootstrap=100)
DIRECTIONS = {"cat": 0, "dog": 1, "bus": 2}


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """A text points where the first word of the world that it names does, and down where it names none."""
    rows = np.zeros((len(texts), 3), dtype=np.float32)
    for row, text in enumerate(texts):
        named = [axis for word, axis in DIRECTIONS.items() if word in text]
        if named:
            rows[row, named[0]] = 0.8 if text.startswith(PREFIX) else 1.0
            rows[row, (named[0] + 1) % 3] = 0.6 if text.startswith(PREFIX) else 0.0
        else:
            rows[row] = -1 / math.sqrt(3)
    return rows


def data(candidates: dict[str, str], captions: dict[str, tuple[str, ...]] | None = None) -> EvaluationData:
    clips = tuple(
        Clip(
            video_id=name,
            path=f"{name}.mp4",
            split="test",
            captions=(captions or {}).get(name, ()),
            attributes={"candidate_caption": candidates[name]} if name in candidates else {},
        )
        for name in DIRECTIONS
    )
    return EvaluationData(clips, np.eye(3, dtype=np.float32), embed)


def test_clip_score_is_the_stretched_cosine() -> None:
    np.testing.assert_allclose(clip_score(np.array([0.3, 0.0, -0.2])), [0.75, 0, 0])


def test_ref_clip_score_is_the_harmonic_mean() -> None:
    found = ref_clip_score(np.array([0.75, 0.0, 0.5]), np.array([0.5, 0.0, -0.1]))
    np.testing.assert_allclose(found, [2 * 0.75 * 0.5 / 1.25, 0, 0])
    with pytest.raises(EvaluationError, match="as many reference cosines"):
        ref_clip_score(np.ones(2), np.ones(3))


def test_greedy_match_by_hand() -> None:
    words = np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float64)
    frames = np.array([[1, 0], [0.6, 0.8]])
    found = greedy_match(words, frames)
    assert found.precision == pytest.approx((1 + 0.8 - 0.6) / 3)
    assert found.recall == pytest.approx((1 + 0.8) / 2)
    assert found.f == pytest.approx(2 * found.precision * found.recall / (found.precision + found.recall))
    weighted = greedy_match(words, frames, np.array([2.0, 1.0, 0.0]), np.array([0.0, 3.0]))
    assert weighted.precision == pytest.approx((2 * 1 + 0.8) / 3)
    assert weighted.recall == pytest.approx(0.8)
    assert greedy_match(words[:1], -words[:1]).f == -1.0
    assert greedy_match(words[:1], words[1:2]).f == 0.0


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 1000))
def test_greedy_match_equals_two_loops(num_words: int, num_frames: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    words, frames = rng.normal(size=(num_words, 4)), rng.normal(size=(num_frames, 4))
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    frames /= np.linalg.norm(frames, axis=1, keepdims=True)
    found = greedy_match(words, frames)
    precision = sum(max(float(w @ f) for f in frames) for w in words) / num_words
    recall = sum(max(float(w @ f) for w in words) for f in frames) / num_frames
    assert (found.precision, found.recall) == pytest.approx((precision, recall))
    mirrored = greedy_match(frames, words)
    assert (mirrored.precision, mirrored.recall) == pytest.approx((recall, precision))


@pytest.mark.parametrize(
    ("words", "frames", "weights"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), None),
        (np.ones((0, 3)), np.ones((2, 3)), None),
        (np.ones((2, 3)), np.ones((2, 3)), np.ones(3)),
        (np.ones((2, 3)), np.ones((2, 3)), np.array([1.0, -1.0])),
        (np.ones((2, 3)), np.ones((2, 3)), np.zeros(2)),
    ],
)
def test_wrong_embeddings_and_weights(
    words: NDArray[np.float64], frames: NDArray[np.float64], weights: NDArray[np.float64] | None
) -> None:
    with pytest.raises(EvaluationError, match="expected"):
        greedy_match(words, frames, weights)


def test_em_score_puts_its_parts_together() -> None:
    frames = np.array([[1.0, 0.0], [0.0, 1.0]])
    sentence = np.array([1.0, 0.0])
    coarse = coarse_match(sentence, frames)
    assert coarse == pytest.approx(1 / math.sqrt(2))
    assert coarse_match(sentence, np.array([[1.0, 0.0], [-1.0, 0.0]])) == 0.0
    fine = greedy_match(sentence[None], frames)
    assert (fine.precision, fine.recall) == (1.0, 0.5)
    assert em_score(coarse, fine) == pytest.approx((1 / math.sqrt(2) + 2 / 3) / 2)
    assert em_score_with_references(0.4, [0.1, 0.8]) == pytest.approx(0.6)
    with pytest.raises(EvaluationError, match="at least one reference"):
        em_score_with_references(0.4, [])


def test_inverse_document_frequencies() -> None:
    found = inverse_document_frequencies([["a", "dog", "a"], ["a", "cat"]])
    assert found == {"a": 0.0, "dog": pytest.approx(math.log(3 / 2)), "cat": pytest.approx(math.log(3 / 2))}


def test_the_task_scores_the_captions_of_the_manifest() -> None:
    result = TASKS.get("clip_score")(data({"cat": "a cat", "dog": "a dog", "bus": "a cat"}), CONFIG)
    # With the prefix the right clip has cosine 0.8, and "a cat" has 0 with the bus; without it 1 and 0.
    assert result.metric("clip_score").value == pytest.approx(2.5 * 1.6 / 3)
    assert result.metric("emscore_coarse").value == pytest.approx(2 / 3)
    # Each of the others: 0.6 and 0 for a cat and a dog; 0.8 and 0.6 for the bus's "a cat".
    assert result.metric("clip_score/other_clip").value == pytest.approx(2.5 * (0.3 + 0.3 + 0.7) / 3)
    assert [row["clip_score"] for row in result.samples] == pytest.approx([2, 2, 0])
    assert "ref_clip_score" not in {metric.name for metric in result.metrics}
    assert "EMScore without its fine part" in result.protocol


def test_references_give_ref_clip_score_and_their_own_score() -> None:
    captions = {"cat": ("one cat", "a dog"), "dog": ("one bus",)}
    result = TASKS.get("clip_score")(data({"cat": "a cat", "dog": "a dog", "bus": "a bus"}, captions), CONFIG)
    # Candidate "a dog" and reference "one bus", both with the prefix: 0.6 * 0.8.
    expected = [2 * 2 * 1 / 3, 2 * 2 * 0.48 / 2.48]
    assert result.metric("ref_clip_score").num_samples == 2
    assert result.metric("ref_clip_score").value == pytest.approx(np.mean(expected))
    assert result.samples[2]["ref_clip_score"] is None
    # "one cat" for the cat 0.8, "a dog" for the cat 0, "one bus" for the dog 0.
    assert result.metric("clip_score/references").value == pytest.approx(2.5 * 0.8 / 3)


def test_clips_without_a_candidate_score_zero_and_are_said() -> None:
    result = score_candidates(data({}), {"cat": "a cat", "dog": " ", "elephant": "an elephant"}, CONFIG)
    assert result.metric("clip_score").value == pytest.approx(2 / 3)
    assert result.metric("clip_score").num_samples == 3
    assert (
        "1 of 3 clips have a candidate caption" in result.protocol
        and "1 candidates belong to no clip" in result.protocol
    )
    assert result.samples[1]["candidate"] is None


def test_a_negative_cosine_is_zero_in_clip_score_only() -> None:
    result = score_candidates(data({}), {"cat": "nothing"}, CONFIG)
    assert result.samples[0]["clip_score"] == 0
    assert result.samples[0]["emscore_coarse"] == pytest.approx(-1 / math.sqrt(3))


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(EvaluationError, match="'candidate_caption', a caption to be scored"):
        TASKS.get("clip_score")(data({}), CONFIG)
    with pytest.raises(EvaluationError, match="no candidate caption belongs to one of the 3 clips"):
        score_candidates(data({}), {"elephant": "an elephant"}, CONFIG)
    with pytest.raises(EvaluationError, match="1 candidate captions are no text, e.g. that of 'cat'"):
        score_candidates(data({}), {"cat": 3}, CONFIG)
