"""Memory and time of the tiled losses at large batches, against the losses of SAIL and open_clip.

python -m benchmarks.align_loss --threads 2 --out benchmarks/align_loss.json

Forward and backward in float32 on the same random unit rows, `--pairs` of `--dim` numbers, and `--info-nce-pairs` for
InfoNCE. Every run is a process of its own, the ways in turn, `--rounds` times, each `--repeats` losses long; values and
gradients of all ways are compared in the first round, at full size. The peers are written here from their
definitions:

- SAIL: the sigmoid loss of its released code (arXiv 2412.04616): labels N x N, logits, their product, logsigmoid, mean.
- open_clip: SigLipLoss of open_clip 3.3.0: labels 2 * eye - 1, -logsigmoid(labels * logits).sum() / N.
- plain: vlmvid's own losses without tiles.

Extra memory is the peak resident memory of the process (VmHWM, reset before) minus what was resident before, with torch
and its matrix product warmed up; the gradients of the embeddings are in it. Share of the peak: the operations that the
loss needs, 6 N^2 D, and for the tiled InfoNCE, which makes the logits twice, 8 N^2 D, over seconds and the fastest
matrix product of 2,048 x 2,048 in the same process. Wall and CPU seconds are given: other programs on the machine
lengthen the first more than the second, in which threads that wait for each other count too. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.encode_gather import spread
from vlmvid.losses import info_nce, sigmoid_loss

Way = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


def sail(video: Tensor, text: Tensor, scale: Tensor, bias: Tensor, _: int) -> Tensor:
    labels = 2 * torch.eye(len(video)) - torch.ones(len(video), len(text))
    logits = scale * video @ text.T + bias
    return -F.logsigmoid(labels * logits).mean()


def open_clip(video: Tensor, text: Tensor, scale: Tensor, bias: Tensor, _: int) -> Tensor:
    logits = scale * video @ text.T
    logits = logits + bias
    labels = -torch.ones(len(video), len(text))
    labels = 2 * torch.eye(len(video)) + labels
    return -F.logsigmoid(labels * logits).sum() / len(video)


def tiled(video: Tensor, text: Tensor, scale: Tensor, bias: Tensor, tile: int) -> Tensor:
    return sigmoid_loss(video, text, logit_scale=scale, logit_bias=bias, tile_size=tile)


def plain(video: Tensor, text: Tensor, scale: Tensor, bias: Tensor, _: int) -> Tensor:
    return sigmoid_loss(video, text, logit_scale=scale, logit_bias=bias)


def tiled_info_nce(video: Tensor, text: Tensor, scale: Tensor, _: Tensor, tile: int) -> Tensor:
    return info_nce(video, text, logit_scale=scale, tile_size=tile)


def plain_info_nce(video: Tensor, text: Tensor, scale: Tensor, _: Tensor, __: int) -> Tensor:
    return info_nce(video, text, logit_scale=scale)


SIGMOID: dict[str, Way] = {"vlmvid": tiled, "SAIL": sail, "open_clip": open_clip, "plain": plain}
INFO_NCE: dict[str, Way] = {"vlmvid, InfoNCE": tiled_info_nce, "plain, InfoNCE": plain_info_nce}
WAYS = SIGMOID | INFO_NCE
OPERATIONS = {"vlmvid, InfoNCE": 8}  # times N^2 D; 6 for the others


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {field}")


def matrix_peak(rounds: int = 8) -> dict[str, float]:
    """Operations per wall and per CPU second of the fastest of some matrix products."""
    factor = torch.rand(2048, 2048)
    product = torch.empty_like(factor)
    walls, cpus = [], []
    for _ in range(rounds):
        started, cpu = time.perf_counter(), time.process_time()
        torch.mm(factor, factor, out=product)
        walls.append(time.perf_counter() - started)
        cpus.append(time.process_time() - cpu)
    return {"wall": 2 * 2048**3 / min(walls), "cpu": 2 * 2048**3 / min(cpus)}


def inputs(num_pairs: int, dim: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(num_pairs, dim, generator=generator)
    # Texts that have something of their clip, as in training.
    text = F.normalize(video) + 0.06 * torch.randn(num_pairs, dim, generator=generator)
    tensors = [F.normalize(video), F.normalize(text), torch.tensor(20.0), torch.tensor(-10.0)]
    return [tensor.requires_grad_() for tensor in tensors]


def child(name: str, num_pairs: int, dim: int, tile: int, repeats: int, save: Path | None) -> dict[str, Any]:
    """One way in this process."""
    WAYS[name](*inputs(1024, dim), tile).backward()  # threads and code pages
    tensors = inputs(num_pairs, dim)
    peak = matrix_peak()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    walls, cpus = [], []
    for _ in range(repeats):
        for tensor in tensors:
            tensor.grad = None
        started, cpu = time.perf_counter(), time.process_time()
        loss = WAYS[name](*tensors, tile)
        loss.backward()
        walls.append(time.perf_counter() - started)
        cpus.append(time.process_time() - cpu)
    extra = resident("VmHWM") - before
    if save is not None:
        torch.save([loss.detach(), *(tensor.grad for tensor in tensors if tensor.grad is not None)], save)
    return {
        "seconds": {"wall": walls, "cpu": cpus},
        "extra_bytes": extra,
        "matrix_peak": {kind: max(peak[kind], value) for kind, value in matrix_peak().items()},
    }


def run(name: str, num_pairs: int, arguments: argparse.Namespace, save: Path | None = None) -> dict[str, Any]:
    """`child` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.align_loss", "--child", name, "--pairs", str(num_pairs)]
    for option in ("dim", "tile", "repeats", "threads"):
        command += [f"--{option}", str(getattr(arguments, option))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    done = subprocess.run(
        command + ([] if save is None else ["--save", str(save)]),
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def differences(name: str, found: list[Tensor], expected: list[Tensor], num_pairs: int) -> dict[str, float]:
    """Largest difference of value and gradients over the largest expected; raises ValueError above 1e-4."""
    # SAIL's mean over all pairs is 1 / N of a sum / N.
    factor = num_pairs if name == "SAIL" else 1
    names = ("loss", "video", "text", "logit_scale", "logit_bias")
    result = {}
    for part, ours, theirs in zip(names, expected, found, strict=False):
        result[part] = float((factor * theirs - ours).abs().max() / ours.abs().max())
        if result[part] > 1e-4:
            raise ValueError(f"{name}: {part} differs by {result[part]:.1e} of its largest value")
    return result


def summary(name: str, num_pairs: int, dim: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    operations = OPERATIONS.get(name, 6) * num_pairs**2 * dim
    result: dict[str, Any] = {"pairs": num_pairs, "extra_mb": spread([some["extra_bytes"] / 1e6 for some in runs])}
    for kind in ("wall", "cpu"):
        pairs = [(value, some["matrix_peak"][kind]) for some in runs for value in some["seconds"][kind]]
        result[kind] = {
            "seconds": spread([value for value, _ in pairs]),
            "matrix_peak_gflops": spread([peak / 1e9 for _, peak in pairs]),
            "share_of_matrix_peak": spread([operations / value / peak for value, peak in pairs]),
        }
    return result


def compared(names: dict[str, Way], num_pairs: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """All ways at one size, in turn, beginning with another one each round."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    equal: dict[str, dict[str, float]] = {}
    order = list(names)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            for name in order[number % len(order) :] + order[: number % len(order)]:
                save = Path(folder, f"{order.index(name)}.pt") if number == 0 else None
                runs[name].append(run(name, num_pairs, arguments, save))
        tensors = [torch.load(Path(folder, f"{index}.pt"), weights_only=True) for index in range(len(order))]
    for name, found in list(zip(order, tensors, strict=True))[1:]:
        equal[name] = differences(name, found, tensors[0], num_pairs)
    results = {name: summary(name, num_pairs, arguments.dim, some) for name, some in runs.items()}
    ours = results[order[0]]
    over = {
        name: {
            "extra_mb": some["extra_mb"]["median"] / ours["extra_mb"]["median"],
            **{kind: some[kind]["seconds"]["median"] / ours[kind]["seconds"]["median"] for kind in ("wall", "cpu")},
        }
        for name, some in results.items()
    }
    return {"ways": results, "over_vlmvid": over, "relative_differences": equal}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pairs", type=int, default=16_384)
    parser.add_argument("--large-pairs", type=int, default=32_768, help="for vlmvid's sigmoid loss alone")
    parser.add_argument("--info-nce-pairs", type=int, default=8_192)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2, help="losses in one process")
    parser.add_argument("--child", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--save", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.child:
        result = child(
            arguments.child, arguments.pairs, arguments.dim, arguments.tile, arguments.repeats, arguments.save
        )
        print(json.dumps(result))
        return
    large = [run("vlmvid", arguments.large_pairs, arguments) for _ in range(min(3, arguments.rounds))]
    document = {
        "dim": arguments.dim,
        "tile": arguments.tile,
        "threads": arguments.threads,
        "load_average": os.getloadavg()[0],
        "sigmoid": compared(SIGMOID, arguments.pairs, arguments),
        "info_nce": compared(INFO_NCE, arguments.info_nce_pairs, arguments),
        "large": summary("vlmvid", arguments.large_pairs, arguments.dim, large),
    }
    print(json.dumps(document, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
