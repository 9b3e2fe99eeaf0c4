from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.evaluation.examples.zero_shot import MASKS, RIGHT, write_segmentation
from vlmvid.config.alignment import AlignConfig, OptimConfig
from vlmvid.config.encoders import FrameFeature, VisionConfig
from vlmvid.errors import ConfigError, DatasetError, EvaluationError, MissingDataError
from vlmvid.evaluation.benchmarks import get_benchmark
from vlmvid.evaluation.benchmarks.zero_shot.segmentation import load_mask
from vlmvid.evaluation.scoring.base import Item, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.metrics.segmentation import (
    ClassAreas,
    class_areas,
    class_iou,
    mean_class_accuracy,
    mean_iou,
    mean_iou_result,
    merge_windows,
    patch_logits,
    pixel_accuracy,
    resize_bilinear,
    segment,
    sliding_windows,
    total_areas,
)
from vlmvid.models.alignment import AlignmentModel
from vlmvid.models.backbones.base import FrozenBackbone, Preprocessing
from vlmvid.models.segmentation import patch_embeds, segment_picture

SETTINGS = ScoreSettings(num_bootstrap=100)
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


def random_masks(seed: int, num: int = 3) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 4, (5, 6)) for _ in range(num)]


def slow_iou(found: list[NDArray[np.int64]], truth: list[NDArray[np.int64]], label: int, ignore: int) -> float:
    shared = union = 0
    for one, two in zip(found, truth, strict=True):
        for p, t in zip(one.ravel(), two.ravel(), strict=True):
            if t != ignore:
                shared += p == t == label
                union += label in (p, t)
    return shared / union if union else float("nan")


@given(st.integers(0, 1000))
def test_iou_is_the_definition(seed: int) -> None:
    found, truth = random_masks(seed), random_masks(seed + 1)
    areas = total_areas([class_areas(one, two, 3, ignore=3) for one, two in zip(found, truth, strict=True)])
    expected = [slow_iou(found, truth, label, 3) for label in range(3)]
    assert class_iou(areas) == pytest.approx(expected, nan_ok=True)
    assert mean_iou(areas) == pytest.approx(np.nanmean(expected))


def test_iou_by_hand() -> None:
    areas = class_areas([[0, 0, 1], [1, 2, 9]], [[0, 1, 1], [1, 255, 0]], 3)
    # Class 0: 1 of {found 2, true 2} = 1/3; class 1: 2 of {found 2, true 3} = 2/3; class 2 is only found where ignored.
    assert class_iou(areas) == pytest.approx([1 / 3, 2 / 3, np.nan], nan_ok=True)
    assert mean_iou(areas) == pytest.approx(0.5)
    assert mean_iou(areas, [1]) == pytest.approx(2 / 3)
    assert pixel_accuracy(areas) == pytest.approx(3 / 5)
    assert mean_class_accuracy(areas) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_class_that_is_found_and_nowhere_annotated_is_zero() -> None:
    assert class_iou(class_areas([[0, 1]], [[0, 0]], 3)) == pytest.approx([0.5, 0, np.nan], nan_ok=True)


def test_wrong_masks_are_refused() -> None:
    with pytest.raises(EvaluationError, match=r"0\.\.7"):
        class_areas([[0, 0]], [[0, 7]], 3)
    with pytest.raises(EvaluationError, match="shape"):
        class_areas([[0]], [[0, 1]], 3)
    with pytest.raises(EvaluationError, match="class indices"):
        class_areas([[0.5]], [[0]], 3)


def test_the_interval_is_a_bootstrap_over_pictures() -> None:
    rng = np.random.default_rng(0)
    pictures = [class_areas(rng.integers(0, 3, (4, 4)), rng.integers(0, 3, (4, 4)), 3) for _ in range(30)]
    result = mean_iou_result("miou", total_areas(pictures), num_bootstrap=2000, seed=1)
    values = []
    for _ in range(2000):
        drawn = [pictures[i] for i in rng.integers(0, 30, 30)]
        values.append(mean_iou(total_areas(drawn)))
    assert (result.ci_low, result.ci_high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=0.006)
    assert mean_iou_result("miou", total_areas(pictures[:1]), num_bootstrap=100, seed=1).ci_low is None


