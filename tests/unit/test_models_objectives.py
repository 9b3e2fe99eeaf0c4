from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vlmvid.config.alignment import AuxiliaryConfig, AuxiliaryKind
from vlmvid.errors import ConfigError
from vlmvid.losses.structure import structure_loss
from vlmvid.models import objective_parts
from vlmvid.models.caption_ids import BEGIN, END, FIRST_WORD, MASK, PADDING, CaptionVocabulary
from vlmvid.models.objective_parts import Captioning, FrameOrder, MaskedLanguage, MaskedVideo, Matching, hide
from vlmvid.models.objectives import OBJECTIVES, Objectives, ObjectiveSizes
from vlmvid.models.pooling.transformer import TemporalTransformer
from vlmvid.models.runtime import seeded

T, DV, DT, P, E = 4, 10, 7, 6, 8
CLIP_KINDS: list[AuxiliaryKind] = ["captioning", "frame_order", "masked_language", "masked_video"]
BATCH_KINDS: list[AuxiliaryKind] = ["matching", "structure"]
CAPTIONS = ["a red ball", "two blue cubes fall", "green", "a red cube", "the ball falls", "blue ball and red cube"]
VOCABULARY = CaptionVocabulary.of_captions(CAPTIONS)


def sizes_of(num_frames: int = T, vocabulary_size: int = len(VOCABULARY)) -> ObjectiveSizes:
    return ObjectiveSizes(
        video_dim=DV,
        state_dim=E,
        text_dim=DT,
        projection_dim=P,
        num_frames=num_frames,
        vocabulary_size=vocabulary_size,
    )


SIZES = sizes_of()


def pooling(num_frames: int = T) -> TemporalTransformer:
    with seeded(11):
        return TemporalTransformer(DV, num_frames, width=E, depth=1, num_heads=2)


states = pooling().frame_states


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


def unit(*shape: int, seed: int = 0) -> Tensor:
    return nn.functional.normalize(normal(*shape, seed=seed), dim=1)


def ids_of(captions: list[str] = CAPTIONS) -> Tensor:
    return torch.from_numpy(VOCABULARY.encode(captions))


def objectives(*kinds: AuxiliaryKind, seed: int = 0, sizes: ObjectiveSizes = SIZES, **options: Any) -> Objectives:
    made: list[AuxiliaryConfig] = []
    for kind in kinds:
        size = {} if kind == "structure" else {"width": 16}
        made.append(AuxiliaryConfig(kind=kind, weight=1.0, **size, **options))
    return Objectives(tuple(made), sizes, seed)


def one_loss(model: Objectives, kind: AuxiliaryKind, seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    """The loss of a kind and the inputs that asked for gradients."""
    if kind in CLIP_KINDS:
        features = normal(6, T, DV, seed=5).requires_grad_()
        return model.of_clips(features, ids_of(), generator(seed), states=states)[kind], [features]
    embeds = [unit(6, P, seed=1).requires_grad_(), unit(6, P, seed=2).requires_grad_()]
    losses = model.of_batch(normal(6, DV, seed=3), normal(6, DT, seed=4), *embeds, generator(seed))
    return losses[kind], embeds


def test_every_kind_is_registered() -> None:
    assert OBJECTIVES.names() == sorted([*CLIP_KINDS, *BATCH_KINDS])


@pytest.mark.parametrize("kind", [*CLIP_KINDS, *BATCH_KINDS])
def test_the_loss_is_a_scalar_that_reaches_its_weights_and_inputs_alone(kind: AuxiliaryKind) -> None:
    model = objectives(*CLIP_KINDS, *BATCH_KINDS)
    loss, inputs = one_loss(model, kind)
    assert loss.shape == () and loss.isfinite() and loss.item() > 0
    loss.backward()
    for name, parameter in model.named_parameters():
        own = name.startswith(f"parts.{kind}.")
        assert (parameter.grad is not None) == own, name
        assert not own or (parameter.grad is not None and parameter.grad.any()), name
    for tensor in inputs:
        assert tensor.grad is not None and tensor.grad.any()


@pytest.mark.parametrize("kind", [*CLIP_KINDS, *BATCH_KINDS])
def test_the_same_seeds_give_the_same_bytes(kind: AuxiliaryKind) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second, other = objectives(kind), objectives(*CLIP_KINDS, *BATCH_KINDS), objectives(kind, seed=1)
    assert torch.equal(one_loss(first, kind)[0], one_loss(objectives(kind), kind)[0])
    assert torch.equal(torch.get_rng_state(), before)
    weights = dict(second.named_parameters())
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, weights[name])
    words = [second.parts[name].words.weight for name in ("captioning", "masked_language")]
    assert not torch.equal(*words)
    pairs = list(zip(first.parameters(), other.parameters(), strict=True))
    assert kind == "structure" or not all(torch.equal(*pair) for pair in pairs)
    if kind in ("frame_order", "masked_language", "masked_video", "matching"):
        assert not torch.equal(one_loss(first, kind)[0], one_loss(first, kind, seed=1)[0])


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.integers(0, 99))
def test_chunks_of_clips_add_up_to_the_batch(chunks: list[int], seed: int) -> None:
    model = objectives(*CLIP_KINDS)
    num_clips = sum(chunks)
    features, ids = normal(num_clips, T, DV), ids_of([CAPTIONS[i % 6] for i in range(num_clips)] + CAPTIONS)[:num_clips]
    draws = generator(seed)
    parts = [
        (len(f), model.of_clips(f, i, draws, states=states))
        for f, i in zip(features.split(chunks), ids.split(chunks), strict=True)
    ]
    whole = model.of_clips(features, ids, generator(seed), states=states)
    for kind in CLIP_KINDS:
        mean = sum(count * losses[kind] for count, losses in parts) / max(1, num_clips)
        torch.testing.assert_close(mean, whole[kind])


