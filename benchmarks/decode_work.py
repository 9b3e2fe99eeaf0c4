"""What a request must decode, what that costs at least, and many clips by two workers."""

from __future__ import annotations

import functools
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from vlmvid.config.schema import DecodeConfig
from vlmvid.video.gop.plan import join_runs, needed_packets, plan_runs
from vlmvid.video.isolation.pool import DecodePool
from vlmvid.video.options import ClipJob, DecodeLimits
from vlmvid.video.readers.pyav import PyAVReader

NUM_WORKERS = 2
NUM_FRAMES = 16
SIDE = 224


def count_decoded(path: str, numbers: Sequence[int]) -> dict[str, int]:
    """Frames that each way of reading decodes for `numbers`, by the packet index."""
    with PyAVReader(path) as reader:
        index = reader.index
        runs = join_runs(plan_runs(index, sorted(set(numbers))))
        keys = np.searchsorted(index.key_pts, index.pts[list(numbers)], side="right") - 1
        per_frame = index.positions[list(numbers)] - index.key_positions[keys] + 1
        return {
            "in_file": len(index),
            "seek_per_frame": int(per_frame.sum()),
            "gop_plan": sum(run.last - run.first + 1 for run in runs),
            "gop_plan_without_unreferenced": int(sum(needed_packets(index, run).sum() for run in runs)),
        }


def floor_seconds(path: str, numbers: Sequence[int], rounds: int) -> list[float]:
    """Seconds of one bare decoder on one thread for the packets that cannot be left out: no reading, no pixels."""
    with PyAVReader(path) as reader:
        index = reader.index
        runs = join_runs(plan_runs(index, sorted(set(numbers))))
    times = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        wanted = {
            run.first + int(i): number
            for number, run in enumerate(runs)
            for i in np.flatnonzero(needed_packets(index, run))
        }
        packets: list[list[Any]] = [[] for _ in runs]
        for place, packet in enumerate(p for p in container.demux(stream) if p.size):
            if place in wanted:
                packets[wanted[place]].append(packet)
        for _ in range(rounds):
            context: Any = av.CodecContext.create(stream.codec_context.name, "r")
            context.extradata, context.thread_count = stream.codec_context.extradata, 1
            started = time.perf_counter()
            for group in packets:
                for packet in [*group, None]:
                    context.decode(packet)
                context.flush_buffers()
            times.append(time.perf_counter() - started)
    return times


def clips_per_second(paths: Sequence[Path], rounds: int) -> dict[str, Any]:
    """Clips of 16 frames at 224 x 224 that reach the calling process, from two worker processes each."""
    config = DecodeConfig.model_validate({"sampling": {"num_frames": NUM_FRAMES}, "image_size": SIDE})
    jobs = [ClipJob(str(path)) for path in paths]
    seconds: dict[str, list[float]] = {"vlmvid": [], "decord": []}
    context = multiprocessing.get_context("spawn")
    with DecodePool(config, DecodeLimits(), num_workers=NUM_WORKERS) as ours, context.Pool(NUM_WORKERS) as theirs:
        for turn in range(rounds + 1):
            for name in seconds:
                started = time.perf_counter()
                if name == "vlmvid":
                    shapes = {outcome.frames.shape for outcome in ours.decode(jobs)}  # type: ignore[union-attr]
                else:
                    shapes = {f.shape for f in theirs.imap(_decord_clip, [job.path for job in jobs], chunksize=4)}
                if shapes != {(NUM_FRAMES, 3, SIDE, SIDE)}:
                    raise ValueError(f"{name} gave {shapes}")
                if turn:  # the first turn starts the workers
                    seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "clips_per_second": {name: len(jobs) / value for name, value in medians.items()},
        "seconds": seconds,
        "ratios": {"decord": {"median": medians["decord"] / medians["vlmvid"], "target": 1.2}},
    }


@functools.cache
def _decord() -> Any:
    import decord

    return decord


def _decord_clip(path: str) -> np.ndarray:
    """16 uniform frames, short side 224, centre crop; uint8 (T, 3, S, S)."""
    reader = _decord().VideoReader(path, num_threads=1, width=SIDE * 320 // 240, height=SIDE)
    numbers = [(2 * i + 1) * len(reader) // (2 * NUM_FRAMES) for i in range(NUM_FRAMES)]
    frames = reader.get_batch(numbers).asnumpy()
    left = (frames.shape[2] - SIDE) // 2
    return np.ascontiguousarray(frames[:, :, left : left + SIDE].transpose(0, 3, 1, 2))