@settings(deadline=None)
@given(sizes, sizes, st.integers(0, 100))
def test_resizing_is_that_of_torch(size: tuple[int, int], new: tuple[int, int], seed: int) -> None:
    maps = np.random.default_rng(seed).normal(size=(2, *size)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(maps)[None], size=new, mode="bilinear", align_corners=False)[0]
    assert resize_bilinear(maps, new) == pytest.approx(expected.numpy(), abs=1e-5)


def slow_segment(
    logits: NDArray[np.float32], size: tuple[int, int], classes: list[int], scale: float, threshold: float
) -> NDArray[np.int64]:
    wide = F.interpolate(torch.from_numpy(logits)[None], size=size, mode="bilinear", align_corners=False)[0]
    shares = (wide * scale).softmax(0)
    best = torch.stack(
        [shares[[q for q, c in enumerate(classes) if c == k]].max(0)[0] for k in range(max(classes) + 1)]
    )
    mask = best.argmax(0)
    mask[best.max(0)[0] < threshold] = 0
    return mask.numpy()


@settings(deadline=None)
@given(st.integers(0, 200), st.sampled_from([0.0, 0.4]))
def test_segments_are_those_of_the_protocol(seed: int, threshold: float) -> None:
    logits = np.random.default_rng(seed).normal(size=(5, 3, 4)).astype(np.float32)
    classes = [2, 0, 1, 0, 2]
    found = segment(logits, (7, 9), classes=classes, scale=2.0, threshold=threshold)
    assert (found == slow_segment(logits, (7, 9), classes, 2.0, threshold)).mean() > 0.98  # equal up to rounding


def test_of_classes_that_tie_the_first_wins() -> None:
    assert segment(np.zeros((3, 2, 2)), (2, 2), classes=[2, 1, 1]).tolist() == [[1, 1], [1, 1]]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.random.default_rng(0).normal(size=(4, 3, 3))
    whole = segment(logits, (11, 5))
    monkeypatch.setattr("vlmvid.metrics.segmentation._BLOCK_ENTRIES", 1)
    assert (segment(logits, (11, 5)) == whole).all()


def test_patches_meet_their_names() -> None:
    names = np.eye(3, 5)
    patches = names[[0, 1, 2, 0, 2, 1]] * 7  # their length does not matter
    logits = patch_logits(patches, names, (2, 3))
    assert segment(logits, (2, 3)).tolist() == [[0, 1, 2], [0, 2, 1]]
    assert (segment(logits, (4, 6))[::3, ::5] == [[0, 2], [0, 1]]).all()
    with pytest.raises(EvaluationError, match="grid"):
        patch_logits(patches, names, (2, 2))
    with pytest.raises(EvaluationError, match="patches"):
        patch_logits(patches * 0, names, (2, 3))


@given(sizes, st.integers(1, 6), st.data())
def test_windows_cover_every_pixel(size: tuple[int, int], crop: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, crop))
    windows = list(sliding_windows(size, crop, stride))
    covered = np.zeros(size, dtype=int)
    for rows, columns in windows:
        assert rows.stop - rows.start == min(crop, size[0])
        assert columns.stop - columns.start == min(crop, size[1])
        covered[rows, columns] += 1
    assert (covered > 0).all()
    constant = [np.full((2, 1, 1), 3.0, dtype=np.float32)] * len(windows)
    assert merge_windows(windows, constant, size) == pytest.approx(np.full((2, *size), 3.0))


