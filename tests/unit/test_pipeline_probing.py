"""A probe over tiny videos: measures, caching, encoders that fail, and what is recorded."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tests.tiny import COLOURS, write_clip, write_rows
from tests.unit.pipeline_fixtures import published
from tests.unit.tracking_fixtures import client_of, fresh_home
from vlmvid.cli import main
from vlmvid.config.probing import load_probe
from vlmvid.errors import ConfigError, StageError
from vlmvid.pipeline import probing
from vlmvid.pipeline.probing import read_probe, run_probe

VIT = {"backbone": "timm:test_vit", "pretrained": False, "image_size": 32}
LITE = {"name": "lite", "backbone": "efficientnet-lite0", "image_size": 32}
BROKEN = {"name": "broken", "backbone": "timm:no_such_model", "pretrained": False}
RECIPE: dict[str, Any] = {
    "name": "tiny-probe",
    "decode": {"sampling": {"num_frames": 1}, "image_size": 32},
    "vision": [LITE, {"name": "vit", **VIT}, {"name": "vit-depth", **VIT, "layer": 2}],
    "language": [{"name": "minilm", "encoder": "minilm"}],
    "align": {"projection_dim": 8, "optim": {"num_steps": 3, "global_batch_size": 6}},
    "labels": {"attribute": "colour", "k": [2, 50], "num_folds": 2, "protocol": "cross_validated"},
    "num_bootstrap": 100,
    "mutual_k": 3,
    "tracking": {"enabled": False},
    "options": {"decode_workers": 0, "max_failed_fraction": 0.0},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    rows: list[dict[str, Any]] = []
    for i in range(18):
        colour = list(COLOURS)[i % 4]
        path = write_clip(folder / f"c{i}.mp4", COLOURS[colour], shift=i, num_frames=2)
        attributes = {"colour": colour} if i else {"shape": "bar"}
        split = "test" if i % 2 else "train"
        captions = [f"a {colour} clip with a bar {i}"]
        rows.append(
            {"video_id": f"v{i}", "path": path.name, "split": split, "captions": captions} | {"attributes": attributes}
        )
    return write_rows(folder / "manifest.jsonl", rows)


def write_probe(folder: Path, dataset: Path, **sections: Any) -> Path:
    path = folder / "probe.yaml"
    data = {"name": "manifest", "options": {"path": str(dataset)}}
    path.write_text(yaml.safe_dump({**RECIPE, "data": data, **sections}))
    return path


def test_a_probe_with_a_broken_encoder_is_measured_recorded_and_cached(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = fresh_home(tmp_path / "home")
    tracking = {"uri": f"sqlite:///{home}/mlflow.db"}
    path = write_probe(tmp_path, dataset, vision=[BROKEN, *RECIPE["vision"]], tracking=tracking)
    assert main(["probe", str(path), "--json", "--home", str(home)]) == 1  # an encoder failed; the others are there
    document = json.loads(capsys.readouterr().out)
    assert [pair["vision"] for pair in document["pairs"]] == ["lite", "vit", "vit-depth"]
    (failure,) = document["failures"]
    assert (failure["what"], failure["stage"]) == ("broken", "load") and "no_such_model" in failure["error"]
    assert document["notes"] == [
        "1 of 18 clips have no attribute 'colour'",
        "k-NN with k = 50 is left out: there are too few clips",
    ]
    encoders = {encoder["name"]: encoder for encoder in document["encoders"]}
    assert [encoders[name]["is_random"] for name in ("lite", "vit", "minilm")] == [False, True, False]
    assert encoders["vit"]["weights"] == encoders["vit-depth"]["weights"] != encoders["lite"]["weights"]
    lite = {metric["name"]: metric for metric in encoders["lite"]["metrics"]}
    assert lite["knn_2_accuracy"]["num_samples"] == 17 and lite["knn_2_accuracy"]["value"] > 0.4  # chance is 1/4
    recall = {metric["name"]: metric for metric in document["pairs"][0]["metrics"]}
    assert recall["mean_recall_at_10"]["num_samples"] == 18 and recall["mean_recall_at_10/chance"]["value"] == 1
    assert {c["modality"] for c in document["correlations"]} == {"vision", "language"}
    assert all(c["why_not"] for c in document["correlations"] if c["modality"] == "language")

    folder = Path(document["folder"])
    files = {"matrix.png", "measures.parquet", "probe.json", "report.md", "scatter_vision.png"}
    assert {file.name for file in folder.iterdir()} == {*files, "manifest.json"}
    rows = pq.read_table(folder / "measures.parquet").to_pylist()
    assert {row["vision"] for row in rows} == {"lite", "vit", "vit-depth", None}
    assert "- broken (load): ConfigError: timm has no model" in (folder / "report.md").read_text()

    client = client_of(home)
    experiment = client.get_experiment_by_name("vlmvid")
    assert experiment is not None
    (stage,) = client.search_runs([experiment.experiment_id], "tags.`vlmvid.stage` = 'probe'")
    assert stage.data.metrics["lite/minilm/mean_recall_at_10"] == recall["mean_recall_at_10"]["value"]
    assert {file.path for file in client.list_artifacts(stage.info.run_id)} >= files

    before = published(home)
    assert Counter(before) == {"ingest": 1, "encode": 3, "align": 3, "evaluation": 3, "evaluate": 3, "probe": 1}
    assert main(["probe", str(path), "--home", str(home)]) == 1
    assert "# Alignment probe tiny-probe" in capsys.readouterr().out
    assert published(home) == before


def test_another_probe_of_the_same_encoders_encodes_and_trains_nothing_again(tmp_path: Path, dataset: Path) -> None:
    home = tmp_path / "home"
    two = RECIPE["vision"][1:]
    first = run_probe(write_probe(tmp_path, dataset, vision=two), home=home)
    document, report = read_probe(first, home=home)
    assert "No correlation is given: it needs at least 3 encoders, and there are 2." in report
    assert all(c["result"] is None for c in document["correlations"])
    # One reading of MiniLM more, all pairs, other neighbours: only the new pairs are made.
    before = Counter(published(home))
    languages = [*RECIPE["language"], {"name": "cls", "encoder": "minilm", "pooling": "cls"}]
    path = write_probe(tmp_path, dataset, vision=two, language=languages, pairs="matrix", labels=None)
    document, report = read_probe(run_probe(path, ["seeds=[0, 1]"], home=home), home=home)
    made = Counter(published(home)) - before
    assert made == {"encode": 2, "align": 6, "evaluation": 6, "evaluate": 6, "probe": 1}
    assert [(p["vision"], p["language"]) for p in document["pairs"]] == [
        (v, t) for t in ("minilm", "cls") for v in ("vit", "vit-depth")
    ]
    assert "## Mean R@10 of the pairs" in report
    assert all(encoder["metrics"] == [] for encoder in document["encoders"])
    folder = home / "clips" / "encode"
    assert len(list(folder.rglob("*.safetensors")) + list(folder.rglob("*.npy"))) <= 2  # two encoders, one shard each


def test_measures_of_many_clips_are_taken_on_some_drawn_by_seed(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "MAX_CLIPS", 9)
    ref = run_probe(write_probe(tmp_path, dataset, vision=RECIPE["vision"][1:2]), home=tmp_path / "home")
    document, _ = read_probe(ref, home=tmp_path / "home")
    nmi = next(metric for metric in document["encoders"][0]["metrics"] if metric["name"] == "nmi")
    recall = next(metric for metric in document["pairs"][0]["metrics"] if metric["name"] == "mean_recall_at_10")
    assert nmi["num_samples"] in (8, 9) and recall["num_samples"] == 18  # one clip has no label


def test_an_unknown_label_names_those_that_there_are(tmp_path: Path, dataset: Path) -> None:
    path = write_probe(tmp_path, dataset, labels={"attribute": "genre"})
    with pytest.raises(ConfigError, match=r"'genre'; they have: colour \(4 values\), shape \(1 values\)"):
        run_probe(path, home=tmp_path / "home")


def test_when_every_encoder_fails_all_reasons_are_given(tmp_path: Path, dataset: Path) -> None:
    path = write_probe(tmp_path, dataset, vision=[BROKEN, {**BROKEN, "name": "b2", "backbone": "hf:no-such/model"}])
    with pytest.raises(StageError, match="(?s)no pair of encoders.*b2: .*no-such/model.*broken: .*no_such_model"):
        run_probe(path, home=tmp_path / "home")


def test_a_broken_language_encoder_leaves_the_others(tmp_path: Path, dataset: Path) -> None:
    languages = [*RECIPE["language"], {"name": "gone", "encoder": "hf:no-such/model"}]
    ref = run_probe(
        write_probe(tmp_path, dataset, vision=RECIPE["vision"][1:2], language=languages), home=tmp_path / "h"
    )
    document, _ = read_probe(ref, home=tmp_path / "h")
    assert [failure["what"] for failure in document["failures"]] == ["gone"]
    assert [pair["language"] for pair in document["pairs"]] == ["minilm"]


def test_a_measure_that_failed_in_passing_is_taken_again(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_probe(tmp_path, dataset, vision=RECIPE["vision"][1:2])
    with monkeypatch.context() as patched:
        patched.setattr(probing, "_encoder", lambda *_: exec("raise MemoryError"))
        first, _ = read_probe(run_probe(path, home=tmp_path / "home"), home=tmp_path / "home")
    assert {failure["error"] for failure in first["failures"]} == {"MemoryError: "}
    second, _ = read_probe(run_probe(path, home=tmp_path / "home"), home=tmp_path / "home")
    assert not second["failures"] and len(second["encoders"]) == 2


@pytest.mark.parametrize(
    "changes", [{"end_to_end": {"text": {"rank": 2}}}, {"auxiliary": [{"kind": "structure", "weight": 1.0}]}]
)
def test_what_would_change_the_features_is_refused(tmp_path: Path, dataset: Path, changes: dict[str, Any]) -> None:
    path = write_probe(tmp_path, dataset, align={**RECIPE["align"], **changes})
    with pytest.raises(ConfigError, match=f"alone; got align.{next(iter(changes))}"):
        load_probe(path)
