"""The results of an evaluation, from its folder and from the registry, as tables and data frames."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.unit.test_serving_load import template
from tests.unit.tracking_fixtures import fresh_home, open_home
from vlmvid import results
from vlmvid.errors import ArtifactError, ConfigError
from vlmvid.evaluation import TaskResult, write_results
from vlmvid.serving.evaluation_results import EvaluationResults
from vlmvid.serving.terminal import Terminal
from vlmvid.tracking.base import Registration
from vlmvid.types import MetricResult

FOUND = [
    TaskResult(
        "retrieval",
        "what was <measured>",
        (
            MetricResult(name="t2v_r_at_1", value=0.5, num_samples=8, stderr=0.1, ci_low=0.25, ci_high=0.75),
            MetricResult(name="t2v_r_at_1/chance", value=0.125, num_samples=8),
            MetricResult(name="t2v_median_rank", value=2.0, num_samples=8, higher_is_better=False),
        ),
        [{"item_id": "a#0", "video_id": "a", "caption": "red", "rank": 1.0}],
    ),
    TaskResult("vqa", "questions", (MetricResult(name="accuracy", value=math.nan, num_samples=0),), [], "lmms_eval"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "evaluation"
    place.mkdir()
    write_results(FOUND, place)
    return place


def test_a_folder_as_tables_and_data_frames(folder: Path) -> None:
    found = results(folder)
    assert [result.task for result in found] == ["retrieval", "vqa"] and len(found[1:]) == 1
    assert repr(found).splitlines() == [
        "retrieval",
        "what was <measured>",
        "metric            value  95 % interval  n  chance",
        "t2v_r_at_1       50.0 %  25.0..75.0     8  12.5 %",
        "t2v_median_rank    2.00  -              8",
        "",
        "vqa [lmms_eval]",
        "questions",
        "metric    value  95 % interval  n  chance",
        "accuracy      -  -              0",
    ]
    assert "\x1b[1mretrieval" in found.to_text(Terminal(60, True))
    frame = found.to_pandas()
    assert frame.loc[0, ["task", "metric", "value", "ci_low", "chance"]].tolist() == [
        "retrieval", "t2v_r_at_1", 0.5, 0.25, 0.125,
    ]  # fmt: skip
    assert len(frame) == 3 and frame["value"].isna().tolist() == [False, False, True]
    assert found.samples("retrieval")["caption"].tolist() == ["red"] and found.samples("vqa [lmms_eval]").empty
    html = found._repr_html_()
    assert "what was &lt;measured&gt;" in html and "<td" in html and "50.0 %" in html
    assert repr(EvaluationResults([])) == "nothing was evaluated"


def test_what_is_no_evaluation_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="nothing called 'retrival'.*did you mean 'retrieval'"):
        results(folder)["retrival"]
    with pytest.raises(ArtifactError, match="it has no metrics.json"):
        results(folder.parent)
    with pytest.raises(ConfigError, match="names no version"):
        results("models:/tiny")
    (folder / "retrieval.parquet").unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        results(folder)


@pytest.mark.long
def test_the_evaluation_of_a_registered_model(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = fresh_home(tmp_path / "home")
    tracker = open_home(home)
    tracker.start_pipeline(pipeline_key="p", name="demo", config={}, tags={})
    with tracker.stage("register", "r1") as run:
        one = {
            "model_folder": template()[0],
            "model_name": "tiny",
            "alias": "candidate",
            "fingerprint": "f",
            "tags": {},
        }
        tracker.register(Registration(**one, evaluation=folder), run)
    monkeypatch.setenv("VLMVID_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for address in ("models:/tiny@candidate", "models:/tiny/1"):
        assert results(address)["retrieval"].metric("t2v_r_at_1").value == 0.5
    with pytest.raises(ConfigError, match="champion"):
        results("models:/tiny@champion")
