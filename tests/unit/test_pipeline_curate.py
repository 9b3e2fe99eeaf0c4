"""The curate stage on real small videos: who is kept, why the others are not, and what is never computed twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.tiny import read_rows, write_rows
from tests.unit import pipeline_fixtures
from tests.unit.pipeline_fixtures import NO_TRACKING, edit_code, published, request_for, run, statuses
from vlmvid.artifacts import LedgerRow
from vlmvid.errors import ConfigError, DecodeError, StageError
from vlmvid.pipeline import RunRequest, preflight
from vlmvid.pipeline.context import open_context
from vlmvid.pipeline.index import read_index
from vlmvid.pipeline.ingest import read_clips
from vlmvid.pipeline.plan import accept_code_change
from vlmvid.video import measuring
from vlmvid.video.gop.frame_source import FrameSource
from vlmvid.video.writer import write_mp4

FPS = 12
RULES: dict[str, Any] = {
    "min_duration_seconds": 1,
    "min_short_side": 48,
    "max_black_fraction": 0.5,
    "min_motion": 1,
    "require_caption": True,
    "languages": ["en"],
    "duplicate_distance": 5,
}
SECTIONS = {**NO_TRACKING, "align": None, "evaluate": None, "curate": RULES}
OPTIONS = ("options.max_failed_fraction=0.2",)
STAGES = ("ingest", "curate", "decode", "encode")


def texture(seed: int) -> np.ndarray:
    """A smooth random picture, uint8 (3, 96, 200): far from that of every other seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 16)).astype(np.uint8)
    picture = Image.fromarray(noise).resize((200, 96), Image.Resampling.BICUBIC)
    return np.broadcast_to(np.asarray(picture), (3, 96, 200))