def as_is(states: Tensor) -> Tensor:
    return states


def part_of(kind: AuxiliaryKind, **options: Any) -> Any:
    return objectives(kind, **options).parts[kind]


def test_captioning_reads_no_later_word_and_no_padding() -> None:
    decoder = part_of("captioning", depth=2)
    assert isinstance(decoder, Captioning)
    features, ids = normal(2, T, E), torch.tensor([[BEGIN, 4, 5, 6, 7, END]] * 2)
    before = decoder(features, ids)
    for place in range(1, 6):
        changed = ids.clone()
        changed[:, place] = 8
        after = decoder(features, changed)
        assert torch.equal(after[:, :place], before[:, :place])
        assert not torch.allclose(after[:, place:], before[:, place:])
    padded = torch.cat([ids, torch.full((2, 3), PADDING)], dim=1)
    torch.testing.assert_close(decoder(features, padded)[:, :6], before)
    assert not torch.allclose(decoder(features + normal(2, T, E, seed=1), ids), before)


def test_captioning_asks_for_the_end_but_not_for_unknown_words() -> None:
    decoder = part_of("captioning")
    features = normal(1, T, DV)
    ids = torch.tensor([[BEGIN, 5, MASK, END, PADDING]])
    scores = decoder(states(features), ids[:, :-1]).log_softmax(dim=2)
    expected = -(scores[0, 0, 5] + scores[0, 2, END]) / 2
    torch.testing.assert_close(decoder.loss(features, ids, torch.rand(1, 0), states), expected)


def test_masked_language_hides_words_and_reads_both_sides() -> None:
    decoder = part_of("masked_language", mask_fraction=0.4)
    assert isinstance(decoder, MaskedLanguage)
    features = normal(1, T, E)
    ids = torch.tensor([[BEGIN, 4, 5, MASK, 6, 7, 8, END, PADDING]])
    # Of five words the two with the smallest draws are hidden; the draws of other places do not count.
    draws = torch.tensor([[0.0, 0.9, 0.3, 0.0, 0.8, 0.2, 0.7, 0.0, 0.0]])
    seen = torch.tensor([[BEGIN, 4, MASK, MASK, 6, MASK, 8, END, PADDING]])
    scores = decoder(features, seen).log_softmax(dim=2)
    torch.testing.assert_close(decoder.loss(features, ids, draws, as_is), -(scores[0, 2, 5] + scores[0, 5, 7]) / 2)
    later = seen.clone()
    later[0, 6] = 9
    assert not torch.allclose(decoder(features, later)[0, 2], decoder(features, seen)[0, 2])
    swapped = seen[:, [0, 4, 2, 3, 1, 5, 6, 7, 8]]
    assert not torch.allclose(decoder(features, swapped)[0, 2], decoder(features, seen)[0, 2])
    padded = torch.cat([seen, torch.full((1, 2), PADDING)], dim=1)
    torch.testing.assert_close(decoder(features, padded)[:, :9], decoder(features, seen))
    assert decoder.loss(features, torch.tensor([[BEGIN, MASK, END]]), draws[:, :3], as_is).item() == 0


