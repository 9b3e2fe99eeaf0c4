"""One epoch of alignment from stored features, against SAIL's loader and loss, open_clip's loss, and bare products.

python -m benchmarks.align_epoch --folder /tmp/epoch --threads 2 --out benchmarks/align_epoch.json

Makes `--rows` pairs of random float16 features, 1,280 numbers per clip and 384 per text, as shards of the store, and
for SAIL's loader a list in memory with one tensor per row. Linear heads (LayerNorm and Linear) to 512, batches of
`--batch`, sigmoid loss, AdamW, float32. First all ways make `CHECKED` updates from the same weights on the same
batches, and their losses must be equal. Then every update of the epoch is made by all ways in turn, beginning with
another one each time, `--rounds` epochs long:

- vlmvid: what `train_alignment` does in an update: the plan of the batch, its rows from memory-mapped shards, the
  update with the tiled loss. Nothing is read ahead: the loader's time is its own.
- SAIL: a list with one tensor per row, a DataLoader without workers and pad_sequence (arXiv 2412.04616, as its
  repository describes), the same heads, its sigmoid loss, torch's AdamW as it comes.
- open_clip: the same with the loss of open_clip 3.3.0.
- floor: only the matrix products of the update: the two heads and the logits forward, and their gradients backward
  (to the input of the heads' linear layer too, because the LayerNorm before it is trained), on tensors that are there.

Threads are pinned, for all ways alike. Wall and CPU seconds are given: other programs on the machine lengthen the first
more than the second, in which threads that wait for each other count too.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from benchmarks.align_loss import open_clip, sail
from benchmarks.encode_gather import ROWS_PER_FILE, GivenBatch, spread
from vlmvid.artifacts import ClipStore
from vlmvid.artifacts.columns import StoredColumn
from vlmvid.config.alignment import AlignConfig
from vlmvid.models.alignment import AlignmentModel
from vlmvid.training.align import AlignmentData
from vlmvid.training.alignment_step import AlignmentTrainer
from vlmvid.training.batches import Batch, BatchPlanner, BatchReader
from vlmvid.training.optim import param_groups

VIDEO_DIM, TEXT_DIM, DIM = 1280, 384, 512
CHECKED = 3
Rows = np.ndarray
Loss = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


def make_column(folder: Path, name: str, shape: tuple[int, ...]) -> StoredColumn:
    """Random float16 rows in shards of the store, made once."""
    store = ClipStore(folder, f"{name}_{shape[0]}")
    rng = np.random.default_rng(len(name))
    keys = [f"{row:012d}" for row in range(shape[0])]
    for start in range(0, shape[0], ROWS_PER_FILE):
        some = keys[start : start + ROWS_PER_FILE]
        values = rng.standard_normal((len(some), *shape[1:]), dtype=np.float32).astype(np.float16)
        if some[0] not in store.rows(some[:1]):
            store.write(some, {"features": values})
    known = store.rows(keys)
    return store.column("features", [known[key] for key in keys])


class ListOfPairs(Dataset[tuple[Tensor, Tensor]]):
    """One tensor per row and side, all in memory."""

    def __init__(self, video: StoredColumn, text: StoredColumn) -> None:
        self.sides: list[list[Tensor]] = []
        for column in (video, text):
            # A tensor of its own for each row, as unpickled ones are.
            whole = torch.from_numpy(column.read().reshape(len(column), -1))
            self.sides.append([row.clone() for row in whole])

    def __len__(self) -> int:
        return len(self.sides[0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.sides[0][index], self.sides[1][index]


def padded(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """SAIL's collate function."""
    video, text = zip(*pairs, strict=True)
    return pad_sequence(video, batch_first=True), pad_sequence(text, batch_first=True)


class Ours:
    """A plan, its rows, the update."""

    def __init__(self, config: AlignConfig, data: AlignmentData) -> None:
        self.planner, self.reader = BatchPlanner(config, data), BatchReader(data, torch.device("cpu"))
        self.trainer = AlignmentTrainer(config, data, torch.device("cpu"))

    def batch(self, step: int) -> Batch:
        return self.reader.read(self.planner.at(step))

    def update(self, step: int, batch: Any) -> float:
        return self.trainer.update(step, batch)["loss"]


class Peer:
    """SAIL's loader, the same heads, another loss, AdamW as torch makes it."""

    def __init__(self, config: AlignConfig, planner: BatchPlanner, pairs: ListOfPairs, loss: Loss) -> None:
        self.planner, self.loss = planner, loss
        self.sampler = GivenBatch()
        self.loader = DataLoader(pairs, batch_sampler=self.sampler, num_workers=0, collate_fn=padded)  # type: ignore[arg-type]
        self.model = AlignmentModel(VIDEO_DIM, TEXT_DIM, 1, config).train()
        optim = config.optim
        groups = param_groups(self.model, optim.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas)
        # SAIL's loss is a mean over all pairs; a sum / N trains alike and can be compared.
        self.factor = config.optim.global_batch_size if loss is sail else 1

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        self.sampler.rows = self.planner.at(step).clips.tolist()
        found: tuple[Tensor, Tensor] = next(iter(self.loader))
        return found

    def update(self, step: int, batch: Any) -> float:
        video, text = batch
        model = self.model
        self.optimizer.zero_grad()
        embeds = model.embed_video(video.float()[:, None]), model.embed_text(text.float())
        loss = self.factor * self.loss(*embeds, model.logit_scale, model.logit_bias, 0)
        loss.backward()
        self.optimizer.step()
        model.clamp_logit_scale()
        return loss.item()


