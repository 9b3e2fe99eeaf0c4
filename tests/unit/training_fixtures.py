"""Small alignments that the tests of training share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vlmvid.config.alignment import AlignConfig
from vlmvid.models.alignment import AlignmentModel
from vlmvid.training.align import AlignmentData

NUM_CLIPS, NUM_FRAMES, VIDEO_DIM, TEXT_DIM = 23, 4, 10, 6


def toy_data(num_clips: int = NUM_CLIPS, seed: int = 0, **more: Any) -> AlignmentData:
    """Clips and two captions each, both noisy linear views of one hidden vector per clip."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((num_clips, 5))
    video = hidden @ rng.standard_normal((5, VIDEO_DIM))
    frames = video[:, None] + 0.1 * rng.standard_normal((num_clips, NUM_FRAMES, VIDEO_DIM))
    text = hidden @ rng.standard_normal((5, TEXT_DIM))
    captions = np.repeat(text, 2, axis=0) + 0.05 * rng.standard_normal((2 * num_clips, TEXT_DIM))
    values: dict[str, Any] = {
        "video_features": (50.0 * frames).astype(np.float32),
        "text_features": captions.astype(np.float32),
        "captions_of": tuple((2 * i, 2 * i + 1) for i in range(num_clips)),
    }
    return AlignmentData(**values | more)


def toy_config(**changes: Any) -> AlignConfig:
    """Few steps; what is given for `optim` is added to it."""
    optim = {"num_steps": 12, "global_batch_size": 8, "lr": 1e-2, "warmup_steps": 2} | changes.pop("optim", {})
    values: dict[str, Any] = {
        "pooling": {"kind": "transformer", "width": 8, "depth": 1, "num_heads": 2},
        "video_head": {"kind": "gated", "width_factor": 2},
        "projection_dim": 8,
        "dropout": 0.1,
        "checkpoint_every": 5,
        "seed": 1,
    }
    return AlignConfig.model_validate(values | changes | {"optim": optim})


def states_equal(a: AlignmentModel, b: AlignmentModel) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)
