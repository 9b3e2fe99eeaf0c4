"""Training in real gloo processes: the weights of one process, to rounding."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.tiny import RECIPE, write_dataset
from tests.unit.pipeline_fixtures import NO_TRACKING, published, request_for, run
from tests.unit.training_fixtures import NUM_CLIPS, toy_config, toy_data
from vlmvid.errors import ConfigError
from vlmvid.models.alignment import AlignmentModel, load_alignment
from vlmvid.pipeline.align import help_first_process
from vlmvid.pipeline.request import RunRequest
from vlmvid.pipeline.torchrun import is_helper
from vlmvid.training.align import AlignmentData, train_alignment

ROOT = Path(__file__).parents[2]
FALSE = tuple((2 * ((i + 1) % NUM_CLIPS),) if i % 2 else () for i in range(NUM_CLIPS))
CASES: dict[str, dict[str, Any]] = {
    "sigmoid, 8 clips": {},
    "InfoNCE, chunks": {"loss": "info_nce", "tile_size": 3, "optim": {"micro_batch_size": 2}},
    "captions, negatives, averages": {
        "captions_per_clip": 2,
        "hard_negatives": {"captions": 1, "reversed_clips": 0.5, "shuffled_clips": 0.3},
        "optim": {"global_batch_size": 7, "ema_decay": 0.5, "optimizer": "lion", "lr": 1e-3},
    },
    # Without the biases of attention that have no gradient but for rounding, which AdamW would make large.
    "stopping": {
        "pooling": {"kind": "frame_mean"},
        "early_stopping": {"metric": "loss", "every": 2, "patience": 1},
        "optim": {"lr": 0.1},
    },
    "more processes than clips": {"optim": {"global_batch_size": 2}},
}
WORKER = """
import json, sys
from pathlib import Path
from tests.unit import test_training_distributed as here
from vlmvid.errors import ConfigError
from vlmvid.models.alignment import save_alignment
from vlmvid.training.distributed import process_group, rank
torch = here.torch
torch.set_num_threads(1)
folder = Path(sys.argv[1])
with process_group("cpu"):
    for number, changes in enumerate(here.CASES.values()):
        reports = []
        work = folder / f"work{number}"
        model = here.train(changes, work, reports)
        save_alignment(model, folder / f"{number}-rank{rank()}")
        again = here.train(changes, work, [])
        save_alignment(again, folder / f"{number}-again{rank()}")
        (folder / f"{number}-{rank()}.json").write_text(json.dumps(reports))
"""


def config_of(changes: dict[str, Any]) -> Any:
    optim = {"num_steps": 5} | changes.get("optim", {})
    return toy_config(**{"dropout": 0.0} | changes | {"optim": optim})


def data() -> AlignmentData:
    return toy_data(counterfactuals_of=FALSE)


def train(changes: dict[str, Any], work: Path, reports: list[dict[str, float]]) -> AlignmentModel:
    return train_alignment(
        config_of(changes),
        data(),
        work_dir=work,
        validation=toy_data(9, seed=7),
        on_step=lambda _, values: reports.append(values),
    )


def start(num_ranks: int, arguments: list[str], log: Path, **more: str) -> list[int]:
    """Run the same command as every rank, as torchrun would; their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = []
    for rank in range(num_ranks):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        with log.with_suffix(f".{rank}").open("w") as output:
            started.append(
                subprocess.Popen(
                    [sys.executable, *arguments],
                    cwd=ROOT,
                    env=os.environ | ranks | where | more,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        return [process.wait(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.parametrize("num_ranks", [pytest.param(2, marks=pytest.mark.long), 3])
def test_several_processes_end_in_the_weights_of_one(num_ranks: int, tmp_path: Path) -> None:
    codes = start(num_ranks, ["-c", WORKER, str(tmp_path)], tmp_path / "log")
    assert codes == [0] * num_ranks, (tmp_path / "log.0").read_text()[-3000:]
    for number, (name, changes) in enumerate(CASES.items()):
        reports: list[dict[str, float]] = []
        expected = train(changes, tmp_path / f"alone{number}", reports).state_dict()
        first = load_alignment(tmp_path / f"{number}-rank0").state_dict()
        for rank in range(num_ranks):
            for which in ("rank", "again"):
                found = load_alignment(tmp_path / f"{number}-{which}{rank}").state_dict()
                assert all(torch.equal(found[key], first[key]) for key in first), (name, rank)
        for key, tensor in expected.items():
            # LION's sign turns where a momentum is zero but for rounding; five steps of 1e-3 at the most.
            atol = 1e-2 if changes.get("optim", {}).get("optimizer") == "lion" else 2e-4
            torch.testing.assert_close(first[key], tensor, rtol=1e-3, atol=atol, msg=f"{name}: {key}")
        told = yaml.safe_load((tmp_path / f"{number}-0.json").read_text())
        assert [row["loss"] for row in told] == pytest.approx([row["loss"] for row in reports], rel=1e-3)
        assert len(told) == len(reports) and all(
            (tmp_path / f"{number}-{rank}.json").read_text() == "[]" for rank in range(1, num_ranks)
        )


@pytest.mark.parametrize(
    "attempts", [("trained",), pytest.param(("trained", "cached"), marks=pytest.mark.long)], ids=["once", "twice"]
)
def test_torchrun_trains_one_artifact(tmp_path: Path, attempts: tuple[str, ...]) -> None:
    """`vlmvid align` in two processes: one result with the weights of one process, which a second call reads."""
    manifest, home = write_dataset(tmp_path), tmp_path / "home"
    sections = {**NO_TRACKING, "align": {**RECIPE["align"], "dropout": 0.0}, "evaluate": None}
    run(request_for(tmp_path, home, manifest, **sections), "ingest", "decode", "encode")
    shutil.copytree(home, tmp_path / "alone")
    ref = run(request_for(tmp_path, tmp_path / "alone", manifest, **sections), "align")["align"]
    expected = load_alignment(Path(ref.uri)).state_dict()
    command = ["-m", "vlmvid.cli", "align", str(tmp_path / "tiny.yaml"), "--home", str(home), "--json"]
    for attempt in attempts:
        log = tmp_path / attempt
        codes = start(2, command, log)
        first, other = (log.with_suffix(f".{rank}").read_text() for rank in (0, 1))
        assert codes == [0, 0], first + other
        assert '"steps": 6' in first and not other.strip()
    assert published(home).count("align") == 1
    found = load_alignment(home / Path(ref.uri).relative_to(tmp_path / "alone")).state_dict()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=2e-4, msg=key)


def test_other_stages_run_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_helper()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert is_helper()
    with pytest.raises(ConfigError, match="stage 'encode' runs in one; use it for align or train-vlm"):
        help_first_process("encode", RunRequest(recipe="none.yaml", home="none"))
    monkeypatch.setenv("RANK", "0")
    assert not is_helper()
