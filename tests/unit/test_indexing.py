"""Building a video index from real files: what is in it, what a second build costs, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny import COLOURS, write_clip, write_rows
from tests.unit.test_serving_load import template
from vlmvid.cli import main
from vlmvid.errors import ArtifactError, ConfigError, DecodeError, StageError
from vlmvid.models.alignment import load_alignment, save_alignment
from vlmvid.pipeline import indexing, indexing_model
from vlmvid.pipeline.indexing import index_request, plan_index, run_index_shard
from vlmvid.pipeline.indexing_table import IndexReport, build_index, finish_index
from vlmvid.pipeline.search import search_index
from vlmvid.serving.load import load
from vlmvid.serving.model import VideoTextModel
from vlmvid.serving.model_folder import MANIFEST
from vlmvid.serving.video_index import VideoIndex
from vlmvid.serving.video_index_files import read_failed


@pytest.fixture
def model_folder() -> Path:
    return template()[0]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, colour in COLOURS.items():
        write_clip(folder / f"{name}.mp4", colour, shift=1)
        (folder / f"{name}.txt").write_text(f"a {name} picture\n")
    return folder


def build(videos: Path, model: Path, out: Path, **options: Any) -> IndexReport:
    return build_index(index_request(str(videos), str(model), str(out), **{"decode_workers": 0, **options}))


def counts(report: IndexReport) -> tuple[int, int, int, int]:
    return report.clips, report.embedded, report.removed, report.failed


@pytest.fixture
def count_embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The videos that were decoded for an index."""
    seen: list[str] = []
    original = indexing.run_index_shard

    def counted(request: Any, job: Any) -> Any:
        seen.extend(Path(clip.path).name for clip in job.clips)
        return original(request, job)

    monkeypatch.setattr("vlmvid.pipeline.indexing_table.run_index_shard", counted)
    return seen


def test_it_holds_what_the_model_makes_of_the_videos(videos: Path, model_folder: Path, tmp_path: Path) -> None:
    report = build(videos, model_folder, tmp_path / "index")
    assert counts(report) == (4, 4, 0, 0)
    index, model = VideoIndex.open(tmp_path / "index"), load(model_folder, device="cpu")
    index.require_model(model)
    names = ["blue.mp4", "green.mp4", "red.mp4", "yellow.mp4"]
    clips = index.clips(range(4))
    assert [clip.video_id for clip in clips] == names
    assert [clip.captions for clip in clips] == [(f"a {name[:-4]} picture",) for name in names]
    by_hand = model.encode_video([videos / name for name in names])
    np.testing.assert_allclose(index.embeddings(range(4)), by_hand, atol=1e-3)
    query = model.encode_text(["a red picture"])
    rows, scores = index.search(query, 4)
    assert sorted(rows[0]) == [0, 1, 2, 3]
    np.testing.assert_allclose(scores[0], (by_hand @ query[0])[rows[0]], atol=1e-3)


def test_a_moment_is_the_best_time_step_alone(videos: Path, model_folder: Path, tmp_path: Path) -> None:
    """The oracle: a video of one frame, repeated."""
    from vlmvid.video.clip_decoder import decode_clip
    from vlmvid.video.options import ClipJob

    rows = [{"video_id": "part", "path": str(videos / "red.mp4"), "start_seconds": 0.5}]
    build(write_rows(tmp_path / "m.jsonl", rows), model_folder, tmp_path / "index")
    index, model = VideoIndex.open(tmp_path / "index"), load(model_folder, device="cpu")
    query = model.encode_text(["a red picture"])[0]
    moment = index.moment(0, query)
    assert moment is not None
    batch = decode_clip(ClipJob(str(videos / "red.mp4"), 0.5), model.decode)
    assert [seconds for seconds, _ in moment.steps] == pytest.approx(batch.pts_seconds.tolist(), abs=1e-5)
    features = model.vision.backbone.encode_frames(batch.frames)
    alone = [model.embed_video_features(np.stack([step] * 3)[None])[0] @ query for step in features]
    np.testing.assert_allclose([score for _, score in moment.steps], alone, atol=1e-3)
    best = max(moment.steps, key=lambda step: step[1])
    assert (moment.seconds, moment.score) == best


