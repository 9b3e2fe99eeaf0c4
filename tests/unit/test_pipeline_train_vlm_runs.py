"""Runs of the training stages as others see them: MLflow's records, killed processes, several processes of torchrun."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.entities import Run
from safetensors.numpy import load

from tests.unit.pipeline_fixtures import published, run, run_until_killed
from tests.unit.test_training_distributed import ROOT, start
from tests.unit.tracking_fixtures import client_of, fresh_home
from tests.unit.vlm_pipeline_fixtures import (
    COMMON,
    FOUR_STAGES,
    PREFERENCE_STAGES,
    copy_of,
    encoded_home,
    train_vlm,
    vlm_request,
    weights_of,
)
from vlmvid.artifacts.ledger import read_lines
from vlmvid.errors import StageError
from vlmvid.pipeline import RunRequest
from vlmvid.pipeline import train_vlm as stage_module
from vlmvid.pipeline.context import open_context
from vlmvid.pipeline.vlm_keys import stage_keys
from vlmvid.tracking.tables import TABLES_TAG

# Unpacked, so that a stage has several updates.
MORE_STEPS = {"packing": False, "num_epochs": 2}
STAGES: dict[str, Any] = {
    "warmup": {**COMMON, **MORE_STEPS, "trains": ["connector"], "data": [{"task": "caption"}]},
    "lora": {**FOUR_STAGES["lora"], **MORE_STEPS, "start": "warmup"},
}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A home in which the clips are encoded and no more, and the manifest; not to be written to."""
    return encoded_home(tmp_path_factory.mktemp("encoded"))


