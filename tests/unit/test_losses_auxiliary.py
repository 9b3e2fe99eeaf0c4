from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlmvid.losses.auxiliary import (
    IGNORE_INDEX,
    draw_hard_negatives,
    frame_order_loss,
    masked_frames_loss,
    matching_loss,
    normalised_frames,
    token_cross_entropy,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def one_cross_entropy(logits: Tensor, label: int) -> Tensor:
    return -(logits[label] - torch.stack([value.exp() for value in logits]).sum().log())


def slow_cross_entropy(logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
    clips = []
    for clip_logits, clip_labels in zip(logits, labels.tolist(), strict=True):
        counted = [(row, label) for row, label in zip(clip_logits, clip_labels, strict=True) if label != IGNORE_INDEX]
        clips.append([one_cross_entropy(row, label) for row, label in counted])
    zero = logits.sum() * 0
    if reduction == "per_token":
        flat = [value for clip in clips for value in clip]
        return sum(flat, zero) / max(1, len(flat))
    return sum((sum(clip, zero) / max(1, len(clip)) for clip in clips), zero) / max(1, len(clips))


def labels_of(shape: tuple[int, int], num_words: int, share_ignored: float, seed: int) -> Tensor:
    labels = torch.randint(num_words, shape, generator=generator(seed))
    return labels.masked_fill(torch.rand(shape, generator=generator(seed + 1)) < share_ignored, IGNORE_INDEX)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 4), st.integers(0, 5), st.integers(1, 6), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 99))
@pytest.mark.parametrize("reduction", ["per_token", "per_clip"])
def test_token_cross_entropy_is_the_loop(
    reduction: str, clips: int, length: int, words: int, ignored: float, seed: int
) -> None:
    logits = normal(clips, length, words, seed=seed).requires_grad_()
    labels = labels_of((clips, length), words, ignored, seed)
    fast = token_cross_entropy(logits, labels, reduction=reduction)  # type: ignore[arg-type]
    slow = slow_cross_entropy(logits, labels, reduction)
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(torch.autograd.grad(fast, logits), torch.autograd.grad(slow, logits))


@pytest.mark.parametrize("reduction", ["per_token", "per_clip"])
def test_token_cross_entropy_gradcheck(reduction: str) -> None:
    labels = torch.tensor([[1, IGNORE_INDEX, 0], [IGNORE_INDEX] * 3, [2, 2, 1]])
    logits = normal(3, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: token_cross_entropy(x, labels, reduction=reduction), logits)  # type: ignore[arg-type]


def test_token_cross_entropy_by_hand() -> None:
    # Two words: scores log 3 and 0 are probabilities 3/4 and 1/4.
    logits = torch.tensor([[[math.log(3), 0.0]] * 2, [[math.log(3), 0.0]] * 2])
    labels = torch.tensor([[0, 1], [1, IGNORE_INDEX]])
    right, wrong = math.log(4 / 3), math.log(4)
    assert token_cross_entropy(logits, labels).item() == pytest.approx((right + 2 * wrong) / 3)
    per_clip = token_cross_entropy(logits, labels, reduction="per_clip").item()
    assert per_clip == pytest.approx(((right + wrong) / 2 + wrong) / 2)
    assert token_cross_entropy(logits.bfloat16(), labels).dtype == torch.float32


def test_per_clip_adds_up_over_chunks() -> None:
    logits, labels = normal(7, 4, 5), labels_of((7, 4), 5, 0.6, 3)
    whole = token_cross_entropy(logits, labels, reduction="per_clip")
    chunks = [
        len(part) * token_cross_entropy(part, own, reduction="per_clip")
        for part, own in zip(logits.split(3), labels.split(3), strict=True)
    ]
    torch.testing.assert_close(sum(chunks) / 7, whole)


def test_wrong_shapes_and_reductions_are_refused() -> None:
    logits, labels = normal(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"got \(2, 3, 4\) and \(2, 2\)"):
        token_cross_entropy(logits, labels[:, :2])
    with pytest.raises(ValueError, match="unknown reduction 'sum'"):
        token_cross_entropy(logits, labels, reduction="sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected logits \(B, T, T\)"):
        frame_order_loss(logits, labels)
    with pytest.raises(ValueError, match="hidden"):
        masked_frames_loss(logits, logits, labels[:, :2] == 0)
    with pytest.raises(ValueError, match="one score per pair"):
        matching_loss(logits[0], logits[0, 0])
    with pytest.raises(ValueError, match="bool is_positive"):
        draw_hard_negatives(logits[0], logits[0], generator())


def test_normalised_frames_by_hand() -> None:
    frames = torch.tensor([[[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]])
    torch.testing.assert_close(normalised_frames(frames), torch.tensor([[[-1.0, 0, 1], [0, 0, 0]]]), atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3), st.integers(1, 5), st.integers(2, 6), st.integers(0, 99))
