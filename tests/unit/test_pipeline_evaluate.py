"""Benchmarks on the files of their authors, with real videos, in the evaluate stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.tiny import COLOURS, RECIPE, write_clip, write_dataset
from tests.unit.pipeline_fixtures import count_opens, request_for, run, statuses
from vlmvid.errors import ConfigError, MissingDataError
from vlmvid.pipeline import preflight
from vlmvid.pipeline.clip_embeddings import ClipEmbeddings
from vlmvid.pipeline.context import open_context
from vlmvid.pipeline.evaluation_parts import part_keys
from vlmvid.pipeline.ingest import read_rows
from vlmvid.pipeline.media import MediaFolder


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


def write_benchmarks(folder: Path) -> list[dict[str, Any]]:
    """Four videos, VITATECS over them, and a retrieval file in which each has a caption."""
    videos, annotations = folder / "benchmark" / "videos", folder / "benchmark" / "annotations"
    (videos / "VATEX").mkdir(parents=True)
    annotations.mkdir(parents=True)
    rows = []
    for number, (colour, value) in enumerate(COLOURS.items()):
        write_clip(videos / "VATEX" / f"clip_{number}.mp4", value, shift=number + 1)
        rows.append(
            {
                "src_dataset": "VATEX",
                "video_name": f"clip_{number}",
                "caption": f"a {colour} picture with a bar",
                "counterfactual": "a bar leaves",
                "aspect": "Direction",
            }
        )
    (annotations / "Direction.jsonl").write_text("\n".join(map(json.dumps, rows)))
    names = [f"video{number}" for number in range(4)]
    for number, name in enumerate(names):
        write_clip(videos / f"{name}.mp4", list(COLOURS.values())[number], shift=number + 20)
    lines = ["key,vid_key,video_id,sentence"]
    lines += [
        f"ret{i},msr{i},{name},a {colour} picture" for i, (name, colour) in enumerate(zip(names, COLOURS, strict=True))
    ]
    (annotations / "MSRVTT_JSFUSION_test.csv").write_text("\n".join(lines) + "\n")
    place = {"annotations": str(annotations), "media": str(videos)}
    return [
        {"name": "vitatecs", **place, "options": {"aspect": "Direction"}},
        {"name": "msrvtt", **place, "as": "msrvtt-1ka", "compat": ["clip4clip"]},
    ]


def sections(benchmarks: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"evaluate": {"tasks": ["retrieval"], "num_bootstrap": 100, "benchmarks": benchmarks, **more}}


def results_of(uri: str) -> dict[str, dict[str, Any]]:
    document = json.loads((Path(uri) / "metrics.json").read_text())
    return {f"{value['task']}@{value['compat']}": value for value in document}


def test_benchmarks_stand_beside_the_tasks(tmp_path: Path, home: Path, manifest: Path) -> None:
    request = request_for(tmp_path, home, manifest, **sections(write_benchmarks(tmp_path)))
    ref = run(request)["evaluate"]
    results = results_of(ref.uri)
    assert list(results) == ["retrieval@None", "vitatecs@None", "msrvtt-1ka@None", "msrvtt-1ka@clip4clip"]
    metrics = {metric["name"]: metric["value"] for metric in results["vitatecs@None"]["metrics"]}
    assert metrics["n_total"] == metrics["n_parsed"] == 4
    rows = pq.read_table(Path(ref.uri) / "vitatecs.parquet").to_pylist()
    assert [row["item_id"] for row in rows] == [f"Direction_{i}" for i in range(4)]
    assert results["msrvtt-1ka@clip4clip"]["printed"]
    report = (Path(ref.uri) / "report.md").read_text()
    assert "## vitatecs" in report and "## msrvtt-1ka" in report
    assert statuses(request)["evaluate"][0] == "cached"


def test_one_more_benchmark_costs_only_itself(
    tmp_path: Path, home: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vitatecs, msrvtt = write_benchmarks(tmp_path)
    run(request_for(tmp_path, home, manifest, **sections([vitatecs])))
    stored = set((home / "stages" / "evaluation").iterdir())
    opened = count_opens(monkeypatch)
    request = request_for(tmp_path, home, manifest, **sections([vitatecs, msrvtt]))
    run(request)
    assert len(opened) == 4
    now = set((home / "stages" / "evaluation").iterdir())
    assert stored < now and len(now - stored) == 1
    keys = [part_keys(open_context(request), name) for name in ("retrieval", "vitatecs", "msrvtt-1ka")]
    assert len({key.key for key in keys}) == 3
    assert "vlmvid.evaluation.benchmarks.composition.vitatecs" in keys[1].code
    assert "vlmvid.evaluation.benchmarks.composition.vitatecs" not in keys[2].code


def test_other_files_are_another_result_and_another_place_is_not(tmp_path: Path, home: Path, manifest: Path) -> None:
    vitatecs, _ = write_benchmarks(tmp_path)
    first = run(request_for(tmp_path, home, manifest, **sections([vitatecs])))["evaluate"]
    (tmp_path / "benchmark").rename(tmp_path / "elsewhere")
    moved = {name: str(value).replace("/benchmark/", "/elsewhere/") for name, value in vitatecs.items()} | {
        "options": vitatecs["options"]
    }
    request = request_for(tmp_path, home, manifest, **sections([moved]))
    assert statuses(request)["evaluate"][0] == "cached"
    assert run(request)["evaluate"].key == first.key
    write_clip(tmp_path / "elsewhere" / "videos" / "VATEX" / "clip_1.mp4", COLOURS["blue"])
    request = request_for(tmp_path, home, manifest, **sections([moved]))
    status, reason = statuses(request)["evaluate"]
    assert status == "run" and reason.startswith("input benchmark vitatecs")


def test_a_broken_video_costs_its_items_and_is_named(tmp_path: Path, home: Path, manifest: Path) -> None:
    vitatecs, _ = write_benchmarks(tmp_path)
    videos = tmp_path / "benchmark" / "videos" / "VATEX"
    (videos / "clip_2.mp4").write_bytes(b"not a video")
    (videos / "clip_3.mp4").unlink()
    ref = run(request_for(tmp_path, home, manifest, **sections([vitatecs])))["evaluate"]
    result = results_of(ref.uri)["vitatecs@None"]
    assert "2 videos or pictures are missing or cannot be read" in result["protocol"]
    metrics = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert (metrics["n_total"], metrics["n_parsed"]) == (4, 2)
    rows = pq.read_table(Path(ref.uri) / "vitatecs.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["parsed", "parsed", "missing", "missing"]


def test_what_cannot_work_is_said_before_anything_runs(tmp_path: Path, home: Path, manifest: Path) -> None:
    vitatecs, _ = write_benchmarks(tmp_path)
    wrong = [
        ({**vitatecs, "name": "vitatec"}, ConfigError, "did you mean 'vitatecs'"),
        ({**vitatecs, "name": "pope"}, ConfigError, "vlmvid score pope"),
        ({**vitatecs, "compat": ["nobody"]}, ConfigError, "no compat 'nobody'"),
        ({**vitatecs, "annotations": str(tmp_path / "gone")}, MissingDataError, "its authors publish it"),
        ({**vitatecs, "media": str(home)}, MissingDataError, "holds none of the 4"),
    ]
    for benchmark, kind, words in wrong:
        with pytest.raises(kind, match=words):
            preflight(request_for(tmp_path, home, manifest, **sections([benchmark])))
    with pytest.raises(ConfigError, match="measured twice under one name"):
        request_for(tmp_path, home, manifest, **sections([vitatecs, vitatecs]))


def test_the_battery_runs_every_condition(tmp_path: Path, home: Path, manifest: Path) -> None:
    vitatecs, _ = write_benchmarks(tmp_path)
    battery = ["middle", "random", "reversed", "shuffled", "repeated", "black"]
    ref = run(request_for(tmp_path, home, manifest, **sections([vitatecs], battery=battery)))["evaluate"]
    results = results_of(ref.uri)
    assert list(results) == ["retrieval@None", "retrieval_battery@None", "vitatecs@None", "vitatecs_battery@None"]
    for task in ("retrieval", "vitatecs"):
        metrics = {metric["name"]: metric["value"] for metric in results[f"{task}_battery@None"]["metrics"]}
        # The tiny model averages frames, so that order cannot count.
        assert metrics["temporal_gain"] == pytest.approx(0, abs=1e-5)
        assert any("black" in name or "blind" in name for name in metrics)


@pytest.mark.parametrize("condition", ["middle", "random", "reversed", "shuffled", "repeated"])
def test_a_condition_on_features_is_the_condition_on_frames(
    tmp_path: Path, home: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch, condition: str
) -> None:
    pooling = {"kind": "temporal_difference"} if condition in ("reversed", "shuffled") else {"kind": "frame_mean"}
    align = {
        "projection_dim": 16,
        "optim": {"num_steps": 2, "global_batch_size": 4},
        "pooling": pooling,
    }
    request = request_for(tmp_path, home, manifest, align=align, evaluate=None)
    run(request)
    context = open_context(request)
    rows = read_rows(context)
    fast = ClipEmbeddings(context, rows).embed(condition, seed=3)
    monkeypatch.setattr(ClipEmbeddings, "_sees_frames_alone", False)
    np.testing.assert_allclose(fast, ClipEmbeddings(context, rows).embed(condition, seed=3), atol=2e-3)
    backwards = ClipEmbeddings(context, rows).embed("all", backwards=True)
    np.testing.assert_allclose(ClipEmbeddings(context, rows).embed("reversed"), backwards, atol=1e-6)


def test_pictures_are_segmented_by_patch_tokens(tmp_path: Path, home: Path, manifest: Path) -> None:
    from PIL import Image

    masks, pictures = tmp_path / "masks", tmp_path / "pictures"
    masks.mkdir()
    pictures.mkdir()
    (masks / "classes.txt").write_text("red thing,red picture\ngreen thing\n")
    for name in ("one", "two", "lost"):
        frame = np.zeros((40, 56, 3), np.uint8)
        frame[:, :28], frame[:, 28:] = (220, 30, 30), (30, 200, 30)
        Image.fromarray(frame).save(pictures / f"{name}.jpg")
        mask = np.zeros((40, 56), np.uint8)
        mask[:, 28:] = 1
        Image.fromarray(mask).save(masks / f"{name}.png")
    (pictures / "lost.jpg").write_bytes(b"nothing")
    benchmark = {"name": "segmentation", "annotations": str(masks), "media": str(pictures)}
    chosen = {"vision": {"backbone": "timm:test_vit", "pretrained": False, "image_size": 32, "feature": "mean"}}
    encode = {**RECIPE["encode"], **chosen}
    request = request_for(tmp_path, home, manifest, encode=encode, **sections([benchmark], battery=["black"]))
    results = results_of(run(request)["evaluate"].uri)
    metrics = {metric["name"]: metric["value"] for metric in results["segmentation@None"]["metrics"]}
    assert 0 <= metrics["miou"] <= 1 and (metrics["n_total"], metrics["n_parsed"]) == (3, 2)
    assert "segmentation_battery@None" not in results
    Image.fromarray(np.ones((40, 56), np.uint8)).save(masks / "one.png")
    assert statuses(request)["evaluate"][0] == "run"


def test_media_are_found_by_name_path_and_stem(tmp_path: Path) -> None:
    for name in ("a.mp4", "VATEX/b.mp4", "MSRVTT/b.mp4", "deep/er/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    folder = MediaFolder(tmp_path)
    found = {name: folder.find(name) for name in ("a.mp4", "a", "VATEX/b", "MSRVTT/b", "c.jpg", "COCO/c", "d")}
    assert found == {
        "a.mp4": tmp_path / "a.mp4",
        "a": tmp_path / "a.mp4",
        "VATEX/b": tmp_path / "VATEX/b.mp4",
        "MSRVTT/b": tmp_path / "MSRVTT/b.mp4",
        "c.jpg": tmp_path / "deep/er/c.jpg",
        "COCO/c": tmp_path / "deep/er/c.jpg",
        "d": None,
    }
