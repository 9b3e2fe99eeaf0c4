"""The web service under load: `vlmvid serve` over an index of 100,000 clips, one client and fifty.

    python -m benchmarks.serve_load --out benchmarks/serve_load.json
    python -m benchmarks.serve_load --clips 10000 --seconds 5 --soak-seconds 20      a quick look

The model has the packaged MiniLM as its text encoder and random heads, the index 512 values a clip and 4 time steps,
and its rows share 100 real videos: what a search costs does not depend on what it finds. One client and fifty take
turns, five times; then fifty ask for what visitors of the page cause, while the server's memory is watched. Exit code 1
when a figure is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.documents import finish
from vlmvid.artifacts.shards import ClipStore
from vlmvid.config.alignment import AlignConfig, OptimConfig
from vlmvid.config.encoders import TextConfig, VisionConfig
from vlmvid.config.schema import DecodeConfig, SamplingConfig
from vlmvid.models.alignment import AlignmentModel, save_alignment
from vlmvid.models.backbones import load_vision_backbone
from vlmvid.models.saving import save_text, save_vision
from vlmvid.models.text import load_text_encoder
from vlmvid.serving.load import load
from vlmvid.serving.model import VideoTextModel
from vlmvid.serving.model_folder import write_model_folder
from vlmvid.serving.video_index import encoders_of
from vlmvid.serving.video_index_files import SECONDS, STAGE, STEPS, TableRow
from vlmvid.serving.video_index_table import Maker, TableContent, publish_table
from vlmvid.serving.visual_features import StoredAs
from vlmvid.video.writer import write_mp4

ROOT = Path(__file__).parents[1]
EMBED_DIM, NUM_STEPS, CLIPS_PER_SHARD, NUM_VIDEOS = 512, 4, 1000, 100
MANY, ROUNDS = 50, 5
NUM_STRETCHES, T_95 = 6, 2.015  # of the soak; Student's t of 5 degrees of freedom, one side, 95 %
MAX_RATIO = 3.0  # of p95 to the median


def make_model(folder: Path) -> VideoTextModel:
    """The packaged text encoder, a small random backbone, random heads."""
    vision = load_vision_backbone(VisionConfig(backbone="timm:test_vit", pretrained=False), "cpu")
    text = load_text_encoder(TextConfig(encoder="minilm"), "cpu")
    config = AlignConfig(projection_dim=EMBED_DIM, optim=OptimConfig(num_steps=1, global_batch_size=2))
    save_vision(vision, folder / "v")
    save_text(text, folder / "t")
    save_alignment(AlignmentModel(vision.feature_dim, text.encode(["a"]).shape[1], NUM_STEPS, config), folder / "a")
    write_model_folder(
        folder / "model",
        parts={"vision": folder / "v", "text": folder / "t", "alignment": folder / "a"},
        decode=DecodeConfig(sampling=SamplingConfig(num_frames=NUM_STEPS), image_size=64),
        stored=StoredAs(),
        info={"recipe": "load"},
    )
    return load(folder / "model", device="cpu")


def directions(draw: np.random.Generator, *shape: int) -> NDArray[np.float16]:
    values = draw.standard_normal((*shape, EMBED_DIM), dtype=np.float32)
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float16)


def make_videos(folder: Path, draw: np.random.Generator) -> list[str]:
    folder.mkdir()
    paths = [folder / f"{number}.mp4" for number in range(NUM_VIDEOS)]
    for path in paths:
        noise = draw.integers(0, 255, (40, 3, 15, 20), dtype=np.uint8)
        write_mp4(path, noise.repeat(16, axis=2).repeat(16, axis=3), fps=10)
    return [str(path) for path in paths]


def make_index(folder: Path, model: VideoTextModel, num_clips: int) -> None:
    """Random embeddings and time steps, captions and attributes."""
    draw = np.random.default_rng(0)
    videos = make_videos(folder / "videos", draw)
    store = ClipStore(folder / "index" / "clips", STAGE)
    seconds = np.tile(np.arange(NUM_STEPS, dtype=np.float32), (CLIPS_PER_SHARD, 1))
    shards = [
        store.write(
            [f"{start + row:064x}" for row in range(CLIPS_PER_SHARD)],
            {STEPS: directions(draw, CLIPS_PER_SHARD, NUM_STEPS), SECONDS: seconds},
        )
        for start in range(0, num_clips, CLIPS_PER_SHARD)
    ]
    rows = (
        TableRow(
            video_id=f"clip-{number:06d}",
            path=videos[number % NUM_VIDEOS],
            start_seconds=0.0,
            end_seconds=4.0,
            captions=(f"what clip {number} shows", "a second caption"),
            attributes={"place": f"place {number % 20}", "split": ("train", "test")[number % 2]},
            source_sha256="",
            shard=shards[number // CLIPS_PER_SHARD],
            shard_row=number % CLIPS_PER_SHARD,
        )
        for number in range(num_clips)
    )
    content = TableContent(
        rows,
        num_clips,
        (directions(draw, CLIPS_PER_SHARD) for _ in shards),
        EMBED_DIM,
        num_steps=NUM_STEPS,
        shards=shards,
    )
    publish_table(folder / "index", Maker(model.embedding_digest, model.name, encoders_of(model)), content)


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, int]]:
    """The command, for the time of the block: its address, and the number of its process."""
    command = [sys.executable, "-m", "vlmvid.cli", "serve", "--model", str(folder / "model")]
    command += ["--index", str(folder / "index"), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None  # it is a pipe
    try:
        told = ""
        while not told.rstrip().endswith("}"):
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"vlmvid serve ended with status {process.wait()}")
            told += line
        yield json.loads(told)["url"], process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
        process.stdout.close()
        if status:
            raise SystemExit(f"vlmvid serve ended with status {status}")


def asked(url: str, clients: int, seconds: float, mix: str, rows: int) -> dict[str, Any]:
    """What clients see."""
    command = [sys.executable, "-m", "benchmarks.serve_load_client", url, "--clients", str(clients)]
    command += ["--seconds", str(seconds), "--mix", mix, "--rows", str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def milliseconds(latencies: Sequence[float]) -> dict[str, float]:
    p50, p95, p99 = (round(float(value) * 1000, 2) for value in np.percentile(latencies, [50, 95, 99]))
    return {
        "requests": len(latencies),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "p95_over_p50": round(p95 / p50, 2),
    }


def of_load(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rounds of one kind together."""
    names = sorted({name for one in found for name in one["latencies"]})
    rates = [sum(map(len, one["latencies"].values())) / one["seconds"] for one in found]
    errors: dict[str, int] = {}
    for one in found:
        for name, count in one["errors"].items():
            errors[name] = errors.get(name, 0) + count
    return {
        "requests_per_second": round(statistics.median(rates), 1),
        "requests_per_second_rounds": [round(rate, 1) for rate in rates],
        "operations": {
            name: milliseconds([s for one in found for s in one["latencies"].get(name, ())]) for name in names
        },
        "errors": errors,
    }


