"""The report of real runs: from a store, from an artifact, from MLflow, of broken videos and hostile names."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import COLOURS, read_rows, write_clip, write_dataset, write_recipe, write_rows
from tests.unit.pipeline_fixtures import TOLERANT, run
from tests.unit.report_fixtures import HOSTILE, Seen
from tests.unit.tracking_fixtures import client_of, fresh_home
from vlmvid.cli import main
from vlmvid.errors import ArtifactError, ConfigError
from vlmvid.pipeline import RunRequest, make_request, pipeline_report, summarise, summary_text
from vlmvid.pipeline import report as report_module
from vlmvid.pipeline.context import open_context
from vlmvid.pipeline.costs import COST_EVENT
from vlmvid.pipeline.report import write_report
from vlmvid.pipeline.report_runs import costs_of
from vlmvid.pipeline.session import pipeline_run

HOSTILE_FILE = "<img src=x onerror=alert(2)>.mp4"
HOSTILE_ID = "</td><script>alert(3)</script>"


@dataclass(frozen=True)
class Ran:
    """A finished run of the tiny recipe with one broken video, and what its report step returned."""

    request: RunRequest
    recipe: Path
    home: Path
    drawn: dict[str, str]

    @property
    def html(self) -> str:
        return Path(self.drawn["html"]).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("report")
    home = fresh_home(folder / "home")
    manifest = write_dataset(folder)
    rows = read_rows(manifest)
    write_clip(folder / HOSTILE_FILE, COLOURS["red"])
    rows[6] |= {"captions": [HOSTILE[0]]}
    rows += [
        {"video_id": HOSTILE_ID, "path": HOSTILE_FILE, "split": "test", "captions": [HOSTILE[1], HOSTILE[3]]},
        {"video_id": "broken", "path": "<b>broken.mp4", "split": "train", "captions": ["x"]},
    ]
    (folder / "<b>broken.mp4").write_bytes(b"this is no video\n" * 50)
    tracking = {"uri": f"sqlite:///{home / 'mlflow.db'}", "experiment": "vlmvid"}
    recipe = write_recipe(folder, write_rows(manifest, rows), tracking=tracking)
    request = make_request(recipe, [TOLERANT], home=home)
    with pipeline_run(request):
        run(request)
        drawn = pipeline_report(request)
    yield Ran(request, recipe, home, drawn)


def test_a_run_ends_in_a_page_with_all_it_knows(ran: Ran) -> None:
    seen = Seen(ran.html)
    seen.check()
    for words in ("T2V R@1", "recall at K, %", "Worst", "Best", "unreadable", "peak memory", "clips/s", "cosine"):
        assert words in seen.words, words
    for text in (HOSTILE[0], HOSTILE_ID):
        assert text in seen.words
    assert "<b>broken.mp4" in seen.words and "failed permanent" in seen.words
    assert ran.html.count("data:image/webp;base64,") >= 6
    keys = {stage["key"] for stage in summarise(ran.request)["stages"].values()}
    assert all(key in seen.words for key in keys)
    markdown = Path(ran.drawn["markdown"]).read_text(encoding="utf-8")
    assert "## Headline" in markdown and "<script" not in markdown


def test_the_page_is_outside_of_the_artifacts_and_drawn_once(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Path(ran.drawn["html"]).parent.parent == ran.home / "reports"

    def draw(*_: Any) -> dict[str, str]:
        raise AssertionError("drawn again")

    monkeypatch.setattr(report_module, "_draw", draw)
    assert pipeline_report(ran.request) == ran.drawn


def test_mlflows_parent_run_has_the_files_and_the_costs(ran: Ran) -> None:
    client = client_of(ran.home)
    (experiment,) = [one for one in client.search_experiments() if one.name == "vlmvid"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    files = {file.path for file in client.list_artifacts(runs["tiny"].info.run_id)}
    assert {"report.html", "report.md", "config.json"} <= files
    assert {"wall_seconds", "cpu_seconds", "peak_memory_bytes"} <= runs["encode"].data.metrics.keys()
    assert runs["encode"].data.metrics["peak_memory_bytes"] > 1e7


def test_the_summary_says_where_the_page_is(ran: Ran) -> None:
    summary = summarise(ran.request)
    assert summary["page"] == ran.drawn
    assert f"Page     {ran.drawn['html']}" in summary_text(summary)


def test_a_drawing_that_fails_costs_a_warning_and_not_the_run(
    ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def draw(*_: Any) -> dict[str, str]:
        raise RuntimeError("no paper")

    monkeypatch.setattr(report_module, "_draw", draw)
    monkeypatch.setattr(report_module, "_folder_of", lambda context: tmp_path)
    with caplog.at_level(logging.WARNING, logger="vlmvid"):
        assert pipeline_report(ran.request) == {"error": "RuntimeError: no paper"}
    assert "the report is not drawn: RuntimeError: no paper" in caplog.text
    assert "Gap      the report is not drawn: RuntimeError: no paper" in summary_text(summarise(ran.request))


def test_a_missing_and_a_changed_video_are_said(ran: Ran, tmp_path: Path) -> None:
    folder = ran.recipe.parent
    gone, other = folder / "clip6.mp4", folder / "clip7.mp4"
    kept = {path: path.read_bytes() for path in (gone, other)}
    evaluated = open_context(ran.request).folder("evaluate")
    try:
        gone.unlink()
        write_clip(other, (1, 2, 3))
        document = write_report([str(evaluated)], out=tmp_path)
    finally:
        for path, data in kept.items():
            path.write_bytes(data)
    seen = Seen(Path(document["html"]).read_text(encoding="utf-8"))
    seen.check()
    assert "the video is missing or cannot be read now" in seen.words
    assert f"the video has other content now than in this run: {other}" in seen.words
    assert "The recipe's files or code have changed since this run" in seen.words


def test_the_command_says_where_the_files_are(ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["report", str(ran.recipe), "--home", str(ran.home), "--out", str(tmp_path / "out"), "-o", TOLERANT]
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["runs"] == ["tiny"]
    assert Path(document["html"]) == tmp_path / "out" / "report.html"
    # The same run, drawn again elsewhere, has the same bytes.
    assert Path(document["html"]).read_text(encoding="utf-8") == ran.html


def test_two_runs_are_compared_by_sample(ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    longer = [TOLERANT, "align.optim.num_steps=60"]
    request = make_request(ran.recipe, [*longer, "tracking.enabled=false"], home=ran.home)
    run(request)
    folders = [str(open_context(one).folder("evaluate")) for one in (ran.request, request)]
    assert main(["report", *folders, "--out", str(tmp_path)]) == 0
    assert str(tmp_path / "report.html") in capsys.readouterr().out
    seen = Seen((tmp_path / "report.html").read_text(encoding="utf-8"))
    seen.check()
    assert "Comparison of tiny (2) with tiny (1)" in seen.words
    assert "config align.optim.num_steps: 6 -> 60" in seen.words
    assert "paired" in seen.words and "McNemar p" in seen.words
    assert "is ahead" in seen.words and any(tag == "img" for tag, _ in seen.elements)


def test_a_run_id_of_mlflow_is_a_run_with_its_store_and_without(
    ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(ran.home)
    (experiment,) = [one for one in client.search_experiments() if one.name == "vlmvid"]
    ids = {one.info.run_name: one.info.run_id for one in client.search_runs([experiment.experiment_id])}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{ran.home / 'mlflow.db'}")
    whole = write_report([ids["tiny"]], out=tmp_path / "whole", home=ran.home)
    assert "Worst" in Path(whole["markdown"]).read_text(encoding="utf-8")
    other = write_report([ids["evaluate"]], out=tmp_path / "other", home=tmp_path / "empty")
    text = Path(other["markdown"]).read_text(encoding="utf-8")
    Seen(Path(other["html"]).read_text(encoding="utf-8")).check()
    assert "T2V R@1" in text and "| align | 6 |" in text and "does not hold this run's results" in text
    with pytest.raises(ConfigError, match="has no run 0000"):
        write_report(["0" * 32], home=ran.home)


def test_what_is_no_run_is_named(ran: Ran, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'nowhere' is no run: expected a recipe"):
        write_report(["nowhere"], home=ran.home)
    with pytest.raises(ArtifactError, match="is no artifact of a store"):
        write_report([str(tmp_path)], home=ran.home)
    with pytest.raises(ConfigError, match="-o a.b=c changes a recipe"):
        write_report([str(tmp_path)], ["a.b=c"], home=ran.home)
    with pytest.raises(ConfigError, match="none of its stages is finished"):
        write_report([str(ran.recipe)], home=tmp_path / "empty")


def test_a_recipe_without_an_evaluation_has_a_report(ran: Ran, tmp_path: Path) -> None:
    manifest = json.dumps(str(ran.recipe.parent / "manifest.jsonl"))
    recipe = write_recipe(tmp_path, Path(json.loads(manifest)), align=None, evaluate=None, tracking={"enabled": False})
    request = make_request(recipe, [TOLERANT], home=ran.home)
    run(request)  # what is encoded is stored already
    drawn = pipeline_report(request)
    seen = Seen(Path(drawn["html"]).read_text(encoding="utf-8"))
    seen.check()
    assert "this run has no finished evaluation" in seen.words and "Decode defects" in seen.words


def test_costs_are_those_of_the_last_computation() -> None:
    def event(name: str, seconds: float, **more: Any) -> dict[str, Any]:
        return {"event": name, "time_seconds": seconds, "stage": "encode", "key": "k", **more}

    old = [event("stage.started", 10.0, cached=0), event("stage.finished", 14.0)]
    cost = {"wall_seconds": 2.0, "cpu_seconds": 3.0, "peak_memory_bytes": 5.0, "units": 7, "unit": "clip"}
    new = [event("stage.started", 20.0, cached=0), event(COST_EVENT, 22.0, **cost), event("stage.finished", 22.1)]
    reused = [event("stage.started", 30.0, cached=1), event("stage.finished", 30.1)]
    (found,) = costs_of([*old, *reused]).values()
    assert (found.wall_seconds, found.cpu_seconds) == (4.0, None)
    (found,) = costs_of([*old, *new, *reused]).values()
    assert (found.wall_seconds, found.cpu_seconds, found.units, found.unit) == (2.0, 3.0, 7, "clip")
