from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.evaluation.examples.hallucination import POPE_ROWS, write_pope
from vlmvid.cli import main
from vlmvid.errors import EvaluationError
from vlmvid.evaluation.scoring.base import ScoreSettings
from vlmvid.evaluation.scoring.files import ScoreFiles, score_files
from vlmvid.evaluation.scoring.predictions import read_predictions


def write_answers(path: Path, answers: list[str]) -> Path:
    rows = [{"question_id": row[0], "answer": answer} for row, answer in zip(POPE_ROWS, answers, strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_pope(tmp_path)
    write_answers(tmp_path / "good.jsonl", ["yes", "no", "yes", "no"])
    write_answers(tmp_path / "half.jsonl", ["yes", "yes", "yes", "yes"])
    return tmp_path


ARGUMENTS = ["score", "pope", "--references", "coco_pope_random.json"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main([*ARGUMENTS, *arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_one_json_document_and_a_sample_log(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--predictions", "good.jsonl", "--json")
    document = json.loads(out)
    assert code == 0 and list(document) == ["task", "protocol", "compat", "metrics", "printed"]
    assert document["task"] == "pope" and document["compat"] is None
    assert set(document["metrics"][0]) == {
        "name", "value", "num_samples", "stderr", "ci_low", "ci_high", "higher_is_better"
    }  # fmt: skip
    rows = pq.read_table(folder / "pope.samples.parquet").to_pylist()
    assert [row["item_id"] for row in rows] == [f"random_{row[0]}" for row in POPE_ROWS]
    assert [row["score"] for row in rows] == [1.0] * 4


def test_the_table_says_what_the_reference_prints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--predictions", "half.jsonl", "--compat", "pope", "--samples", "log.parquet")
    assert "As pope prints it:" in out and "Yes ratio: 1.0" in out and "log.parquet" in out
    assert (folder / "log.parquet").is_file()


def test_two_models_are_compared_sample_by_sample(folder: Path) -> None:
    files = ScoreFiles(folder / "good.jsonl", folder / "coco_pope_random.json", against=folder / "half.jsonl")
    result = score_files("pope", files, ScoreSettings(num_bootstrap=100))
    assert result.metric("accuracy/difference").value == pytest.approx(0.5)
    assert result.metric("accuracy/mcnemar_p").value == pytest.approx(0.5)
    assert result.metric("accuracy/permutation_p").value == pytest.approx(0.5)  # two clusters, one question of each
    assert "2 samples better and 0 worse" in result.protocol


def test_a_blind_model_is_a_baseline(folder: Path) -> None:
    files = ScoreFiles(folder / "good.jsonl", folder / "coco_pope_random.json", blind=folder / "half.jsonl")
    assert score_files("pope", files, ScoreSettings(num_bootstrap=100)).metric("accuracy/blind").value == 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score"], "needs the name of a benchmark"),
        (["score", "popes"], "did you mean 'pope'"),
        (["score", "pope", "--references", "x"], "needs --predictions"),
        (["score", "pope", "--predictions", "good.jsonl"], "https://github.com/RUCAIBox/POPE"),
        ([*ARGUMENTS, "--predictions", "good.jsonl", "-o", "split"], "must look like name=value"),
        ([*ARGUMENTS, "--predictions", "good.jsonl", "--compat", "popo"], "did you mean 'pope'"),
        ([*ARGUMENTS, "--predictions", "good.jsonl", "--samples", "nowhere/x.parquet"], "there is no folder nowhere"),
        (["score", "pope", "--references", "gone.json", "--predictions", "good.jsonl"], "its authors publish it at"),
    ],
)
def test_wrong_use_is_said_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", '{"a": 1,\n "b" 2}', "not JSON.*line 2, column 6"),
        ("a.jsonl", '{"id": "a", "answer": 1}\n{"id"', "line 2, column 6"),
        ("a.json", "", "is empty"),
        ("a.json", "[]", "holds no prediction"),
        ("a.json", "{}", "holds no prediction"),
        ("a.json", "3", "holds a JSON int"),
        ("a.json", "[3]", "entry 1: expected an object, got int 3"),
        ("a.json", '[{"answer": "yes"}]', "entry 1: no id"),
        ("a.json", '[{"id": "a", "text": "yes"}]', "entry 1: no value.*it has id, text"),
        ("a.json", '[{"id": "a", "answer": 1}, {"id": "a", "answer": 2}]', "1 ids more than once, e.g. a"),
        ("a.csv", "id,text\na,b\n", "no value"),
    ],
)
def test_wrong_predictions_say_where(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(EvaluationError, match=words):
        read_predictions(tmp_path / name)
    with pytest.raises(EvaluationError, match="does not exist"):
        read_predictions(tmp_path / "gone.json")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"a": "yes", "b": null}'),
        ("a.json", '\ufeff[{"question_id": "a", "pred": "yes"}, {"question_id": "b", "pred": null}]'),
        ("a.jsonl", '{"id": "a", "answer": "yes"}\n\n{"id": "b", "answer": null}\n'),
        ("a.json", '{"id": "a", "answer": "yes"}\n{"id": "b", "answer": null}\n'),
    ],
)
def test_predictions_in_all_shapes(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_predictions(tmp_path / name).values == {"a": "yes", "b": None}


def test_a_confidence_beside_an_answer_goes_with_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "a", "answer": "yes", "confidence": 0.9}\n{"id": "b", "answer": "no"}\n')
    found = read_predictions(tmp_path / "a.jsonl").values
    assert found == {"a": {"answer": "yes", "confidence": 0.9}, "b": "no"}


@pytest.mark.parametrize(("separator"), [",", ";", "\t"])
def test_predictions_as_a_table(tmp_path: Path, separator: str) -> None:
    (tmp_path / "a.csv").write_text(f"id{separator}answer\na{separator}yes\nb{separator}\n")
    assert read_predictions(tmp_path / "a.csv").values == {"a": "yes", "b": ""}


def test_the_command_line_starts_without_what_it_does_not_need(folder: Path) -> None:
    code = (
        "import sys\nfrom vlmvid.cli import main\n"
        f"main({[*ARGUMENTS, '--predictions', 'good.jsonl', '--json']!r})\n"
        "print([m for m in ('torch', 'mlflow', 'prefect', 'av', 'transformers', 'scipy', 'matplotlib') "
        "if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    assert done.stderr.strip() == "[]"


def test_the_list_names_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--list"]) == 0
    text = capsys.readouterr().out
    assert main(["score", "--list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert all(entry["name"] in text and entry["files"] for entry in document)
