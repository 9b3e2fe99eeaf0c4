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
    assert result.metric("accuracy/against").value == 0.5
    assert "2 of 4 pairs better and 0 worse" in result.protocol


def test_what_is_skipped_is_not_compared(folder: Path) -> None:
    (folder / "part.json").write_text('{"random_1": "yes", "random_4": "no"}')
    (folder / "all.json").write_text('{"random_1": "yes", "random_2": "yes", "random_3": "no", "random_4": "no"}')
    settings = ScoreSettings(num_bootstrap=100, missing="skip")
    for one, other in (("part.json", "all.json"), ("all.json", "part.json")):
        files = ScoreFiles(folder / one, folder / "coco_pope_random.json", against=folder / other)
        result = score_files("pope", files, settings)
        difference = result.metric("accuracy/difference[missing=skip]")
        assert (difference.value, difference.num_samples) == (0.0, 2)
        assert all(metric.name.endswith("[missing=skip]") for metric in result.metrics)


@pytest.mark.parametrize("role", ["predictions", "blind", "against"])
def test_files_of_another_benchmark_are_refused(folder: Path, role: str) -> None:
    (folder / "other.json").write_text('{"video1": "yes"}')
    named = {"predictions": folder / "good.jsonl", role: folder / "other.json"}
    files = ScoreFiles(references=folder / "coco_pope_random.json", **named)
    with pytest.raises(EvaluationError, match="answers none of the 4 items.*video1, expected random_1"):
        score_files("pope", files, ScoreSettings(num_bootstrap=100))


def test_a_compat_score_has_its_blind_baseline_too(folder: Path) -> None:
    files = ScoreFiles(folder / "good.jsonl", folder / "coco_pope_random.json", blind=folder / "half.jsonl")
    result = score_files("pope", files, ScoreSettings(num_bootstrap=100, compat="pope"))
    assert result.metric("accuracy/blind").value == 0.5


def test_the_model_s_answer_is_never_guessed(folder: Path) -> None:
    rows = [{"id": f"random_{row[0]}", "answer": row[3], "model_answer": "no"} for row in POPE_ROWS]
    (folder / "dump.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(EvaluationError, match="`answer` stands beside `model_answer`.*--value-key"):
        read_predictions(folder / "dump.jsonl")
    files = ScoreFiles(folder / "dump.jsonl", folder / "coco_pope_random.json", value_key="model_answer")
    assert score_files("pope", files, ScoreSettings(num_bootstrap=100)).metric("accuracy").value == 0.5


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
        ([*ARGUMENTS, "--predictions", "good.jsonl", "--samples", "."], "is a folder"),
        ([*ARGUMENTS, "--predictions", "good.jsonl", "--seed", "-1"], "--seed -1 must be at least 0"),
        ([*ARGUMENTS, "--predictions", "gone.jsonl"], "gone.jsonl does not exist"),
        ([*ARGUMENTS, "--predictions", "good.jsonl", "-o", "split=random1"], "did you mean 'random'"),
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
        ("a.csv", "id,answer\na,yes,really\n", "line 2: another number of columns"),
        ("a.csv", "id,answer\na\n", "line 2: another number of columns"),
        ("a.json", '{"a": "yes", "a": "no"}', "holds a more than once"),
        ("a.jsonl", '{"id": "a", "id": "b", "answer": 1}', "line 1: an object holds id more than once"),
        ("a.json", "[" * 100_000, "nests too deeply"),
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
        ("a.json", '[{"doc_id": "a", "filtered_resps": ["yes"]}, {"index": "b", "prediction": null}]'),
        ("a.json", '{"a": ["yes"], "b": null}'),
    ],
)
def test_predictions_in_all_shapes(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_predictions(tmp_path / name).values == {"a": "yes", "b": None}


def test_texts_keep_their_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'id,answer\r\na,"No\nBecause, I looked"\r\n')
    assert read_predictions(tmp_path / "a.csv").values == {"a": "No\nBecause, I looked"}
    (tmp_path / "a.jsonl").write_text('{"id": 1.0, "answer": "a\u2028b"}\n{"id": 2, "answer": "c\x85d"}\n', "utf-8")
    assert read_predictions(tmp_path / "a.jsonl").values == {"1": "a\u2028b", "2": "c\x85d"}


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


def test_names_may_be_written_as_people_write_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["score", "POPE", *ARGUMENTS[2:], "--predictions", "good.jsonl", "--compat", "LMMS_eval", "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["compat"] == "lmms-eval"


def test_half_a_character_is_written_so_that_it_can_be_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "odd.json").write_text(json.dumps({"random_1": "yes \ud800"}))
    assert main([*ARGUMENTS, "--predictions", "odd.json", "--json"]) == 0
    assert pq.read_table(folder / "pope.samples.parquet").to_pylist()[0]["raw"] == "yes \\ud800"


def test_one_benchmark_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "vitatecs", "--list"]) == 0
    text = capsys.readouterr().out
    assert "option   aspect:" in text and "from https://" in text and "counterfactual" in text


def test_the_list_names_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--list"]) == 0
    text = capsys.readouterr().out
    assert main(["score", "--list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert all(entry["name"] in text and entry["files"] for entry in document)
