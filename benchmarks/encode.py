"""How near the encode stage comes to what decoding and the backbone cost by themselves.

    python -m benchmarks.encode --folder /tmp/encode --out benchmarks/encode.json

Three figures, each in a process of its own with pinned threads, in turn, `--rounds` times:

throughput: the stage's clips per second against the floor. On a CPU the floor is the sum of the CPU
    seconds of bare decoding (`decode_clip`, one thread) and of the bare forward pass (same batches, one
    thread), divided by the cores; with an accelerator it is the slower of the two.
adding: seconds of the stage after 1 % more clips, as a share of the first encoding.
again: seconds for another feature out of kept tokens, as a share of the first encoding.

With a GPU also: images per second of two ViTs in bfloat16 as a share of the measured matrix peak.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import decode_files as files
from vlmvid.config.schema import DecodeConfig
from vlmvid.pipeline import STAGES, RunRequest, make_request, pipeline_run
from vlmvid.video.clip_decoder import decode_clip
from vlmvid.video.options import ClipJob

NUM_FRAMES = 8
SIDE = 224
BATCH = 64
BACKBONE = "efficientnet-lite0"
WARM_UP_CLIPS = 8


def unique_clips(folder: Path, count: int) -> list[Path]:
    """`count` files of different content: the store encodes the same content once."""
    own = folder / "unique"
    own.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, source in enumerate(files.short_clips(folder, count)):
        path = own / f"{number:05d}.mp4"
        # A box that readers of MP4 skip.
        path.write_bytes(source.read_bytes() + b"\0\0\0\x10free" + number.to_bytes(8, "big"))
        paths.append(path)
    return paths


def write_recipe(folder: Path, clips: Sequence[Path], name: str, **encode: Any) -> Path:
    """A recipe over `clips` that encodes and nothing else."""
    manifest = folder / f"{name}.jsonl"
    rows = [{"video_id": path.stem, "path": str(path), "captions": ["a clip"]} for path in clips]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": name,
        "data": {"name": "manifest", "options": {"path": str(manifest)}},
        "decode": {"sampling": {"num_frames": NUM_FRAMES}, "image_size": SIDE},
        "encode": {"vision": {"backbone": BACKBONE}, "text": {"encoder": "minilm"}, **encode},
        "tracking": {"enabled": False},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def request_for(recipe: Path, home: Path, cores: int, *overrides: str) -> RunRequest:
    workers = 0 if cores == 1 else cores
    options = [
        f"options.decode_workers={workers}",
        f"options.num_threads={cores}",
        f"options.encode_batch_size={BATCH}",
    ]
    return make_request(recipe, [*options, *overrides], home=home)


def seconds_of_encode(request: RunRequest) -> float:
    """Wall-clock seconds of the encode stage alone."""
    with pipeline_run(request):
        STAGES["ingest"].run(request)
        started = time.perf_counter()
        STAGES["encode"].run(request)
        return time.perf_counter() - started


def cpu_seconds_of_decoding(clips: Sequence[Path]) -> tuple[float, np.ndarray]:
    """CPU seconds per clip of decoding alone, and the frames of the first batches."""
    config = DecodeConfig.model_validate({"sampling": {"num_frames": NUM_FRAMES}, "image_size": SIDE})
    kept = []
    started = time.process_time()
    for path in clips:
        frames = decode_clip(ClipJob(str(path)), config).frames
        if len(kept) < BATCH // NUM_FRAMES:
            kept.append(frames)
    return (time.process_time() - started) / len(clips), np.stack(kept)


def seconds_of_forward(frames: np.ndarray, repeats: int) -> tuple[float, str]:
    """Seconds per clip of preprocessing and backbone alone, and on what: CPU seconds of one thread, or wall clock."""
    import torch

    from vlmvid.config.encoders import VisionConfig
    from vlmvid.models.backbones import load_vision_backbone

    torch.set_num_threads(1)
    backbone = load_vision_backbone(VisionConfig(backbone=BACKBONE), device="auto")
    clock = time.process_time if backbone.device.type == "cpu" else time.perf_counter
    backbone.encode_clips(frames)
    started = clock()
    for _ in range(repeats):
        backbone.encode_clips(frames)  # ends with a copy to the host
    return (clock() - started) / (repeats * len(frames)), backbone.device.type


def floor(clips: Sequence[Path]) -> dict[str, Any]:
    """The two parts of the floor, in seconds per clip, and the device of the forward pass."""
    decoding, frames = cpu_seconds_of_decoding(clips)
    forward, device = seconds_of_forward(frames, max(1, len(clips) // len(frames)))
    return {"decode": decoding, "forward": forward, "device": device}


def clips_per_second_at_most(decode: float, forward: float, device: str, cores: int) -> float:
    """The floor as a rate: cores share both parts on a CPU; an accelerator and the cores work side by side."""
    return cores / (decode + forward) if device == "cpu" else min(cores / decode, 1 / forward)


def stage(clips: Sequence[Path], folder: Path, cores: int) -> dict[str, float]:
    """Seconds of first encoding, of 1 % more clips, and of nothing new; everything loaded before."""
    home = folder / "home"
    num_more = max(1, len(clips) // 101)
    first, more = clips[WARM_UP_CLIPS:-num_more], clips[-num_more:]
    seconds_of_encode(request_for(write_recipe(folder, clips[:WARM_UP_CLIPS], "warm-up"), home, cores))
    recipe = write_recipe(folder, first, "clips")
    seconds = {"first": seconds_of_encode(request_for(recipe, home, cores)), "clips": float(len(first))}
    write_recipe(folder, [*first, *more], "clips")
    return {**seconds, "more": seconds_of_encode(request_for(recipe, home, cores)), "more_clips": float(len(more))}


def again(clips: Sequence[Path], folder: Path, cores: int) -> dict[str, float]:
    """Seconds of encoding with kept tokens, and of another feature from them."""
    home = folder / "home"
    seconds_of_encode(request_for(write_recipe(folder, clips[:WARM_UP_CLIPS], "warm-up"), home, cores))
    recipe = write_recipe(folder, clips[WARM_UP_CLIPS:], "clips", keep_tokens=True, dtype="float16")
    first = seconds_of_encode(request_for(recipe, home, cores))
    return {"first": first, "again": seconds_of_encode(request_for(recipe, home, cores, "encode.vision.feature=grid"))}


def gpu() -> dict[str, Any]:
    """Images per second of ViT-B/16 and L/14 in bfloat16, and the matrix peak; a note where there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        return {"skipped": "torch sees no CUDA GPU"}
    import timm

    side = 8192
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    peak = 2 * side**3 / _cuda_seconds(lambda: a @ b)
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "matmul_tflops": peak / 1e12}
    for name, flops in (("vit_base_patch16_224", 2 * 17.58e9), ("vit_large_patch14_224", 2 * 81.08e9)):
        model = timm.create_model(name, num_classes=0).cuda().to(torch.bfloat16).eval()
        images = torch.randn(256, 3, SIDE, SIDE, device="cuda", dtype=torch.bfloat16)
        with torch.inference_mode():
            rate = len(images) / _cuda_seconds(lambda model=model, images=images: model.forward_features(images))
        found[name] = {"images_per_second": rate, "share_of_peak": rate * flops / peak}
    return found