def test_hidden_words_have_no_influence() -> None:
    decoder = part_of("masked_language", mask_fraction=0.5)
    seen: list[Tensor] = []
    decoder.register_forward_hook(lambda _, __, scores: seen.append(scores))
    features, draws = normal(2, T, DV), torch.tensor([[0.0, 0.1, 0.9, 0.2, 0.8, 0.0]] * 2)
    for words in ([4, 5, 6, 7], [8, 5, 9, 7]):
        decoder.loss(features, torch.tensor([[BEGIN, *words, END]] * 2), draws, states)
    assert torch.equal(*seen)
    decoder.loss(features, torch.tensor([[BEGIN, 4, 8, 6, 7, END]] * 2), draws, states)
    assert not torch.equal(seen[0], seen[2])


def seen_by(part: Any, features: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """What a part hands to the states, and its loss with the features themselves as states."""
    seen: list[Tensor] = []

    def kept(shown: Tensor) -> Tensor:
        seen.append(shown)
        return states(shown)

    loss = part.loss(features, torch.zeros(len(features), 0, dtype=torch.int64), draws, kept)
    assert len(seen) == 1
    return seen[0], loss


def test_hidden_frames_are_asked_for_and_not_shown() -> None:
    part = part_of("masked_video", mask_fraction=0.5)
    assert isinstance(part, MaskedVideo)
    features, draws = normal(2, T, DV), torch.tensor([[0.1, 0.8, 0.9, 0.2], [0.7, 0.1, 0.2, 0.9]])
    hidden = [[0, 3], [1, 2]]
    shown, loss = seen_by(part, features, draws)
    expected = features.clone()
    for row, frames in enumerate(hidden):
        expected[row, frames] = part.mask_D.detach()
    assert torch.equal(shown, expected)
    predictions = part(states(expected))
    # By `torch.layer_norm` instead of the unbiased deviation of the targets.
    unit_frames = nn.functional.layer_norm(features, (DV,)) * ((DV - 1) / DV) ** 0.5
    errors = [(predictions[r, t] - unit_frames[r, t]).square().mean() for r in range(2) for t in hidden[r]]
    torch.testing.assert_close(loss, sum(errors) / 4, rtol=1e-4, atol=1e-4)


def test_frames_are_shown_in_the_order_of_their_draws() -> None:
    part = part_of("frame_order")
    assert isinstance(part, FrameOrder)
    features, draws = normal(2, T, DV), torch.tensor([[0.4, 0.1, 0.9, 0.2], [0.1, 0.2, 0.3, 0.4]])
    places = [[1, 3, 0, 2], [0, 1, 2, 3]]
    shown, loss = seen_by(part, features, draws)
    expected = torch.stack([torch.stack([features[row, t] for t in order]) for row, order in enumerate(places)])
    assert torch.equal(shown, expected)
    scores = part(states(expected)).log_softmax(dim=2)
    hits = [scores[row, t, place] for row, order in enumerate(places) for t, place in enumerate(order)]
    torch.testing.assert_close(loss, -sum(hits) / (2 * T))


@pytest.mark.parametrize("kind", CLIP_KINDS)
def test_the_states_are_trained(kind: AuxiliaryKind) -> None:
    trained = pooling()
    objectives(kind).of_clips(normal(6, T, DV), ids_of(), generator(), states=trained.frame_states)[kind].backward()
    for name, parameter in trained.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == (not name.startswith("up.")), name


def test_one_frame_hides_nothing_and_has_one_order() -> None:
    model = objectives("masked_video", "frame_order", sizes=sizes_of(1, 0))
    losses = model.of_clips(normal(3, 1, DV), None, generator(), states=pooling(1).frame_states)
    assert losses["masked_video"].item() == losses["frame_order"].item() == 0
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4), st.integers(1, 12), st.floats(0.01, 0.99), st.integers(0, 99), st.integers(0, 12) | st.none())
def test_hide_takes_the_smallest_draws(rows: int, length: int, fraction: float, seed: int, most: int | None) -> None:
    draws = torch.rand((rows, length), generator=generator(seed))
    candidates = torch.rand((rows, length), generator=generator(seed + 1)) < 0.7
    hidden = hide(draws, candidates, fraction, most)
    for row in range(rows):
        own = sorted(draws[row, candidates[row]].tolist())
        count = min(len(own), max(1, round(float(torch.tensor(float(len(own))) * fraction))))
        count = count if most is None else min(count, most)
        assert sorted(draws[row, hidden[row]].tolist()) == own[:count]
        assert not (hidden[row] & ~candidates[row]).any()


def matching_inputs(num_clips: int) -> list[Tensor]:
    return [normal(num_clips, DV), normal(num_clips, DT), unit(num_clips, P), unit(num_clips, P, seed=1)]