def test_windows_are_averaged_where_they_meet() -> None:
    windows = list(sliding_windows((1, 3), 2, 1))
    assert [columns.start for _, columns in windows] == [0, 1]
    parts = [np.full((1, 1, 2), value, dtype=np.float32) for value in (0.0, 1.0)]
    assert merge_windows(windows, parts, (1, 3)).tolist() == [[[0.0, 0.5, 1.0]]]
    with pytest.raises(EvaluationError, match="no window"):
        merge_windows(windows[:1], parts[:1], (1, 3))


def test_the_head_of_a_model_maps_every_patch() -> None:
    config = AlignConfig(projection_dim=6, optim=OptimConfig(num_steps=1, global_batch_size=2))
    model = AlignmentModel(8, 5, 2, config).train()
    tokens = torch.randn(2, 2, 9, 8, generator=torch.Generator().manual_seed(0))
    found = patch_embeds(model, tokens)
    assert found.shape == (2, 2, 9, 6) and model.training
    alone = patch_embeds(model, tokens[1, 0, 4:5])
    assert torch.allclose(found[1, 0, 4], alone[0], atol=1e-6)
    assert torch.allclose(found.norm(dim=-1), torch.ones(2, 2, 9), atol=1e-5)
    # One frame of equal patches is what the mean-pooled model sees.
    same = tokens[:1, :1, :1].expand(1, 2, 1, 8)
    assert torch.allclose(patch_embeds(model.eval(), same)[0, 0], model.embed_video(same[:, :, 0]), atol=1e-5)
    with pytest.raises(ValueError, match="reads 8 channels"):
        patch_embeds(model, tokens[..., :7])


def test_a_model_of_class_and_mean_token_takes_both() -> None:
    config = AlignConfig(projection_dim=6, optim=OptimConfig(num_steps=1, global_batch_size=2))
    model = AlignmentModel(8, 5, 1, config).eval()
    tokens = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    cls = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    found = patch_embeds(model, tokens, cls)
    frame = torch.cat([cls[1], tokens[1, 5]])  # as wide as the feature cls_mean of a picture of this patch alone
    assert torch.allclose(found[1, 5], model.embed_video(frame[None, None])[0], atol=1e-6)
    with pytest.raises(ValueError, match="cls_mean"):
        patch_embeds(model, tokens)
    with pytest.raises(ValueError, match="do not fit"):
        patch_embeds(model, tokens, cls[:1])


def read(folder: Path, **options: str) -> list[Item]:
    return get_benchmark("segmentation").read(write_segmentation(folder), {"zero": "ignore", **options})


def test_masks_in_every_form_score_the_same(tmp_path: Path) -> None:
    benchmark = get_benchmark("segmentation")
    items = read(tmp_path)
    assert items[0].choices == ("wall", "floor") and items[0].extra["synonyms"] == (("wall", "house wall"), ("floor",))
    wrong = {**RIGHT, "ADE_val_00000001": [[1, 1, 0], [1, 1, 0]]}
    folder = tmp_path / "found"
    folder.mkdir()
    for name, rows in wrong.items():
        palette = Image.fromarray(np.array(rows, dtype=np.uint8), mode="P")
        palette.putpalette([200, 0, 0, 0, 200, 0] + [0] * 762)  # colours, as VOC's files have
        palette.save(folder / f"{name}.png")
    np.savez(tmp_path / "found.npz", **{name: np.array(rows) for name, rows in wrong.items()})
    assert benchmark.read_predictions is not None
    results = [
        benchmark.score(items, predictions, SETTINGS).metrics
        for predictions in (
            Predictions(wrong),
            benchmark.read_predictions(folder, items),
            benchmark.read_predictions(tmp_path / "found.npz", items),
        )
    ]
    assert results[0] == results[1] == results[2]
    values = {metric.name: metric.value for metric in results[0]}
    # Truth of the first (annotated 0 and 255 ignored): [-, 0, 0], [1, 1, -]; found 1, 0, 1, 1. Second: six right.
    assert values["iou_0_wall"] == pytest.approx(7 / 8)
    assert values["iou_1_floor"] == pytest.approx(2 / 3)
    assert values["miou"] == pytest.approx((7 / 8 + 2 / 3) / 2)
    assert values["pixel_accuracy"] == pytest.approx(9 / 10)
    assert values["miou/constant"] == pytest.approx(0.4)