def test_masked_frames_loss_is_the_loop(clips: int, frames: int, channels: int, seed: int) -> None:
    predictions = normal(clips, frames, channels, seed=seed).requires_grad_()
    features = 7 + 3 * normal(clips, frames, channels, seed=seed + 1)
    hidden = torch.rand((clips, frames), generator=generator(seed)) < 0.5
    slow = predictions.sum() * 0
    for b in range(clips):
        errors = []
        for t in range(frames):
            if hidden[b, t]:
                values = features[b, t].tolist()
                mean = sum(values) / channels
                deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (channels - 1) + 1e-6)
                pairs = zip(predictions[b, t], values, strict=True)
                errors.append(sum((p - (value - mean) / deviation) ** 2 for p, value in pairs) / channels)
        slow = slow + sum(errors) / max(1, len(errors)) / clips
    fast = masked_frames_loss(predictions, features, hidden)
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(torch.autograd.grad(fast, predictions), torch.autograd.grad(slow, predictions))


def test_masked_frames_gradients() -> None:
    features = normal(2, 3, 4, seed=1).requires_grad_()
    hidden = torch.tensor([[True, False, True], [False, False, False]])
    predictions = normal(2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: masked_frames_loss(x, features, hidden), predictions)
    masked_frames_loss(predictions, features, hidden).backward()
    assert features.grad is None
    assert predictions.grad is not None and not predictions.grad[~hidden].any()


def test_nothing_counted_is_zero_with_zero_gradients() -> None:
    logits = normal(2, 3, 3).requires_grad_()
    none = torch.zeros(2, 3, dtype=torch.bool)
    ignored = torch.full((2, 3), IGNORE_INDEX)
    losses = [
        token_cross_entropy(logits, ignored),
        token_cross_entropy(logits, ignored, reduction="per_clip"),
        frame_order_loss(logits, ignored),
        masked_frames_loss(logits, logits, none),
        matching_loss(logits[0, 0, :0], logits[0, 0, :0]),
    ]
    for loss in losses:
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.item() == 0 and not gradient.any()


def test_frame_order_loss() -> None:
    places = torch.tensor([[2, 0, 1], [0, 1, 2]])
    assert frame_order_loss(torch.zeros(2, 3, 3), places).item() == pytest.approx(math.log(3))
    logits = normal(2, 3, 3).requires_grad_()
    torch.testing.assert_close(frame_order_loss(logits, places), slow_cross_entropy(logits, places, "per_clip"))
    assert torch.autograd.gradcheck(lambda x: frame_order_loss(x, places), logits)
    assert frame_order_loss(torch.randn(4, 1, 1), torch.zeros(4, 1, dtype=torch.int64)).item() == 0


@pytest.mark.parametrize(("positives", "negatives"), [(3, 5), (1, 0), (0, 2)])
def test_matching_loss_is_the_loop(positives: int, negatives: int) -> None:
    right, wrong = normal(positives).requires_grad_(), normal(negatives, seed=1).requires_grad_()
    terms = [-(1 / (1 + (-x).exp())).log() for x in right] + [-(1 - 1 / (1 + (-x).exp())).log() for x in wrong]
    torch.testing.assert_close(matching_loss(right, wrong), sum(terms) / len(terms))
    assert torch.autograd.gradcheck(matching_loss, (right, wrong))


def test_matching_loss_of_large_scores() -> None:
    loss = matching_loss(torch.tensor([-200.0]), torch.tensor([-200.0, 300.0]))
    assert loss.item() == pytest.approx(500 / 3)
    right = torch.tensor([50.0], dtype=torch.float64)
    assert matching_loss(right, right[:0]).item() == pytest.approx(math.exp(-50))


def test_hard_negatives_follow_the_softmax() -> None:
    scores = torch.tensor([0.0, 1.0, 2.0, -1.0])
    num_rows = 20_000
    own = torch.tensor([False, False, True, False]).expand(num_rows, -1)
    drawn = draw_hard_negatives(scores.expand(num_rows, -1), own, generator())
    weights = torch.tensor([1.0, math.e, 0.0, math.exp(-1)])
    expected = weights / weights.sum()
    shares = torch.bincount(drawn, minlength=4) / num_rows
    assert shares[2] == 0
    # Five standard deviations.
    assert ((shares - expected).abs() <= 5 * (expected * (1 - expected) / num_rows).sqrt()).all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 6), st.integers(0, 7), st.floats(0, 1), st.sampled_from([0.0, 1.0, 80.0, 1e4]), st.integers(0, 99)
)
def test_a_positive_is_never_drawn(rows: int, candidates: int, share: float, scale: float, seed: int) -> None:
    similarity = scale * normal(rows, candidates, seed=seed).float()
    own = torch.rand((rows, candidates), generator=generator(seed)) < share
    drawn = draw_hard_negatives(similarity, own, generator(seed))
    for row, candidate in enumerate(drawn.tolist()):
        assert (candidate == -1) == bool(own[row].all())
        assert candidate == -1 or not own[row, candidate]
    assert torch.equal(drawn, draw_hard_negatives(similarity, own, generator(seed)))
    draws = generator(seed)
    chunks = [draw_hard_negatives(similarity[i : i + 1], own[i : i + 1], draws) for i in range(rows)]
    assert drawn.tolist() == [int(chunk) for chunk in chunks]


def test_a_draw_at_the_very_end_stays_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    similarity, own = torch.zeros(1, 3), torch.tensor([[False, False, True]])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor([1 - 2**-53], dtype=torch.float64))
    assert draw_hard_negatives(similarity, own, generator()).item() in (0, 1)
