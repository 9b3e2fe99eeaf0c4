"""Benchmarks on the files of their authors, with real videos, in the evaluate stage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.evaluation.examples import all_examples
from tests.tiny import COLOURS, RECIPE, write_clip, write_dataset
from tests.unit.pipeline_fixtures import count_opens, request_for, run, statuses
from vlmvid.cli import main
from vlmvid.config.benchmarks import BenchmarkConfig
from vlmvid.errors import ConfigError, DecodeError, EvaluationError, MissingDataError, StageError
from vlmvid.evaluation.benchmarks import BENCHMARKS, get_benchmark
from vlmvid.evaluation.dual_encoder import answer
from vlmvid.evaluation.scoring.base import Item, Media
from vlmvid.pipeline import preflight
from vlmvid.pipeline.clip_embeddings import ClipEmbeddings
from vlmvid.pipeline.context import open_context
from vlmvid.pipeline.evaluate import evaluation_json, evaluation_text
from vlmvid.pipeline.evaluation_parts import compute_part, part_keys
from vlmvid.pipeline.ingest import read_rows
from vlmvid.pipeline.media import MediaFolder, inputs_digest, open_benchmark
from vlmvid.video.readers.pyav import PyAVReader


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


def _titles(results: dict[str, dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    return [(results["vitatecs@None"], "VITATECS"), (results["msrvtt-1ka@None"], get_benchmark("msrvtt").title)]


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
    assert all(result["protocol"].count(title) == 1 for result, title in _titles(results))
    shown = evaluation_text(Path(ref.uri))
    assert shown.endswith(f"Report   {ref.uri}/report.md") and "\nvitatecs: VITATECS" in shown
    assert max(map(len, shown.splitlines()[:-1])) <= 120
    assert [row["task"] for row in evaluation_json(Path(ref.uri))["results"]] == [
        *dict.fromkeys(r["task"] for r in results.values()),
        "msrvtt-1ka",
    ]
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
        assert "paired by sample" in results[f"{task}_battery@None"]["protocol"]
        assert any("black" in name or "blind" in name for name in metrics)
    rows = pq.read_table(Path(ref.uri) / "retrieval_battery.parquet").to_pylist()
    assert [row["item_id"] for row in rows] == ["v6#0", "v7#0", "v7#1", "v8#0", "v9#0", "v9#1"]


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
    protocol = results["segmentation@None"]["protocol"]
    assert "; 1 videos or pictures are missing or cannot be read (lost" in protocol
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


def test_of_several_files_the_video_is_meant_or_none(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.mp4", "a.json", "b.json", "b.MP4", "x/c.mp4", "y/c.mp4", "c.jpg", "z/x/d.mp4", "z/d.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    folder = MediaFolder(tmp_path)
    assert folder.find("a") == tmp_path / "a.mp4"
    assert folder.find("a.jpg") == tmp_path / "a.jpg"
    assert folder.find("b") == tmp_path / "b.MP4"
    assert folder.find("y/c") == tmp_path / "y/c.mp4"
    assert folder.find("x/d") == tmp_path / "z/x/d.mp4"
    for name in ("c", "c.mp4", "SOURCE/c"):
        with pytest.raises(ConfigError, match=r"x/c\.mp4 or .*y/c\.mp4"):
            folder.find(name)


def test_a_compat_that_stops_leaves_the_result(tmp_path: Path, home: Path, manifest: Path) -> None:
    _, msrvtt = write_benchmarks(tmp_path)
    (tmp_path / "benchmark" / "videos" / "video3.mp4").unlink()
    skipping = {**msrvtt, "as": "skipping", "missing": "skip", "compat": []}
    request = request_for(tmp_path, home, manifest, **sections([msrvtt, skipping]))
    results = results_of(run(request)["evaluate"].uri)
    assert list(results) == ["retrieval@None", "msrvtt-1ka@None", "skipping@None"]
    assert "; compat clip4clip not computed: " in results["msrvtt-1ka@None"]["protocol"]
    numbers = {metric["name"]: metric["value"] for metric in results["msrvtt-1ka@None"]["metrics"]}
    assert (numbers["n_total"], numbers["n_scored"]) == (4, 3)
    assert results["skipping@None"]["metrics"][0]["name"].endswith("[missing=skip]")
    assert results["skipping@None"]["metrics"][0]["num_samples"] == 3
    assert results["skipping@None"]["protocol"].endswith("their items are left out")


@pytest.mark.parametrize("transient", [True, False])
def test_videos_that_failed_are_tried_again(
    tmp_path: Path, home: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch, transient: bool
) -> None:
    vitatecs, _ = write_benchmarks(tmp_path)
    original = PyAVReader.__init__

    def failing(self: Any, path: str, *args: Any, **kwargs: Any) -> None:
        if str(path).endswith("clip_2.mp4"):
            raise DecodeError("the storage is away", reason_code="read_error", transient=transient)
        original(self, path, *args, **kwargs)

    request = request_for(tmp_path, home, manifest, **sections([vitatecs]))
    with monkeypatch.context() as patch:
        patch.setattr(PyAVReader, "__init__", failing)
        first = run(request)["evaluate"]
    assert "clip_2" in results_of(first.uri)["vitatecs@None"]["protocol"]
    if transient:
        again = request
        assert statuses(request)["evaluate"] == (
            "run",
            "1 videos of the evaluation failed for a passing reason and are tried again",
        )
    else:
        assert statuses(request)["evaluate"][0] == "cached"
        again = request.model_copy(update={"retry_failed": True})
        assert statuses(again)["evaluate"] == ("run", "--retry failed: 1 videos of the evaluation are tried again")
    second = run(again)["evaluate"]
    assert second.key == first.key
    assert "clip_2" not in results_of(second.uri)["vitatecs@None"]["protocol"]
    assert statuses(again)["evaluate"][0] == "cached"


def test_a_benchmark_without_a_readable_video_says_why(tmp_path: Path, home: Path, manifest: Path) -> None:
    vitatecs, _ = write_benchmarks(tmp_path)
    for path in (tmp_path / "benchmark" / "videos" / "VATEX").iterdir():
        path.write_bytes(b"no video")
    with pytest.raises(EvaluationError, match=r"none of the 4 videos .*VATEX/clip_0.*\(unreadable\)"):
        run(request_for(tmp_path, home, manifest, **sections([vitatecs])))


def test_results_have_names_that_files_can_have(tmp_path: Path, home: Path, manifest: Path) -> None:
    vitatecs, msrvtt = write_benchmarks(tmp_path)
    with pytest.raises(ConfigError, match="pattern"):
        request_for(tmp_path, home, manifest, **sections([{**vitatecs, "as": "my/vitatecs"}]))
    for taken in ("msrvtt-1ka_battery", "msrvtt-1ka-clip4clip", "retrieval_battery"):
        with pytest.raises(ConfigError, match=f"'{taken}' would be measured twice under one name"):
            request_for(tmp_path, home, manifest, **sections([{**vitatecs, "as": taken}, msrvtt]))


def configured(name: str, annotations: Path, **more: Any) -> BenchmarkConfig:
    return BenchmarkConfig(name=name, annotations=str(annotations), media=str(annotations), **more)


def test_reference_scorers_of_words_are_refused(tmp_path: Path) -> None:
    refused = []
    for name in BENCHMARKS.names():
        benchmark = get_benchmark(name)
        assert set(benchmark.text_compat) <= set(benchmark.compat)
        for compat in benchmark.text_compat:
            with pytest.raises(ConfigError, match=f"compat {compat} of {name} reads words"):
                open_benchmark(configured(name, tmp_path, compat=(compat,)))
            refused.append(f"{name} {compat}")
    assert {
        "vitatecs lmms_eval",
        "mvbench mvbench",
        "next_qa next-qa",
        "vinoground vinoground",
        "video_mme video-mme",
    } <= set(refused)


def test_folders_of_pictures_and_pairs_without_texts_are_refused(tmp_path: Path) -> None:
    example = all_examples()["mvbench"]
    place = example.write(tmp_path)
    kept = "action_sequence,action_count"
    with pytest.raises(ConfigError, match=f"1 items .*episodic_reasoning_0.*option tasks: {kept};"):
        open_benchmark(configured("mvbench", place, options=example.options))
    assert open_benchmark(configured("mvbench", place, options={"tasks": kept}))[1]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"text_id": "t", "video_id": "v"}\n{"text_id": "u", "video_id": "v", "text": "words"}\n')
    with pytest.raises(ConfigError, match="1 of 2 items of retrieval have no text to embed, e.g. t;"):
        open_benchmark(configured("retrieval", pairs))


def test_what_items_share_is_hashed_once_and_decides(tmp_path: Path) -> None:
    config = configured("vitatecs", tmp_path, options={"aspect": "Direction"})
    (tmp_path / "clip.mp4").write_bytes(b"x")
    row = {"src_dataset": "VATEX", "video_name": "clip", "caption": "a", "counterfactual": "b", "aspect": "Direction"}
    digests = set()
    for changed in ({}, {"caption": "c"}, {"counterfactual": "c"}, {"caption": "b", "counterfactual": "a"}):
        (tmp_path / "Direction.jsonl").write_text(json.dumps({**row, **changed}))
        digests.add(inputs_digest(config, lambda path: path.name))
        assert inputs_digest(config, lambda path: path.name) in digests
    assert len(digests) == 4


def test_scores_of_classes_are_those_of_single_products() -> None:
    rng = np.random.default_rng(0)
    embeds = rng.standard_normal((5, 8)).astype(np.float32)
    texts = {name: vector for name, vector in zip("abcd", rng.standard_normal((4, 8)).astype(np.float32), strict=True)}
    texts = {name: vector / np.linalg.norm(vector) for name, vector in texts.items()}

    class Shown:
        def __init__(self) -> None:
            self.embeds = embeds

        def row_of(self, media: Media) -> int | None:
            return int(media.name) if int(media.name) < 5 else None

    choices = [("a", "b"), ("c", "d", "a"), ("a", "b"), ("b",), ("c", "d", "a"), ("a", "b")]
    items = [Item(f"i{n}", f"v{n}", 0, choices=some, media=(Media(str(n)),)) for n, some in enumerate(choices)]
    found = answer(get_benchmark("classification"), items, Shown(), lambda names: np.stack([texts[n] for n in names]))
    assert list(found.values) == [f"i{n}" for n in range(5)]
    for number, item in enumerate(items[:5]):
        expected = [float(np.dot(embeds[number].astype(np.float64), texts[name])) for name in item.choices]
        assert list(found.values[item.item_id]) == pytest.approx(expected, abs=1e-6)
    assert str(found.values["i3"]).startswith("[") and isinstance(found.values["i3"][0], float)


def test_files_that_change_during_a_run_are_not_filed_under_its_key(tmp_path: Path, home: Path, manifest: Path) -> None:
    vitatecs, _ = write_benchmarks(tmp_path)
    request = request_for(tmp_path, home, manifest, **sections([vitatecs]))
    run(request)
    context = open_context(request)
    shutil.rmtree(context.store.artifact_folder("evaluation", part_keys(context, "vitatecs").key))
    write_clip(tmp_path / "benchmark" / "videos" / "VATEX" / "clip_1.mp4", COLOURS["blue"])
    with pytest.raises(StageError, match="the files of vitatecs changed"):
        compute_part(context, "vitatecs")


def test_a_clip_that_is_lost_on_the_way_shifts_no_other(
    tmp_path: Path, home: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(tmp_path, home, manifest, evaluate=None)
    run(request)
    embeddings = ClipEmbeddings(open_context(request), read_rows(open_context(request)))
    embeddings.embed()
    decoded = [(row, None if number == 1 else frames) for number, (row, frames) in enumerate(embeddings._decoded())]
    monkeypatch.setattr(ClipEmbeddings, "_decoded", lambda self: iter(decoded))
    with pytest.raises(EvaluationError, match="v1 was read, and cannot be read again"):
        embeddings.embed("black")


def test_benchmarks_may_lie_outside_of_what_the_dataset_is_kept_to(tmp_path: Path, home: Path) -> None:
    (tmp_path / "own").mkdir()
    manifest = write_dataset(tmp_path / "own")
    vitatecs, _ = write_benchmarks(tmp_path)
    data = {"name": "manifest", "options": {"path": str(manifest)}, "restrict_root": str(tmp_path / "own")}
    request = request_for(tmp_path, home, manifest, data=data, **sections([vitatecs]))
    result = results_of(run(request)["evaluate"].uri)["vitatecs@None"]
    assert {metric["name"]: metric["value"] for metric in result["metrics"]}["n_parsed"] == 4


def test_the_stage_alone_prints_its_table(
    tmp_path: Path, home: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = request_for(tmp_path, home, manifest, evaluate={"tasks": ["retrieval"], "num_bootstrap": 100})
    run(request)
    recipe = str(tmp_path / "tiny.yaml")
    assert main(["evaluate", recipe, "--home", str(home)]) == 0
    assert "t2v_r_at_1" in (text := capsys.readouterr().out) and "report.md" in text
    assert main(["evaluate", recipe, "--home", str(home), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["results"][0]["task"] == "retrieval" and document["counts"]["tasks"] == 1


def test_training_captions_are_searched_for_what_is_evaluated(tmp_path: Path, home: Path, manifest: Path) -> None:
    evaluate = {
        "tasks": ["concepts"],
        "num_bootstrap": 100,
        "concepts": {"vocabulary": ["red", "green picture", "speed"]},
    }
    ref = run(request_for(tmp_path, home, manifest, evaluate=evaluate))["evaluate"]
    rows = {row["concept"]: row for row in pq.read_table(Path(ref.uri) / "concepts.parquet").to_pylist()}
    # Six clips of training, every second with two captions; the four of the test are blue, yellow, red and green.
    assert {name: (row["training"], row["evaluation"]) for name, row in rows.items()} == {
        "red": (2, 1),
        "green picture": (2, 1),
        "speed": (6, 4),
    }
    metrics = {metric["name"]: metric["value"] for metric in results_of(ref.uri)["concepts@None"]["metrics"]}
    assert metrics["concept_coverage"] == 1.0
