"""Which rows make an update: distinct, seeded, and shared among processes without loss."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.training_fixtures import NUM_FRAMES, toy_config, toy_data
from vlmvid.artifacts import ClipStore
from vlmvid.artifacts.arrays import as_float32, as_stored
from vlmvid.config.alignment import AlignConfig
from vlmvid.errors import ConfigError, DatasetError
from vlmvid.models.pooling import POOLINGS
from vlmvid.training.batches import BatchPlan, BatchPlanner, BatchReader, Ragged, captions_at
from vlmvid.training.data import AlignmentData, FeatureRows, RowBuffer

CPU = torch.device("cpu")
LISTS = st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=8)
FALSE = tuple((40 + i % 6, 40 + (i + 1) % 6) if i % 3 else () for i in range(23))
ALL_NEGATIVES = {"captions": 2, "reversed_clips": 0.5, "shuffled_clips": 0.25}


def planner(data: AlignmentData | None = None, **changes: object) -> BatchPlanner:
    return BatchPlanner(toy_config(**changes), data or toy_data(counterfactuals_of=FALSE))


@settings(max_examples=80, deadline=None)
@given(LISTS, st.integers(1, 4), st.integers(0, 5))
def test_a_draw_gives_distinct_numbers_of_the_own_list(lists: list[list[int]], most: int, seed: int) -> None:
    rows = np.random.default_rng(seed).integers(0, len(lists), 6)
    numbers, owners = Ragged.of(lists).draw(rows, most, np.random.default_rng(seed))
    assert (np.diff(owners) >= 0).all()
    for place, row in enumerate(rows):
        own = numbers[owners == place].tolist()
        assert len(own) == min(most, len(set(lists[row]))) == len(set(own))
        assert set(own) <= set(lists[row])


@pytest.mark.parametrize("most", [1, 2])
def test_draws_are_even(most: int) -> None:
    ragged = Ragged.of([[0], [1, 2, 3, 4]])
    rng = np.random.default_rng(0)
    counts = np.bincount(np.concatenate([ragged.draw(np.array([1]), most, rng)[0] for _ in range(2000)]), minlength=5)
    # Five standard deviations of a binomial on each side.
    share = most / 4
    assert counts[0] == 0 and np.all(np.abs(counts[1:] - 2000 * share) < 5 * np.sqrt(2000 * share * (1 - share)))


def test_a_plan_draws_the_captions_of_captions_at() -> None:
    data, plan = toy_data(), planner(toy_data()).at(3)
    assert plan.texts.tolist() == captions_at(3, plan.clips, data.captions_of, seed=1).tolist()
    assert plan.clips.tolist() == sorted(plan.clips) and len(set(plan.clips)) == 8
    assert plan.owners.tolist() == plan.video_of_text.tolist() == list(range(8))


def test_several_captions_and_all_kinds_of_negatives_belong_to_their_clips() -> None:
    data = toy_data(counterfactuals_of=FALSE)
    made = planner(data, captions_per_clip=3, hard_negatives=ALL_NEGATIVES)
    plan = made.at(5)
    # No clip has more than two captions.
    assert plan.num_positives == 16
    for text, owner, video in zip(plan.texts, plan.owners, plan.video_of_text, strict=True):
        clip = plan.clips[owner]
        assert (text in data.captions_of[clip]) == (video == owner) and (text in FALSE[clip]) == (video == -1)
    true = {caption for clip in plan.clips for caption in data.captions_of[clip]}
    assert len(plan.texts) - 16 == sum(len(set(FALSE[clip]) - true) for clip in plan.clips)
    assert len(set(plan.reversed_clips)) == 4 and len(set(plan.shuffled_clips)) == 2
    assert all(sorted(order) == list(range(NUM_FRAMES)) != order.tolist() for order in plan.orders)
    assert plan.owners[plan.first_texts].tolist() == list(range(8))
    again, other = planner(data, captions_per_clip=3, hard_negatives=ALL_NEGATIVES).at(5), made.at(6)
    assert all(np.array_equal(getattr(plan, name), getattr(again, name)) for name in ("texts", "orders", "clips"))
    assert plan.texts.tolist() != other.texts.tolist()


def test_what_is_true_of_another_clip_of_the_batch_is_no_negative() -> None:
    # Captions 40 to 45 are those of clips 20 to 22, whether they are drawn or not.
    made = planner(hard_negatives={"captions": 2}, optim={"global_batch_size": 21})
    left = []
    for step in range(6):
        plan = made.at(step)
        true = {caption for clip in plan.clips for caption in toy_data().captions_of[clip]}
        assert not true & set(plan.texts[plan.num_positives :].tolist())
        left.append(len(plan.texts) - plan.num_positives)
    assert max(left) > 0


def test_a_reversed_clip_that_is_another_of_the_batch_is_no_negative() -> None:
    data = toy_data(counterfactuals_of=FALSE)
    data.video_features[3] = data.video_features[2, ::-1]
    data.video_features[7, 0] = data.video_features[4, -1]  # the same first frame alone
    plan = planner(data, hard_negatives={"reversed_clips": 1.0}, optim={"global_batch_size": 23}).at(0)
    batch = BatchReader(data, CPU).read(plan)
    kept = [clip for clip in range(23) if clip not in (2, 3)]
    np.testing.assert_array_equal(batch.video[23:].numpy(), data.video_features[kept][:, ::-1])


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 11])
def test_shares_hold_every_row_once(num_ranks: int) -> None:
    plan = planner(captions_per_clip=2, hard_negatives=ALL_NEGATIVES).at(2)
    shares = [plan.share(rank, num_ranks) for rank in range(num_ranks)]

    def pairs(part: BatchPlan) -> list[tuple[int, int, bool]]:
        return [
            (int(part.clips[owner]), int(text), bool(video >= 0))
            for text, owner, video in zip(part.texts, part.owners, part.video_of_text, strict=True)
        ]

    def moved(part: BatchPlan) -> list[tuple[int, ...]]:
        shuffled = zip(part.clips[part.shuffled_clips].tolist(), part.orders.tolist(), strict=True)
        return [(clip, *order) for clip, order in shuffled] + [(clip,) for clip in part.clips[part.reversed_clips]]

    assert np.concatenate([share.clips for share in shares]).tolist() == plan.clips.tolist()
    assert sorted(pair for share in shares for pair in pairs(share)) == sorted(pairs(plan))
    assert sorted(row for share in shares for row in moved(share)) == sorted(moved(plan))
    sizes = [len(share.clips) for share in shares]
    assert max(sizes) - min(sizes) <= 1 and all(share.num_global == 8 for share in shares)


def test_clips_in_another_order_are_the_clips_with_their_frames_moved() -> None:
    data = toy_data(counterfactuals_of=FALSE)
    data.video_features[:6] = data.video_features[:6, :1]  # of which no order of frames can be told
    plan = planner(data, hard_negatives=ALL_NEGATIVES, optim={"global_batch_size": 23}).at(0)
    batch = BatchReader(data, CPU).read(plan)
    expected = [data.video_features[clip] for clip in plan.clips]
    expected += [data.video_features[clip][::-1] for clip in plan.clips[plan.reversed_clips] if clip >= 6]
    for clip, order in zip(plan.clips[plan.shuffled_clips], plan.orders, strict=True):
        if clip >= 6:
            expected.append(data.video_features[clip][order])
    assert len(expected) < 23 + len(plan.reversed_clips) + len(plan.shuffled_clips)
    np.testing.assert_array_equal(batch.video.numpy(), np.stack(expected))
    assert batch.video_of_text is not None and batch.video_of_text.tolist() == plan.video_of_text.tolist()


def test_a_plain_batch_needs_no_list_of_owners_and_stays_valid_while_two_more_are_read() -> None:
    data = toy_data()
    reader, made = BatchReader(data, CPU), planner(data)
    batches = [reader.read(made.at(step)) for step in range(3)]
    for batch in batches:
        assert batch.video_of_text is None
        np.testing.assert_array_equal(batch.video.numpy(), data.video_features[batch.plan.clips])
        np.testing.assert_array_equal(batch.text.numpy(), data.text_features[batch.plan.texts])


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
def test_a_column_of_the_store_is_read_like_an_array(tmp_path: Path, name: str) -> None:
    data = toy_data()
    stored = as_stored(data.video_features, name)  # type: ignore[arg-type]
    store = ClipStore(tmp_path, "features")
    keys = [f"{i:03d}" for i in range(23)]
    for part in (slice(0, 10), slice(10, 23)):
        store.write(keys[part], {"features": stored[part]})
    known = store.rows(keys)
    column = store.column("features", [known[key] for key in keys])
    plan = planner(data).at(1)
    batch = BatchReader(AlignmentData(column, data.text_features, data.captions_of), CPU).read(plan)
    assert str(batch.video.dtype) == f"torch.{name}"
    np.testing.assert_array_equal(batch.video.float().numpy(), as_float32(stored)[plan.clips])
    rows = FeatureRows(column, CPU, "video features")
    np.testing.assert_array_equal(rows(plan.clips).numpy(), as_float32(stored)[plan.clips])


def test_a_buffer_grows_and_is_used_again() -> None:
    buffer = RowBuffer(pinned=False)
    small = buffer.view((2, 3), np.dtype(np.float16))
    large = buffer.view((5, 3), np.dtype(np.float32))
    again = buffer.view((2, 3), np.dtype(np.float16))
    assert small.shape == again.shape == (2, 3) and large.shape == (5, 3)
    assert np.shares_memory(large, again) and not np.shares_memory(small, large)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="global_batch_size=24, but there are 23 clips"):
        planner(optim={"global_batch_size": 24})


def test_counterfactuals_that_the_data_lacks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"hard_negatives.captions=1, but no clip has a counterfactual"):
        planner(toy_data(), hard_negatives={"captions": 1})


@pytest.mark.parametrize("kind", ["reversed_clips", "shuffled_clips"])
def test_other_orders_are_refused_where_they_cannot_be_seen(kind: str) -> None:
    negatives = {kind: 0.5}
    one_frame = AlignmentData(toy_data().video_features[:, :1], toy_data().text_features, toy_data().captions_of)
    with pytest.raises(ConfigError, match="need clips of more than one frame"):
        planner(one_frame, hard_negatives=negatives)
    for name in POOLINGS:
        config = AlignConfig.model_validate(
            toy_config().model_dump() | {"pooling": {"kind": name}, "hard_negatives": negatives}
        )
        if POOLINGS.get(name).is_order_blind:
            with pytest.raises(ConfigError, match=f"and {name} does not: a clip would be its own negative"):
                BatchPlanner(config, toy_data())
        else:
            BatchPlanner(config, toy_data())


def test_data_that_does_not_fit_is_refused() -> None:
    data = toy_data()
    with pytest.raises(DatasetError, match="2 counterfactual lists for 23 clips"):
        toy_data(counterfactuals_of=((), ()))
    with pytest.raises(DatasetError, match=r"counterfactual rows 46..46 are outside of 46"):
        toy_data(counterfactuals_of=((46,),) + ((),) * 22)
    with pytest.raises(DatasetError, match="1 video_ids for 23 clips"):
        toy_data(video_ids=("a",))
    with pytest.raises(DatasetError, match="3 rows of caption_ids for 46 text features"):
        toy_data(caption_ids=(np.zeros((3, 4), np.int64), 9))
    assert data.names([4, 2]) == "row 4, row 2"
    assert toy_data(video_ids=tuple("abcdefghijklmnopqrstuvw")).names(list(range(5))) == "'a', 'b', 'c' and 2 more"


def test_constant_channels_are_counted() -> None:
    data = toy_data()
    assert data.constant_columns == {"video": 0, "text": 0}
    frames = data.video_features.copy()
    frames[..., [2, 7]] = 3.0
    frames[1, 2, 7] = 3.5
    assert toy_data(video_features=frames).constant_columns == {"video": 1, "text": 0}


def test_no_thread_is_left_behind() -> None:
    assert "prefetch" not in {thread.name for thread in threading.enumerate()}