@dataclass
class Memory:
    """The memory of a process over time: what is its own (RssAnon), and all that is resident, with mapped files."""

    pid: int
    seconds: list[float] = field(default_factory=list)
    own_bytes: list[int] = field(default_factory=list)
    resident_bytes: list[int] = field(default_factory=list)

    @contextmanager
    def watched(self, interval: float = 0.25) -> Iterator[None]:
        over = threading.Event()

        def look() -> None:
            while not over.wait(interval):
                said = Path(f"/proc/{self.pid}/status").read_text()
                self.seconds.append(time.monotonic())
                for name, values in (("RssAnon", self.own_bytes), ("VmRSS", self.resident_bytes)):
                    match = re.search(rf"{name}:\s+(\d+) kB", said)
                    assert match is not None
                    values.append(int(match[1]) * 1024)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def trend(self) -> dict[str, float]:
        """The mean slope of some stretches of time; how much they differ says what noise is."""
        stretches = np.array_split(np.array([self.seconds, self.own_bytes], dtype=float), NUM_STRETCHES, axis=1)
        slopes = [float(np.polyfit(times - times[0], sizes, 1)[0]) * 60 / 2**20 for times, sizes in stretches]
        return {
            "minutes": round((self.seconds[-1] - self.seconds[0]) / 60, 2),
            "own_mib_first_stretch": round(float(stretches[0][1].mean()) / 2**20, 1),
            "own_mib_last_stretch": round(float(stretches[-1][1].mean()) / 2**20, 1),
            "own_mib_per_minute": round(statistics.mean(slopes), 3),
            "own_mib_per_minute_stderr": round(statistics.stdev(slopes) / NUM_STRETCHES**0.5, 3),
            "resident_mib_last": round(self.resident_bytes[-1] / 2**20, 1),
        }


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    started = time.perf_counter()
    with serving(folder) as (url, pid):
        ready_seconds = time.perf_counter() - started
        # Workers start, pages are mapped, pictures are made.
        asked(url, MANY, options.soak_seconds / 3, "visit", options.clips)
        one, many = [], []
        for _ in range(ROUNDS):
            one.append(asked(url, 1, options.seconds, "search", options.clips))
            many.append(asked(url, MANY, options.seconds, "search", options.clips))
        memory = Memory(pid)
        with memory.watched():
            visits = asked(url, MANY, options.soak_seconds, "visit", options.clips)
    return {
        "ready_seconds": round(ready_seconds, 1),
        "one_client": of_load(one),
        "fifty_clients": of_load(many),
        "fifty_visitors": of_load([visits]),
        "memory": memory.trend(),
    }


def judged(found: dict[str, Any]) -> dict[str, bool]:
    """Which of the aims were reached."""
    memory, many, visits = found["memory"], found["fifty_clients"], found["fifty_visitors"]
    return {
        "throughput of 50 clients at least that of one": many["requests_per_second"]
        >= found["one_client"]["requests_per_second"],
        "p95 of 50 clients at most 3 times the median": all(
            operation["p95_over_p50"] <= MAX_RATIO for operation in many["operations"].values()
        ),
        "no errors": not (found["one_client"]["errors"] or many["errors"] or visits["errors"]),
        "memory slope within noise": memory["own_mib_per_minute"] <= T_95 * memory["own_mib_per_minute_stderr"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=100_000, help="a multiple of 1,000")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each round")
    parser.add_argument("--soak-seconds", type=float, default=360.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vlmvid-load-") as name:
        folder = Path(name)
        make_index(folder, make_model(folder), options.clips)
        found = measure(folder, options)
    setting = {"clips": options.clips, "embed_dim": EMBED_DIM, "time_steps": NUM_STEPS, "cores": os.cpu_count()}
    return finish({"setting": setting, **found, "reached": judged(found)}, options.out)


if __name__ == "__main__":
    sys.exit(main())
