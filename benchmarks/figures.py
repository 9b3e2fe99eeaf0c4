"""The README's figures, from the clips of the quickstart and the figures of benchmarks/quickstart.json.

python -m benchmarks.figures
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from vlmvid.data.synthetic.draw import render
from vlmvid.data.synthetic.gallery import test_clips
from vlmvid.data.synthetic.language import full_caption
from vlmvid.video.sampling import uniform_indices

HERE = Path(__file__).parent
FIGURES = HERE.parent / "docs" / "figures"
NUM_FRAMES = 8


def film_strips() -> None:
    """One base clip of the test gallery with its distractors, as the sampler sees them."""
    clips = [clip for clip in test_clips(0, 2) if clip.base_id == "test_0000"]
    figure, axes = plt.subplots(len(clips), 1, figsize=(9, 1.35 * len(clips)))
    for axis, clip in zip(axes, clips, strict=True):
        frames = render(clip.scene, image_size=64, num_frames=24)[uniform_indices(24, NUM_FRAMES)]
        axis.imshow(np.concatenate(list(frames.transpose(0, 2, 3, 1)), axis=1))
        name = f"differs in {clip.differs_in}" if clip.differs_in else "base clip"
        axis.set_title(f"{name}: {full_caption(clip.scene)}", fontsize=9, loc="left", pad=3)
        axis.axis("off")
    figure.tight_layout(pad=0.4)
    figure.savefig(FIGURES / "world.png", dpi=110)
    plt.close(figure)


def _bars(axis: Any, rows: dict[str, dict[str, Any]], label: str, offset: float, colour: str) -> None:
    values = [row["mean"] for row in rows.values()]
    errors = [[v - row["ci_low"] for v, row in zip(values, rows.values(), strict=True)]]
    errors.append([row["ci_high"] - v for v, row in zip(values, rows.values(), strict=True)])
    positions = np.arange(len(rows)) + offset
    axis.bar(positions, [100 * v for v in values], 0.38, label=label, color=colour)
    axis.errorbar(
        positions, [100 * v for v in values], 100 * np.array(errors), fmt="none", ecolor="black", capsize=3, lw=1
    )


def results(document: dict[str, Any]) -> None:
    """Unseen combinations per attribute for both temporal modules, and the two knobs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=(3, 2))
    for kind, offset, colour in (("frame_mean", -0.2, "#9aa5b1"), ("transformer", 0.2, "#2f6fb7")):
        attributes = document["worlds"][kind]["attributes"]
        rows = {name: row["r_at_1"] for name, row in attributes.items()}
        rows["temporal pair"] = document["worlds"][kind]["temporal"]["temporal_pair_accuracy"]
        _bars(left, rows, kind.replace("_", " "), offset, colour)
    left.axhline(50, color="#c0392b", lw=1, ls="--", label="chance")
    left.set_xticks(range(len(rows)), list(rows), rotation=20)
    left.set_ylabel("right of two, %")
    left.set_title("unseen combinations, 3 seeds, 95 % intervals", fontsize=10)
    left.set_ylim(0, 122)
    left.legend(fontsize=8, loc="upper center", ncols=3)
    for knob, colour, factor, unit in (
        ("caption_noise", "#2f6fb7", 1.0, "false yes rate"),
        ("group_correlation", "#d9822b", 1.0, "skew of group warm"),
    ):
        points = document["knobs"][knob]["figure"]["points"]
        xs = [float(x) for x in points]
        ys = np.array([[p["mean"], p["ci_low"], p["ci_high"]] for p in points.values()]) * factor
        right.plot(xs, ys[:, 0], marker="o", color=colour, label=f"{knob}: {unit}")
        right.fill_between(xs, ys[:, 1], ys[:, 2], color=colour, alpha=0.2, lw=0)
    right.set_xlabel("knob")
    right.set_title("hallucination and bias follow their knob", fontsize=10)
    right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(FIGURES / "quickstart.png", dpi=110)
    plt.close(figure)


def main() -> None:
    FIGURES.mkdir(parents=True, exist_ok=True)
    film_strips()
    path = HERE / "quickstart.json"
    if path.is_file():
        results(json.loads(path.read_text()))


if __name__ == "__main__":
    main()
