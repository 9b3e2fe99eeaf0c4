"""A tiny real dataset and recipe: coloured clips as MP4, a random backbone, the packaged text encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vlmvid.video.writer import write_mp4

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 220), "yellow": (220, 220, 40)}
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "decode": {"sampling": {"num_frames": 2}, "image_size": 32, "keep_frames": True},
    "encode": {
        "vision": {"backbone": "timm:test_vit", "pretrained": False, "image_size": 32},
        "text": {"encoder": "minilm"},
    },
    "align": {
        "projection_dim": 16,
        "optim": {"num_steps": 6, "global_batch_size": 4, "lr": 0.01},
        "checkpoint_every": 2,
    },
    "evaluate": {"tasks": ["retrieval"], "num_bootstrap": 100},
    # In this process: a worker takes longer to start than all these clips to decode.
    "options": {"shard_size": 4, "max_failed_fraction": 0.0, "decode_workers": 0},
}


def write_clip(path: Path, colour: tuple[int, int, int], shift: int = 0, num_frames: int = 6) -> Path:
    """A clip of one colour with a white bar that moves by `shift` pixels a frame."""
    frames = np.empty((num_frames, 3, 32, 32), np.uint8)
    frames[:] = np.array(colour, np.uint8)[None, :, None, None]
    for i in range(num_frames):
        frames[i, :, :, (4 + shift * i) % 32] = 255
    write_mp4(path, frames, fps=6)
    return path


def write_dataset(folder: Path, num_train: int = 6, num_test: int = 4) -> Path:
    """Clips and their manifest; returns the manifest's path."""
    names = list(COLOURS)
    rows = []
    for i in range(num_train + num_test):
        colour = names[i % len(names)]
        path = write_clip(folder / f"clip{i}.mp4", COLOURS[colour], shift=i)
        split = "train" if i < num_train else "test"
        rows.append(
            {
                "video_id": f"v{i}",
                "path": path.name,
                "split": split,
                "captions": [f"a {colour} picture with a bar at speed {i}", f"something {colour}"][: 2 if i % 2 else 1],
            }
        )
    return write_rows(folder / "manifest.jsonl", rows)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_recipe(folder: Path, manifest: Path, **sections: Any) -> Path:
    """The tiny recipe over `manifest`; `sections` replace whole sections, None removes one."""
    data = {**RECIPE, "data": {"name": "manifest", "options": {"path": str(manifest)}}, **sections}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}))
    return path