def _cuda_seconds(run: Any, repeats: int = 10) -> float:
    import torch

    for _ in range(3):
        run()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def in_process(name: str, arguments: argparse.Namespace, cores: int) -> dict[str, Any]:
    """Run one part in a fresh process on `cores` cores."""
    command = [sys.executable, "-m", "benchmarks.encode", "--part", name, "--cores", str(cores)]
    command += ["--folder", str(arguments.folder), "--num-clips", str(arguments.num_clips)]
    threads = {"OMP_NUM_THREADS": str(cores)}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads}, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return values


def part(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    clips = sorted((arguments.folder / "unique").iterdir())[: arguments.num_clips]
    if name == "floor":
        return floor(clips[WARM_UP_CLIPS:])
    with tempfile.TemporaryDirectory() as folder:
        return {"stage": stage, "again": again}[name](clips, Path(folder), arguments.cores)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    unique_clips(arguments.folder, arguments.num_clips)
    runs: dict[str, list[dict[str, Any]]] = {}
    for _ in range(arguments.rounds):
        for cores in arguments.cores_tried:
            runs.setdefault(f"stage_{cores}", []).append(in_process("stage", arguments, cores))
        runs.setdefault("floor", []).append(in_process("floor", arguments, 1))
    runs["again"] = [in_process("again", arguments, max(arguments.cores_tried))]
    bare = {name: statistics.median(run[name] for run in runs["floor"]) for name in ("decode", "forward")}
    found: dict[str, Any] = {"seconds_per_clip": bare, "num_clips": arguments.num_clips, "gpu": gpu()}
    for cores in arguments.cores_tried:
        rows = runs[f"stage_{cores}"]
        rates = [run["clips"] / run["first"] for run in rows]
        bound = clips_per_second_at_most(bare["decode"], bare["forward"], runs["floor"][0]["device"], cores)
        found[f"{cores}_cores"] = {
            "clips_per_second": spread(rates),
            "floor_clips_per_second": bound,
            "share_of_floor": statistics.median(rates) / bound,
            "share_of_floor_target": 0.9,
            "adding_1_percent": spread([run["more"] / run["first"] for run in rows]),
            "adding_1_percent_target": 0.03,
        }
    found["again_from_tokens"] = {**runs["again"][0], "share": runs["again"][0]["again"] / runs["again"][0]["first"]}
    return {**found, "runs": runs}


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": len(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the clips are made")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num-clips", type=int, default=312)
    parser.add_argument("--cores-tried", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--part", choices=["floor", "stage", "again"], help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(part(arguments.part, arguments)))
        return
    found = measure(arguments)
    print(json.dumps({name: value for name, value in found.items() if name != "runs"}, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
