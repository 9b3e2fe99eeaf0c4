"""The stages as plain functions: cached, explained, resumed at the shard, and honest about bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny import COLOURS, read_rows, write_clip, write_dataset, write_recipe, write_rows
from tests.unit.pipeline_fixtures import (
    NO_TRACKING,
    TOLERANT,
    count_opens,
    edit_code,
    ledger_of,
    published,
    request_for,
    run,
    run_until_killed,
    run_with_a_file_away,
    statuses,
    write_broken,
)
from tests.unit.tracking_fixtures import fresh_home
from vlmvid.errors import ArtifactError, ConfigError, DatasetError, StageError
from vlmvid.pipeline import RunRequest, make_request
from vlmvid.pipeline.context import open_context
from vlmvid.pipeline.index import read_index
from vlmvid.pipeline.plan import accept_code_change, plan
from vlmvid.pipeline.session import pipeline_run


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


def test_everything_is_cached_the_second_time_and_no_video_is_opened(
    tmp_path: Path, home: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(tmp_path, home, manifest)
    assert {s for s, _ in statuses(request).values()} == {"run"}
    opened = count_opens(monkeypatch)
    first = run(request)
    assert len(opened) == 10
    opened.clear()
    assert run(request) == first
    assert opened == []
    assert {s for s, _ in statuses(request).values()} == {"cached"}


def test_metrics_are_the_same_bytes_in_another_home(tmp_path: Path, manifest: Path) -> None:
    bytes_of = []
    for name in ("one", "two"):
        refs = run(request_for(tmp_path, tmp_path / name, manifest))
        bytes_of.append((Path(refs["evaluate"].uri) / "metrics.json").read_bytes())
    assert bytes_of[0] == bytes_of[1]


def test_plan_names_what_differs(tmp_path: Path, home: Path, manifest: Path) -> None:
    run(request_for(tmp_path, home, manifest))
    changed = statuses(request_for(tmp_path, home, manifest, ("align.optim.lr=0.02",)))
    assert changed["encode"][0] == "cached"
    assert changed["align"] == ("run", "config align.optim.lr: 0.01 -> 0.02")
    assert changed["evaluate"] == ("run", "input align changes")
    rows = read_rows(manifest)
    write_clip(tmp_path / "clip0.mp4", COLOURS["blue"], shift=3)
    assert statuses(request_for(tmp_path, home, manifest))["ingest"] == ("run", "input clip0.mp4 has other content")
    rows[1]["captions"] = ["another"]
    write_rows(manifest, rows)
    run(request_for(tmp_path, home, manifest), "ingest")
    rows[2]["captions"] = ["yet another"]
    write_rows(manifest, rows)
    assert statuses(request_for(tmp_path, home, manifest))["ingest"] == (
        "run",
        "input manifest.jsonl has other content",
    )


def test_plan_survives_worker_options_and_moved_folders(tmp_path: Path, home: Path, manifest: Path) -> None:
    run(request_for(tmp_path, home, manifest))
    same = statuses(request_for(tmp_path, home, manifest, ("options.shard_size=2", "options.encode_batch_size=8")))
    assert {s for s, _ in same.values()} == {"cached"}
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in [manifest, *tmp_path.glob("*.mp4")]:
        file.rename(moved / file.name)
    request = request_for(tmp_path, home, moved / manifest.name)
    found = statuses(request)
    assert found["ingest"][0] == "run"  # the stored paths are gone
    assert {found[s][0] for s in ("decode", "encode", "align", "evaluate")} == {"cached"}
    (home / "events.jsonl").unlink()
    run(request)
    assert published(home) == ["ingest"]  # what plan said: nothing else was computed
    assert {s for s, _ in statuses(request).values()} == {"cached"}


def test_a_code_change_is_named_and_can_be_accepted(
    tmp_path: Path, home: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(tmp_path, home, manifest)
    run(request)
    edit_code(monkeypatch, "vlmvid.video.sampling")
    assert statuses(request)["decode"] == ("run", "code vlmvid.video.sampling changed")
    assert accept_code_change(request, "decode") == ["vlmvid.video.sampling"]
    assert statuses(request)["decode"][0] == "cached"
    assert statuses(request)["evaluate"][0] == "cached"
    with pytest.raises(ConfigError, match="has not changed"):
        accept_code_change(request, "align")


def test_new_clips_append_shards_and_old_ones_are_not_decoded_again(
    tmp_path: Path, home: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(request_for(tmp_path, home, manifest), "ingest", "decode")
    write_clip(tmp_path / "new.mp4", (9, 99, 199))
    write_rows(manifest, [*read_rows(manifest), {"video_id": "new", "path": "new.mp4", "captions": ["new"]}])
    opened = count_opens(monkeypatch)
    refs = run(request_for(tmp_path, home, manifest), "ingest", "decode")
    assert [Path(p).name for p in opened] == ["new.mp4"]
    assert len(read_index(Path(refs["decode"].uri))) == 11


def test_the_same_content_under_two_names_is_decoded_once(
    tmp_path: Path, home: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "copy.mp4").write_bytes((tmp_path / "clip1.mp4").read_bytes())
    write_rows(manifest, [*read_rows(manifest), {"video_id": "copy", "path": "copy.mp4", "captions": ["c"]}])
    opened = count_opens(monkeypatch)
    refs = run(request_for(tmp_path, home, manifest), "ingest", "decode", "encode")
    assert len(opened) == 10
    index = {row.video_id: row for row in read_index(Path(refs["encode"].uri))}
    assert index["copy"].key == index["v1"].key
    assert len(index) == 11


def test_a_killed_decode_resumes_at_the_shard(tmp_path: Path, home: Path, manifest: Path) -> None:
    request = request_for(tmp_path, home, manifest)
    run_until_killed(
        request,
        "from vlmvid.pipeline import decode\n"
        "STAGES['ingest'].run(request)\n"
        "decode.run_shard(request, decode.plan_shards(request)[0])\n"
        "kill()\n",
    )
    with pipeline_run(request):
        from vlmvid.pipeline import decode

        jobs = decode.plan_shards(request)
    assert [video for job in jobs for video in job.video_ids] == ["v4", "v5", "v6", "v7", "v8", "v9"]
    run(request, "ingest", "decode")


class TestBadInput:
    """Each broken file is a ledger row with its reason; the good ones go through."""

    @pytest.fixture
    def broken(self, tmp_path: Path, manifest: Path) -> Path:
        missing = {"video_id": "missing", "path": "missing.mp4", "captions": ["x"]}
        return write_rows(manifest, [*read_rows(manifest), *write_broken(tmp_path), missing])

    def test_rows_with_reasons(self, tmp_path: Path, home: Path, broken: Path) -> None:
        request = request_for(tmp_path, home, broken, (TOLERANT,))
        refs = run(request)
        index = {row.video_id: row for row in read_index(Path(refs["decode"].uri))}
        assert {v: index[v].reason_code for v in ("empty", "text")} == {"empty": "empty_file", "text": "unreadable"}
        assert index["truncated"].status == "failed_permanent"
        assert sum(row.status == "ok" for row in index.values()) == 10
        ledger = open_context(request).store.ledger("ingest").rows().values()
        assert [(r.video_id, r.reason_code) for r in ledger if r.status != "ok"] == [("missing", "missing_file")]
        encoded = {row.video_id: row.status for row in read_index(Path(refs["encode"].uri))}
        assert encoded["empty"] == "failed_permanent"  # never a silent gap

    def test_beyond_the_budget_the_stage_fails_and_keeps_what_was_done(
        self, tmp_path: Path, home: Path, broken: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = [row for row in read_rows(broken) if row["video_id"] != "missing"]
        request = request_for(tmp_path, home, write_rows(broken, rows))
        with pytest.raises(StageError) as caught:
            run(request)
        message = str(caught.value)
        assert "3 of 13 clips failed" in message and "empty_file" in message and "--retry failed" in message
        opened = count_opens(monkeypatch)
        tolerant = request_for(tmp_path, home, broken, (TOLERANT,))
        run(tolerant, "ingest", "decode")
        assert opened == []  # neither the good clips nor the known failures are tried again

    def test_retry_failed_tries_them_again_and_what_follows_runs_again(
        self, tmp_path: Path, home: Path, broken: Path
    ) -> None:
        request = request_for(tmp_path, home, broken, (TOLERANT,))
        run(request)
        retry = request.model_copy(update={"retry_failed": True})
        assert statuses(retry)["decode"][1].startswith("--retry failed: 3 clips")
        refs = run(retry)
        assert ledger_of(retry)["empty"].attempts == 2
        assert len(read_index(Path(refs["decode"].uri))) == 13
        assert {s for s, _ in statuses(request).values()} == {"cached"}

    def test_duplicate_video_id(self, tmp_path: Path, home: Path, manifest: Path) -> None:
        rows = read_rows(manifest)
        rows[3]["video_id"] = "v1"
        with pytest.raises(DatasetError, match="duplicate video_id 'v1': row 2 .*clip1.mp4.* row 4 .*clip3.mp4"):
            run(request_for(tmp_path, home, write_rows(manifest, rows)))

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"capton": ["x"]}, "line 1.*unknown key 'capton' .did you mean 'captions'"),
            ({"captions": "one"}, "line 1.*captions.*'one'"),
            ({"end_seconds": -1.0}, "line 1.*end_seconds=-1.0 must be greater"),
        ],
    )
    def test_wrong_manifest_rows_name_the_line(
        self, tmp_path: Path, home: Path, manifest: Path, change: dict[str, Any], words: str
    ) -> None:
        rows = read_rows(manifest)
        write_rows(manifest, [{**rows[0], **change}, *rows[1:]])
        with pytest.raises(DatasetError, match=words):
            run(request_for(tmp_path, home, manifest))

    def test_unknown_backbone_lists_the_known_ones(self, tmp_path: Path, home: Path, manifest: Path) -> None:
        request = request_for(tmp_path, home, manifest, ("encode.vision.backbone=efficientnet-light0",))
        with pytest.raises(ConfigError, match="did you mean 'efficientnet-lite0'.*hf, timm"):
            plan(request)

    def test_a_stage_without_its_input_says_which_command_makes_it(
        self, tmp_path: Path, home: Path, manifest: Path
    ) -> None:
        with pytest.raises(ArtifactError, match="result of stage 'ingest'.*run `vlmvid ingest`"):
            run(request_for(tmp_path, home, manifest), "decode")


def test_a_damaged_shard_is_computed_again(tmp_path: Path, home: Path, manifest: Path) -> None:
    request = request_for(tmp_path, home, manifest)
    refs = run(request)
    metrics = (Path(refs["evaluate"].uri) / "metrics.json").read_bytes()
    for file in (home / "clips" / "decode").rglob("frames.npy"):
        file.write_bytes(b"")
    assert statuses(request)["decode"] == ("run", "10 stored clips are missing or damaged")
    refs = run(request)
    assert (Path(refs["evaluate"].uri) / "metrics.json").read_bytes() == metrics
    assert {s for s, _ in statuses(request).values()} == {"cached"}


def test_stored_features_are_those_of_the_frames(tmp_path: Path, home: Path, manifest: Path) -> None:
    """The oracle: decode and encode one clip by hand."""
    from vlmvid.models.backbones import load_vision_backbone
    from vlmvid.video.clip_decoder import decode_clip
    from vlmvid.video.options import ClipJob

    request = request_for(tmp_path, home, manifest)
    refs = run(request, "ingest", "decode", "encode")
    context = open_context(request)
    row = next(r for r in read_index(Path(refs["encode"].uri)) if r.video_id == "v7")
    stored = context.store.clips("encode").gather("features", [row.location])[0]
    batch = decode_clip(ClipJob(str(tmp_path / "clip7.mp4")), context.recipe.decode)
    by_hand = load_vision_backbone(context.recipe.encode.vision).encode_frames(batch.frames)
    np.testing.assert_allclose(stored, by_hand, atol=1e-5)


def test_events_tell_the_order_of_work(tmp_path: Path, home: Path, manifest: Path) -> None:
    request = request_for(tmp_path, home, manifest)
    run(request)
    events = [json.loads(line) for line in (home / "events.jsonl").read_text().splitlines()]
    assert published(home) == ["ingest", "decode", "encode", "align", "evaluation", "evaluate"]
    assert sum(e["event"] == "checkpoint.written" for e in events) == 3


class TestSearch:
    def test_clip_to_clip_leaves_the_query_out(self, tmp_path: Path, home: Path, manifest: Path) -> None:
        sections = {"search": {"top_k": 2, "queries": ["v0"]}, "align": None, "evaluate": None}
        refs = run(request_for(tmp_path, home, manifest, **sections))
        hits = json.loads((Path(refs["search"].uri) / "hits.json").read_text())
        assert [(h["query"], h["rank"]) for h in hits] == [("v0", 1), ("v0", 2)]
        assert "v0" not in [h["video_id"] for h in hits]
        assert hits[0]["score"] >= hits[1]["score"]

    def test_an_unknown_query_names_the_nearest(self, tmp_path: Path, home: Path, manifest: Path) -> None:
        sections = {"search": {"queries": ["v99"]}, "align": None, "evaluate": None}
        with pytest.raises(ConfigError, match="'v99' is no video_id.*did you mean 'v9'"):
            run(request_for(tmp_path, home, manifest, **sections))

    def test_text_queries_rank_as_the_model_does(self, tmp_path: Path, home: Path, manifest: Path) -> None:
        """The oracle: the loaded model on the files themselves."""
        import vlmvid
        from vlmvid.pipeline.indexing import index_request, plan_index
        from vlmvid.pipeline.indexing_table import build_index
        from vlmvid.pipeline.search import search_index

        tracked = {"tracking": {"uri": f"sqlite:///{fresh_home(home)}/mlflow.db"}, "register": {"model_name": "m"}}
        request = make_request(write_recipe(tmp_path, manifest, **tracked), home=home)
        refs = run(request)
        folder = json.loads((Path(refs["register"].uri) / "registered.json").read_text())["model_folder"]
        index = tmp_path / "index"
        build_index(index_request(refs["encode"].uri, folder, str(index)))
        hits = search_index(["something red"], model=folder, index=str(index), top_k=10)
        model = vlmvid.load(folder)
        paths = [tmp_path / f"clip{i}.mp4" for i in range(10)]
        scores = model.similarity(model.encode_video(paths), model.encode_text(["something red"]))[:, 0]
        by_hand = {f"v{i}": scores[i] for i in range(10)}
        np.testing.assert_allclose([h.score for h in hits], [by_hand[h.video_id] for h in hits], atol=1e-3)
        assert len(hits) == 10
        artifact = refs["encode"].uri
        for changes, words in (
            (
                {"features": {"weights": "sha256:0"}},
                "weights random:0:[0-9a-f]+, the model's sha256:0; give",
            ),
            ({"features": {"decode": {"reader": "torchcodec"}}}, "decode.reader [a-z]+, the model's torchcodec"),
            ({"features": {"vision": {"precision": "bfloat16"}}}, "vision.precision float32, the model's bfloat16"),
            ({"features": {"vision": {"dtype": "float16"}}}, "vision.dtype float32, the model's float16"),
            ({"features": None, "encode_key": "0" * 24}, "does not say of which weights"),
        ):
            other = _with_info(Path(folder), tmp_path / "other", changes)
            with pytest.raises(ConfigError, match=words):
                plan_index(index_request(artifact, str(other), str(tmp_path / "refused")))
        older = _with_info(Path(folder), tmp_path / "other", {"features": None})
        assert plan_index(index_request(artifact, str(older), str(index))) == []

    def test_an_encode_artifact_is_to_be_indexed_first(self, tmp_path: Path, home: Path, manifest: Path) -> None:
        from tests.unit.test_serving_load import template
        from vlmvid.pipeline.indexing import index_request, plan_index
        from vlmvid.pipeline.search import search_index

        refs = run(request_for(tmp_path, home, manifest, align=None, evaluate=None))
        folder = refs["encode"].uri
        with pytest.raises(ArtifactError, match=f"no video index; make one.*vlmvid index {folder} --model URI"):
            search_index(["x"], model="m", index=folder, top_k=1)
        features = r"are of timm:test_vit \(mean; num_frames=2, 32 px\).*reads those of .*num_frames=3, 64 px"
        with pytest.raises(ConfigError, match=features):
            plan_index(index_request(folder, str(template()[0]), str(tmp_path / "index")))


def _with_info(folder: Path, target: Path, changes: dict[str, Any]) -> Path:
    """A copy of a model folder that says other things of itself; what is None it does not say."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    manifest = json.loads((folder / "model.json").read_text())
    for name, value in changes.items():
        if isinstance(value, dict):
            for part, change in value.items():
                old = manifest["info"][name][part]
                manifest["info"][name][part] = {**old, **change} if isinstance(change, dict) else change
        elif value is None:
            del manifest["info"][name]
        else:
            manifest["info"][name] = value
    (target / "model.json").write_text(json.dumps(manifest))
    return target


