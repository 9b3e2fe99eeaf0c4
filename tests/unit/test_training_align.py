"""Alignment training: deterministic, resumable in the same bytes, and it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.training_fixtures import states_equal, toy_config, toy_data
from vlmvid.errors import CheckpointError, ConfigError, DatasetError, StageError
from vlmvid.training import align
from vlmvid.training.align import AlignmentData, batch_at, captions_at, train_alignment
from vlmvid.training.checkpoint import latest_checkpoint, save_checkpoint


class Killed(Exception):
    """Stands for a process that dies in the middle of training."""


def kill_at(step: int) -> align.OnStep:
    def on_step(done: int, report: dict[str, float]) -> None:
        if done == step:
            raise Killed

    return on_step


@pytest.mark.parametrize("killed_at", [1, 5, 7, 10, 11, 12])
def test_killed_and_resumed_training_gives_the_same_bytes(tmp_path: Path, killed_at: int) -> None:
    config, data = toy_config(), toy_data()
    whole = train_alignment(config, data, work_dir=tmp_path / "whole")
    with pytest.raises(Killed):
        train_alignment(config, data, work_dir=tmp_path / "cut", on_step=kill_at(killed_at))
    done: list[int] = []
    resumed = train_alignment(config, data, work_dir=tmp_path / "cut", on_step=lambda step, _: done.append(step))
    assert states_equal(whole, resumed)
    # The update of the kill was reported but not yet saved.
    last_checkpoint = (killed_at - 1) // 5 * 5
    assert done == list(range(last_checkpoint + 1, 13))


@pytest.mark.parametrize("killed_at", [5, 10, 12])
@pytest.mark.parametrize("place", ["before the save", "after the save", "in on_checkpoint"])
def test_a_kill_around_a_checkpoint_loses_no_report_and_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int, place: str
) -> None:
    config, data = toy_config(), toy_data()
    whole = train_alignment(config, data, work_dir=tmp_path / "whole")
    reported: list[int] = []
    saved: list[int] = []

    def save_and_die(work_dir: Path, step: int, *state: Any) -> None:
        if step == killed_at and place == "before the save":
            raise Killed
        save_checkpoint(work_dir, step, *state)
        if step == killed_at and place == "after the save":
            raise Killed

    def on_checkpoint(step: int) -> None:
        saved.append(step)
        if step == killed_at:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(align, "save_checkpoint", save_and_die)
        train_alignment(
            config,
            data,
            work_dir=tmp_path / "cut",
            on_step=lambda step, _: reported.append(step),
            on_checkpoint=on_checkpoint,
        )
    assert reported == list(range(1, killed_at + 1))
    again: list[int] = []
    saved_again: list[int] = []
    resumed = train_alignment(
        config,
        data,
        work_dir=tmp_path / "cut",
        on_step=lambda step, _: again.append(step),
        on_checkpoint=saved_again.append,
    )
    assert states_equal(whole, resumed)
    last_checkpoint = (killed_at - 1) // 5 * 5 if place == "before the save" else killed_at
    assert again == list(range(last_checkpoint + 1, 13))
    announced = killed_at if place == "in on_checkpoint" else killed_at - 1
    assert saved == [step for step in (5, 10, 12) if step <= announced]
    assert saved_again == [step for step in (5, 10, 12) if step > last_checkpoint]


def test_an_update_is_reported_then_saved_then_announced(tmp_path: Path) -> None:
    events: list[tuple[str, int, int]] = []

    def newest() -> int:
        checkpoint = latest_checkpoint(tmp_path)
        return checkpoint.step if checkpoint else 0

    train_alignment(
        toy_config(),
        toy_data(),
        work_dir=tmp_path,
        on_step=lambda step, _: events.append(("step", step, newest())),
        on_checkpoint=lambda step: events.append(("checkpoint", step, newest())),
    )
    assert [event for event in events if event[0] == "checkpoint"] == [("checkpoint", s, s) for s in (5, 10, 12)]
    assert [event for event in events if event[0] == "step"] == [("step", s, (s - 1) // 5 * 5) for s in range(1, 13)]
    assert events.index(("checkpoint", 5, 5)) == events.index(("step", 5, 0)) + 1


def test_a_damaged_last_checkpoint_costs_steps_but_not_the_result(tmp_path: Path) -> None:
    config, data = toy_config(), toy_data()
    whole = train_alignment(config, data, work_dir=tmp_path / "whole")
    with pytest.raises(Killed):
        train_alignment(config, data, work_dir=tmp_path / "cut", on_step=kill_at(11))
    (tmp_path / "cut" / "step_00000010.safetensors").write_bytes(b"half written")
    done: list[int] = []
    resumed = train_alignment(config, data, work_dir=tmp_path / "cut", on_step=lambda step, _: done.append(step))
    assert done[0] == 6
    assert states_equal(whole, resumed)


def test_how_often_checkpoints_are_written_changes_nothing(tmp_path: Path) -> None:
    data = toy_data()
    often = train_alignment(toy_config(checkpoint_every=1), data, work_dir=tmp_path / "a")
    never = train_alignment(toy_config(checkpoint_every=100), data, work_dir=tmp_path / "b")
    assert states_equal(often, never)


def test_a_memory_map_in_float16_trains_like_the_array_in_memory(tmp_path: Path) -> None:
    data = toy_data()
    halves = AlignmentData((data.video_features / 50).astype(np.float16), data.text_features, data.captions_of)
    np.save(tmp_path / "video.npy", halves.video_features)
    mapped = AlignmentData(np.load(tmp_path / "video.npy", mmap_mode="r"), data.text_features, data.captions_of)
    held = train_alignment(toy_config(), halves, work_dir=tmp_path / "a")
    read = train_alignment(toy_config(), mapped, work_dir=tmp_path / "b")
    assert states_equal(held, read)


def test_training_learns_to_retrieve(tmp_path: Path) -> None:
    data = toy_data()
    optim = {"num_steps": 150, "global_batch_size": 23, "lr": 2e-2, "warmup_steps": 10}
    reports: list[dict[str, float]] = []
    config = toy_config(optim=optim, dropout=0.0)
    model = train_alignment(config, data, work_dir=tmp_path, on_step=lambda _, report: reports.append(report))
    assert not model.training
    with torch.inference_mode():
        video = model.embed_video(torch.from_numpy(data.video_features))
        text = model.embed_text(torch.from_numpy(data.text_features))
    nearest = (text @ video.T).argmax(dim=1)
    assert (nearest == torch.arange(46) // 2).float().mean() > 0.9
    assert reports[-1]["loss"] < 0.2 * reports[0]["loss"]
    assert set(reports[0]) == {"loss", "logit_scale", "logit_bias", "lr", "grad_norm"}
    assert reports[0]["lr"] == pytest.approx(2e-3)


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    train_alignment(toy_config(), toy_data(), work_dir=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_logit_scale_never_leaves_its_range(tmp_path: Path) -> None:
    optim = {"lr": 5.0, "warmup_steps": 0}
    scales: list[float] = []
    train_alignment(
        toy_config(optim=optim, logit_scale_init=99.0),
        toy_data(),
        work_dir=tmp_path,
        on_step=lambda _, report: scales.append(report["logit_scale"]),
    )
    assert all(1.0 <= scale <= 100.0001 for scale in scales)
    assert any(scale in (1.0, pytest.approx(100.0, rel=1e-5)) for scale in scales)


def test_another_config_or_other_data_refuse_the_folder(tmp_path: Path) -> None:
    train_alignment(toy_config(), toy_data(), work_dir=tmp_path)
    with pytest.raises(CheckpointError, match=r"step 12 is of another training: config.seed: 1 there, 2 here\. Use"):
        train_alignment(toy_config(seed=2), toy_data(), work_dir=tmp_path)
    with pytest.raises(CheckpointError, match=r"data.text_features.sample: \w+ there, \w+ here; data.video_features"):
        train_alignment(toy_config(), toy_data(seed=5), work_dir=tmp_path)


def test_a_diverging_training_says_so(tmp_path: Path) -> None:
    data = toy_data()
    # Finite features whose float32 variance overflows: the loss itself becomes NaN.
    huge = AlignmentData(data.video_features * np.float32(1e30), data.text_features, data.captions_of)
    with pytest.raises(StageError, match=r"diverged at update 1 of 12: loss=nan"):
        train_alignment(toy_config(), huge, work_dir=tmp_path)
    assert not list(tmp_path.glob("*.json"))


def test_features_that_are_not_finite_name_their_row(tmp_path: Path) -> None:
    data = toy_data()
    data.video_features[17, 2, 3] = np.nan
    with pytest.raises(DatasetError, match="video features: row 17 holds NaN"):
        train_alignment(toy_config(), data, work_dir=tmp_path)


def test_data_that_does_not_fit_is_refused() -> None:
    video, text = np.zeros((2, 3, 4), np.float32), np.zeros((2, 5), np.float32)
    with pytest.raises(DatasetError, match="1 caption lists for 2 clips"):
        AlignmentData(video, text, ((0,),))
    with pytest.raises(DatasetError, match="1 clips have no caption, the first in row 1"):
        AlignmentData(video, text, ((0,), ()))
    with pytest.raises(DatasetError, match=r"caption rows 0..2 are outside of 2"):
        AlignmentData(video, text, ((0,), (2,)))
    with pytest.raises(DatasetError, match=r"expected video features \(N, T, D\)"):
        AlignmentData(video[0], text, ((0,), (1,)))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(2, 16), st.integers(0, 5))
def test_an_epoch_shows_each_clip_at_most_once(num_clips: int, batch_size: int, seed: int) -> None:
    if batch_size > num_clips:
        with pytest.raises(ConfigError, match=f"global_batch_size={batch_size}, but there are {num_clips} clips"):
            batch_at(0, num_clips, batch_size, seed)
        return
    steps = num_clips // batch_size
    for epoch in range(2):
        batches = [batch_at(epoch * steps + i, num_clips, batch_size, seed) for i in range(steps)]
        assert all(len(batch) == batch_size for batch in batches)
        seen = np.concatenate(batches)
        assert len(set(seen.tolist())) == len(seen) == steps * batch_size
        assert seen.min() >= 0 and seen.max() < num_clips


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    first, second = batch_at(0, 50, 50, seed=0), batch_at(1, 50, 50, seed=0)
    assert sorted(first) == sorted(second) and first.tolist() != second.tolist()
    assert first.tolist() != batch_at(0, 50, 50, seed=1).tolist()
    assert first.tolist() == batch_at(0, 50, 50, seed=0).tolist()


def test_captions_are_drawn_evenly_from_the_clips_own() -> None:
    captions_of = ((0,), (1, 2), (3, 4, 5, 6))
    rows = np.array([2, 0, 1])
    drawn = np.stack([captions_at(step, rows, captions_of, seed=0) for step in range(2000)])
    assert set(drawn[:, 1]) == {0}
    counts = np.bincount(drawn[:, 0], minlength=7)
    # 2000 draws of 4: standard deviation 19.4, so five of them on each side.
    assert counts[:3].sum() == 0 and np.all(np.abs(counts[3:] - 500) < 97)
    assert set(drawn[:, 2]) == {1, 2}