def test_chance_is_that_of_drawn_pixels(tmp_path: Path) -> None:
    result = get_benchmark("segmentation").score(read(tmp_path), Predictions(dict(RIGHT)), SETTINGS)
    # 8 and 2 of 10 pixels; half of them drawn right.
    expected = (4 / (8 + 5 - 4) + 1 / (2 + 5 - 1)) / 2
    assert result.metric("miou/chance").value == pytest.approx(expected)
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], [80_000, 20_000])[None]
    drawn = class_areas(rng.integers(0, 2, truth.shape), truth, 2)
    assert mean_iou(drawn) == pytest.approx(expected, abs=0.01)


def test_background_is_left_out_on_demand(tmp_path: Path) -> None:
    items = read(tmp_path, background="0")
    wrong = {**RIGHT, "ADE_val_00000001": [[1, 1, 0], [1, 1, 0]]}
    result = get_benchmark("segmentation").score(items, Predictions(wrong), SETTINGS)
    assert result.metric("miou_no_background").value == pytest.approx(2 / 3)


def test_a_missing_mask_makes_its_pixels_wrong(tmp_path: Path) -> None:
    items = read(tmp_path)
    result = get_benchmark("segmentation").score(
        items, Predictions({"ADE_val_00000001": RIGHT["ADE_val_00000001"]}), SETTINGS
    )
    assert result.metric("iou_0_wall").value == pytest.approx(2 / 8)
    assert result.metric("iou_1_floor").value == 1


@pytest.mark.parametrize("mask", [[[0, 0]], [[0], [1, 2]], [[0.5] * 3] * 2, "no such file.png", None, 3])
def test_what_is_no_mask_of_that_size_is_unparsed(mask: object, tmp_path: Path) -> None:
    items = read(tmp_path)
    result = get_benchmark("segmentation").score(items, Predictions({**RIGHT, "ADE_val_00000001": mask}), SETTINGS)
    assert [row["status"] for row in result.samples] == ["unparsed", "parsed"]


def test_bad_references_are_named(tmp_path: Path) -> None:
    benchmark = get_benchmark("segmentation")
    masks = write_segmentation(tmp_path)
    # Without zero=ignore, 2 is no class of two.
    with pytest.raises(DatasetError, match="ADE_val_00000001.*zero"):
        benchmark.score(benchmark.read(masks, {}), Predictions(dict(RIGHT)), SETTINGS)
    for options, words in (({"background": "7"}, "none of the 2"), ({"ignore": "x"}, "whole"), ({"zero": "y"}, "zero")):
        with pytest.raises(ConfigError, match=words):
            benchmark.read(masks, options)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(MissingDataError, match=r"classes\.txt"):
        benchmark.read(masks, {})


def test_predictions_that_hold_no_mask_are_refused(tmp_path: Path) -> None:
    benchmark = get_benchmark("segmentation")
    assert benchmark.read_predictions is not None
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(EvaluationError, match="cannot be read"):
        benchmark.read_predictions(tmp_path / "cut.npz", [])
    with pytest.raises(EvaluationError, match="no mask"):
        benchmark.read_predictions(tmp_path, [])


def test_a_suffix_of_the_annotated_names_is_dropped(tmp_path: Path) -> None:
    masks = write_segmentation(tmp_path)
    for name in MASKS:
        (masks / f"{name}.png").rename(masks / f"{name}_labelTrainIds.png")
    items = get_benchmark("segmentation").read(masks, {"suffix": "_labelTrainIds", "zero": "ignore"})
    assert [item.item_id for item in items] == sorted(MASKS)