def test_a_second_build_costs_nothing_and_later_ones_what_is_new(
    videos: Path, model_folder: Path, tmp_path: Path, count_embedded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "index"
    build(videos, model_folder, out)
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and "locks" not in str(path)}
    count_embedded.clear()
    with monkeypatch.context() as patched:
        patched.setattr(indexing, "_load", lambda *_: pytest.fail("the model was loaded"))
        assert counts(build(videos, model_folder, out)) == (4, 0, 0, 0)
    assert files == {path: path.stat().st_mtime_ns for path in files} and not count_embedded

    opened = VideoIndex.open(out)  # before it is built again
    (videos / "red.mp4").rename(videos / "scarlet.mp4")  # the same content
    (videos / "blue.mp4").unlink()
    write_clip(videos / "new.mp4", (9, 9, 9), shift=2)
    (videos / "green.txt").write_text("grass")
    assert counts(build(videos, model_folder, out)) == (4, 1, 2, 0)
    assert count_embedded == ["new.mp4"]
    index = VideoIndex.open(out)
    assert {clip.video_id for clip in index.clips(range(4))} == {"green.mp4", "new.mp4", "scarlet.mp4", "yellow.mp4"}
    assert index.clip(index.row_of("green.mp4")).captions == ("grass",)
    model = load(model_folder, device="cpu")
    for clip in index.clips(range(4)):
        np.testing.assert_allclose(index.embeddings([clip.row]), model.encode_video([clip.path]), atol=1e-3)
        assert index.moment(clip.row, np.ones(8, np.float32)) is not None
    # The opened one is as it was, with all its moments; after one more build nothing of what is gone is in the folder.
    query = np.ones(8, np.float32)
    assert opened.clip(0).video_id == "blue.mp4" and opened.search(query[None], 9)[0].shape == (1, 4)
    assert all(opened.moment(row, query) is not None for row in range(4))
    assert counts(build(videos, model_folder, out)) == (4, 0, 0, 0)
    keys = [key for path in (out / "clips/index").glob("*/shard.json") for key in json.loads(path.read_text())["keys"]]
    assert len(keys) == 4 and len(list((out / "tables").iterdir())) == 1


def test_the_same_content_under_two_names_is_embedded_once(
    videos: Path, model_folder: Path, tmp_path: Path, count_embedded: list[str]
) -> None:
    shutil.copy(videos / "red.mp4", videos / "again.mp4")
    assert counts(build(videos, model_folder, tmp_path / "index")) == (5, 4, 0, 0)
    assert len(count_embedded) == 4
    index = VideoIndex.open(tmp_path / "index")
    rows, scores = index.like(index.row_of("again.mp4"), 1)
    assert index.clip(rows[0, 0]).video_id == "red.mp4" and scores[0, 0] == pytest.approx(1.0, abs=2e-3)


def test_a_killed_build_goes_on(videos: Path, model_folder: Path, tmp_path: Path, count_embedded: list[str]) -> None:
    out = tmp_path / "index"
    request = index_request(str(videos), str(model_folder), str(out), decode_workers=0, shard_size=2)
    first, second = plan_index(request)
    assert run_index_shard(request, first).ok == 2
    with pytest.raises(ArtifactError, match="was not finished"):
        VideoIndex.open(out)
    assert counts(build_index(request)) == (4, 2, 0, 0)
    assert count_embedded == [Path(clip.path).name for clip in second.clips]