def test_matching_of_two_clips_by_hand() -> None:
    # With two clips each has one possible wrong partner.
    model = objectives("matching")
    inputs = matching_inputs(2)
    score = model.parts["matching"]
    assert isinstance(score, Matching)
    video, text = inputs[2:]
    right, wrong = score(video, text), score(video, text.flip(0))
    expected = -(right.sigmoid().log().sum() + 2 * (1 - wrong.sigmoid()).log().sum()) / 6
    torch.testing.assert_close(model.of_batch(*inputs, generator())["matching"], expected)  # type: ignore[arg-type]


def test_matching_draws_the_nearest_wrong_partners() -> None:
    # Clip i is the i-th axis, so the similarities are the texts' coordinates; the fourth axis makes the length 1.
    similarity = torch.tensor([[0.0, 0.95, 0.0], [0.4, 0.0, 0.9], [0.0, 0.3, 0.0]])
    text = torch.zeros(3, P)
    text[:, :3] = similarity.T
    text[:, 3] = (1 - text.square().sum(dim=1)).clamp(min=0).sqrt()
    video = torch.eye(3, P)
    model = objectives("matching")
    score = model.parts["matching"]
    pairs = [(0, 1), (1, 2), (2, 1), (1, 0), (0, 1), (1, 2)]
    wrong = torch.stack([score(video[i : i + 1], text[j : j + 1])[0] for i, j in pairs])
    expected = -(score(video, text).sigmoid().log().sum() + (1 - wrong.sigmoid()).log().sum()) / 9
    loss = model.of_batch(normal(3, DV), normal(3, DT), video, text, generator())["matching"]
    torch.testing.assert_close(loss, expected)


def test_matching_scores_unit_entries() -> None:
    score = part_of("matching")
    video, text = unit(3, P), unit(3, P, seed=1)
    scale = math.sqrt(P)
    read = torch.cat([scale * video, scale * text, P * video * text, scale * (video - text)], dim=1)
    torch.testing.assert_close(score(video, text), score.score(read)[:, 0])


def test_matching_draws_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = objectives("matching"), matching_inputs(7)
    whole = model.of_batch(*inputs, generator())["matching"]  # type: ignore[arg-type]
    monkeypatch.setattr(objective_parts, "_ROWS_PER_DRAW", 3)
    torch.testing.assert_close(model.of_batch(*inputs, generator())["matching"], whole)  # type: ignore[arg-type]


@pytest.mark.parametrize("reason", ["one clip", "equal captions", "equal clips"])
def test_matching_without_a_negative_counts_the_positives(reason: str) -> None:
    model = objectives("matching")
    inputs = matching_inputs(1 if reason == "one clip" else 3)
    if reason != "one clip":
        side = int(reason == "equal captions")
        inputs[side] = inputs[side][:1].expand(3, -1)
    expected = -model.parts["matching"](*inputs[2:]).sigmoid().log().mean()
    torch.testing.assert_close(model.of_batch(*inputs, generator())["matching"], expected)  # type: ignore[arg-type]


def test_structure_is_the_mean_of_both_sides() -> None:
    inputs = matching_inputs(5)
    sides = [structure_loss(inputs[i], inputs[i + 2], levels=3) for i in range(2)]
    loss = objectives("structure", levels=3).of_batch(*inputs, generator())["structure"]  # type: ignore[arg-type]
    torch.testing.assert_close(loss, (sides[0] + sides[1]) / 2)


def test_no_clips_give_zeros_with_gradients() -> None:
    model = objectives(*CLIP_KINDS, *BATCH_KINDS)
    inputs = [tensor.requires_grad_() for tensor in matching_inputs(0)]
    losses = model.of_batch(*inputs, generator())  # type: ignore[arg-type]
    losses |= model.of_clips(normal(0, T, DV).requires_grad_(), ids_of([]), generator(), states=states)
    assert set(losses) == {*CLIP_KINDS, *BATCH_KINDS}
    for loss in losses.values():
        assert loss.item() == 0 and loss.requires_grad


def test_no_objectives_are_nothing() -> None:
    model = Objectives((), SIZES, 0)
    assert not model.needs_caption_ids and not model.reads_clips and not list(model.parameters())
    assert model.of_clips(normal(2, T, DV), None, generator(), states=states) == {}
    assert model.of_batch(*matching_inputs(2), generator()) == {}  # type: ignore[arg-type]


def test_weights_grow_during_warm_up() -> None:
    structure = AuxiliaryConfig(kind="structure", weight=8.0, warmup_steps=4)
    model = Objectives((structure, AuxiliaryConfig(kind="matching", weight=0.5)), SIZES, 0)
    assert [model.weight_at("structure", step) for step in (0, 1, 4, 9)] == [0.0, 2.0, 8.0, 8.0]
    assert model.weight_at("matching", 0) == 0.5


