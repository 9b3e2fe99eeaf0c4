from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.examples.zero_shot import pictures, write_deja_vu
from vlmvid.errors import ConfigError, DatasetError, EvaluationError
from vlmvid.evaluation.benchmarks import get_benchmark
from vlmvid.evaluation.memorisation import read_neighbours
from vlmvid.evaluation.scoring.base import Item, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.metrics.memorisation import (
    histogram_auc,
    nearest_public,
    object_precision_recall,
    population_gaps,
)

SETTINGS = ScoreSettings(num_bootstrap=100)


@given(st.integers(0, 300), st.integers(1, 5))
def test_the_nearest_are_those_of_a_full_sort(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    captions, public = (rng.integers(-2, 3, (n, 3)).astype(np.float32) for n in (4, 5))
    found = nearest_public(captions, public, k)
    for row, caption in enumerate(captions):
        order = sorted(range(5), key=lambda place: (-float(caption @ public[place]), place))
        assert found[row].tolist() == order[:k]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    captions, public = rng.normal(size=(7, 4)), rng.normal(size=(9, 4))
    whole = nearest_public(captions, public, 3)
    monkeypatch.setattr("vlmvid.metrics.memorisation._BLOCK_ENTRIES", 1)
    assert (nearest_public(captions, public, 3) == whole).all()


def test_wrong_embeddings_are_refused() -> None:
    for captions, public, k in (
        (np.ones((2, 3)), np.ones((2, 4)), 1),
        (np.full((2, 3), np.nan), np.ones((2, 3)), 1),
        (np.ones((2, 3)), np.ones((2, 3)), 3),
        (np.ones((2, 3)), np.ones((2, 3)), 0),
    ):
        with pytest.raises(EvaluationError):
            nearest_public(captions, public, k)


def test_objects_by_hand() -> None:
    found: list[set[str]] = [{"dog", "ball"}, set()]
    precision, recall = object_precision_recall(found, [{"dog", "cat", "tree"}, {"dog"}])
    assert precision.tolist() == [0.5, 0] and recall == pytest.approx([1 / 3, 0])
    assert population_gaps([0.5, 0.2, 0.1], [0.4, 0.2, 0.3]).tolist() == [1, 0, -1]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_the_binned_area_is_near_the_mean(recall: list[float]) -> None:
    assert histogram_auc(recall) == pytest.approx(np.mean(recall), abs=0.011)


def items_of(folder: Path, k: str = "2") -> list[Item]:
    return get_benchmark("deja_vu").read(write_deja_vu(folder), {"k": k})


def test_pictures_without_objects_are_not_asked(tmp_path: Path) -> None:
    items = items_of(tmp_path)
    assert [item.item_id for item in items] == ["t1", "t2", "t3"]
    assert items[0].answer == {"dog", "ball"}


def test_scores_by_hand(tmp_path: Path) -> None:
    values = {key: pictures(["p1", "p3"], ["p2", "p5"]) for key in ("t1", "t2", "t3")}
    result = get_benchmark("deja_vu").score(items_of(tmp_path), Predictions(values), SETTINGS)
    found = {metric.name: metric.value for metric in result.metrics}
    assert found["population_recall_gap"] == pytest.approx(1 / 3)
    assert found["object_precision_target"] == pytest.approx((2 / 3 + 0 + 1 / 3) / 3)
    assert found["object_recall_target"] == pytest.approx((1 + 0 + 1 / 3) / 3)
    assert found["object_recall_reference"] == pytest.approx((0 + 1 + 0) / 3)
    assert found["recall_auc_gap"] == pytest.approx((1 - 1 + 1 / 3) / 3)
    assert all(not metric.higher_is_better for metric in result.metrics[:1])


def test_a_model_against_itself_remembers_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "caption_ids": np.array(["t1", "t2", "t3"]),
        "public_ids": np.array([f"p{i}" for i in range(1, 6)]),
        "target_captions": rng.normal(size=(3, 4)),
        "target_public": rng.normal(size=(5, 4)),
    }
    arrays |= {f"reference_{part}": arrays[f"target_{part}"] for part in ("captions", "public")}
    np.savez(tmp_path / "embeddings.npz", **arrays)
    benchmark = get_benchmark("deja_vu")
    items = items_of(tmp_path)
    assert benchmark.read_predictions is not None
    predictions = benchmark.read_predictions(tmp_path / "embeddings.npz", items)
    order = nearest_public(arrays["target_captions"], arrays["target_public"], 2)
    assert predictions.values["t1"]["target"] == [f"p{place + 1}" for place in order[0]]
    assert benchmark.score(items, predictions, SETTINGS).metrics[0].value == 0


