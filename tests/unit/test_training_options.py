"""Everything a recipe may ask of training: resumed in the same bytes, and refused where it cannot be."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.training_fixtures import (
    NUM_CLIPS,
    NUM_FRAMES,
    TEXT_DIM,
    VIDEO_DIM,
    states_equal,
    toy_config,
    toy_data,
)
from vlmvid.errors import CheckpointError, ConfigError, DatasetError, StageError
from vlmvid.losses import info_nce, sigmoid_loss
from vlmvid.metrics import ranks, recall_at_k
from vlmvid.models.alignment import AlignmentModel
from vlmvid.training.align import AlignmentData, train_alignment
from vlmvid.training.checkpoint import differences
from vlmvid.training.early_stopping import EarlyStopping, measure
from vlmvid.training.update import Updater

FALSE = tuple((2 * ((i + 1) % NUM_CLIPS),) for i in range(NUM_CLIPS))
NAMES = tuple(f"clip{i}" for i in range(NUM_CLIPS))
DATA = toy_data(counterfactuals_of=FALSE, video_ids=NAMES)
STOPPING = {"every": 3, "patience": 2}
OPTIONS: dict[str, dict[str, Any]] = {
    "lion": {"optim": {"optimizer": "lion", "lr": 1e-3}},
    "averaged": {"optim": {"ema_decay": 0.8, "grad_clip_norm": None}},
    "bfloat16 in chunks": {"optim": {"precision": "bfloat16", "micro_batch_size": 3}},
    "InfoNCE": {"loss": "info_nce", "tile_size": 3},
    "negatives": {"captions_per_clip": 2, "hard_negatives": {"captions": 1, "reversed_clips": 0.5}},
    "objectives": {"auxiliary": [{"kind": "structure", "weight": 1.0}, {"kind": "frame_order", "weight": 0.1}]},
    "stopping": {"early_stopping": STOPPING, "optim": {"ema_decay": 0.5}},
}


class Killed(Exception):
    """Stands for a process that dies in the middle of training."""


def train(config: Any, folder: Path, **options: Any) -> tuple[AlignmentModel, list[dict[str, float]]]:
    reports: list[dict[str, float]] = []
    more = {"validation": toy_data(13, seed=7)} | options
    model = train_alignment(config, DATA, work_dir=folder, on_step=lambda _, values: reports.append(values), **more)
    return model, reports


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_resumed_in_the_same_bytes(name: str, tmp_path: Path) -> None:
    config = toy_config(**{key: dict(value) if key == "optim" else value for key, value in OPTIONS[name].items()})
    whole, reports = train(config, tmp_path / "whole")

    def kill(step: int, values: dict[str, float]) -> None:
        if step == 8:
            raise Killed

    with pytest.raises(Killed):
        train_alignment(config, DATA, work_dir=tmp_path / "cut", on_step=kill, validation=toy_data(13, seed=7))
    resumed, again = train(config, tmp_path / "cut")
    assert states_equal(whole, resumed) and not resumed.training
    assert again == reports[5:]
    plain, _ = train(toy_config(), tmp_path / "plain")
    assert not states_equal(whole, plain)
    # A finished training is read, not done again.
    finished, nothing = train(config, tmp_path / "whole")
    assert states_equal(finished, whole) and nothing == []


def test_objectives_are_reported_and_stay_out_of_the_model(tmp_path: Path) -> None:
    model, reports = train(toy_config(**OPTIONS["objectives"]), tmp_path)
    assert {"loss_structure", "loss_frame_order"} < set(reports[0])
    assert reports[-1]["loss_frame_order"] != reports[0]["loss_frame_order"]
    plain, _ = train(toy_config(), tmp_path / "plain")
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_an_objective_over_words_needs_them(tmp_path: Path) -> None:
    config = toy_config(auxiliary=[{"kind": "captioning", "weight": 1.0}])
    with pytest.raises(ConfigError, match="captioning|caption"):
        train(config, tmp_path)


def test_precision_is_refused_where_the_device_lacks_it_and_bfloat16_stays_near(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        train(toy_config(optim={"precision": "float16"}), tmp_path)
    exact, exact_reports = train(toy_config(dropout=0.0), tmp_path / "a")
    near, reports = train(toy_config(dropout=0.0, optim={"precision": "bfloat16"}), tmp_path / "b")
    assert all(parameter.dtype == torch.float32 for parameter in near.parameters())
    assert [r["loss"] for r in reports] == pytest.approx([r["loss"] for r in exact_reports], rel=0.05)
    assert not states_equal(exact, near)


def test_scaled_losses_give_the_same_step_and_an_overflow_costs_one_step() -> None:
    optim = toy_config(optim={"grad_clip_norm": 0.5, "lr": 0.1, "warmup_steps": 0}).optim
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    ends = []
    for own in (None, scaler):
        layer = torch.nn.Linear(3, 2)
        torch.nn.init.ones_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        updater = Updater.of(optim, torch.optim.SGD(layer.parameters(), lr=1.0), [layer], own)
        updater.begin(0)
        loss = layer(torch.ones(4, 3)).square().mean()
        updater.scaled(loss).backward()  # type: ignore[no-untyped-call]
        ends.append((updater.finish(0, loss), layer.weight.detach().clone()))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-5)
    torch.testing.assert_close(ends[0][1], ends[1][1])
    layer.weight.grad = torch.full_like(layer.weight, float("inf"))
    before = layer.weight.detach().clone()
    updater.finish(1, torch.tensor(0.5))
    assert torch.equal(layer.weight, before) and scaler.get_scale() == 512.0
    with pytest.raises(StageError, match="diverged at update 3 of 12: loss=nan"):
        updater.finish(2, torch.tensor(float("nan")))


class TestEarlyStopping:
    def test_the_best_look_is_returned_and_patience_ends_training(self, tmp_path: Path) -> None:
        # So fast that it forgets what it has learnt.
        config = toy_config(
            early_stopping={"metric": "loss", "every": 2, "patience": 3}, optim={"num_steps": 60, "lr": 0.3}
        )
        validation = toy_data(13, seed=7)
        model, reports = train(config, tmp_path)
        looks = {step: r["val_loss"] for step, r in enumerate(reports, start=1) if "val_loss" in r}
        best = min(looks, key=lambda step: looks[step])
        assert list(looks) == list(range(2, len(reports) + 1, 2))
        assert len(reports) == best + 6 < 60
        assert measure(model, validation)["loss"] == looks[best]

    def test_resumed_between_looks_and_checkpoints(self, tmp_path: Path) -> None:
        config = toy_config(
            early_stopping={"metric": "loss", "every": 2, "patience": 3}, optim={"num_steps": 60, "lr": 0.3}
        )
        whole, reports = train(config, tmp_path / "whole")
        for killed_at in range(1, len(reports) + 1):

            def kill(step: int, values: dict[str, float], last: int = killed_at) -> None:
                if step == last:
                    raise Killed

            folder = tmp_path / str(killed_at)
            with pytest.raises(Killed):
                train_alignment(config, DATA, work_dir=folder, on_step=kill, validation=toy_data(13, seed=7))
            resumed, _ = train(config, folder)
            assert states_equal(whole, resumed)

    def test_both_directions_are_measured_over_all_captions(self, tmp_path: Path) -> None:
        model, _ = train(toy_config(), tmp_path)
        data = toy_data(40, seed=3)
        uneven = AlignmentData(data.video_features, data.text_features, ((0,), *data.captions_of[1:]))
        captions = [c for rows in uneven.captions_of for c in rows]
        owners = np.array([row for row, rows in enumerate(uneven.captions_of) for _ in rows])
        with torch.inference_mode():
            video = model.embed_video(torch.from_numpy(uneven.video_features))  # type: ignore[arg-type]
            text = model.embed_text(torch.from_numpy(uneven.text_features[captions]))  # type: ignore[index]
        similarity = (text @ video.T).numpy()
        own = [np.flatnonzero(owners == row).tolist() for row in range(40)]
        expected = (recall_at_k(ranks(similarity, owners), 10) + recall_at_k(ranks(similarity.T, own), 10)) / 2
        assert 0 < expected < 1
        assert measure(model, uneven)["mean_recall_at_10"] == pytest.approx(expected, abs=1e-6)
        scale, of_text = model.logit_scale, torch.from_numpy(owners)
        sigmoid = sigmoid_loss(video, text, logit_scale=scale, logit_bias=model.logit_bias, video_of_text=of_text)
        assert measure(model, uneven)["loss"] == pytest.approx(sigmoid.item(), rel=1e-5)
        model.config = model.config.model_copy(update={"loss": "info_nce"})
        nce = info_nce(video, text, logit_scale=scale, video_of_text=of_text)
        assert measure(model, uneven)["loss"] == pytest.approx(nce.item(), rel=1e-5)

    def test_clips_to_look_at_are_needed_and_must_be_finite(self, tmp_path: Path) -> None:
        config = toy_config(early_stopping=STOPPING)
        with pytest.raises(ConfigError, match="looks at the split 'val', and there are no captioned clips"):
            train(config, tmp_path, validation=None)
        broken = toy_data(13)
        broken.text_features[4] = np.nan  # type: ignore[index]
        for metric in ("loss", "mean_recall_at_10"):
            config = toy_config(early_stopping={**STOPPING, "metric": metric})
            with pytest.raises(DatasetError, match=f"val_{metric} is nan: the features of split 'val'"):
                train(config, tmp_path / metric, validation=broken)

    def test_ten_clips_are_too_few_for_recall_at_10(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="is always 1 with the 10 captioned clips of the split 'val'"):
            train(toy_config(early_stopping=STOPPING), tmp_path, validation=toy_data(10, seed=7))
        train(toy_config(early_stopping={**STOPPING, "metric": "loss"}), tmp_path, validation=toy_data(10, seed=7))

    def test_equal_looks_are_told_apart_by_their_loss(self) -> None:
        stopping = EarlyStopping(toy_config(early_stopping=STOPPING), toy_data(13))
        model = AlignmentModel(VIDEO_DIM, TEXT_DIM, NUM_FRAMES, toy_config())
        for step, loss, best in ((3, 0.5, 3), (6, 0.4, 6), (9, 0.4, 6), (12, 0.6, 6)):
            assert not stopping.should_stop
            stopping.add(step, 1.0, loss, model)
            assert stopping.best_step == best
        assert stopping.should_stop


class TestBadInput:
    def test_a_nan_loss_names_step_batch_and_the_last_good_checkpoint(self, tmp_path: Path) -> None:
        # Finite, but the float32 variance of these features overflows.
        video = DATA.video_features.copy()
        config = toy_config(optim={"num_steps": 12, "global_batch_size": 2})
        bad = 22
        video[bad] *= np.float32(1e30)
        data = AlignmentData(video, DATA.text_features, DATA.captions_of, video_ids=NAMES)
        reports: list[int] = []
        pattern = r"diverged at update (\d+) of 12: loss=nan.*The batch held .*'clip22'.*; last checkpoint: (.*)"
        with pytest.raises(StageError, match=pattern) as raised:
            train_alignment(config, data, work_dir=tmp_path, on_step=lambda step, _: reports.append(step))
        steps = sorted(tmp_path.glob("*.json"))
        last = int(json.loads(steps[-1].read_text())["step"]) if steps else 0
        assert last == len(reports) // 5 * 5
        expected = f"the checkpoint of step {last} in {tmp_path} is good" if last else "there is none yet"
        assert expected in str(raised.value)
        assert f"update {len(reports) + 1} of" in str(raised.value)

    def test_features_that_are_not_finite_name_their_clip(self, tmp_path: Path) -> None:
        data = toy_data(video_ids=NAMES)
        data.video_features[17, 2, 3] = np.inf  # type: ignore[index]
        with pytest.raises(DatasetError, match=r"video features: row 17 \(clip 'clip17'\) holds NaN or infinity"):
            train_alignment(toy_config(), data, work_dir=tmp_path)
        assert not list(tmp_path.iterdir())

    def test_channels_that_never_change_are_told_and_all_of_them_refused(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        data = toy_data()
        data.text_features[:, 1] = 4.0  # type: ignore[index]
        with caplog.at_level(logging.WARNING, logger="vlmvid"):
            train_alignment(toy_config(), data, work_dir=tmp_path)
        assert "1 channels of the text features are the same in every row" in caplog.text
        data = toy_data(video_features=np.broadcast_to(np.float32(range(10)), (23, 4, 10)))
        with pytest.raises(DatasetError, match="all 10 channels of the video features hold the same values in all 23"):
            train_alignment(toy_config(), data, work_dir=tmp_path / "other")

    def test_a_checkpoint_of_other_heads_or_encoders_is_refused_with_every_difference(self, tmp_path: Path) -> None:
        data = toy_data(encoders={"vision": "dinov2", "text": "minilm"})
        train_alignment(toy_config(), data, work_dir=tmp_path)
        other = toy_data(encoders={"vision": "siglip", "text": "minilm"})
        with pytest.raises(CheckpointError) as raised:
            train_alignment(toy_config(video_head={"kind": "linear"}, projection_dim=4), other, work_dir=tmp_path)
        for words in (
            "config.projection_dim: 8 there, 4 here",
            "config.video_head.kind: gated there, linear here",
            "data.encoders.vision: dinov2 there, siglip here",
            str(tmp_path),
        ):
            assert words in str(raised.value)

    def test_differences_name_fields_by_their_path(self) -> None:
        there, here = {"a": {"b": 1, "c": [1, 2]}, "d": 3}, {"a": {"b": 2, "c": [1, 2]}, "e": None}
        found = ["a.b: 1 there, 2 here", "d: 3 there, absent here", "e: absent there, None here"]
        assert differences(there, here) == found
        assert differences(there, there) == []

    def test_a_batch_larger_than_the_data_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="global_batch_size=30, but there are 23 clips"):
            train(toy_config(optim={"global_batch_size": 30}), tmp_path)