def scroll(seed: int, num_frames: int = 24, speed: int = 3, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """A window that moves over the texture: (num_frames, 3, *size)."""
    height, width = size
    lefts = [(speed * n) % (200 - width) for n in range(num_frames)]
    return np.stack([texture(seed)[:, :height, left : left + width] for left in lefts])


def write_copy(source: Path, path: Path) -> None:
    """The same pictures as MPEG-4 Part 2 at 48 x 72 and a low bit rate."""
    with av.open(str(source)) as container, av.open(str(path), "w") as out:
        stream: Any = out.add_stream("mpeg4", rate=FPS, options={"b": "60000"})
        stream.width, stream.height, stream.pix_fmt = 72, 48, "yuv420p"
        for frame in container.decode(video=0):
            out.mux(stream.encode(frame.reformat(width=72, height=48, format="yuv420p")))
        out.mux(stream.encode())


def write_videos(folder: Path) -> Path:
    """Eleven clips of ten files, one of them broken; returns the manifest."""
    videos = {
        "good": scroll(1),
        "static": scroll(2, speed=0),
        "black": np.zeros((24, 3, 64, 96), np.uint8),
        "small": scroll(4, size=(32, 96)),
        "short": scroll(5, num_frames=11),
        "german": scroll(6),
        "mute": scroll(7),
        "mixed": scroll(8),
        "halves": np.concatenate([scroll(9, speed=0), scroll(9)]),
    }
    for name, frames in videos.items():
        write_mp4(folder / f"{name}.mp4", frames, fps=FPS)
    write_copy(folder / "good.mp4", folder / "copy.mp4")
    (folder / "broken.mp4").write_bytes(b"not a video at all" * 99)
    captions = {
        "german": ["eine Frau kocht Nudeln in der Küche"],
        "mute": [],
        "mixed": ["ein Mann spielt Gitarre auf der Straße", "a man plays the guitar in the street"],
    }
    rows: list[dict[str, Any]] = [
        {"video_id": name, "path": f"{name}.mp4", "captions": captions.get(name, [f"the picture of {name} moves on"])}
        for name in [*videos, "copy", "broken"]
        if name != "halves"
    ]
    for start in (0.0, 2.0):
        row = {"path": "halves.mp4", "start_seconds": start, "end_seconds": start + 2}
        rows.append({"video_id": f"halves@{start:.0f}", **row, "captions": ["half of a long video that moves on"]})
    return write_rows(folder / "manifest.jsonl", rows)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"))


def request_with(tmp_path: Path, home: Path, manifest: Path, *overrides: str, **sections: Any) -> RunRequest:
    return request_for(tmp_path, home, manifest, (*OPTIONS, *overrides), **{**SECTIONS, **sections})


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are opened from here on."""
    paths: list[str] = []
    original = FrameSource.__init__

    def counted(self: Any, path: str, *args: Any, **kwargs: Any) -> None:
        paths.append(Path(path).stem)
        original(self, path, *args, **kwargs)

    monkeypatch.setattr(FrameSource, "__init__", counted)
    return paths


def ledger_of(request: RunRequest) -> dict[str, LedgerRow]:
    return pipeline_fixtures.ledger_of(request, "curate")


def kept_of(request: RunRequest) -> list[str]:
    return [clip.video_id for clip in read_clips(open_context(request))]


EXPECTED = {
    "good": "",
    "static": "min_motion",
    "black": "max_black_fraction",
    "small": "min_short_side",
    "short": "min_duration_seconds",
    "german": "languages",
    "mute": "require_caption",
    "mixed": "",
    "copy": "duplicate_distance",
    "broken": "unreadable",
    "halves@0": "min_motion",
    "halves@2": "",
}


def test_who_is_kept_and_why_the_others_are_not(tmp_path: Path, home: Path, videos: Path) -> None:
    request = request_with(tmp_path, home, videos)
    refs = run(request, *STAGES)
    assert kept_of(request) == ["good", "mixed", "halves@2"]
    ledger = ledger_of(request)
    assert {name: row.reason_code for name, row in ledger.items()} == EXPECTED
    assert {row.status for name, row in ledger.items() if EXPECTED[name] not in ("", "unreadable")} == {"filtered"}
    assert ledger["broken"].status == "failed_permanent"
    assert ledger["good"].status == "ok"
    assert ledger["short"].message == "duration_seconds 0.916667 is below min_duration_seconds=1"
    assert ledger["copy"].message.startswith("near duplicate of 'good', which is kept: ")
    manifest = open_context(request).store.manifest("curate", refs["curate"].key)
    rules = ("duplicate_distance", "languages", "max_black_fraction", "min_duration_seconds", "min_short_side")
    assert manifest is not None and manifest.counts == {
        "failed_permanent": 1,
        "filtered": 8,
        "ok": 3,
        **{f"filtered/{rule}": 1 for rule in (*rules, "require_caption")},
        "filtered/min_motion": 2,
        "dropped_captions": 1,
    }
    # Later stages see the kept clips with the kept captions, and nothing else.
    for stage in ("decode", "encode"):
        assert [row.video_id for row in read_index(Path(refs[stage].uri))] == kept_of(request)
    captions = {clip.video_id: clip.captions for clip in read_clips(open_context(request))}
    assert captions["mixed"] == ("a man plays the guitar in the street",)


def test_the_table_has_every_clip_and_measure(tmp_path: Path, home: Path, videos: Path) -> None:
    folder = Path(run(request_with(tmp_path, home, videos), "ingest", "curate")["curate"].uri)
    rows = {row["video_id"]: row for row in pq.read_table(folder / "curation.parquet").to_pylist()}
    assert list(rows) == list(EXPECTED)
    assert {name: row["rule"] for name, row in rows.items()} == EXPECTED
    assert [name for name, row in rows.items() if row["kept"]] == ["good", "mixed", "halves@2"]
    good = rows["good"]
    assert (good["duration_seconds"], good["num_frames"], good["average_fps"]) == (2.0, 24, 12.0)
    assert (good["width"], good["height"], good["black_fraction"], good["is_textured"]) == (96, 64, 0.0, True)
    assert good["motion"] > 5 and len(good["perceptual_hash"]) == 8 * 16
    assert (rows["black"]["black_fraction"], rows["black"]["motion"]) == (1.0, 0.0)
    assert rows["halves@0"]["motion"] < 1 < rows["halves@2"]["motion"]
    assert (rows["copy"]["duplicate_of"], rows["copy"]["width"], rows["copy"]["height"]) == ("good", 72, 48)
    assert [d["rule"] for d in rows["mixed"]["dropped_captions"]] == ["languages"]
    assert rows["mixed"]["num_captions"] == 2
    assert rows["broken"]["duration_seconds"] is None and "broken.mp4" in rows["broken"]["message"]


def test_the_same_bytes_in_another_home_and_with_workers(tmp_path: Path, videos: Path) -> None:
    tables = []
    for workers in (0, 2):
        request = request_with(tmp_path, tmp_path / f"{workers}", videos, f"options.decode_workers={workers}")
        folder = Path(run(request, "ingest", "curate")["curate"].uri)
        tables.append([(folder / file).read_bytes() for file in ("curation.parquet", "clips.jsonl")])
    assert tables[0] == tables[1]


class TestNothingTwice:
    def test_a_rerun_is_cached_and_another_limit_opens_no_video(
        self, tmp_path: Path, home: Path, videos: Path, opened: list[str]
    ) -> None:
        request = request_with(tmp_path, home, videos)
        first = run(request, "ingest", "curate")
        assert sorted(opened) == sorted([*(set(EXPECTED) - {"halves@0", "halves@2"}), "halves", "halves"])
        opened.clear()
        assert run(request, "ingest", "curate") == first
        assert statuses(request)["curate"] == ("cached", "same inputs, config and code")
        looser = request_with(tmp_path, home, videos, "curate.min_motion=0.001", "curate.duplicate_distance=null")
        # YAML's null takes a rule away.
        assert statuses(looser)["curate"] == ("run", "config curate.duplicate_distance: 5.0 -> None")
        run(looser, "ingest", "curate")
        assert opened == []
        assert "copy" in kept_of(looser) and ledger_of(looser)["copy"].status == "ok"
        assert kept_of(request) == ["good", "mixed", "halves@2"]

    def test_another_limit_records_only_the_clips_that_it_decides_otherwise(
        self, tmp_path: Path, home: Path, videos: Path
    ) -> None:
        def num_lines() -> int:
            return sum(len(file.read_bytes().splitlines()) for file in (home / "ledger" / "curate").glob("*.jsonl"))

        run(request_with(tmp_path, home, videos), "ingest", "curate")
        assert num_lines() == len(EXPECTED)
        looser = request_with(tmp_path, home, videos, "curate.duplicate_distance=null")
        run(looser, "ingest", "curate")
        assert ledger_of(looser)["copy"].status == "ok" and num_lines() == len(EXPECTED) + 1
        run(request_with(tmp_path, home, videos), "ingest", "curate")
        assert num_lines() == len(EXPECTED) + 1, "a cached stage decides nothing"
        stricter = request_with(tmp_path, home, videos, "curate.duplicate_distance=6")
        run(stricter, "ingest", "curate")
        assert ledger_of(stricter)["copy"].reason_code == "duplicate_distance"
        assert num_lines() == len(EXPECTED) + 2

    def test_options_of_rules_that_are_off_are_no_part_of_the_key(
        self, tmp_path: Path, home: Path, videos: Path
    ) -> None:
        def key(*overrides: str) -> str:
            return open_context(request_with(tmp_path, home, videos, *overrides)).keys.key("curate")

        for rule, off, option in (
            ("languages=[en]", "languages=[]", "language_odds=3"),
            ("duplicate_distance=5", "duplicate_distance=null", "keep_duplicate=largest"),
        ):
            assert key(f"curate.{off}") == key(f"curate.{off}", f"curate.{option}") != key(f"curate.{rule}")
            assert key(f"curate.{rule}") != key(f"curate.{rule}", f"curate.{option}")

    def test_more_sampled_frames_are_measured_anew(
        self, tmp_path: Path, home: Path, videos: Path, opened: list[str]
    ) -> None:
        run(request_with(tmp_path, home, videos), "ingest", "curate")
        opened.clear()
        request = request_with(tmp_path, home, videos, "curate.num_frames=12")
        run(request, "ingest", "curate")
        assert len(opened) == len(EXPECTED)
        assert kept_of(request) == ["good", "mixed", "halves@2"]

    def test_new_captions_and_new_clips_cost_only_themselves(
        self, tmp_path: Path, home: Path, videos: Path, opened: list[str]
    ) -> None:
        run(request_with(tmp_path, home, videos), "ingest", "curate")
        rows = [{**row, "path": str(videos.parent / row["path"])} for row in read_rows(videos)]
        for row in rows:
            row["captions"] = ["someone says a few words in English"]
        write_mp4(tmp_path / "new.mp4", scroll(77), fps=FPS)
        rows.insert(0, {"video_id": "new", "path": str(tmp_path / "new.mp4"), "captions": ["something new on screen"]})
        opened.clear()
        request = request_with(tmp_path, home, write_rows(tmp_path / "more.jsonl", rows))
        run(request, "ingest", "curate")
        assert set(opened) == {"new"}
        assert kept_of(request) == ["new", "good", "german", "mute", "mixed", "halves@2"]

    def test_the_same_content_under_two_names_is_measured_once(
        self, tmp_path: Path, home: Path, opened: list[str]
    ) -> None:
        write_mp4(tmp_path / "a.mp4", scroll(1), fps=FPS)
        (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
        (tmp_path / "c.mp4").write_bytes(b"broken")
        (tmp_path / "d.mp4").write_bytes(b"broken")
        manifest = write_rows(tmp_path / "m.jsonl", [{"video_id": n, "path": f"{n}.mp4"} for n in "abcd"])
        rules = {"options": {"max_failed_fraction": 0.5, "decode_workers": 0}, "curate": {"min_motion": 1}}
        request = request_for(tmp_path, home, manifest, **{**SECTIONS, **rules})
        run(request, "ingest", "curate")
        assert opened == ["a", "c"]
        assert {name: row.status for name, row in ledger_of(request).items()} == {
            "a": "ok",
            "b": "ok",
            "c": "failed_permanent",
            "d": "failed_permanent",
        }
        once = request_for(tmp_path, home, manifest, ("curate.duplicate_distance=0",), **{**SECTIONS, **rules})
        run(once, "ingest", "curate")
        assert kept_of(once) == ["a"]
        assert ledger_of(once)["b"].message == "the same content and bounds as 'a', which is kept"

    def test_changed_code_is_named_and_can_be_accepted(
        self, tmp_path: Path, home: Path, videos: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        request = request_with(tmp_path, home, videos)
        run(request, "ingest", "curate")
        edit_code(monkeypatch, "vlmvid.video.measuring")
        assert statuses(request)["curate"] == ("run", "code vlmvid.video.measuring (measure) changed")
        opened.clear()
        assert accept_code_change(request, "curate") == ["vlmvid.video.measuring (measure)"]
        assert statuses(request)["curate"][0] == "cached"
        looser = request_with(tmp_path, home, videos, "curate.min_motion=0.5")
        run(looser, "ingest", "curate")
        assert opened == []


class TestFailures:
    def test_the_budget_holds_and_filtered_clips_are_no_failures(
        self, tmp_path: Path, home: Path, videos: Path
    ) -> None:
        request = request_with(tmp_path, home, videos, "options.max_failed_fraction=0.08")
        with pytest.raises(StageError, match=r"curate: 1 of 12 clips failed \(1 x unreadable\)"):
            run(request, "ingest", "curate")
        # 8 of 12 clips are filtered; none of them counts.
        run(request_with(tmp_path, home, videos, "options.max_failed_fraction=0.09"), "ingest", "curate")

    def test_rules_that_keep_nothing_are_an_error_that_counts_them(
        self, tmp_path: Path, home: Path, videos: Path
    ) -> None:
        request = request_with(tmp_path, home, videos, "curate.min_duration_seconds=60")
        with pytest.raises(
            StageError, match=r"keep none of 11 clips \(11 x min_duration_seconds=60.0\), e.g. good: dur"
        ):
            run(request, "ingest", "curate")

    def test_a_passing_failure_is_tried_again_and_what_follows_runs_again(
        self, tmp_path: Path, home: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = measuring.measure_clip

        def failing(job: Any, **limits: Any) -> Any:
            if "mixed" in job.clip.path:
                raise DecodeError("the disk is away", reason_code="read_error", transient=True)
            return original(job, **limits)

        request = request_with(tmp_path, home, videos)
        with monkeypatch.context() as patch:
            patch.setattr(measuring, "measure_clip", failing)
            first = run(request, *STAGES)
        assert ledger_of(request)["mixed"].status == "failed_transient"
        assert kept_of(request) == ["good", "halves@2"]
        assert statuses(request)["curate"][1].startswith("1 clips failed for a passing reason")
        second = run(request, *STAGES)
        assert ledger_of(request)["mixed"].status == "ok"
        assert [row.video_id for row in read_index(Path(second["encode"].uri))] == ["good", "mixed", "halves@2"]
        assert first["decode"] != second["decode"] and first["encode"] != second["encode"]

    def test_a_permanent_failure_is_tried_again_only_on_demand(
        self, tmp_path: Path, home: Path, videos: Path, opened: list[str]
    ) -> None:
        request = request_with(tmp_path, home, videos)
        run(request, "ingest", "curate")
        opened.clear()
        run(request_with(tmp_path, home, videos, "curate.min_motion=2"), "ingest", "curate")
        assert opened == []
        again = request.model_copy(update={"retry_failed": True})
        assert statuses(again)["curate"] == ("run", "--retry failed: 1 clips are tried again")
        run(again, "ingest", "curate")
        assert opened == ["broken"]
        assert ledger_of(request)["broken"].attempts == 2

    def test_damaged_measures_are_measured_again(
        self, tmp_path: Path, home: Path, videos: Path, opened: list[str]
    ) -> None:
        request = request_with(tmp_path, home, videos)
        run(request, "ingest", "curate")
        shard = next((home / "clips" / "curate").rglob("measures.npy"))
        shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
        opened.clear()
        verify = request.model_copy(update={"verify": True})
        assert statuses(verify)["curate"] == ("run", "1 stored shards are damaged")
        run(verify, "ingest", "curate")
        assert opened and kept_of(request) == ["good", "mixed", "halves@2"]


def test_plan_shows_the_stage_in_its_place_and_a_recipe_without_it_is_as_before(
    tmp_path: Path, home: Path, videos: Path
) -> None:
    request = request_with(tmp_path, home, videos)
    assert list(statuses(request)) == ["ingest", "curate", "decode", "encode"]
    run(request, *STAGES)
    assert {status for status, _ in statuses(request).values()} == {"cached"}
    without = request_with(tmp_path, home, videos, curate=None)
    assert list(statuses(without)) == ["ingest", "decode", "encode"]
    run(without, "ingest", "decode")
    # What was decoded for the curated recipe is not decoded again.
    assert published(home).count("ingest") == 1
    assert len(read_clips(open_context(without))) == 12


def test_wrong_languages_are_found_before_any_video_is_opened(
    tmp_path: Path, home: Path, videos: Path, opened: list[str]
) -> None:
    with pytest.raises(ConfigError, match="curate.languages: 'eng' is no language code"):
        preflight(request_with(tmp_path, home, videos, "curate.languages=[eng]"))
    assert opened == []


def test_wrong_languages_are_found_by_plan_and_by_the_stage_itself(
    tmp_path: Path, home: Path, videos: Path, opened: list[str]
) -> None:
    request = request_with(tmp_path, home, videos, "curate.languages=[english]")
    for found_by in (statuses, lambda wrong: run(wrong, "ingest", "curate")):
        with pytest.raises(ConfigError, match="curate.languages: 'english' is no language code"):
            found_by(request)
    assert opened == []


@pytest.mark.parametrize("keep_frames", ["true", "false"])
def test_kept_clips_are_found_where_the_dataset_has_moved_to(tmp_path: Path, home: Path, keep_frames: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    for seed, name in enumerate("abc", 1):
        write_mp4(here / f"{name}.mp4", scroll(seed, speed=0 if name == "b" else 3), fps=FPS)
    write_rows(here / "m.jsonl", [{"video_id": n, "path": f"{n}.mp4", "captions": [f"clip {n}"]} for n in "abc"])
    sections = {**SECTIONS, "curate": {"min_motion": 1}}
    keep = f"decode.keep_frames={keep_frames}"
    first = request_for(tmp_path, home, here / "m.jsonl", (keep,), **sections)
    before = run(first)
    here.rename(there)
    moved = request_for(tmp_path, home, there / "m.jsonl", (keep, "decode.sampling.num_frames=3"), **sections)
    after = run(moved)
    assert after["curate"] == before["curate"] and published(home).count("curate") == 1
    assert after["encode"] != before["encode"]
    assert [(row.video_id, row.status) for row in read_index(Path(after["encode"].uri))] == [("a", "ok"), ("c", "ok")]


def test_measures_made_since_bring_a_failed_clip_back(tmp_path: Path, home: Path, videos: Path) -> None:
    """What another recipe has measured of the same content is found by the one in which it failed."""
    rules = {"curate": {"min_motion": 1}, "options": {"max_failed_fraction": 0.9, "decode_workers": 0}}
    rows = [{**row, "path": str(videos.parent / row["path"])} for row in read_rows(videos)[:3]]
    write_mp4(tmp_path / "large.mp4", scroll(21, size=(96, 160)), fps=FPS)
    rows.append({"video_id": "large", "path": str(tmp_path / "large.mp4"), "captions": ["a large one"]})
    manifest = write_rows(tmp_path / "m.jsonl", rows)
    tight = ("options.max_frame_pixels=8000",)
    request = request_for(tmp_path, home, manifest, tight, **{**SECTIONS, **rules})
    run(request, "ingest", "curate")
    assert ledger_of(request)["large"].reason_code == "frame_too_large"
    assert statuses(request)["curate"][0] == "cached"
    other = write_rows(tmp_path / "other.jsonl", [{**rows[-1], "video_id": "same"}])
    run(request_for(tmp_path, home, other, **{**SECTIONS, **rules}), "ingest", "curate")
    request = request_for(tmp_path, home, manifest, tight, **{**SECTIONS, **rules})
    assert statuses(request)["curate"] == ("run", "1 clips that failed have a result now")
    run(request, "ingest", "curate")
    assert kept_of(request) == ["good", "large"]
    assert statuses(request)["curate"][0] == "cached"