def test_broken_videos_are_rows_with_a_reason(videos: Path, model_folder: Path, tmp_path: Path) -> None:
    whole = (videos / "red.mp4").read_bytes()
    for name, content in {
        "cut.mp4": whole[: len(whole) // 2],
        "empty.mp4": b"",
        "text.mp4": b"no video\n" * 50,
    }.items():
        (videos / name).write_bytes(content)
    rows = [{"video_id": path.name, "path": str(path)} for path in sorted(videos.glob("*.mp4"))]
    manifest = write_rows(tmp_path / "m.jsonl", [*rows, {"video_id": "gone", "path": "nowhere.mp4"}])
    report = build(manifest, model_folder, tmp_path / "index")
    assert (
        counts(report) == (4, 4, 0, 4) and report.reasons.pop("missing_file") == 1 and sum(report.reasons.values()) == 3
    )
    failed = {row.video_id: row for row in read_failed(tmp_path / "index")}
    assert failed.keys() == {"cut.mp4", "empty.mp4", "text.mp4", "gone"}
    assert all(row.reason_code and row.message and row.status == "failed_permanent" for row in failed.values())
    assert VideoIndex.open(tmp_path / "index").num_failed == 4
    # What failed for good is not tried again, unless asked to.
    assert plan_index(index_request(str(manifest), str(model_folder), str(tmp_path / "index"))) == []
    again = index_request(str(manifest), str(model_folder), str(tmp_path / "index"), retry_failed=True)
    assert [clip.video_id for job in plan_index(again) for clip in job.clips] == ["cut.mp4", "empty.mp4", "text.mp4"]


def test_nothing_but_broken_videos(tmp_path: Path, model_folder: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"no video")
    with pytest.raises(StageError, match=r"not one of the 1 clips .* could be embedded.*a\.mp4"):
        build(tmp_path / "videos", model_folder, tmp_path / "index")
    assert not (tmp_path / "index" / "index.json").exists()


def test_attributes_are_facets(videos: Path, model_folder: Path, tmp_path: Path) -> None:
    rows = [
        {"video_id": name, "path": f"{name}.mp4", "attributes": {"warm": name in ("red", "yellow"), "n": i % 2}}
        for i, name in enumerate(COLOURS)
    ]
    build(write_rows(videos / "m.jsonl", rows), model_folder, tmp_path / "index")
    index = VideoIndex.open(tmp_path / "index")
    assert index.facets == {"n": {"0": 2, "1": 2}, "warm": {"false": 2, "true": 2}}
    hits = search_index(
        ["x"], model=str(model_folder), index=str(tmp_path / "index"), top_k=9, where={"warm": ["true"]}
    )
    assert {hit.video_id for hit in hits} == {"red", "yellow"}
    assert all(hit.moment_seconds is not None for hit in hits)


def test_approximate_search_is_prepared_when_it_is_asked_for(
    videos: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "index"
    for options, has_cells in (({}, False), ({"faiss": True}, True), ({}, True), ({"faiss": False}, False)):
        assert counts(build(videos, model_folder, out, **options))[0] == 4
        assert bool(list(out.glob("tables/*/cells.faiss"))) == has_cells
        if has_cells:
            found = search_index(["x"], model=str(model_folder), index=str(out), top_k=9, approximate=True)
            assert len(found) == 4
    build(videos, model_folder, out, faiss=True)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=f"{out} was built with --faiss.*pip install.*; --no-faiss leaves it out"):
        build(videos, model_folder, out)
    assert counts(build(videos, model_folder, out, faiss=False)) == (4, 0, 0, 0)


class TestRefused:
    def test_another_model(self, videos: Path, model_folder: Path, tmp_path: Path) -> None:
        build(videos, model_folder, tmp_path / "index")
        other = Path(shutil.copytree(model_folder, tmp_path / "other"))
        alignment = load_alignment(other / "alignment")
        alignment.video_head.requires_grad_(False)
        next(alignment.video_head.parameters()).add_(1.0)
        save_alignment(alignment, other / "alignment")
        _write_manifest_anew(other)
        made_with = "made with the model 'tiny'.*vision: .*text: .*digest"
        with pytest.raises(ConfigError, match=f"{made_with}.*name another folder"):
            build(videos, other, tmp_path / "index")
        with pytest.raises(ConfigError, match=f"{made_with}.*this is the model 'tiny'.*vision: "):
            search_index(["x"], model=str(other), index=str(tmp_path / "index"), top_k=1)

    def test_a_folder_without_videos_or_none(self, model_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(ConfigError, match="empty holds no video"):
            build(tmp_path / "empty", model_folder, tmp_path / "index")
        with pytest.raises(ConfigError, match="nowhere is neither a folder nor a file"):
            build(tmp_path / "nowhere", model_folder, tmp_path / "index")

    def test_other_videos(self, videos: Path, model_folder: Path, tmp_path: Path) -> None:
        out, other = tmp_path / "index", tmp_path / "other"
        other.mkdir()
        shutil.copy(videos / "red.mp4", other / "red.mp4")
        build(videos, model_folder, out)
        with pytest.raises(ConfigError, match=f"is of {videos}, and would become one of {other}.*--replace"):
            build(other, model_folder, out)
        assert VideoIndex.open(out).num_clips == 4
        assert counts(build(other, model_folder, out, replace=True)) == (1, 0, 3, 0)
        assert counts(build(other, model_folder, out)) == (1, 0, 0, 0)

    def test_a_folder_of_other_things(self, videos: Path, model_folder: Path) -> None:
        with pytest.raises(ConfigError, match="holds something else, e.g. 'blue.mp4'"):
            build(videos, model_folder, videos)
        with pytest.raises(ConfigError, match="is a file"):
            build(videos, model_folder, videos / "red.mp4")
        store = videos / "store"  # which has folders of the same names
        for name in ("clips", "ledger", "digests", "stages"):
            (store / name).mkdir(parents=True)
        with pytest.raises(ConfigError, match="holds something else, e.g. 'stages'"):
            build(videos, model_folder, store)

    def test_folders_that_are_called_as_ours(self, videos: Path, model_folder: Path, tmp_path: Path) -> None:
        """A person's own folders may be called clips or tables, and stay."""
        for name in ("clips/index", "tables/summer", "locks"):
            (tmp_path / "mine" / name).mkdir(parents=True)
        (tmp_path / "mine" / "notes").mkdir()
        with pytest.raises(ConfigError, match="holds something else, e.g. 'notes'"):
            build(videos, model_folder, tmp_path / "mine")
        (tmp_path / "mine" / "notes").rmdir()
        (tmp_path / "mine" / "clips" / "index").rmdir()
        with pytest.raises(ConfigError, match="holds something else, e.g. 'clips'"):
            build(videos, model_folder, tmp_path / "mine")
        assert (tmp_path / "mine" / "tables" / "summer").is_dir()


def test_what_is_not_ours_stays_in_the_folder_of_an_index(videos: Path, model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    build(videos, model_folder, out)
    mine, ours = [], []
    for folder, own in (("tables", f".1234-{'ab' * 6}.{'0' * 12}.tmp"), ("clips/index", f".{'ab' * 12}.0.damaged")):
        mine.append(out / folder / "summer")
        ours.append(out / folder / own)
    for path in (*mine, *ours):
        path.mkdir()
    (videos / "blue.mp4").unlink()
    build(videos, model_folder, out)
    assert all(path.is_dir() for path in mine) and not any(path.exists() for path in ours)


def test_a_damaged_index_is_mended_by_a_build(
    videos: Path, model_folder: Path, tmp_path: Path, count_embedded: list[str]
) -> None:
    out = tmp_path / "index"
    build(videos, model_folder, out)
    count_embedded.clear()
    (path,) = out.glob("tables/*/embeddings.npy")
    path.write_bytes(path.read_bytes()[:-3])
    assert counts(build(videos, model_folder, out)) == (4, 0, 0, 0)
    assert VideoIndex.open(out).num_clips == 4 and not count_embedded
    (out / "index.json").write_text("{")
    assert counts(build(videos, model_folder, out)) == (4, 0, 0, 0)
    (path,) = out.glob("clips/index/*/embeddings.npy")
    path.write_bytes(b"\1" + path.read_bytes()[1:])
    assert counts(build(videos, model_folder, out, verify=True)) == (4, 4, 0, 0)


def test_hostile_file_names_are_data(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "videos").mkdir()
    name = "<img src=x onerror=alert(1)>\x1b[31m'; --.mp4"
    write_clip(tmp_path / "videos" / name, (1, 2, 3))
    assert (
        main(
            [
                "index",
                str(tmp_path / "videos"),
                "--model",
                str(model_folder),
                "--out",
                str(tmp_path / "i"),
                "--workers",
                "0",
            ]
        )
        == 0
    )
    assert main(["search", "x", "--model", str(model_folder), "--index", str(tmp_path / "i")]) == 0
    out = capsys.readouterr().out
    assert "index: 1 clips, 1 new, 0 removed, 0 failed" in out and "\x1b" not in out and r"\x1b[31m" in out
    assert main(["search", "x", "--model", str(model_folder), "--index", str(tmp_path / "i"), "--json"]) == 0
    (hit,) = json.loads(capsys.readouterr().out)
    assert hit["video_id"] == name and hit["path"] == str(tmp_path / "videos" / name)


def _write_manifest_anew(folder: Path) -> None:
    from vlmvid.artifacts.digests import sha256_file

    path = folder / MANIFEST
    value = json.loads(path.read_text())
    for name, info in value["files"].items():
        info |= {"sha256": sha256_file(folder / name), "size": (folder / name).stat().st_size}
    path.write_text(json.dumps(value))


def test_a_model_that_changes_during_a_build_is_noticed(videos: Path, model_folder: Path, tmp_path: Path) -> None:
    request = index_request(str(videos), str(model_folder), str(tmp_path / "index"), decode_workers=0)
    (job,) = plan_index(request)
    with pytest.raises(ConfigError, match="is another model .* than when the build began"):
        run_index_shard(request, job.model_copy(update={"model_digest": "0" * 24}))


def test_an_alias_that_moves_before_the_last_step_is_noticed(videos: Path, model_folder: Path, tmp_path: Path) -> None:
    request = index_request(str(videos), str(model_folder), str(tmp_path / "index"), decode_workers=0)
    with pytest.raises(ConfigError, match="is another model .* than when the build began"):
        finish_index(request, 4, "0" * 24)


def test_accepted_code_stays_accepted(
    videos: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count_embedded: list[str]
) -> None:
    out = tmp_path / "index"
    build(videos, model_folder, out)
    count_embedded.clear()
    monkeypatch.setattr(indexing_model, "_code", lambda: ({"vlmvid.serving.dual_encoder": "other"}, {"torch": "9"}))
    for options in ({"accept_code_change": True}, {}, {}):
        assert counts(build(videos, model_folder, out, **options)) == (4, 0, 0, 0)
    monkeypatch.setattr(indexing_model, "_code", lambda: ({"vlmvid.serving.dual_encoder": "third"}, {"torch": "9"}))
    assert counts(build(videos, model_folder, out, accept_code_change=True)) == (4, 0, 0, 0)
    assert not count_embedded


def test_other_code_embeds_tags_and_clips_anew(
    videos: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, told = tmp_path / "index", []
    build(videos, model_folder, out)
    original = VideoTextModel.encode_text
    monkeypatch.setattr(VideoTextModel, "encode_text", lambda self, texts: told.extend(texts) or original(self, texts))
    (videos / "blue.txt").write_text("a sky")
    build(videos, model_folder, out)
    assert "a sky" in told and "a red picture" not in told
    monkeypatch.setattr(indexing_model, "_code", lambda: ({"vlmvid.serving.dual_encoder": "other"}, {"torch": "9"}))
    assert counts(build(videos, model_folder, out)) == (4, 4, 0, 0)
    assert {"a sky", "a red picture"} <= set(told)


class TestPassingErrors:
    """What cannot be read just now is not taken out."""

    def test_a_storage_that_is_away(
        self, videos: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vlmvid.pipeline import sources

        out = tmp_path / "index"
        build(videos, model_folder, out)
        (videos / "blue.mp4").unlink()
        with monkeypatch.context() as patched:
            patched.setattr(sources, "check_file", _away("red.mp4", sources.check_file))
            assert counts(build(videos, model_folder, out)) == (3, 0, 1, 0)
        index = VideoIndex.open(out)
        assert index.clip(index.row_of("red.mp4")).captions == ("a red picture",)
        assert index.moment(index.row_of("red.mp4"), np.ones(8, np.float32)) is not None
        assert counts(build(videos, model_folder, out)) == (3, 0, 0, 0)

    def test_a_storage_that_is_away_when_the_table_is_damaged(
        self,
        videos: Path,
        model_folder: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        count_embedded: list[str],
    ) -> None:
        """What is computed stays, though nothing says any more that it belongs to the file."""
        from vlmvid.pipeline import sources

        out = tmp_path / "index"
        build(videos, model_folder, out)
        count_embedded.clear()
        (path,) = out.glob("tables/*/rows.parquet")
        path.write_bytes(b"")
        with monkeypatch.context() as patched:
            patched.setattr(sources, "check_file", _away("red.mp4", sources.check_file))
            assert counts(build(videos, model_folder, out)) == (3, 0, 0, 1)
            assert counts(build(videos, model_folder, out)) == (3, 0, 0, 1)
        assert counts(build(videos, model_folder, out)) == (4, 0, 0, 0) and not count_embedded

    def test_a_folder_that_cannot_be_listed(
        self, videos: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out, closed = tmp_path / "index", videos / "closed"
        closed.mkdir()
        (videos / "red.mp4").rename(closed / "red.mp4")
        build(videos, model_folder, out)
        original = os.scandir

        def refuse(path: Any) -> Any:
            if not isinstance(path, int) and os.fsencode(path) == os.fsencode(closed):
                raise PermissionError(13, "Permission denied", path)
            return original(path)

        with monkeypatch.context() as patched:
            patched.setattr(os, "scandir", refuse)
            assert counts(build(videos, model_folder, out)) == (4, 0, 0, 1)
        assert counts(build(videos, model_folder, out)) == (4, 0, 0, 0)


def _away(name: str, original: Any) -> Any:
    def check(path: Path, *rest: Any) -> Any:
        if path.name == name:
            raise DecodeError(f"{path}: the storage is away", reason_code="read_error", transient=True)
        return original(path, *rest)

    return check


@pytest.mark.long
def test_a_build_that_is_killed_anywhere_ends_the_same(videos: Path, model_folder: Path, tmp_path: Path) -> None:
    for number in range(8):
        write_clip(videos / f"more-{number}.mp4", (number * 30, 0, 9), shift=number)
    command = [sys.executable, "-m", "vlmvid.cli", "index", str(videos), "--model", str(model_folder), "--workers", "0"]
    build(videos, model_folder, tmp_path / "whole")
    whole = VideoIndex.open(tmp_path / "whole")
    kills = 0
    for seconds in (3.0, 5.0, 6.0, 6.5, 7.0, 7.5, 8.0):
        out = tmp_path / f"killed-{seconds}"
        process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        kills += process.poll() is None
        process.kill()
        process.wait()
        assert counts(build(videos, model_folder, out))[0] == 12
        index = VideoIndex.open(out)
        assert index.clips(range(12)) == whole.clips(range(12))
        np.testing.assert_array_equal(index.embeddings(range(12)), whole.embeddings(range(12)))
        assert not [path for path in out.rglob("*.tmp")]
    assert kills
