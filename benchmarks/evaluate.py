"""Recall@k of large galleries in tiles, against the definitions of CLIP4Clip and CLIP_benchmark; and `vlmvid score`.

python -m benchmarks.evaluate --threads 1 --out benchmarks/evaluate.json
python -m benchmarks.evaluate --threads 1 --large 200000 --only large --out benchmarks/evaluate.json

Recall at 1, 5 and 10 in both directions for `--pairs` texts and videos of `--dim` numbers, float32, L2-normalised, one
video per text. Every run is a process of its own, the ways in turn, `--rounds` times; recalls of all ways must be equal
before anything is reported. The peers are written here from their definitions:

- CLIP4Clip: `compute_metrics` (metrics.py at 508ffa3de3) on the matrix and on its transpose: sort of -x, difference to
  the diagonal, where zero.
- CLIP_benchmark: `recall_at_k` (zeroshot_retrieval.py at 48de38c168): topk, one-hot, product with the matrix of
  positive pairs, in batches of 64 queries (its default), for each k.

*from embeddings* makes the similarities too, *similarities given* does not; ours reads the same array. Extra memory is
the peak resident memory of the process (VmHWM, reset before) minus what was resident before: embeddings, and the
matrix where it is given, are not in it. Operations: 2 N^2 D, once, for both directions. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.encode_gather import spread
from vlmvid.metrics.retrieval import hit_at_k
from vlmvid.metrics.retrieval_counts import Relevance
from vlmvid.metrics.retrieval_scores import EmbeddingScores, MatrixScores, Scores
from vlmvid.metrics.retrieval_tiles import count_both

RECALL_AT = (1, 5, 10)
Floats = NDArray[np.float32]
Recalls = list[float]
SLOPE_SIZES = (5_000, 10_000, 20_000)


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {field}")


def embeddings(num_pairs: int, dim: int) -> tuple[Floats, Floats]:
    """Texts with something of their video."""
    rng = np.random.default_rng(0)
    videos = rng.standard_normal((num_pairs, dim), dtype=np.float32)
    texts = rng.standard_normal((num_pairs, dim), dtype=np.float32)
    texts *= 5.5 * (dim / 512) ** 0.5
    for start in range(0, num_pairs, 8192):  # no copies of the whole
        part = slice(start, start + 8192)
        texts[part] += videos[part]
        for rows in (texts, videos):
            rows[part] /= np.linalg.norm(rows[part], axis=1, keepdims=True)
    return texts, videos


def tiled(scores: Scores) -> Recalls:
    num_pairs = scores.shape[0]
    own = np.arange(num_pairs)
    counts = count_both(scores, Relevance.of(own, own, num_pairs, num_pairs))
    return [float(hit_at_k(side, k).mean()) for side in (counts.t2v, counts.v2t) for k in RECALL_AT]


def clip4clip(similarity: Floats) -> Recalls:
    found = []
    for x in (similarity, similarity.T):
        sx = np.sort(-x, axis=1)
        d = np.diag(-x)
        d = d[:, np.newaxis]
        ind = sx - d
        places = np.where(ind == 0)[1]
        found += [float(np.sum(places < k)) / len(places) for k in RECALL_AT]
    return found


def clip_benchmark(similarity: Floats) -> Recalls:
    import torch

    scores = torch.from_numpy(similarity)
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), torch.arange(len(scores))] = True
    found = []
    for x, y in ((scores, positive), (scores.T, positive.T)):
        for k in RECALL_AT:
            parts = []
            for start in range(0, len(x), 64):
                rows, pairs = x[start : start + 64], y[start : start + 64]
                one_hot = torch.nn.functional.one_hot(torch.topk(rows, k, dim=1)[1], num_classes=rows.shape[1])
                true = (one_hot * pairs.reshape(len(rows), 1, -1)).sum(dim=(1, 2))
                parts.append(true / pairs.sum(dim=1))
            found.append((torch.cat(parts) > 0).float().mean().item())
    return found


def product(texts: Floats, videos: Floats, name: str) -> Floats:
    if name != "CLIP_benchmark":
        return texts @ videos.T
    import torch

    return (torch.from_numpy(texts) @ torch.from_numpy(videos).t()).numpy()


WAYS: dict[str, Callable[[Floats], Recalls]] = {
    "vlmvid": lambda similarity: tiled(MatrixScores(similarity)),
    "CLIP4Clip": clip4clip,
    "CLIP_benchmark": clip_benchmark,
}


def from_embeddings(name: str, texts: Floats, videos: Floats) -> Recalls:
    return tiled(EmbeddingScores(texts, videos)) if name == "vlmvid" else WAYS[name](product(texts, videos, name))


def child(name: str, num_pairs: int, dim: int, given: bool) -> dict[str, Any]:
    """One way in this process."""
    if name == "CLIP_benchmark":
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    from_embeddings(name, *embeddings(256, dim))  # threads and code pages
    texts, videos = embeddings(num_pairs, dim)
    similarity = product(texts, videos, name) if given else None
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    wall, cpu = time.perf_counter(), time.process_time()
    recalls = from_embeddings(name, texts, videos) if similarity is None else WAYS[name](similarity)
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "extra_bytes": resident("VmHWM") - before,
        "peak_bytes": resident("VmHWM"),
        "recalls": recalls,
    }


def run(name: str, num_pairs: int, dim: int, threads: int, *, given: bool = False) -> dict[str, Any]:
    """`child` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.evaluate", "--child", name, "--pairs", str(num_pairs)]
    command += ["--dim", str(dim), *(["--given"] if given else [])]
    pinned = {key: str(threads) for key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **pinned})
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compared(arguments: argparse.Namespace, *, given: bool) -> dict[str, Any]:
    """All ways at one size, in turn, beginning with another one each round."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    order = list(WAYS)
    for number in range(arguments.rounds):
        for name in order[number % len(order) :] + order[: number % len(order)]:
            if name == "CLIP_benchmark" and number >= arguments.clip_benchmark_rounds:
                continue
            runs[name].append(run(name, arguments.pairs, arguments.dim, arguments.threads, given=given))
    ours = runs["vlmvid"]
    # torch counts in float32; a float32 product puts a few near ties the wrong way round, which ours compares exactly.
    allowed = 1e-6 if given else 1e-6 + 3 / arguments.pairs
    largest = 0.0
    for name, some in runs.items():
        for found in some:
            difference = float(np.abs(np.subtract(found["recalls"], ours[0]["recalls"])).max())
            if difference > allowed:
                raise ValueError(f"{name}: recalls {found['recalls']}, vlmvid has {ours[0]['recalls']}")
            largest = max(largest, difference)
    results = {
        name: {
            "extra_mb": spread([found["extra_bytes"] / 1e6 for found in some]),
            **{kind: spread([found[kind] for found in some]) for kind in ("wall", "cpu")},
        }
        for name, some in runs.items()
    }
    over = {
        name: {part: values[part]["median"] / results["vlmvid"][part]["median"] for part in values}
        for name, values in results.items()
    }
    return {"ways": results, "over_vlmvid": over, "recalls": ours[0]["recalls"], "largest_difference": largest}


def slope(threads: int) -> dict[str, Any]:
    """Extra memory at 64-d by size, and bytes for each further text and video."""
    extra = {size: run("vlmvid", size, 64, threads)["extra_bytes"] for size in SLOPE_SIZES}
    step = (extra[SLOPE_SIZES[-1]] - extra[SLOPE_SIZES[0]]) / (SLOPE_SIZES[-1] - SLOPE_SIZES[0])
    return {"extra_mb": {size: value / 1e6 for size, value in extra.items()}, "bytes_per_pair": step}


def large(num_pairs: int, dim: int, threads: int) -> dict[str, Any]:
    """One run of vlmvid alone."""
    found = run("vlmvid", num_pairs, dim, threads)
    gflops = 2 * num_pairs**2 * dim / 1e9
    return {
        "pairs": num_pairs,
        "dim": dim,
        "cpu_seconds": found["cpu"],
        "wall_seconds": found["wall"],
        "gflops_per_cpu_second": gflops / found["cpu"],
        "peak_gb": found["peak_bytes"] / 1e9,
        "extra_mb": found["extra_bytes"] / 1e6,
        "recalls": found["recalls"],
        "load_average": os.getloadavg()[0],
    }


def answers() -> dict[str, Any]:
    """`vlmvid score` at the size of MSRVTT-QA."""
    from benchmarks.evaluate_answers import measure

    return measure()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="figures that are not measured now are kept")
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clip-benchmark-rounds", type=int, default=3, help="its runs take minutes")
    parser.add_argument("--large", type=int, default=0, help="texts and videos of one large run; 0 = none")
    parser.add_argument("--only", nargs="+", choices=["embeddings", "given", "slope", "large", "answers"])
    parser.add_argument("--child", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--given", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(arguments.child, arguments.pairs, arguments.dim, arguments.given)))
        return
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "embeddings": lambda: compared(arguments, given=False),
        "given": lambda: compared(arguments, given=True),
        "slope": lambda: slope(arguments.threads),
        "large": lambda: large(arguments.large, arguments.dim, arguments.threads),
        "answers": answers,
    }
    document: dict[str, Any] = {"pairs": arguments.pairs, "dim": arguments.dim, "threads": arguments.threads}
    if arguments.out and arguments.out.is_file():
        document = json.loads(arguments.out.read_text(encoding="utf-8")) | document
    for name in arguments.only or [name for name in parts if name != "large" or arguments.large]:
        document[name] = parts[name]() | {"load_average_before": os.getloadavg()[0]}
        if arguments.out:
            arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