@pytest.mark.parametrize("kind", CLIP_KINDS)
def test_needs_caption_ids(kind: AuxiliaryKind) -> None:
    model = objectives(kind)
    assert model.needs_caption_ids == (kind in ("captioning", "masked_language"))
    assert model.reads_clips and not objectives(*BATCH_KINDS).reads_clips
    if model.needs_caption_ids:
        with pytest.raises(ValueError, match="give caption_ids"):
            model.of_clips(normal(2, T, DV), None, generator(), states=states)
        with pytest.raises(ConfigError, match=f"'{kind}' needs words to predict; the vocabulary has 4 ids"):
            objectives(kind, sizes=sizes_of(T, FIRST_WORD))


def test_what_does_not_fit_is_refused() -> None:
    model = objectives("masked_video", "matching")
    with pytest.raises(ValueError, match=r"\(b, T=4, D=10\); got \(2, 4, 3, 10\)"):
        model.of_clips(normal(2, T, 3, DV), None, generator(), states=states)
    with pytest.raises(ValueError, match=r"caption_ids must be \(2, L\) with L >= 2; got \(2, 1\)"):
        model.of_clips(normal(2, T, DV), torch.zeros(2, 1, dtype=torch.int64), generator(), states=states)
    inputs = matching_inputs(3)
    inputs[1] = inputs[1][:2]
    with pytest.raises(ValueError, match=r"got .*\(2, 7\)"):
        model.of_batch(*inputs, generator())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="may be named once"):
        objectives("matching", "matching")


def learn(model: nn.Module, loss_at: Any, steps: int = 60, lr: float = 3e-3) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_at(step)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def clips_that_show(captions: list[str]) -> Tensor:
    """Frames that differ by caption and by place, and are linear in both."""
    look = {caption: normal(1, DV, seed=50 + i) for i, caption in enumerate(sorted(set(captions)))}
    drift = torch.linspace(-2, 2, T)[:, None] * normal(1, DV, seed=99)
    return torch.stack([look[caption] + drift for caption in captions])


def with_pooling(model: Objectives) -> tuple[nn.ModuleDict, TemporalTransformer]:
    trained = pooling()
    return nn.ModuleDict({"objectives": model, "pooling": trained}), trained


@pytest.mark.parametrize("kind", CLIP_KINDS)
def test_what_can_be_learnt_is_learnt(kind: AuxiliaryKind) -> None:
    captions = CAPTIONS * 4
    features, ids = clips_that_show(captions), ids_of(captions)
    model, draws = objectives(kind), generator()
    both, trained = with_pooling(model)
    losses = learn(both, lambda _: model.of_clips(features, ids, draws, states=trained.frame_states)[kind], lr=1e-2)
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


def test_equal_frames_stay_at_chance() -> None:
    features = normal(24, 1, DV).expand(-1, T, -1)
    model, draws = objectives("frame_order"), generator()
    both, trained = with_pooling(model)

    def loss_of(clips: Tensor) -> Tensor:
        return model.of_clips(clips, None, draws, states=trained.frame_states)["frame_order"]

    learn(both, lambda _: loss_of(features), lr=1e-2)
    # The states tell where a frame is shown, and that says nothing of where it was.
    loss = loss_of(features.repeat(200, 1, 1)).item()
    assert math.log(T) - 0.01 < loss < math.log(T) + 0.05


@pytest.mark.parametrize("kind", BATCH_KINDS)
def test_heads_learn_from_the_objectives_of_batches(kind: AuxiliaryKind) -> None:
    texts = normal(16, DT)
    videos = texts @ normal(DT, DV, seed=1)
    heads = nn.ModuleDict({"video": nn.Linear(DV, P), "text": nn.Linear(DT, P), "objectives": objectives(kind)})
    for name in ("video", "text"):
        head = heads[name]
        assert isinstance(head, nn.Linear)
        with torch.no_grad():
            head.weight.copy_(normal(*head.weight.shape, seed=7) / head.in_features**0.5)
    draws = generator()

    def loss_at(_: int) -> Tensor:
        embeds = [nn.functional.normalize(heads[name](x), dim=1) for name, x in (("video", videos), ("text", texts))]
        model = heads["objectives"]
        assert isinstance(model, Objectives)
        return model.of_batch(videos, texts, *embeds, draws)[kind]

    losses = learn(heads, loss_at, lr=1e-2)
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]
