"""SAIL's ablation as a ladder of recipes: does every rung still pay at this size?

    python -m benchmarks.ladder --stamps-dir FOLDER --out benchmarks/ladder.json
    python -m benchmarks.ladder --world synthetic

Runs every recipe of configs/align/ladder/ over three seeds of the training (the data stay the same, so that the
rungs are compared on equal clips), without Prefect and without tracking, in the store given by --home; a second
run finds everything cached. Per rung and split: T2V and V2T R@1 and R@10, mean over seeds with the larger of the
sampling and the between-seed interval, the difference to the rung before with the interval over seeds, and the CPU
seconds of all three. The synthetic world has two splits: `val` holds combinations of attributes that training has,
`test` combinations that it lacks.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.quickstart import SEEDS, Metric, evaluate, over_seeds

LADDER = Path(__file__).parents[1] / "configs" / "align" / "ladder"
SPLITS = {"synthetic": ("val", "test"), "stamps": ("test",)}
WORLDS = tuple(SPLITS)
FIGURES = ("t2v_r_at_1", "v2t_r_at_1", "t2v_r_at_10", "v2t_r_at_10")
_T_95 = 4.303  # Student's t, two sided, for three seeds


def mean_recall(run: dict[tuple[str, str], Metric]) -> float:
    """Mean of T2V and V2T R@1."""
    return float(run["retrieval", "t2v_r_at_1"]["value"] + run["retrieval", "v2t_r_at_1"]["value"]) / 2


def difference(after: Sequence[float], before: Sequence[float]) -> dict[str, float]:
    """Paired over seeds: the mean gain and its 95 % interval by Student's t."""
    gains = [a - b for a, b in zip(after, before, strict=True)]
    mean = sum(gains) / len(gains)
    spread = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / (len(gains) - 1) / len(gains))
    low, high = mean - _T_95 * spread, mean + _T_95 * spread
    return {"mean": round(mean, 5), "ci_low": round(low, 5), "ci_high": round(high, 5)}


def climb(world: str, overrides: Sequence[str], home: Path) -> list[dict[str, Any]]:
    """Every rung of one world, in order."""
    rungs: list[dict[str, Any]] = []
    for path in sorted(LADDER.glob(f"{world}_*.yaml")):
        started = time.process_time()
        rung: dict[str, Any] = {"rung": path.stem.removeprefix(f"{world}_")}
        for split in SPLITS[world]:
            given = [*overrides, f"evaluate.split={split}"]
            runs = [evaluate(path, [*given, f"align.seed={seed}"], home) for seed in SEEDS]
            row: dict[str, Any] = {name: over_seeds([run["retrieval", name] for run in runs]) for name in FIGURES}
            row["mean_r_at_1"] = [round(mean_recall(run), 5) for run in runs]
            row["chance_r_at_1"] = round(runs[0]["retrieval", "t2v_r_at_1/chance"]["value"], 5)
            if rungs:
                row["gain"] = difference(row["mean_r_at_1"], rungs[-1][split]["mean_r_at_1"])
            rung[split] = row
            sys.stderr.write(f"{world} {rung['rung']} {split}: mean R@1 {row['mean_r_at_1']}\n")
        rung["cpu_seconds"] = round(time.process_time() - started, 1)
        rungs.append(rung)
    return rungs


def table(world: str, split: str, rungs: Sequence[dict[str, Any]]) -> str:
    """The rungs of one world and split as a Markdown table, percent."""
    lines = [
        f"| {world}, {split} | T2V R@1 | V2T R@1 | T2V R@10 | V2T R@10 | gain in mean R@1 |",
        "|---|---|---|---|---|---|",
    ]
    for rung in rungs:
        row = rung[split]
        cells = [f"{100 * row[n]['mean']:.1f} ({_bounds(row[n])})" for n in FIGURES]
        gain = f"{100 * row['gain']['mean']:+.1f} ({_bounds(row['gain'])})" if "gain" in row else ""
        lines.append(f"| {rung['rung'].replace('_', ' ')} | {' | '.join(cells)} | {gain} |")
    return "\n".join(lines)


def _bounds(row: dict[str, Any]) -> str:
    return f"{100 * row['ci_low']:.1f}..{100 * row['ci_high']:.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("VLMVID_HOME", ".vlmvid")) / "benchmarks")
    parser.add_argument("--world", choices=WORLDS, action="append", help="default: both")
    parser.add_argument("--stamps-dir", type=Path, help="folder of pictures; `make stamps` fetches them")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    worlds = arguments.world or WORLDS
    if "stamps" in worlds and arguments.stamps_dir is None:
        parser.error("the stamps need --stamps-dir; `make stamps` fetches the pictures")
    threads = [f"options.num_threads={arguments.threads}"]
    started, cpu = time.perf_counter(), time.process_time()
    document: dict[str, Any] = {
        "machine": platform.platform(),
        "torch": torch.__version__,
        "threads": arguments.threads,
        "seeds": list(SEEDS),
    }
    for world in worlds:
        place = [f"data.options.root={arguments.stamps_dir}"] if world == "stamps" else []
        document[world] = climb(world, [*threads, *place], arguments.home)
    document["cpu_seconds"] = round(time.process_time() - cpu, 1)
    document["wall_seconds"] = round(time.perf_counter() - started, 1)
    if arguments.out:
        arguments.out.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    tables = [table(world, split, document[world]) for world in worlds for split in SPLITS[world]]
    sys.stdout.write("\n\n".join(tables) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