def test_wrong_embedding_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, caption_ids=np.array(["a"]))
    with pytest.raises(EvaluationError, match="no array 'public_ids'"):
        read_neighbours(path, 1)
    arrays = {"caption_ids": np.array(["a"]), "public_ids": np.array(["p"])}
    parts = {f"{model}_{part}": np.ones((1, 2)) for model in ("target", "reference") for part in ("captions", "public")}
    np.savez(path, **arrays, **{**parts, "target_public": np.ones((2, 2))})
    with pytest.raises(EvaluationError, match="target has 1 captions and 2 pictures"):
        read_neighbours(path, 1)
    np.savez(
        path,
        **{**arrays, "caption_ids": np.array(["a", "a"])},
        **{**parts, **{k: np.ones((2, 2)) for k in parts if "captions" in k}},
    )
    with pytest.raises(EvaluationError, match="more than once"):
        read_neighbours(path, 1)
    for content in (b"no zip", b"PK\x03\x04 cut off", b""):
        path.write_bytes(content)
        with pytest.raises(EvaluationError, match="cannot be read"):
            read_neighbours(path, 1)
    with path.open("wb") as file:  # a single array is no archive
        np.save(file, np.ones(3))
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_neighbours(path, 1)
    with pytest.raises(EvaluationError, match="does not exist"):
        read_neighbours(tmp_path / "nowhere.npz", 1)


def test_rows_of_neighbours_are_read(tmp_path: Path) -> None:
    benchmark = get_benchmark("deja_vu")
    items = items_of(tmp_path)
    path = tmp_path / "found.jsonl"
    path.write_text(json.dumps({"id": "t1", **pictures(["p1", "p2"], ["p3", "p4"])}) + "\n")
    assert benchmark.read_predictions is not None
    assert benchmark.read_predictions(path, items).values == {"t1": pictures(["p1", "p2"], ["p3", "p4"])}
    path.write_text('{"target": []}\n')
    with pytest.raises(EvaluationError, match="entry 1"):
        benchmark.read_predictions(path, items)


def test_bad_input(tmp_path: Path) -> None:
    benchmark = get_benchmark("deja_vu")
    items = items_of(tmp_path)
    few = Predictions({"t1": pictures(["p1"], ["p1"]), "t2": pictures(["p1", "p2"], ["p1", "p2"])})
    result = benchmark.score(items, few, SETTINGS)
    assert [row["status"] for row in result.samples] == ["unparsed", "parsed", "missing"]
    assert result.metrics[0].value == pytest.approx(2 / 3)  # both count as remembered
    with pytest.raises(EvaluationError, match="'p9' has no row"):
        benchmark.score(items, Predictions({"t1": pictures(["p9", "p1"], ["p1", "p2"])}), SETTINGS)
    with pytest.raises(EvaluationError, match="2 lack them"):
        benchmark.compat["vlm_dejavu"](items, few, SETTINGS)
    with pytest.raises(ConfigError, match="k='0'"):
        benchmark.read(tmp_path, {"k": "0"})
    (tmp_path / "public_objects.jsonl").write_text('{"id": "p1", "objects": "dog"}\n')
    with pytest.raises(DatasetError, match="no list of texts"):
        benchmark.read(tmp_path, {})
    (tmp_path / "public_objects.jsonl").write_text('{"id": "p1", "objects": []}\n' * 2)
    with pytest.raises(DatasetError, match="twice"):
        benchmark.read(tmp_path, {})


def test_compat_chooses_the_largest_gaps(tmp_path: Path) -> None:
    values = {
        "t1": pictures(["p5", "p5"], ["p1", "p3"]),  # two objects fewer
        "t2": pictures(["p2", "p5"], ["p5", "p5"]),  # one more
        "t3": pictures(["p3", "p4"], ["p5", "p5"]),  # three more: the top of every share
    }
    result = get_benchmark("deja_vu").compat["vlm_dejavu"](items_of(tmp_path), Predictions(values), SETTINGS)
    assert result.metric("top_0_1_recall_gap").value == 1
    assert result.printed is not None
    assert "Population Precision Gap: 0.3333" in result.printed and "Evaluating on Top-1 records..." in result.printed
