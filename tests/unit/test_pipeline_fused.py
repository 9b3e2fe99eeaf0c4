"""Encoding without stored frames: the same results, bounded memory, and the same care for bad input."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.needs import ON_LINUX
from tests.tiny import read_rows, write_clip, write_dataset, write_rows
from tests.unit.pipeline_fixtures import (
    TOLERANT,
    count_opens,
    edit_code,
    features_of,
    index_of,
    ledger_of,
    published,
    request_for,
    run,
    run_until_killed,
    run_with_a_file_away,
    statuses,
    write_broken,
)
from vlmvid.config.schema import DecodeConfig, RunOptions
from vlmvid.errors import ConfigError, StageError
from vlmvid.pipeline import RunRequest, make_request
from vlmvid.pipeline.context import open_context
from vlmvid.pipeline.decode import decode_limits, num_workers
from vlmvid.pipeline.index import read_index
from vlmvid.pipeline.plan import accept_code_change
from vlmvid.pipeline.session import pipeline_run
from vlmvid.types import FrameBatch
from vlmvid.video.isolation.pool import DecodePool, shared_pool
from vlmvid.video.options import ClipJob, DecodeLimits
from vlmvid.video.writer import write_mp4

FUSED = "decode.keep_frames=false"
ENCODE = {"align": None, "evaluate": None}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


@pytest.fixture(scope="module")
def large_picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8000, 8000)).save(file, "png")
    return file.getvalue()


def fused_and_stored(
    tmp_path: Path, home: Path, manifest: Path, *overrides: str, **sections: Any
) -> tuple[RunRequest, RunRequest]:
    """The same recipe in both modes, on one home."""
    return (
        request_for(tmp_path, home, manifest, (FUSED, *overrides), **sections),
        request_for(tmp_path, home, manifest, overrides, **sections),
    )


class TestSameResults:
    @pytest.mark.parametrize("workers", [0, 1, 2])
    def test_features_are_the_bytes_of_the_stored_mode(self, tmp_path: Path, manifest: Path, workers: int) -> None:
        more = (f"options.decode_workers={workers}", "options.encode_batch_size=6")  # batches of 3 and 1 clips
        fused, _ = fused_and_stored(tmp_path, tmp_path / "one", manifest, *more, **ENCODE)
        _, stored = fused_and_stored(tmp_path, tmp_path / "two", manifest, *more, **ENCODE)
        first, second = run(fused), run(stored)
        assert list(first) == ["ingest", "encode"] and list(second) == ["ingest", "decode", "encode"]
        assert first["encode"].key == second["encode"].key
        assert features_of(fused).tobytes() == features_of(stored).tobytes()
        assert index_of(fused) == index_of(stored)
        assert not (tmp_path / "one" / "clips" / "decode").exists()

    def test_the_whole_pipeline_ends_in_the_same_bytes(self, tmp_path: Path, manifest: Path) -> None:
        fused, _ = fused_and_stored(tmp_path, tmp_path / "one", manifest)
        _, stored = fused_and_stored(tmp_path, tmp_path / "two", manifest)
        ends = [Path(run(request)["evaluate"].uri) for request in (fused, stored)]
        for name in ("metrics.json", "report.md"):
            assert (ends[0] / name).read_bytes() == (ends[1] / name).read_bytes()

    def test_keep_frames_and_the_limits_enter_no_key(self, tmp_path: Path, home: Path, manifest: Path) -> None:
        other = (
            "options.decode_workers=3",
            "options.decode_timeout_seconds=9",
            "options.decode_memory_mb=900",
            "options.max_frame_pixels=99999",
        )
        one, two = fused_and_stored(tmp_path, home, manifest)
        three = request_for(tmp_path, home, manifest, (FUSED, *other))
        keys = [open_context(request).keys for request in (one, two, three)]
        for stage in ("ingest", "decode", "encode", "align", "evaluate"):
            assert len({k.key(stage) for k in keys}) == 1, stage  # type: ignore[arg-type]


class TestSwitching:
    def test_switching_the_mode_computes_no_feature_again(
        self, tmp_path: Path, home: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fused, stored = fused_and_stored(tmp_path, home, manifest)
        run(fused)
        assert statuses(stored)["decode"] == ("run", "no earlier result in this store")
        assert {s for name, (s, _) in statuses(stored).items() if name != "decode"} == {"cached"}
        run(stored)
        assert published(home) == ["ingest", "encode", "align", "evaluation", "evaluate", "decode"]
        opened = count_opens(monkeypatch)
        assert {s for s, _ in statuses(fused).values()} == {"cached"}
        run(fused)
        assert opened == [] and len(published(home)) == 6

    def test_frames_that_are_there_are_not_decoded_again(
        self, tmp_path: Path, home: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`vlmvid decode` keeps frames whatever the recipe says: that is what it is asked for."""
        fused, stored = fused_and_stored(tmp_path, home, manifest, **ENCODE)
        refs = run(fused, "ingest", "decode")
        assert all(row.status == "ok" for row in read_index(Path(refs["decode"].uri)))
        write_clip(tmp_path / "new.mp4", (9, 99, 199))
        write_rows(manifest, [*read_rows(manifest), {"video_id": "new", "path": "new.mp4", "captions": ["new"]}])
        opened = count_opens(monkeypatch)
        run(fused)
        assert [Path(path).name for path in opened] == ["new.mp4"]
        assert len(index_of(fused)) == 11
        mixed = features_of(fused)
        run(request_for(tmp_path, tmp_path / "other", manifest, (FUSED,), **ENCODE))
        again = request_for(tmp_path, tmp_path / "other", manifest, (FUSED,), **ENCODE)
        assert mixed.tobytes() == features_of(again).tobytes()

    def test_verify_decodes_again_what_is_damaged_among_kept_frames(
        self, tmp_path: Path, home: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fused, _ = fused_and_stored(tmp_path, home, manifest, **ENCODE)
        run(fused, "ingest", "decode")
        file = sorted((home / "clips" / "decode").glob("*/frames.npy"))[0]
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        opened = count_opens(monkeypatch)
        run(fused.model_copy(update={"verify": True}))
        assert 2 <= len(opened) <= 4  # a shard
        run(request_for(tmp_path, tmp_path / "other", manifest, (FUSED,), **ENCODE))
        other = request_for(tmp_path, tmp_path / "other", manifest, (FUSED,), **ENCODE)
        assert features_of(fused).tobytes() == features_of(other).tobytes()

    def test_a_second_run_and_a_second_name_open_no_video(
        self, tmp_path: Path, home: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "copy.mp4").write_bytes((tmp_path / "clip1.mp4").read_bytes())
        write_rows(manifest, [*read_rows(manifest), {"video_id": "copy", "path": "copy.mp4", "captions": ["c"]}])
        opened = count_opens(monkeypatch)
        fused, _ = fused_and_stored(tmp_path, home, manifest)
        refs = run(fused)
        assert len(opened) == 10
        index = {row.video_id: row for row in index_of(fused)}
        assert index["copy"].location == index["v1"].location and len(index) == 11
        assert run(fused) == refs and len(opened) == 10

    def test_a_change_of_the_decoder_is_named_and_accepted_where_decoding_happens(
        self, tmp_path: Path, home: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fused, _ = fused_and_stored(tmp_path, home, manifest)
        run(fused)
        changed = statuses(request_for(tmp_path, home, manifest, (FUSED, "decode.image_size=48")))
        assert changed["encode"] == ("run", "config decode.image_size: 32 -> 48")
        edit_code(monkeypatch, "vlmvid.video.sampling")
        assert statuses(fused)["encode"] == ("run", "code vlmvid.video.sampling (decode) changed")
        with pytest.raises(ConfigError, match="the recipe runs ingest, encode, align"):
            accept_code_change(fused, "decode")
        assert accept_code_change(fused, "encode") == ["vlmvid.video.sampling (decode)"]
        assert {s for s, _ in statuses(fused).values()} == {"cached"}
        assert open_context(fused).keys.adopted("encode")


class TestBadInput:
    @pytest.fixture
    def broken(self, tmp_path: Path, manifest: Path) -> Path:
        return write_rows(manifest, [*write_broken(tmp_path), *read_rows(manifest)])

    def test_one_ledger_row_per_clip_as_where_frames_are_stored(self, tmp_path: Path, broken: Path) -> None:
        fused, _ = fused_and_stored(tmp_path, tmp_path / "one", broken, TOLERANT, **ENCODE)
        _, stored = fused_and_stored(tmp_path, tmp_path / "two", broken, TOLERANT, **ENCODE)
        run(fused)
        run(stored)
        lines = list((tmp_path / "one" / "ledger" / "decode").glob("*.jsonl"))
        assert sum(len(file.read_text().splitlines()) for file in lines) == 13
        outcomes = [
            {
                row.video_id: (row.key, row.status, row.reason_code, row.message, row.attempts)
                for row in ledger_of(request).values()
            }
            for request in (fused, stored)
        ]
        assert outcomes[0] == outcomes[1]
        assert [row.reason_code for row in index_of(fused)][1:3] == ["empty_file", "unreadable"]
        failed = [[row for row in index_of(request) if row.status != "ok"] for request in (fused, stored)]
        assert failed[0] == failed[1] and len(failed[0]) == 3
        np.testing.assert_allclose(features_of(fused), features_of(stored), atol=1e-5)  # the batches differ

    def test_beyond_the_budget_the_stage_fails_and_nothing_is_tried_again(
        self, tmp_path: Path, home: Path, broken: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(StageError, match="encode: 3 of 13 clips failed .*empty_file.*--retry failed"):
            run(request_for(tmp_path, home, broken, (FUSED,)))
        opened = count_opens(monkeypatch)
        run(request_for(tmp_path, home, broken, (FUSED, TOLERANT)))
        assert opened == []

    def test_retry_failed(self, tmp_path: Path, home: Path, broken: Path) -> None:
        request = request_for(tmp_path, home, broken, (FUSED, TOLERANT))
        first = run(request)
        retry = request.model_copy(update={"retry_failed": True})
        assert statuses(retry)["encode"][1].startswith("--retry failed: 3 clips")
        assert run(retry) == first
        assert {v: ledger_of(retry)[v].attempts for v in ("empty", "text", "v0")} == {"empty": 2, "text": 2, "v0": 1}
        assert {s for s, _ in statuses(request).values()} == {"cached"}

    def test_a_file_that_changes_during_the_run_is_taken_the_next_time(
        self, tmp_path: Path, home: Path, manifest: Path
    ) -> None:
        request = request_for(tmp_path, home, manifest, (FUSED, TOLERANT))
        first = run_with_a_file_away(request, tmp_path / "clip8.mp4")
        row = ledger_of(request)["v8"]
        assert (row.status, row.reason_code) == ("failed_transient", "changed_during_run")
        assert statuses(request)["encode"] == ("run", "1 clips failed for a passing reason and are tried again")
        second = run(request)
        assert [row.status for row in index_of(request)] == ["ok"] * 10
        assert first["encode"] == second["encode"] and first["align"] != second["align"]
        assert ledger_of(request)["v8"].status == "ok"
        assert {s for s, _ in statuses(request).values()} == {"cached"}

    @pytest.fixture
    def with_large(self, tmp_path: Path, manifest: Path) -> Path:
        write_mp4(tmp_path / "large.mp4", np.zeros((3, 3, 128, 256), np.uint8), fps=6)
        return write_rows(manifest, [{"video_id": "large", "path": "large.mp4"}, *read_rows(manifest)])

    def test_frames_stored_since_bring_a_failed_clip_back(self, tmp_path: Path, home: Path, with_large: Path) -> None:
        limit = "options.max_frame_pixels=32767"
        request = request_for(tmp_path, home, with_large, (FUSED, TOLERANT, limit))
        run(request)
        raised = make_request(request.recipe, (limit + "8",), home=home)
        assert statuses(raised)["encode"][0] == "cached"  # a known failure is not tried again unless asked
        run(raised.model_copy(update={"retry_failed": True}), "decode")
        assert statuses(request)["encode"] == ("run", "1 clips that failed have another outcome of decoding now")
        run(request)
        assert [row.status for row in index_of(request)] == ["ok"] * 11

    @pytest.mark.parametrize("mode", [FUSED, "decode.keep_frames=true"])
    def test_results_made_for_another_dataset_bring_a_failed_clip_back(
        self, tmp_path: Path, home: Path, with_large: Path, mode: str
    ) -> None:
        tight = request_for(tmp_path, home, with_large, (mode, TOLERANT, "options.max_frame_pixels=32767"), **ENCODE)
        run(tight)
        assert {status for status, _ in statuses(tight).values()} == {"cached"}
        other = write_rows(tmp_path / "other.jsonl", [{"video_id": "same", "path": "large.mp4"}])
        (tmp_path / "recipes").mkdir()
        raised = request_for(tmp_path / "recipes", home, other, (mode, TOLERANT), **ENCODE)
        run(raised.model_copy(update={"retry_failed": True}))
        found = statuses(tight)
        for stage in found.keys() - {"ingest"}:
            assert found[stage] == ("run", "1 clips that failed have a result now"), stage
        run(tight)
        assert [row.status for row in index_of(tight)] == ["ok"] * 11
        assert {status for status, _ in statuses(tight).values()} == {"cached"}

    def test_features_stand_when_another_run_fails_to_decode_their_clip(
        self, tmp_path: Path, home: Path, with_large: Path
    ) -> None:
        request = request_for(tmp_path, home, with_large, (FUSED, TOLERANT), **ENCODE)
        refs = run(request)
        tight = ("options.max_frame_pixels=32767", "encode.vision.seed=1")
        run(make_request(request.recipe, tight, home=home))
        assert ledger_of(request)["large"].status == "failed_permanent"
        (Path(refs["encode"].uri) / "index.parquet").unlink()
        run(request)
        assert [row.status for row in index_of(request)] == ["ok"] * 11

    def test_a_limit_is_named_with_the_option_that_raises_it(self, tmp_path: Path, with_large: Path) -> None:
        limit = "options.max_frame_pixels=32767"
        for mode, stages in ((FUSED, 4), ("decode.keep_frames=true", 5)):
            request = request_for(tmp_path, tmp_path / mode, with_large, (mode, limit, TOLERANT))
            assert len(run(request)) == stages
            row = ledger_of(request)["large"]
            assert (row.status, row.reason_code) == ("failed_permanent", "frame_too_large")
            words = "; the limit is options.max_frame_pixels, now 32767: after raising it run again with --retry failed"
            assert row.message.endswith(words)
            assert [r.status for r in index_of(request)] == ["failed_permanent", *["ok"] * 10]
            raised = make_request(request.recipe, (limit + "8",), home=tmp_path / mode, retry_failed=True)
            run(raised)
            assert [r.status for r in index_of(raised)] == ["ok"] * 11


def test_a_killed_run_resumes_at_the_shard_with_the_same_bytes(tmp_path: Path, home: Path, manifest: Path) -> None:
    (tmp_path / "clip5.mp4").write_bytes(b"")
    request = request_for(tmp_path, home, manifest, (FUSED, TOLERANT), **ENCODE)
    run_until_killed(
        request,
        "from vlmvid.models import clip_encoder\n"
        "STAGES['ingest'].run(request)\n"
        "original, calls = clip_encoder.encode_clips, []\n"
        "def killed_at_the_third_shard(*args, **kwargs):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 3:\n"
        "        kill()\n"
        "    return original(*args, **kwargs)\n"
        "clip_encoder.encode_clips = killed_at_the_third_shard\n"
        "STAGES['encode'].run(request)\n",
    )
    with pipeline_run(request):
        from vlmvid.pipeline import encode

        jobs = encode.plan_shards(request)
    assert [video for job in jobs for video in job.video_ids] == ["v8", "v9"]  # v5 is known to be broken
    run(request)
    undisturbed = request_for(tmp_path, tmp_path / "other", manifest, (FUSED, TOLERANT), **ENCODE)
    run(undisturbed)
    assert features_of(request).tobytes() == features_of(undisturbed).tobytes()
    assert ledger_of(request)["v5"].attempts == 1


class TestWorkers:
    """A picture of 192 MB among the clips: what a decoder may not survive costs one row."""

    @pytest.fixture
    def with_bomb(self, tmp_path: Path, manifest: Path, large_picture: bytes) -> Path:
        (tmp_path / "bomb.png").write_bytes(large_picture)
        bomb = {"video_id": "bomb", "path": "bomb.png", "captions": ["black"]}
        rows = read_rows(manifest)
        return write_rows(manifest, [*rows[:2], bomb, *rows[2:]])

    @pytest.mark.parametrize("mode", [FUSED, "decode.keep_frames=true"])
    def test_a_decompression_bomb_is_one_row(self, tmp_path: Path, home: Path, with_bomb: Path, mode: str) -> None:
        limits = (mode, TOLERANT, "options.decode_workers=2", "options.decode_memory_mb=100")
        request = request_for(tmp_path, home, with_bomb, limits, **ENCODE)
        run(request)
        row = ledger_of(request)["bomb"]
        assert (row.status, row.reason_code) == ("failed_permanent", "memory_limit")
        assert "options.decode_memory_mb, now 100: after raising it run again with --retry failed" in row.message
        assert [row.video_id for row in index_of(request) if row.status != "ok"] == ["bomb"]

    @ON_LINUX
    def test_a_killed_worker_costs_one_passing_row(self, tmp_path: Path, home: Path, with_bomb: Path) -> None:
        request = request_for(tmp_path, home, with_bomb, (FUSED, TOLERANT, "options.decode_workers=1"), **ENCODE)
        options = open_context(request).recipe.options
        pool = shared_pool(open_context(request).recipe.decode, decode_limits(options), num_workers(options))
        killed: list[int] = []

        def kill_at_the_bomb() -> None:
            deadline = time.monotonic() + 60
            while not killed and time.monotonic() < deadline:
                for pid in pool.worker_pids():
                    if resident_bytes(pid) > 150e6:
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                time.sleep(0.001)

        killer = threading.Thread(target=kill_at_the_bomb)
        killer.start()
        run(request)
        killer.join()
        row = ledger_of(request)["bomb"]
        assert killed and (row.status, row.reason_code) == ("failed_transient", "crashed")
        assert [row.status for row in index_of(request)].count("ok") == 10
        run(request)
        assert [row.status for row in index_of(request)] == ["ok"] * 11

    @pytest.mark.parametrize("error", [OSError("the backbone does not load"), KeyboardInterrupt()])
    def test_a_file_that_hangs_does_not_hold_up_an_error(
        self, tmp_path: Path, home: Path, manifest: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vlmvid.pipeline import encode

        (tmp_path / "hang:").write_bytes(b"x")
        write_rows(manifest, [{"video_id": "hang", "path": "hang:", "captions": ["x"]}, *read_rows(manifest)])
        faulty = (sys.executable, "-m", "tests.unit.faulty_worker")
        limits = DecodeLimits(seconds=300)
        request = request_for(tmp_path, home, manifest, (FUSED, "options.decode_timeout_seconds=300"), **ENCODE)
        run(request, "ingest")
        raised_at: list[float] = []

        def fails(_: object) -> None:
            deadline = time.monotonic() + 60
            while not pool.worker_pids() and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(1)  # past the start of the worker
            raised_at.append(time.monotonic())
            raise error

        with DecodePool(open_context(request).recipe.decode, limits, num_workers=1, worker_command=faulty) as pool:
            monkeypatch.setattr("vlmvid.video.isolation.pool.shared_pool", lambda *_: pool)
            monkeypatch.setattr(encode, "vision_backbone", fails)
            with pipeline_run(request):
                job = encode.plan_shards(request)[0]
                assert job.video_ids[0] == "hang"
                with pytest.raises(type(error)):
                    encode.run_shard(request, job)
            assert time.monotonic() - raised_at[0] < 10
            assert all(isinstance(found, FrameBatch) for found in pool.decode([ClipJob(str(tmp_path / "clip0.mp4"))]))

    def test_packet_indexes_are_kept_by_content(self, tmp_path: Path, home: Path, manifest: Path) -> None:
        from vlmvid.pipeline.decode import clip_jobs
        from vlmvid.pipeline.ingest import read_rows as ingested

        request = request_for(tmp_path, home, manifest, (FUSED,), **ENCODE)
        run(request, "ingest")
        rows = ingested(open_context(request))
        for row, job in zip(rows, clip_jobs(open_context(request), rows), strict=True):
            path = Path(job.index_path or "")
            assert path.parent == home / "packet_indexes" / row.source_sha256[:2]
            assert re.fullmatch(rf"{row.source_sha256}-[0-9a-f]{{12}}\.npz", path.name)
            assert (job.path, job.identity) == (row.path, row.source_sha256)


def resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def peak_of_the_only_shard(stage: Any, request: RunRequest) -> int:
    """Most bytes that Python had allocated while the stage worked on its shard."""
    with pipeline_run(request):
        jobs = stage.plan_shards(request)
        assert len(jobs) == 1
        tracemalloc.start()
        try:
            stage.run_shard(request, jobs[0])
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


class TestBounds:
    """32 clips in one shard, batches of two: what waits is bounded, and the decoder does not stand still."""

    NUM_CLIPS, BATCH = 32, 2  # the 33rd clip would be the first one again
    CLIP_BYTES = 6 * 3 * 128 * 128

    @pytest.fixture
    def large_shard(self, tmp_path: Path, home: Path) -> RunRequest:
        manifest = write_dataset(tmp_path, num_train=self.NUM_CLIPS, num_test=0)
        sections = {
            "decode": {"sampling": {"num_frames": 6}, "image_size": 128, "keep_frames": False},
            "options": {"shard_size": 64, "encode_batch_size": 6 * self.BATCH, "decode_workers": 0},
        }
        request = request_for(tmp_path, home, manifest, **sections, **ENCODE)
        run(request, "ingest")
        return request

    def test_the_decoder_works_ahead_by_one_batch(
        self, large_shard: RunRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vlmvid.models import clip_encoder

        opened = count_opens(monkeypatch)
        original, ahead = clip_encoder.encode_clips, []

        def slow(backbone: Any, frames: NDArray[Any], **kwargs: Any) -> Any:
            reached = min(self.NUM_CLIPS, self.BATCH * (len(ahead) + 2))
            deadline = time.monotonic() + 5
            while len(opened) < reached and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.01)  # what would run on without a bound, would run on now
            ahead.append(len(opened) - self.BATCH * (len(ahead) + 1))
            return original(backbone, frames, **kwargs)

        monkeypatch.setattr(clip_encoder, "encode_clips", slow)
        run(large_shard, "encode")
        assert len(opened) == self.NUM_CLIPS
        assert ahead == [self.BATCH] * (self.NUM_CLIPS // self.BATCH - 1) + [0]

    @pytest.mark.parametrize("workers", [0, 2])
    def test_frames_do_not_pile_up_in_memory(self, large_shard: RunRequest, workers: int) -> None:
        from vlmvid.pipeline import encode

        request = make_request(large_shard.recipe, (f"options.decode_workers={workers}",), home=large_shard.home)
        encode.vision_backbone(open_context(request))
        peak = peak_of_the_only_shard(encode, request)
        # A batch waits and another is encoded, the stack of one is a copy; the workers are ahead by two clips each.
        bound = 3 * self.BATCH + 2 * workers + 5
        assert peak / self.CLIP_BYTES < bound <= self.NUM_CLIPS / 2

    def test_frames_that_are_kept_are_in_memory_once(self, large_shard: RunRequest) -> None:
        from vlmvid.pipeline import decode

        peak = peak_of_the_only_shard(decode, large_shard)
        assert self.NUM_CLIPS <= peak / self.CLIP_BYTES < self.NUM_CLIPS + 6


def test_defaults_agree_with_the_video_package() -> None:
    assert decode_limits(RunOptions()) == DecodeLimits()
    assert 1 <= num_workers(RunOptions()) <= 16
    assert num_workers(RunOptions(decode_workers=0)) == 0


def test_frames_are_not_kept_unless_asked() -> None:
    decode = {"sampling": {"num_frames": 2}, "image_size": 32}
    kept = DecodeConfig.model_validate({**decode, "keep_frames": True})
    assert not DecodeConfig.model_validate(decode).keep_frames
    assert kept.key_config() == DecodeConfig.model_validate(decode).key_config()
