"""The report of a run with 10,000 samples and more: how large it is, and how long it takes; one JSON document.

    python -m benchmarks.serve_report --out benchmarks/serve_report.json

A real run: 10,000 test clips of 64 files, each with a caption and two questions, are ingested, encoded, aligned and
evaluated once (`--folder` keeps that). Then `vlmvid report` draws it in a process of its
own, several times: wall and CPU seconds from the start of the interpreter to its end, medians. The exit code is 1 when
the target (under 10 MB and 20 s) is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.documents import finish
from vlmvid.pipeline import STAGES, make_request, pipeline_run
from vlmvid.pipeline.context import open_context
from vlmvid.video.writer import write_mp4

NUM_CLIPS, NUM_FILES, NUM_TRAIN, REPEATS = 10_000, 64, 200, 3
MAX_BYTES, MAX_SECONDS = 10_000_000, 20.0
COLOURS = ("red", "green", "blue", "yellow", "white", "grey", "orange", "pink")
RECIPE: dict[str, Any] = {
    "name": "report-size",
    "data": {"name": "manifest"},
    "decode": {"sampling": {"num_frames": 4}, "image_size": 64},
    "encode": {"vision": {"backbone": "efficientnet-lite0", "image_size": 64}, "text": {"encoder": "minilm"}},
    "align": {
        "projection_dim": 64,
        "optim": {"num_steps": 200, "global_batch_size": 128},
    },
    "evaluate": {"tasks": ["retrieval", "vqa", "hallucination"], "num_bootstrap": 200},
    "tracking": {"enabled": False},
}


def write_files(folder: Path) -> list[str]:
    """Clips of noise, each its own."""
    names = []
    for number in range(NUM_FILES):
        rng = np.random.default_rng(number)
        base = rng.integers(0, 255, (3, 12, 16), dtype=np.uint8).repeat(10, axis=1).repeat(10, axis=2)
        frames = np.stack([np.roll(base, 6 * step, axis=2) for step in range(12)])
        write_mp4(folder / f"clip{number}.mp4", frames, fps=12)
        names.append(f"clip{number}.mp4")
    return names


def question(video_id: str, kind: str, answer: str, negatives: str = "") -> dict[str, Any]:
    mcq = kind == "mcq"
    return {
        "question_id": f"{video_id}-{kind}-{negatives}",
        "task": "vqa" if mcq else "hallucination",
        "kind": kind,
        "question": "which colour?" if mcq else "is there a tree?",
        "answer": answer,
        "choices": list(COLOURS[:4]) if mcq else ["yes", "no"],
        "statements": [] if mcq else ["there is a tree", "there is no tree"],
        "attributes": {} if mcq else {"negatives": negatives, "object": "tree"},
    }


def write_recipe(folder: Path) -> Path:
    """A manifest of so many clips, and the recipe over it."""
    names = write_files(folder)
    rows = []
    for number in range(NUM_CLIPS + NUM_TRAIN):
        video_id, colour = f"clip-{number:05d}", COLOURS[number % 8]
        is_test = number >= NUM_TRAIN
        asked = [question(video_id, "mcq", colour if number % 8 < 4 else "red")]
        asked.append(question(video_id, "yes_no", "yes" if number % 2 else "no", "random"))
        rows.append(
            {
                "video_id": video_id,
                "path": names[number % NUM_FILES],
                "split": "test" if is_test else "train",
                "captions": [f"a {colour} pattern that moves to the right, number {number}"],
                "questions": asked if is_test else [],
            }
        )
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {**RECIPE, "data": {"name": "manifest", "options": {"path": str(folder / "manifest.jsonl")}}}
    path = folder / "report.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def timed(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of a command, with those of the processes that it waits for."""
    before, started = _children_seconds(), time.perf_counter()
    subprocess.run(command, env=dict(environment), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started, _children_seconds() - before


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(folder: Path) -> dict[str, Any]:
    path = folder / "report.yaml"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_recipe(folder)
    request = make_request(path, home=folder / "home")
    with pipeline_run(request) as context:
        for stage in context.recipe.stages():
            STAGES[stage].run(request)
    metrics = json.loads((open_context(request).folder("evaluate") / "metrics.json").read_text())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vlmvid.cli", "report", str(path), "--home", str(folder / "home")]
    command += ["--out", str(folder / "out")]
    load = os.getloadavg()[0]
    outcomes = [timed(command, environment) for _ in range(REPEATS)]
    html, markdown = ((folder / "out" / name).stat().st_size for name in ("report.html", "report.md"))
    samples = {one["task"]: max(metric["num_samples"] for metric in one["metrics"]) for one in metrics}
    return {
        "samples": samples,
        "html_bytes": html,
        "markdown_bytes": markdown,
        "wall_seconds": round(statistics.median(wall for wall, _ in outcomes), 2),
        "cpu_seconds": round(statistics.median(cpu for _, cpu in outcomes), 2),
        "load_average_before": round(load, 1),
        "runs": [[round(wall, 2), round(cpu, 2)] for wall, cpu in outcomes],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help="where the run is kept (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure((arguments.folder or Path(scratch)).absolute())
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in cpus if line.startswith("model name")), "")
    document = {
        **found,
        "reached": {
            "size": found["html_bytes"] < MAX_BYTES,
            "time": found["wall_seconds"] < MAX_SECONDS,
        },
        "machine": {"cpu": name, "cores": os.cpu_count(), "python": platform.python_version()},
    }
    return finish(document, arguments.out)


if __name__ == "__main__":
    sys.exit(main())