class TestNothingStale:
    def test_a_clip_that_succeeds_on_the_second_try_reaches_everything_that_follows(
        self, tmp_path: Path, home: Path, manifest: Path
    ) -> None:
        request = request_for(tmp_path, home, manifest, (TOLERANT,))
        first = run_with_a_file_away(request, tmp_path / "clip8.mp4")
        assert sum(row.status == "ok" for row in read_index(Path(first["encode"].uri))) == 9
        assert statuses(request)["decode"][1].startswith("1 clips failed for a passing reason")
        second = run(request)
        assert {s for s, _ in statuses(request).values()} == {"cached"}
        for stage in ("align", "evaluate"):
            assert first[stage] != second[stage], f"{stage} was not computed again with the tenth clip"
        assert sum(row.status == "ok" for row in read_index(Path(second["encode"].uri))) == 10
        # Where the artifact was lost in between, the same content must still give the same keys.
        (Path(second["decode"].uri) / "index.parquet").unlink()
        assert statuses(request)["decode"] == ("run", "files of its stored result are missing or damaged")
        assert run(request) == second

    def test_a_file_replaced_between_ingest_and_decode_is_not_filed_under_the_old_content(
        self, tmp_path: Path, home: Path, manifest: Path
    ) -> None:
        request = request_for(tmp_path, home, manifest, (TOLERANT,))
        run(request, "ingest")
        with pipeline_run(request):
            from vlmvid.pipeline import decode

            jobs = decode.plan_shards(request)
            write_clip(tmp_path / "clip3.mp4", (1, 2, 3), shift=5)
            for job in jobs:
                decode.run_shard(request, job)
            rows = ledger_of(request)
        assert (rows["v3"].status, rows["v3"].reason_code) == ("failed_transient", "changed_during_run")
        refs = run(request)
        assert all(row.status == "ok" for row in read_index(Path(refs["decode"].uri)))

    def test_a_file_that_is_gone_or_refused_is_not_said_to_have_changed(
        self, tmp_path: Path, home: Path, manifest: Path
    ) -> None:
        request = request_for(tmp_path, home, manifest, (TOLERANT,))
        run(request, "ingest")
        contents = {name: (tmp_path / name).read_bytes() for name in ("clip3.mp4", "clip4.mp4", "clip5.mp4")}
        with pipeline_run(request):
            from vlmvid.pipeline import decode

            jobs = decode.plan_shards(request)
            for name in contents:
                (tmp_path / name).unlink()
            (tmp_path / "clip4.mp4").mkdir()
            write_clip(tmp_path / "clip5.mp4", (1, 2, 3), shift=5)
            for job in jobs:
                decode.run_shard(request, job)
            rows = ledger_of(request)
        words = {"v3": "is gone since", "v4": "is refused now (not_a_file): ", "v5": "changed since it was ingested"}
        for video_id, word in words.items():
            row = rows[video_id]
            assert (row.status, row.reason_code) == ("failed_transient", "changed_during_run")
            assert [other for other in words.values() if other in row.message] == [word], row.message
        (tmp_path / "clip4.mp4").rmdir()
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
        refs = run(request)
        assert all(row.status == "ok" for row in read_index(Path(refs["decode"].uri)))

    def test_verify_finds_flipped_bytes_in_shards_and_artifacts(
        self, tmp_path: Path, home: Path, manifest: Path
    ) -> None:
        request = request_for(tmp_path, home, manifest)
        refs = run(request)
        metrics = (Path(refs["evaluate"].uri) / "metrics.json").read_bytes()
        verify = request.model_copy(update={"verify": True})
        assert {s for s, _ in statuses(verify).values()} == {"cached"}
        for file in [next((home / "clips" / "encode").rglob("features.npy")), Path(refs["align"].uri) / "curves.jsonl"]:
            data = bytearray(file.read_bytes())
            data[-2] ^= 1
            file.write_bytes(data)
        assert {s for s, _ in statuses(request).values()} == {"cached"}  # sizes are what they were
        found = statuses(verify)
        assert found["encode"] == ("run", "1 stored shards are damaged")
        assert found["align"] == ("run", "files of its stored result are missing or damaged")
        refs = run(verify)
        text = next((home / "clips" / "text").rglob("features.npy"))
        whole = text.read_bytes()
        text.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        run(verify)
        assert [p.read_bytes() for p in (home / "clips" / "text").glob("[!.]*/features.npy")] == [whole]
        assert (Path(refs["evaluate"].uri) / "metrics.json").read_bytes() == metrics

    def test_a_run_beside_another_one_takes_over_its_revisions(
        self, tmp_path: Path, home: Path, manifest: Path
    ) -> None:
        """B works out its keys, A finishes decode with a failed clip, B goes on: both must agree."""
        from vlmvid.pipeline.context import RunContext

        (tmp_path / "clip8.mp4").write_bytes(b"")
        request = request_for(tmp_path, home, manifest, (TOLERANT,))
        other = RunContext(request)
        assert other.keys.pipeline_key
        first = run(request)
        for stage in ("decode", "encode", "align", "evaluate"):
            other.keys.forget_from(stage)  # type: ignore[arg-type]
            assert other.keys.key(stage) == first[stage].key, stage  # type: ignore[arg-type]
            assert other.why_stale(stage) is None, stage  # type: ignore[arg-type]

    def test_an_index_is_stale_when_its_clips_moved_to_another_shard(
        self, tmp_path: Path, home: Path, manifest: Path
    ) -> None:
        request = request_for(tmp_path, home, manifest)
        run(request, "ingest", "decode", "encode")
        for file in (home / "clips" / "encode").rglob("features.npy"):
            file.write_bytes(b"")
        rows = read_rows(manifest)
        turned = write_rows(tmp_path / "turned.jsonl", rows[::-1])
        run(make_request(write_recipe(tmp_path, turned, **NO_TRACKING), home=home), "ingest", "decode", "encode")
        request = request_for(tmp_path, home, manifest)
        assert statuses(request)["encode"] == ("run", "10 stored clips are missing or damaged")
        run(request)

    def test_two_processes_share_the_work(self, tmp_path: Path, home: Path, manifest: Path) -> None:
        request = request_for(tmp_path, home, manifest)
        run(request, "ingest", "decode", "encode")
        code = (
            "import sys\n"
            "from vlmvid.pipeline import STAGES, RunRequest\n"
            "STAGES['align'].run(RunRequest.model_validate_json(sys.argv[1]))\n"
        )
        command = [sys.executable, "-c", code, request.model_dump_json()]
        both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        errors = [process.communicate()[1] for process in both]
        assert [process.returncode for process in both] == [0, 0], errors
        assert published(home).count("align") == 1

    def test_replaced_weights_are_loaded_in_the_same_process(self, tmp_path: Path, home: Path, manifest: Path) -> None:
        from transformers import ViTConfig, ViTModel

        def save_weights(seed: int) -> None:
            from vlmvid.models.runtime import seeded

            with seeded(seed):
                model = ViTModel(
                    ViTConfig(
                        hidden_size=16,
                        num_hidden_layers=1,
                        num_attention_heads=2,
                        intermediate_size=16,
                        image_size=32,
                        patch_size=16,
                    )
                )
            model.save_pretrained(folder)
            values = {
                "image_mean": [0.5] * 3,
                "image_std": [0.5] * 3,
                "size": {"height": 32, "width": 32},
                "resample": 3,
            }
            (folder / "preprocessor_config.json").write_text(json.dumps(values))

        folder = tmp_path / "vit"
        features = []
        for seed in (0, 1):
            save_weights(seed)
            request = request_for(tmp_path, home, manifest, (f"encode.vision={{backbone: 'hf:{folder}'}}",))
            index = read_index(Path(run(request, "ingest", "decode", "encode")["encode"].uri))
            features.append(open_context(request).store.clips("encode").gather("features", [index[0].location]))
        assert not np.allclose(features[0], features[1])