class Floor:
    """The matrix products alone."""

    def __init__(self, size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.sides = []
        for dim in (VIDEO_DIM, TEXT_DIM):
            features = torch.randn(size, dim, generator=generator)
            self.sides.append((features, torch.randn(DIM, dim, generator=generator), torch.randn(size, DIM)))
        self.logits = torch.empty(size, size)

    def batch(self, step: int) -> None:
        return None

    def update(self, step: int, batch: Any) -> float:
        (video, video_weight, video_embeds), (text, text_weight, text_embeds) = self.sides
        for features, weight, embeds in self.sides:
            torch.mm(features, weight.T, out=embeds)
        torch.mm(video_embeds, text_embeds.T, out=self.logits)
        grads = self.logits @ text_embeds, self.logits.T @ video_embeds
        for grad, features, weight in zip(grads, (video, text), (video_weight, text_weight), strict=True):
            grad.T @ features
            grad @ weight
        return float("nan")


def check(ways: dict[str, Any]) -> dict[str, list[float]]:
    """The losses of the first updates; raises ValueError where a way has others."""
    losses = {
        name: [way.update(step, way.batch(step)) for step in range(CHECKED)]
        for name, way in ways.items()
        if name != "floor"
    }
    for name, found in losses.items():
        if not np.allclose(found, losses["vlmvid"], rtol=1e-4):
            raise ValueError(f"{name} has the losses {found}, vlmvid {losses['vlmvid']}")
    return losses


def measure(ways: dict[str, Any], num_updates: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of every way per round: of putting the batches together, of the updates, and of both."""
    kinds = ("batches wall", "batches cpu", "updates wall", "updates cpu", "epoch wall", "epoch cpu")
    times: dict[str, dict[str, list[float]]] = {name: {kind: [] for kind in kinds} for name in ways}
    names = list(ways)
    for number in range(rounds):
        sums = {name: dict.fromkeys(kinds, 0.0) for name in ways}
        for step in range(num_updates):
            first = (number + step) % len(names)
            for name in names[first:] + names[:first]:
                marks = [(time.perf_counter(), time.process_time())]
                batch = ways[name].batch(step)
                marks.append((time.perf_counter(), time.process_time()))
                ways[name].update(step, batch)
                marks.append((time.perf_counter(), time.process_time()))
                del batch
                for part, (start, end) in {"batches": (0, 1), "updates": (1, 2), "epoch": (0, 2)}.items():
                    for kind, index in (("wall", 0), ("cpu", 1)):
                        sums[name][f"{part} {kind}"] += marks[end][index] - marks[start][index]
        for name, found in sums.items():
            for kind, value in found.items():
                times[name][kind].append(value)
    return times


def summary(times: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Spreads of the seconds, and every way's median over vlmvid's; for the floor, that is its share of our time."""
    result: dict[str, Any] = {name: {kind: spread(v) for kind, v in found.items()} for name, found in times.items()}
    ratios = {}
    for name in times:
        kinds = ("epoch", "updates") if name == "floor" else ("batches", "epoch", "updates")
        ratios[name] = {
            f"{part} {clock}": result[name][f"{part} {clock}"]["median"] / result["vlmvid"][f"{part} {clock}"]["median"]
            for part in kinds
            for clock in ("wall", "cpu")
        }
    return {"seconds": result, "over_vlmvid": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the features are made")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, help="per round; default: the whole epoch")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    video = make_column(arguments.folder, "video", (arguments.rows, 1, VIDEO_DIM))
    text = make_column(arguments.folder, "text", (arguments.rows, TEXT_DIM))
    data = AlignmentData(video, text, tuple((row,) for row in range(arguments.rows)))
    num_updates = arguments.updates or arguments.rows // arguments.batch
    optim = {"num_steps": 10 * num_updates, "global_batch_size": arguments.batch, "lr": 1e-4, "grad_clip_norm": None}
    config = AlignConfig.model_validate({"projection_dim": DIM, "tile_size": arguments.tile, "optim": optim})
    # The peers keep one rate; so few updates of so many leave the cosine where it begins.
    pairs = ListOfPairs(video, text)
    ours = Ours(config, data)
    ways: dict[str, Any] = {"vlmvid": ours}
    ways |= {name: Peer(config, ours.planner, pairs, loss) for name, loss in (("SAIL", sail), ("open_clip", open_clip))}
    ways["floor"] = Floor(arguments.batch)
    losses = check(ways)
    ways["floor"].update(0, None)
    result = {
        "rows": arguments.rows, "batch": arguments.batch, "tile": arguments.tile, "threads": arguments.threads,
        "updates": num_updates, "rounds": arguments.rounds, "load_average": os.getloadavg()[0], "losses": losses,
        **summary(measure(ways, num_updates, arguments.rounds)),
    }  # fmt: skip
    text_out = json.dumps(result, indent=1)
    if arguments.out:
        arguments.out.write_text(text_out + "\n", encoding="utf-8")
    print(json.dumps(result["over_vlmvid"], indent=1), flush=True)


if __name__ == "__main__":
    main()
