"""The command line in a process of its own: exit codes, stdout against stderr, no Prefect in a stage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import write_dataset, write_recipe
from vlmvid.cli import main

ROOT = Path(__file__).parents[2]


def vlmvid(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "VLMVID_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", "vlmvid.cli", *arguments], capture_output=True, text=True, env=environment, cwd=ROOT
    )


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path, write_dataset(tmp_path), tracking={"enabled": False})


def test_plan_json_has_the_shape_that_scripts_rely_on(
    recipe: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(recipe), "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert [s["name"] for s in stages] == ["ingest", "decode", "encode", "align", "evaluate"]
    assert all(set(s) == {"name", "status", "key", "reason"} and s["status"] == "run" for s in stages)


def test_stages_run_one_by_one_without_prefect(recipe: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys\n"
        "from vlmvid.cli import main\n"
        f"for stage in ('ingest', 'decode', 'encode', 'align', 'evaluate'):\n"
        f"    assert main([stage, {str(recipe)!r}, '--json', '--home', {str(home)!r}]) == 0, stage\n"
        "assert 'prefect' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert main(["plan", str(recipe), "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)["stages"]
    assert {s["status"] for s in plans} == {"cached"}
    metrics = json.loads(next((home / "stages" / "evaluate").glob("*/metrics.json")).read_text())
    assert metrics[0]["task"] == "retrieval"
    assert {"name", "value", "num_samples", "ci_low", "ci_high"} <= set(metrics[0]["metrics"][0])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["plan", "nowhere.yaml"], 2, "recipe nowhere.yaml does not exist"),
        (["plan", "{recipe}", "-o", "decode.imagesize=3"], 2, "did you mean 'image_size'"),
        (["register", "{recipe}"], 2, "no stage 'register'"),
        (["train-vlm", "{recipe}"], 2, "no stage 'train_vlm'"),
        (["caption", "a.mp4", "--model", "{recipe}"], 1, "holds 0 models"),
        (["decode", "{recipe}"], 1, "run `vlmvid ingest`"),
        (["decode"], 2, "recipe"),
        (["nothing"], 2, "invalid choice"),
        (["plan", "{recipe}", "--home", "/proc/no/home"], 2, "not writable"),
        (["plan", "{recipe}", "--gpu", "a1000"], 2, "did you mean 'a100'"),
    ],
)
def test_exit_codes_and_messages(
    recipe: Path, home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    try:
        found = main([a.format(recipe=recipe) for a in arguments])
    except SystemExit as usage:  # of argparse
        found = int(str(usage.code))
    out, err = capsys.readouterr()
    assert found == code
    assert words in err
    assert out == ""


def test_an_error_is_one_line_of_the_process(recipe: Path, home: Path) -> None:
    done = vlmvid("decode", str(recipe), home=home)
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("vlmvid: ArtifactError: ") and "run `vlmvid ingest`" in line
