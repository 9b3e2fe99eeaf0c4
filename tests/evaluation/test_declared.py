from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlmvid.errors import ConfigError, DatasetError
from vlmvid.evaluation.benchmarks import BENCHMARKS
from vlmvid.evaluation.scoring import declared
from vlmvid.evaluation.scoring.base import Benchmark, Media, ScoreSettings
from vlmvid.evaluation.scoring.declared import FOLDER, read_declared
from vlmvid.evaluation.scoring.families import FAMILIES
from vlmvid.evaluation.scoring.predictions import Predictions

HEAD = """
name: mine
title: Mine
source: nowhere
family: {family}
publisher: https://example.org
file: mine.{suffix}
format: {format}
"""


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(declared, "FOLDER", tmp_path)

    def make(body: str, suffix: str = "json", format: str = "json", family: str = "choice") -> Benchmark:
        (tmp_path / "mine.yaml").write_text(HEAD.format(suffix=suffix, format=format, family=family) + body)
        return read_declared("mine.yaml")

    return make


LIST = """
columns: {item_id: [video, qid], video_id: video, question: q, choices: options, answer: right, groups: {kind: type}}
answer_is: index
media: "{video_id}.mp4"
"""
COLUMNS = """
columns: {item_id: qid, video_id: video, choices: [a0, a1], answer: right, units: {pair: pair}}
answer_is: letter
media: ["x/{video}", "y/{pair}.mp4"]
prediction_keys: [[qid], [said]]
"""


def test_choices_in_one_column(declare: Any, tmp_path: Path) -> None:
    benchmark = declare(LIST)
    rows = [{"video": "v", "qid": 7, "q": "Which?", "options": ["x", 2], "right": 1, "type": "t"}]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    (item,) = benchmark.read(tmp_path, {})
    assert (item.item_id, item.video_id, item.answer, item.choices) == ("v_7", "v", 1, ("x", "2"))
    assert item.groups == {"kind": "t"} and item.media == (Media("v.mp4"),) and item.question == "Which?"
    assert benchmark.kind == "choice" and benchmark.files[0].columns == (
        "video",
        "qid",
        "q",
        "options",
        "right",
        "type",
    )
    result = benchmark.score([item], Predictions({"v_7": "B"}), ScoreSettings())
    assert result.task == "mine" and result.metric("accuracy").value == 1.0


def test_choices_in_several_columns_of_a_table(declare: Any, tmp_path: Path) -> None:
    benchmark = declare(COLUMNS, "tsv", "table")
    (tmp_path / "mine.tsv").write_text("qid\tvideo\ta0\ta1\tright\tpair\nq1\tv\tx\ty\tB. y\tp\n")
    (item,) = benchmark.read(tmp_path, {})
    assert (item.item_id, item.answer, item.choices, item.units) == ("q1", 1, ("x", "y"), {"pair": "p"})
    assert item.media == (Media("x/v"), Media("y/p.mp4"))
    assert benchmark.prediction_keys == (("qid",), ("said",))


def test_json_lines_and_text_answers(declare: Any, tmp_path: Path) -> None:
    body = "columns: {item_id: id, video_id: id, choices: c, answer: a}\n"
    benchmark = declare(body, "jsonl", "jsonl")
    (tmp_path / "mine.jsonl").write_text('{"id": 1, "c": ["x", "y"], "a": "y"}\n\n{"id": 2, "c": ["x"], "a": "x"}\n')
    assert [item.answer for item in benchmark.read(tmp_path, {})] == [1, 0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"video": "v", "qid": 1, "q": "?", "options": ["x"], "right": 1, "type": "t"}], "answer 1 is none of its 1"),
        ([{"video": "v", "qid": 1, "q": "?", "options": ["x"], "right": "z", "type": "t"}], "answer 'z' is none of"),
        ([{"video": "v", "qid": 1, "options": ["x"], "right": 0, "type": "t"}], "entry 1: no 'q'"),
        (["x"], "entry 1: expected an object, got str"),
        (
            [{"video": "v", "qid": 1, "q": "?", "options": ["x"], "right": 0, "type": "t"}] * 2,
            "more than once, e.g. v_1",
        ),
        ([], "holds no item"),
    ],
)
def test_wrong_rows_are_named(declare: Any, tmp_path: Path, rows: list[Any], message: str) -> None:
    benchmark = declare(LIST)
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    with pytest.raises(DatasetError, match=message):
        benchmark.read(tmp_path, {})


def test_a_wrong_declaration_is_refused(declare: Any) -> None:
    with pytest.raises(ConfigError, match="colour"):
        declare(LIST + "colour: red\n")
    with pytest.raises(ConfigError, match="family of scorers 'chioce'"):
        declare(LIST, family="chioce")


def test_every_declared_file_is_registered() -> None:
    files = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.yaml")}
    assert files == {place for name in BENCHMARKS if (place := BENCHMARKS.get(name)).endswith(".yaml")}


def test_families_have_scorers() -> None:
    for name in FAMILIES:
        family = FAMILIES.get(name)
        assert callable(family.scorer("x")) and isinstance(family.compat("x"), dict)