@pytest.fixture(scope="module")
def undisturbed(encoded: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> RunRequest:
    """Both stages, trained in this process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    request = vlm_request(folder, copy_of(encoded[0], folder), encoded[1], train_vlm(STAGES))
    run(request, "train_vlm")
    return request


def weights(request: RunRequest) -> dict[str, dict[str, bytes]]:
    return {name: weights_of(request, name) for name in STAGES}


def events(home: Path, name: str) -> list[tuple[str, int]]:
    return [(row["stage"], row["step"]) for row in read_lines(home / "events.jsonl") if row["event"] == name]


# The last checkpoint of a stage comes before its model: between the two lies the moment "all learnt, nothing stored".
KILLS = {
    "in the middle of the first stage": "vlmvid.training.vlm:save_checkpoint:4",
    "in the middle of the second stage": "vlmvid.training.vlm:save_checkpoint:13",
    "with all learnt and nothing stored": "vlmvid.pipeline.vlm_stage:_publish:1",
    "between the stages": "vlmvid.pipeline.vlm_stage:train_stage:1",
}
# What CI runs is a kill in the second stage, with the first one stored.
RARELY = ("in the middle of the first stage", "with all learnt and nothing stored", "between the stages")
KILL = """
import importlib
module, name, times = {target!r}.split(":")
module = importlib.import_module(module)
original, left = getattr(module, name), [int(times)]
def counted(*args, **kwargs):
    before = name == "_publish"
    found = None if before else original(*args, **kwargs)
    left[0] -= 1
    if not left[0]:
        kill()
    return original(*args, **kwargs) if before else found
setattr(module, name, counted)
if name == "train_stage":
    importlib.import_module("vlmvid.pipeline.train_vlm").train_stage = counted
STAGES["train_vlm"].run(request)
"""


@pytest.mark.parametrize(
    "when", [pytest.param(when, marks=pytest.mark.long if when in RARELY else ()) for when in KILLS]
)
def test_a_killed_process_is_resumed_to_the_same_bytes(
    encoded: tuple[Path, Path], undisturbed: RunRequest, tmp_path: Path, when: str
) -> None:
    home = copy_of(encoded[0], tmp_path)
    request = vlm_request(tmp_path, home, encoded[1], train_vlm(STAGES))
    run_until_killed(request, KILL.format(target=KILLS[when]))
    written = events(home, "checkpoint.written")
    run(request, "train_vlm")
    assert weights(request) == weights(undisturbed)
    assert published(home) == published(Path(undisturbed.home))
    again = events(home, "checkpoint.written")[len(written) :]
    # Only what was not yet on the disk: a checkpoint that the kill left without its event is not made again.
    assert again == [moment for moment in all_checkpoints(undisturbed) if moment not in written][-len(again) :]
    assert len(again) + len(written) <= len(all_checkpoints(undisturbed)) <= len(again) + len(written) + 1


def all_checkpoints(request: RunRequest) -> list[tuple[str, int]]:
    return events(Path(request.home), "checkpoint.written")


def runs_of(home: Path) -> dict[str, Run]:
    client = client_of(home)
    experiment = client.get_experiment_by_name("vlmvid")
    assert experiment is not None
    return {found.info.run_name: found for found in client.search_runs([experiment.experiment_id])}


class TestTracking:
    """What MLflow shows of the training stages."""

    @pytest.fixture
    def request_(self, encoded: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunRequest:
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        home = fresh_home(copy_of(encoded[0], tmp_path))
        stages = {**STAGES, "dpo": {**PREFERENCE_STAGES["dpo"], "start": "lora"}}
        return vlm_request(tmp_path, home, encoded[1], train_vlm(stages), tracking={"enabled": True})

    def test_each_stage_has_a_run_below_the_pipelines(self, request_: RunRequest) -> None:
        home = Path(request_.home)
        run(request_, "train_vlm")
        found, client = runs_of(home), client_of(home)
        whole = found["train_vlm"]
        children = {name: some for name, some in found.items() if name.startswith("train_vlm/")}
        assert set(children) == {"train_vlm/warmup", "train_vlm/lora", "train_vlm/dpo"}
        for name, child in children.items():
            assert child.info.status == "FINISHED"
            assert child.data.tags["mlflow.parentRunId"] == whole.info.run_id
            assert child.data.params["optim.lr"] == "0.01" and child.data.params["model.mask"] == "prefix"
            points = client.get_metric_history(child.info.run_id, "loss")
            assert [point.step for point in points][0] == 1 and len(points) >= 2, name
            assert {"lr", "grad_norm", "tokens", "tokens_per_second", "padding_fraction"} <= child.data.metrics.keys()
            files = {file.path for file in client.list_artifacts(child.info.run_id)}
            assert {"lengths.txt", "generations.json"} <= files
            assert json.loads(child.data.tags[TABLES_TAG]) == [{"path": "generations.json", "type": "table"}]
        warmup, lora = children["train_vlm/warmup"].data, children["train_vlm/lora"].data
        assert warmup.params["trains"] == "connector" and lora.params["trains"] == "connector, adapters"
        assert warmup.params["trained_parameters"] == "3264" and warmup.params["samples"] == "9"
        assert warmup.params["data.0.task"] == "caption" and lora.params["adapters.kind"] == "lora"
        assert {"margin", "accuracy"} <= children["train_vlm/dpo"].data.metrics.keys()
        assert whole.data.metrics["num_warmup/samples"] == 9
        assert [given.dataset.name for given in whole.inputs.dataset_inputs] == ["tiny/manifest"]
        table = self.table(home, children["train_vlm/lora"])
        assert table["columns"] == ["step", "sample", "task", "prompt", "reference", "generated"]
        assert len(table["data"]) == 4 and {row[0] for row in table["data"]} == {6}
        assert table["data"][0][1:5] == [
            "caption/v6/0",
            "caption",
            "[v6] Write a caption for the clip.",
            "a blue picture with a bar at speed 6",
        ]
        run(request_, "train_vlm")
        assert {name: some.info.run_id for name, some in runs_of(home).items()} == {
            name: some.info.run_id for name, some in found.items()
        }

    def table(self, home: Path, child: Run) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            Path(client_of(home).download_artifacts(child.info.run_id, "generations.json")).read_text()
        )
        return found

    def test_an_interrupt_leaves_the_runs_killed_and_is_resumed(
        self, request_: RunRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        home = Path(request_.home)
        original = stage_module.train_stage

        def interrupted(context: Any, name: str, *args: Any) -> None:
            if name == "lora":
                emit = context.store.events.emit

                def emit_and_stop(event: str, **fields: Any) -> None:
                    emit(event, **fields)
                    if event == "checkpoint.written" and fields["step"] == 2:
                        raise KeyboardInterrupt

                with monkeypatch.context() as patched:
                    patched.setattr(context.store.events, "emit", emit_and_stop)
                    original(context, name, *args)
            else:
                original(context, name, *args)

        with monkeypatch.context() as patched:
            patched.setattr(stage_module, "train_stage", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run(request_, "train_vlm")
        found = {name: some.info.status for name, some in runs_of(home).items()}
        assert found.pop("train_vlm/warmup") == "FINISHED"
        assert {"train_vlm", "train_vlm/lora"} < set(found) and set(found.values()) == {"KILLED"}
        run(request_, "train_vlm")
        told = capsys.readouterr().err
        assert "train_vlm/lora: goes on at update 3 of 6" in told and "train_vlm/warmup: goes on" not in told
        assert re.search(r"train_vlm/lora: loss .* tokens; this run: [\d,]+ tokens in \d+ seconds", told)
        assert {some.info.status for some in runs_of(home).values()} == {"FINISHED"}
        points = client_of(home).get_metric_history(runs_of(home)["train_vlm/lora"].info.run_id, "loss")
        assert [point.step for point in points] == [1, 2, 3, 4, 5, 6]
        assert [step for stage, step in events(home, "checkpoint.written") if stage == "train_vlm/lora"] == list(
            range(1, 7)
        )


def close(found: bytes, expected: bytes) -> None:
    here, there = load(found), load(expected)
    assert here.keys() == there.keys()
    for name, value in there.items():
        np.testing.assert_allclose(here[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.long  # in CI others train in two processes and by torchrun: test_training_{vlm_,}distributed.py
class TestTorchrun:
    """The command line in two processes."""

    def test_two_processes_train_the_model_of_one(
        self, encoded: tuple[Path, Path], undisturbed: RunRequest, tmp_path: Path
    ) -> None:
        home = copy_of(encoded[0], tmp_path)
        request = vlm_request(tmp_path, home, encoded[1], train_vlm(STAGES))
        command = ["-m", "vlmvid.cli", "train-vlm", str(tmp_path / "tiny.yaml"), "--home", str(home), "--json"]
        codes = start(2, command, tmp_path / "log")
        first, other = ((tmp_path / "log").with_suffix(f".{rank}").read_text() for rank in (0, 1))
        assert codes == [0, 0], first + other
        assert '"stages": 2' in first and '"stages"' not in other
        assert published(home).count("train_vlm") == 1 and published(home).count("vlm") == 2
        for name in STAGES:
            expected = weights_of(undisturbed, name)
            found = weights_of(request, name)
            assert found.keys() == expected.keys()
            for path, content in expected.items():
                close(found[path], content)

    @pytest.mark.long
    def test_torchrun_itself_with_part_of_the_stages_stored(
        self, encoded: tuple[Path, Path], undisturbed: RunRequest, tmp_path: Path
    ) -> None:
        """Resumed between the stages, by torchrun's own launcher; the first stage is one process's. Then cached."""
        home = copy_of(encoded[0], tmp_path)
        request = vlm_request(tmp_path, home, encoded[1], train_vlm(STAGES))
        run_until_killed(request, KILL.format(target=KILLS["between the stages"]))
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m"]
        command += ["vlmvid.cli", "train-vlm", str(tmp_path / "tiny.yaml"), "--home", str(home), "--json"]
        for _ in ("trained", "cached"):
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                timeout=240,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            assert done.stdout.count('"stages": 2') == 1
        assert published(home).count("train_vlm") == 1 and published(home).count("vlm") == 2
        assert weights_of(request, "warmup") == weights_of(undisturbed, "warmup")
        for path, content in weights_of(undisturbed, "lora").items():
            close(weights_of(request, "lora")[path], content)

    def test_a_process_with_another_key_says_so(
        self, encoded: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Other:
            rank, device = 1, "cpu"

            def from_first(self, value: tuple[str, bool]) -> tuple[str, bool]:
                return "f" * 24, False

        class Joined:
            def __enter__(self) -> Other:
                return Other()

            def __exit__(self, *error: object) -> None:
                return None

        request = vlm_request(tmp_path, encoded[0], encoded[1], train_vlm(STAGES))
        key = stage_keys(open_context(request), "warmup").key
        monkeypatch.setattr(stage_module, "joined", lambda context: Joined())
        message = f"train_vlm/warmup: process 1 works out the key {key}, the first one {'f' * 24}; install the same"
        with pytest.raises(StageError, match=message):
            stage_module.help_first(request)