def test_areas_add_up() -> None:
    areas = ClassAreas(np.array([1]), np.array([3]), np.array([2]))
    assert areas.union.tolist() == [4]


class Patches(FrozenBackbone):
    family = "patches"

    def architecture(self) -> dict[str, Any]:
        return {}

    def _tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.module(pixels).flatten(2).transpose(1, 2)
        return torch.cat([patches.mean(dim=1, keepdim=True) ** 2, patches], dim=1)


def aligned(feature: FrameFeature) -> tuple[FrozenBackbone, AlignmentModel]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = torch.nn.Conv2d(3, 8, 4, 4)
    preprocessing = Preprocessing(16, (0.5,) * 3, (0.5,) * 3, "bilinear")
    backbone = Patches(module, VisionConfig(backbone="patches", feature=feature), preprocessing, 1)
    config = AlignConfig(projection_dim=6, optim=OptimConfig(num_steps=1, global_batch_size=2))
    return backbone, AlignmentModel(backbone.feature_dim, 5, 1, config).eval()


@pytest.mark.parametrize("feature", ["mean", "cls_mean"])
def test_a_picture_is_segmented_by_its_windows(feature: FrameFeature) -> None:
    backbone, model = aligned(feature)
    crop, side = backbone.image_size, backbone.grid_side
    assert side is not None
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (3, crop, crop + crop // 2), dtype=np.uint8)
    texts = rng.normal(size=(3, 6)).astype(np.float32)
    total, count = torch.zeros(3, crop, crop + crop // 2), torch.zeros(crop + crop // 2)
    for left in (0, crop // 2):
        tokens = backbone.encode_clips(picture[None, None, :, :, left : left + crop], keep_tokens=True)["tokens"][0, 0]
        rows = torch.from_numpy(tokens[backbone.num_prefix_tokens :])
        if feature == "cls_mean":
            rows = torch.cat([torch.from_numpy(tokens[:1]).expand_as(rows), rows], dim=1)
        with torch.no_grad():
            embeds = F.normalize(model.video_head(rows), dim=-1)
        logits = (F.normalize(torch.from_numpy(texts), dim=-1) @ embeds.T).reshape(1, 3, side, side)
        total[:, :, left : left + crop] += F.interpolate(logits, size=(crop, crop), mode="bilinear")[0]
        count[left : left + crop] += 1
    expected = (total / count).argmax(0).numpy()
    found = segment_picture(backbone, model, picture, texts)
    assert found.shape == (crop, crop + crop // 2)
    assert (found == expected).mean() > 0.995  # equal up to rounding
    assert len(np.unique(found)) > 1
    merged = segment_picture(backbone, model, picture, texts, classes=[0, 1, 1])
    assert set(np.unique(merged)) <= {0, 1}
    shares = (total / count * model.logit_scale.detach()).softmax(0).max(0)[0].numpy()
    unsure = segment_picture(backbone, model, picture, texts, threshold=0.9)
    assert (unsure == np.where(shares < 0.9, 0, expected)).mean() > 0.995
    assert 0 < (shares < 0.9).mean() < 1


def test_what_cannot_be_segmented_is_refused() -> None:
    backbone, model = aligned("mean")
    with pytest.raises(ConfigError, match="uint8"):
        segment_picture(backbone, model, np.zeros((3, 8, 8)), np.ones((1, 6), np.float32))  # type: ignore[arg-type]
    grid, on_grid = aligned("grid")
    with pytest.raises(ConfigError, match="'grid'"):
        segment_picture(grid, on_grid, np.zeros((3, 8, 8), np.uint8), np.ones((1, 6), np.float32))


def test_a_path_that_is_none_is_no_mask(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    for wrong in ("a\0b.png", "", str(tmp_path), str(tmp_path / "broken.png"), str(tmp_path / "none.png"), [[10**400]]):
        assert load_mask(wrong) is None