class TestRegistered:
    @pytest.fixture
    def tracked(self, home: Path) -> dict[str, Any]:
        return {"tracking": {"uri": f"sqlite:///{fresh_home(home)}/mlflow.db"}, "register": {"model_name": "m"}}

    def test_a_cached_run_points_the_alias_to_its_own_model(
        self, tmp_path: Path, home: Path, manifest: Path, tracked: dict[str, Any]
    ) -> None:
        from tests.unit.tracking_fixtures import client_of

        one = request_for(tmp_path, home, manifest, **tracked)
        two = request_for(tmp_path, home, manifest, ("align.seed=1",), **tracked)
        for request, version, moved_from in ((one, "1", None), (two, "2", "1"), (one, "1", "2"), (one, "1", None)):
            folder = Path(run(request)["register"].uri)
            assert json.loads((folder / "registered.json").read_text())["moved_from"] == moved_from
            assert str(client_of(home).get_model_version_by_alias("m", "candidate").version) == version
        assert len(client_of(home).search_model_versions("name='m'")) == 2

    def test_search_notices_that_its_alias_moved(
        self, tmp_path: Path, home: Path, manifest: Path, tracked: dict[str, Any]
    ) -> None:
        both = {**tracked, "search": {"model": "models:/m@candidate", "queries": ["something red"], "top_k": 2}}
        first = statuses(request_for(tmp_path, home, manifest, **both))["search"]
        assert first[0] == "run" and first[1].startswith("its model is not there yet")

        def searching() -> RunRequest:
            sections = {**tracked, "register": None, "align": None, "evaluate": None}
            search = {"model": "models:/m@candidate", "queries": ["something red"], "top_k": 2}
            return request_for(tmp_path, home, manifest, **{**sections, "search": search})

        run(request_for(tmp_path, home, manifest, **tracked))
        run(searching())
        assert statuses(searching())["search"][0] == "cached"
        run(request_for(tmp_path, home, manifest, ("align.seed=1",), **tracked))
        status, reason = statuses(searching())["search"]
        assert status == "run" and reason.startswith("weights model:")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("evaluate.tasks=[retrival]", "unknown evaluation task 'retrival' .did you mean 'retrieval'"),
        ("encode.vision.backbone=timm:NOPE", "NOPE"),
        ("encode.vision.layer=99", "99"),
        ("options.device=foo", "unknown device 'foo'"),
        ("encode.text.encoder=minilmm", "did you mean 'minilm'"),
    ],
)
def test_mistakes_are_found_before_any_video_is_opened(
    tmp_path: Path, home: Path, manifest: Path, override: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlmvid.pipeline import preflight

    opened = count_opens(monkeypatch)
    with pytest.raises(ConfigError, match=words):
        preflight(request_for(tmp_path, home, manifest, (override,)))
    assert opened == []


def test_broken_pictures_and_captions_are_ledger_rows(tmp_path: Path, home: Path) -> None:
    from PIL import Image

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(8):
        Image.new("RGB", (40, 30), (30 * i, 90, 200)).save(pictures / f"p{i}.png")
        (pictures / f"p{i}.txt").write_text(f"picture number {i}")
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"no header" * 9)
    (pictures / "broken.txt").write_text("a broken picture")
    Image.new("RGB", (40, 30)).save(pictures / "mute.png")
    Image.new("RGB", (40, 30)).save(pictures / "blank.png")
    (pictures / "blank.txt").write_text(" \n")
    options = {"root": str(pictures), "num_test": 3, "image_size": 32, "num_frames": 4}
    sections = {**NO_TRACKING, "data": {"name": "image_text", "options": options}}
    recipe = write_recipe(tmp_path, tmp_path, **sections)
    request = make_request(recipe, (TOLERANT,), home=home)
    refs = run(request)
    reasons = {r.video_id: r.reason_code for r in open_context(request).store.ledger("ingest").rows().values()}
    wrong = {"broken": "broken_image", "mute": "missing_caption", "blank": "empty_caption"}
    assert {name: reason for name, reason in reasons.items() if reason} == wrong
    assert len(read_index(Path(refs["encode"].uri))) == 8
    # One changed caption draws no picture again; one changed picture draws that one.
    made = next((home / "datasets").glob("image_text-*/made.jsonl"))
    assert len(made.read_text().splitlines()) == 8
    (pictures / "p1.txt").write_text("another caption")
    Image.new("RGB", (40, 30), (1, 2, 3)).save(pictures / "p2.png")
    run(request)
    assert [json.loads(line)["name"] for line in made.read_text().splitlines()[8:]] == ["p2.mp4"]
