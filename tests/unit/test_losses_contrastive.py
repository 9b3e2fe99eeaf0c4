"""Contrastive losses against a double loop written out in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.unit.losses_fixtures import unit_rows
from vlmvid.losses import info_nce, sigmoid_loss


def dot(a: Tensor, b: Tensor) -> float:
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def sigmoid_oracle(
    video: Tensor, text: Tensor, scale: float, bias: float, reduction: str, owners: list[int] | None = None
) -> float:
    owners = list(range(len(text))) if owners is None else owners
    total = 0.0
    for i in range(len(video)):
        for j in range(len(text)):
            logit = scale * dot(video[i], text[j]) + bias
            probability_of_truth = 1 / (1 + math.exp(-logit if owners[j] == i else logit))
            total -= math.log(probability_of_truth)
    num_positives = sum(owner >= 0 for owner in owners)
    return total / (num_positives if reduction == "per_sample" else len(video) * len(text))


def info_nce_oracle(video: Tensor, text: Tensor, scale: float, owners: list[int] | None = None) -> float:
    owners = list(range(len(text))) if owners is None else owners

    def minus_log_softmax(of: tuple[int, int], among: list[tuple[int, int]]) -> float:
        def weight(i: int, j: int) -> float:
            return math.exp(scale * dot(video[i], text[j]))

        return -math.log(weight(*of) / sum(weight(*pair) for pair in among))

    clips, texts = range(len(video)), range(len(text))
    of_texts = [minus_log_softmax((owners[j], j), [(i, j) for i in clips]) for j in texts if owners[j] >= 0]
    of_clips = []
    for i in clips:
        own = [minus_log_softmax((i, j), [(i, k) for k in texts]) for j in texts if owners[j] == i]
        if own:
            of_clips.append(sum(own) / len(own))
    return (sum(of_texts) / len(of_texts) + sum(of_clips) / len(of_clips)) / 2


# Clips, and of each text its clip: several captions, hard negative captions (-1), hard negative clips.
BATCHES: dict[str, tuple[int, list[int]]] = {
    "permuted": (4, [2, 0, 3, 1]),
    "two captions": (3, [0, 1, 2, 0, 1, 2]),
    "uneven captions": (4, [0, 0, 0, 1, 2, 2, 3]),
    "hard negative captions": (3, [0, -1, 1, -1, 2, -1, -1]),
    "hard negative clips": (7, [0, 2, 5]),
    "all of it": (6, [4, -1, 0, 0, 4, -1, 1]),
    "one pair among negatives": (3, [-1, 1, -1]),
}


@pytest.mark.parametrize("tile_size", [None, 1, 2, 3, 100])
@pytest.mark.parametrize("batch", BATCHES)
def test_any_positives_equal_the_double_loop(batch: str, tile_size: int | None) -> None:
    num_clips, owners = BATCHES[batch]
    video, text = unit_rows(num_clips, 5, 20), unit_rows(len(owners), 5, 21)
    of_text = torch.tensor(owners)
    for reduction in ("per_sample", "per_pair"):
        loss = sigmoid_loss(
            video, text, logit_scale=12.0, logit_bias=-5.0, reduction=reduction, tile_size=tile_size,
            video_of_text=of_text,
        )  # fmt: skip
        assert loss.item() == pytest.approx(sigmoid_oracle(video, text, 12.0, -5.0, reduction, owners), rel=1e-12)
    loss = info_nce(video, text, logit_scale=12.0, tile_size=tile_size, video_of_text=of_text)
    assert loss.item() == pytest.approx(info_nce_oracle(video, text, 12.0, owners), rel=1e-12)


def test_without_owners_text_i_belongs_to_clip_i() -> None:
    video, text, each = unit_rows(5, 4, 22), unit_rows(5, 4, 23), torch.arange(5)
    assert info_nce(video, text, logit_scale=9.0) == info_nce(video, text, logit_scale=9.0, video_of_text=each)
    kwargs = {"logit_scale": 9.0, "logit_bias": -1.0}
    assert sigmoid_loss(video, text, **kwargs) == sigmoid_loss(video, text, **kwargs, video_of_text=each)


@pytest.mark.parametrize("tile_size", [None, 3])
def test_two_captions_are_the_two_matrices_of_sail(tile_size: int | None) -> None:
    video, first, second = (unit_rows(5, 4, seed) for seed in (24, 25, 26))
    kwargs = {"logit_scale": 15.0, "logit_bias": -6.0, "tile_size": tile_size}
    both = {"video_of_text": torch.arange(5).repeat(2), **kwargs}
    text = torch.cat([first, second])
    # SAIL's released loss: both N x N matrices one beside the other, and one mean.
    labels = 2 * torch.eye(5, dtype=torch.float64) - 1
    matrices = [torch.nn.functional.logsigmoid(labels * (15.0 * video @ some.T - 6.0)) for some in (first, second)]
    expected = -torch.cat(matrices, dim=1).mean()
    torch.testing.assert_close(sigmoid_loss(video, text, reduction="per_pair", **both), expected)
    halves = [sigmoid_loss(video, some, **kwargs) for some in (first, second)]
    torch.testing.assert_close(sigmoid_loss(video, text, **both), (halves[0] + halves[1]) / 2)


def test_values_by_hand() -> None:
    video, text = torch.eye(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    # Logits 0 everywhere: 4 pairs of log 2; all softmaxes are halves.
    silent = sigmoid_loss(video, text, logit_scale=0.0, logit_bias=0.0)
    assert silent.item() == pytest.approx(2 * math.log(2))
    assert info_nce(video, text, logit_scale=0.0).item() == pytest.approx(math.log(2))
    # Logits 1 on the diagonal, 0 beside it.
    value = info_nce(video, text, logit_scale=1.0).item()
    assert value == pytest.approx(math.log(1 + math.exp(-1)))
    # A clip with two captions (logits 1 and 0), the other with none: half of
    # the mean over texts (log(1 + e^-1), log(1 + e)) and the mean over the first clip's two softmaxes.
    of_texts = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    of_clip = ((math.log(math.e + 1) - 1) + math.log(math.e + 1)) / 2
    both = info_nce(video, text, logit_scale=1.0, video_of_text=torch.tensor([0, 0]))
    assert both.item() == pytest.approx((of_texts + of_clip) / 2)


@pytest.mark.parametrize("reduction", ["per_sample", "per_pair"])
@pytest.mark.parametrize("num_pairs", [1, 2, 7])
@pytest.mark.parametrize("tile_size", [None, 1, 3, 7, 50])
def test_sigmoid_loss_equals_the_double_loop(reduction: str, num_pairs: int, tile_size: int | None) -> None:
    video, text = unit_rows(num_pairs, 5, 0), unit_rows(num_pairs, 5, 1)
    loss = sigmoid_loss(video, text, logit_scale=20.0, logit_bias=-10.0, reduction=reduction, tile_size=tile_size)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(sigmoid_oracle(video, text, 20.0, -10.0, reduction), rel=1e-12)


@pytest.mark.parametrize("num_pairs", [1, 2, 7])
@pytest.mark.parametrize("tile_size", [None, 1, 3, 7, 50])
def test_info_nce_equals_the_double_loop(num_pairs: int, tile_size: int | None) -> None:
    video, text = unit_rows(num_pairs, 5, 0), unit_rows(num_pairs, 5, 1)
    loss = info_nce(video, text, logit_scale=14.0, tile_size=tile_size)
    assert loss.item() == pytest.approx(info_nce_oracle(video, text, 14.0), rel=1e-12, abs=1e-13)


def test_info_nce_equals_cross_entropy_of_torch() -> None:
    video, text = unit_rows(6, 4, 2), unit_rows(6, 4, 3)
    logits = 9.0 * video @ text.T
    labels = torch.arange(6)
    expected = (
        torch.nn.functional.cross_entropy(logits, labels) + torch.nn.functional.cross_entropy(logits.T, labels)
    ) / 2
    torch.testing.assert_close(info_nce(video, text, logit_scale=9.0), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("tile_size", [None, 2])
@pytest.mark.parametrize("owners", [None, [3, -1, 0, 0, 2, 3]])
def test_gradients_of_every_input_are_the_numerical_ones(tile_size: int | None, owners: list[int] | None) -> None:
    of_text = None if owners is None else torch.tensor(owners)
    video = unit_rows(5, 3, 4).requires_grad_()
    text = unit_rows(5 if owners is None else len(owners), 3, 5).requires_grad_()
    scale = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)

    def sigmoid(v: Tensor, t: Tensor, s: Tensor, b: Tensor) -> Tensor:
        return sigmoid_loss(v, t, logit_scale=s, logit_bias=b, tile_size=tile_size, video_of_text=of_text)

    def contrastive(v: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return info_nce(v, t, logit_scale=s, tile_size=tile_size, video_of_text=of_text)

    assert torch.autograd.gradcheck(sigmoid, (video, text, scale, bias))
    assert torch.autograd.gradcheck(contrastive, (video, text, scale))


def test_half_precision_inputs_are_computed_in_float32() -> None:
    video, text = (unit_rows(6, 8, seed, torch.float32).half() for seed in (10, 11))
    loss = sigmoid_loss(video, text, logit_scale=20.0, logit_bias=-10.0)
    assert loss.dtype == torch.float32
    expected = sigmoid_loss(video.double(), text.double(), logit_scale=20.0, logit_bias=-10.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_large_logits_stay_finite_and_exact() -> None:
    # One perfect pair at logit 90: -log(sigmoid(90)) = 8.19e-40, not 0 and not inf.
    one = torch.ones(1, 1, dtype=torch.float64)
    assert sigmoid_loss(one, one, logit_scale=100.0, logit_bias=-10.0).item() == pytest.approx(math.exp(-90), rel=1e-9)
    assert sigmoid_loss(one, -one, logit_scale=100.0, logit_bias=-10.0).item() == pytest.approx(110.0)


@pytest.mark.parametrize("shapes", [((3, 2), (4, 2)), ((3, 2), (3, 3)), ((0, 2), (0, 2)), ((3,), (3,))])
def test_wrong_shapes_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    video, text = (torch.ones(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        sigmoid_loss(video, text, logit_scale=1.0, logit_bias=0.0)
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        info_nce(video, text, logit_scale=1.0)


@pytest.mark.parametrize(
    ("owners", "message"),
    [
        (torch.tensor([0, 1]), "one clip for each of the 3 texts"),
        (torch.tensor([0, 1, 1], dtype=torch.int32), "must be int64"),
        (torch.tensor([0, 2, 5]), "between -1 .* and 1; got 2 and 1 more"),
        (torch.tensor([0, -2, 1]), "got -2 and 0 more"),
        (torch.tensor([-1, -1, -1]), "no text of the batch belongs to a clip"),
    ],
)
def test_wrong_owners_are_refused(owners: Tensor, message: str) -> None:
    video, text = unit_rows(2, 4, 0), unit_rows(3, 4, 1)
    with pytest.raises(ValueError, match=message):
        sigmoid_loss(video, text, logit_scale=1.0, logit_bias=0.0, video_of_text=owners)
    with pytest.raises(ValueError, match=message):
        info_nce(video, text, logit_scale=1.0, video_of_text=owners)


def test_other_numbers_of_rows_need_owners() -> None:
    with pytest.raises(ValueError, match="give video_of_text"):
        info_nce(unit_rows(2, 4, 0), unit_rows(3, 4, 1), logit_scale=1.0)
    with pytest.raises(ValueError, match="need rows; got N = 2, M = 0"):
        info_nce(unit_rows(2, 4, 0), unit_rows(0, 4, 1), logit_scale=1.0, video_of_text=torch.tensor([]).long())


def test_unknown_reduction_and_tile_size_are_refused() -> None:
    rows = torch.ones(2, 2)
    with pytest.raises(ValueError, match="unknown reduction 'mean'"):
        sigmoid_loss(rows, rows, logit_scale=1.0, logit_bias=0.0, reduction="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tile_size must be at least 1, got 0"):
        info_nce(rows, rows, logit_scale=1.0, tile_size=0)
