"""How fast frames are read, against the usual libraries, side by side in one run.

python -m benchmarks.decode --folder /tmp/decode --out benchmarks/decode.json [--only NAME ...]

Every way to read the same frames runs once first, and its frames are compared with vlmvid's: byte for
byte at full size, by identity (nearer to ours than to our neighbours) where libraries scale. Then all
are timed in turn, `--rounds` times, so that a busy moment hits them alike. Threads are pinned to the
same number for all. The floor is the time a bare decoder needs for the packets that cannot be left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import decode_files as files
from benchmarks.decode_peers import PEERS, loads, vlmvid
from benchmarks.decode_work import clips_per_second, count_decoded, floor_seconds


@dataclass(frozen=True)
class Work:
    """One row of the table: which frames of which file, and who is asked."""

    name: str
    path: Path
    numbers: tuple[int, ...]
    targets: dict[str, float]
    side: int | None = None
    index_path: str | None = None
    slow: tuple[str, ...] = ("pyav_seek_per_frame",)


def uniform(num_frames: int, count: int) -> tuple[int, ...]:
    return tuple((2 * i + 1) * num_frames // (2 * count) for i in range(count))


def works(folder: Path) -> list[Work]:
    folder.mkdir(parents=True, exist_ok=True)
    short = files.write(folder / "720p_30s.mp4", 1280, 720, 900)
    medium = files.repeat(short, folder / "720p_10min.mp4", 20)
    long = files.repeat(short, folder / "720p_1h.mp4", 120)
    short_gop = files.repeat(
        files.write(folder / "720p_30s_gop30.mp4", 1280, 720, 900, gop=30), folder / "720p_1h_gop30.mp4", 120
    )
    hd = files.write(folder / "1080p.mp4", 1920, 1080, 150)
    sparse = {"pyav_seek_per_frame": 1.3, "decord": 1.2, "opencv_seek": 1.2, "torchcodec": 1.0}
    eight = {"torchcodec": 5.0, "decord": 5.0, "opencv_seek": 0.0}
    return [
        Work(
            "64 uniform of 30 s",
            short,
            uniform(900, 64),
            {"pyav_seek_per_frame": 8.0, "decord": 1.5, "opencv_grab": 1.5, "torchcodec": 1.0},
        ),
        Work(
            "512 uniform of 10 min",
            medium,
            uniform(18_000, 512),
            {"pyav_seek_per_frame": 4.0, "decord": 1.3, "opencv_grab": 1.3, "torchcodec": 1.0},
        ),
        Work("64 uniform of 10 min", medium, uniform(18_000, 64), sparse),
        Work("8 of 1 h, index cached", long, uniform(108_000, 8), eight, index_path=str(folder / "1h.npz")),
        Work(
            "8 of 1 h, GOP 30, index cached",
            short_gop,
            uniform(108_000, 8),
            eight,
            index_path=str(folder / "1h_gop30.npz"),
        ),
        Work(
            "1080p to 224, 100 consecutive",
            hd,
            tuple(range(100)),
            {"decord": 1.0, "opencv_grab": 1.3, "torchcodec": 0.0},
            side=224,
        ),
    ]


def check(work: Work, name: str, ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """How a peer's frames compare with ours; raises ValueError when they are not the same frames."""
    if work.side is None:
        if not np.array_equal(ours, theirs):
            raise ValueError(f"{work.name}: {name} gives other frames")
        return {"equal": True}
    a, b = ours.astype(np.float32), theirs.astype(np.float32)
    apart = [np.abs(np.roll(a, shift, axis=0) - b).mean(axis=(1, 2, 3))[1:-1] for shift in (0, 1, -1)]
    if not (apart[0] < np.minimum(apart[1], apart[2])).all():
        raise ValueError(f"{work.name}: {name} gives other frames")
    return {"equal": False, "same_frames": True, "mean_abs_difference": float(apart[0].mean())}


def measure(work: Work, threads: int, rounds: int) -> dict[str, Any]:
    path = str(work.path)
    runs: dict[str, Callable[[], np.ndarray]] = {
        "vlmvid": lambda: vlmvid(path, work.numbers, threads, work.side, work.index_path)
    }
    skipped = {}
    for name in work.targets:
        problem = loads(name)
        if problem:
            skipped[name] = problem
        else:
            runs[name] = lambda name=name: PEERS[name](path, work.numbers, threads, work.side)
    ours = runs["vlmvid"]()
    checks: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in runs}

    def timed(name: str) -> np.ndarray:
        started, cpu_started = time.perf_counter(), time.process_time()
        frames = runs[name]()
        seconds[name].append(time.perf_counter() - started)
        cpu_seconds[name].append(time.process_time() - cpu_started)
        return frames

    for name in runs:
        # The first run is a warm-up, except where one takes minutes: that is also its time.
        frames = timed(name) if name in work.slow else runs[name]()
        checks[name] = check(work, name, ours, frames)
        del frames
    del ours
    for _ in range(rounds):
        for name in runs:
            if name in work.slow:
                continue
            timed(name)
    floor = floor_seconds(path, work.numbers, rounds)
    return {
        "work": work.name,
        "threads": threads,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "cpu_seconds": {name: spread(values) for name, values in cpu_seconds.items()},
        "ratios": ratios(work, seconds),
        "decoded_frames": count_decoded(path, work.numbers),
        "floor_seconds_1_thread": spread(floor),
        "share_of_floor": statistics.median(floor) / threads / statistics.median(seconds["vlmvid"]),
        "checks": checks,
        "skipped": skipped,
    }


def ratios(work: Work, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Peer over ours: of the medians, and the least and the most that one round against another gives."""
    ours = seconds["vlmvid"]
    return {
        name: {
            "median": statistics.median(values) / statistics.median(ours),
            "least": min(values) / max(ours),
            "most": max(values) / min(ours),
            "target": work.targets[name] or None,
        }
        for name, values in seconds.items()
        if name != "vlmvid"
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": len(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the files are made; 2 GB")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of the works to run")
    parser.add_argument("--num-clips", type=int, default=500)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    results: list[dict[str, Any]] = []
    for work in works(arguments.folder):
        if any(part in work.name for part in arguments.only):
            for threads in arguments.threads:
                results.append(measure(work, threads, arguments.rounds))
                show(results[-1])
    name = f"{arguments.num_clips} clips x 16 frames, 2 workers"
    if any(part in name for part in arguments.only):
        paths = files.short_clips(arguments.folder, arguments.num_clips)
        results.append({"work": name, **clips_per_second(paths, arguments.rounds)})
        show(results[-1])
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def show(result: dict[str, Any]) -> None:
    print(json.dumps({k: v for k, v in result.items() if k not in ("checks",)}, indent=None), flush=True)


if __name__ == "__main__":
    main()
