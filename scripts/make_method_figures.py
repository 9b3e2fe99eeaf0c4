"""The figures of docs/method.md: docs/figures/method_*.svg, drawn from vlmvid's own functions where there are numbers.

python scripts/make_method_figures.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from vlmvid.data.synthetic.draw import render
from vlmvid.data.synthetic.gallery import test_clips
from vlmvid.metrics import mean_result
from vlmvid.video.sampling import uniform_indices

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"
FROZEN, TRAINED, DATA, INK = "#d9e2ec", "#ffd9a0", "#ffffff", "#1f2933"
LEARNT, POINT = "#b35c00", "#2563a8"
NUM_FRAMES = 8


def main() -> int:
    """Draw them all."""
    plt.rcParams.update({"svg.hashsalt": "vlmvid", "font.size": 9, "text.color": INK, "axes.edgecolor": INK})
    for name, draw in {
        "alignment": alignment,
        "loss": losses,
        "video": image_to_video,
        "stages": stages,
        "interval": interval,
    }.items():
        figure = draw()
        # Without a date, so that the same drawing is the same file.
        figure.savefig(FIGURES / f"method_{name}.svg", metadata={"Date": None}, bbox_inches="tight", facecolor="white")
        plt.close(figure)
        sys.stderr.write(f"method_{name}.svg\n")
    return 0


def alignment() -> Any:
    """Frozen encoders, a trained pooling and two heads, one space."""
    figure, axis = plt.subplots(figsize=(9.2, 3.3))
    clip = next(clip for clip in test_clips(0, 2) if clip.base_id == "test_0000")
    frames = render(clip.scene, image_size=64, num_frames=24)[uniform_indices(24, NUM_FRAMES)]
    for place, frame in enumerate(frames[:4]):
        left = 0.1 + 0.12 * place
        axis.imshow(frame.transpose(1, 2, 0), extent=(left, left + 0.9, 2.15 - 0.06 * place, 3.05 - 0.06 * place))
    axis.text(0.75, 3.15, "T frames", ha="center", va="bottom")
    _box(axis, 0.05, 0.35, 1.5, 0.75, "“three rings\nrise up”", DATA)
    for bottom, words in ((2.15, "vision\nencoder"), (0.3, "text\nencoder")):
        _box(axis, 2.1, bottom, 1.6, 0.9, words, FROZEN)
    _box(axis, 4.25, 2.15, 1.5, 0.9, "pooling\nover time", TRAINED)
    for bottom in (2.15, 0.3):
        _box(axis, 6.3, bottom, 1.3, 0.9, "head", TRAINED)
    for row, targets in ((2.6, (1.6, 2.1, 3.7, 4.25, 5.75, 6.3, 7.6, 8.35)), (0.75, (1.6, 2.1, 3.7, 6.3, 7.6, 8.35))):
        for start, end in zip(targets[::2], targets[1::2], strict=True):
            _arrow(axis, (start, row), (end, row if end < 8 else 1.68 + (0.35 if row > 1 else -0.35)))
    circle = plt.Circle((9.1, 1.68), 0.85, fill=False, color=INK)
    axis.add_patch(circle)
    for angle, colour in ((0.95, POINT), (0.6, LEARNT), (2.6, "#9aa5b1"), (4.2, "#9aa5b1")):
        axis.plot(9.1 + 0.85 * np.cos(angle), 1.68 + 0.85 * np.sin(angle), "o", color=colour, markersize=7)
    axis.text(9.1, 1.68, "one space", ha="center", va="center")
    _legend(axis, 0.05, -0.45)
    axis.set(xlim=(0, 10.1), ylim=(-0.6, 3.5), aspect="equal")
    axis.axis("off")
    return figure


def losses() -> Any:
    """What each pair of a batch is compared with."""
    draws = np.random.default_rng(3)
    similarity = 0.25 * draws.standard_normal((6, 6)) + 0.9 * np.eye(6)
    figure, axes = plt.subplots(1, 3, figsize=(9.2, 2.9), gridspec_kw={"width_ratios": [1, 1, 1.25]})
    titles = (
        "InfoNCE: each text against\nall clips, each clip against all texts",
        "sigmoid: every pair\nfor itself, yes or no",
    )
    for axis, title in zip(axes, titles, strict=False):
        axis.imshow(similarity, cmap="Blues", vmin=-0.6, vmax=1.2)
        axis.set(title=title, xlabel="texts", ylabel="clips", xticks=[], yticks=[])
        axis.title.set_fontsize(9)
    axes[0].add_patch(Rectangle((-0.46, 1.54), 5.92, 0.92, fill=False, edgecolor=LEARNT, linewidth=2.5))
    axes[0].add_patch(Rectangle((1.54, -0.46), 0.92, 5.92, fill=False, edgecolor=LEARNT, linewidth=2.5))
    for row in range(6):
        for column in range(6):
            colour = LEARNT if row == column else POINT
            box = (column - 0.42, row - 0.42)
            axes[1].add_patch(Rectangle(box, 0.84, 0.84, fill=False, edgecolor=colour, linewidth=1.6))
    logits = np.linspace(-8, 8, 200)
    axes[2].plot(logits, np.logaddexp(0, -logits), color=LEARNT, label="own caption: softplus(-z)")
    axes[2].plot(logits, np.logaddexp(0, logits), color=POINT, label="another's: softplus(z)")
    axes[2].set(xlabel="z = scale · cosine + bias", ylabel="loss of a pair")
    axes[2].legend(frameon=False, fontsize=8, loc="upper center")
    axes[2].spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def image_to_video() -> Any:
    """A patch embedding of images becomes one of tubelets, and a still clip gives what the image gave."""
    figure, axes = plt.subplots(1, 3, figsize=(9.2, 2.4))
    kernel = np.outer([1.0, 0.2, -0.8], [0.6, 1.0, -0.4])
    axes[0].imshow(kernel, cmap="PuOr", vmin=-1, vmax=1)
    axes[0].set(title="image model:\none kernel", xticks=[], yticks=[])
    for axis, (title, weights) in zip(
        axes[1:], {"central": (0.0, 1.0, 0.0), "mean": (1 / 3, 1 / 3, 1 / 3)}.items(), strict=True
    ):
        strip = np.concatenate(
            [np.pad(kernel * weight, ((0, 0), (0, 1)), constant_values=np.nan) for weight in weights], 1
        )
        axis.imshow(strip[:, :-1], cmap="PuOr", vmin=-1, vmax=1)
        axis.set(title=f"video model, {title}:\na kernel over {len(weights)} frames", xticks=[1, 5, 9], yticks=[])
        axis.set_xticklabels([f"t{number}" for number in range(len(weights))])
    for axis in axes:
        axis.title.set_fontsize(9)
        axis.spines[:].set_visible(False)
    figure.tight_layout()
    return figure


def stages() -> Any:
    """Which part learns in which stage of a vision-language model."""
    parts = ("vision encoder", "connector", "adapters (LoRA)", "language model")
    learns = {
        "1 connector": ({"connector"}, "captions"),
        "2 alignment": ({"connector", "adapters (LoRA)"}, "longer captions"),
        "3 multi-task": ({"connector", "language model"}, "captions, questions,\nfalse captions"),
        "4 instruction": ({"connector", "language model"}, "questions,\nconversations"),
    }
    figure, axis = plt.subplots(figsize=(9.2, 2.8))
    for column, (stage, (trained, sees)) in enumerate(learns.items()):
        left = 1.7 + 1.9 * column
        axis.text(left + 0.8, 3.0, stage, ha="center", weight="bold")
        for row, part in enumerate(parts):
            if part == "adapters (LoRA)" and part not in trained:
                continue
            _box(axis, left, 2.3 - 0.62 * row, 1.6, 0.48, "", TRAINED if part in trained else FROZEN)
        axis.text(left + 0.8, -0.1, sees, ha="center", va="top", fontsize=8)
        if column:
            _arrow(axis, (left - 0.28, 1.6), (left - 0.02, 1.6))
    for row, part in enumerate(parts):
        axis.text(1.5, 2.54 - 0.62 * row, part, ha="right", va="center")
    axis.text(1.5, -0.1, "learns from", ha="right", va="top", fontsize=8)
    _legend(axis, 1.7, -0.95)
    axis.set(xlim=(0, 9.4), ylim=(-1.1, 3.3))
    axis.axis("off")
    return figure


def interval() -> Any:
    """The same 96 answers, about 96 videos or about 12: the interval of one accuracy."""
    draws = np.random.default_rng(5)
    per_video = draws.beta(1.2, 0.7, size=12)
    answers = np.concatenate([draws.random(8) < rate for rate in per_video])
    videos = np.repeat(np.arange(12), 8)
    figure, axis = plt.subplots(figsize=(9.2, 1.9))
    rows = {
        "each answer on its own": None,
        "clustered by video\n(8 questions each)": [str(video) for video in videos],
    }
    for row, (words, clusters) in enumerate(rows.items()):
        found = mean_result("accuracy", answers.astype(float), clusters=clusters, seed=0, num_bootstrap=2000)
        assert found.ci_low is not None and found.ci_high is not None
        axis.plot([found.ci_low, found.ci_high], [-row, -row], color=POINT, linewidth=5, solid_capstyle="butt")
        axis.plot(found.value, -row, "o", color=INK)
        axis.text(found.ci_high + 0.01, -row, f"{found.ci_low:.2f}..{found.ci_high:.2f}", va="center", fontsize=8)
        axis.text(0.28, -row, words, ha="right", va="center")
    axis.axvline(0.5, color="#9aa5b1", linestyle="--", linewidth=1)
    axis.text(0.5, 0.45, "chance", ha="center", fontsize=8, color="#616e7c")
    axis.set(xlim=(0.1, 1.0), ylim=(-1.6, 0.7), yticks=[], xlabel="accuracy of 96 answers")
    axis.set_xticks([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    axis.spines[["left", "top", "right"]].set_visible(False)
    return figure


def _box(axis: Any, left: float, bottom: float, width: float, height: float, words: str, colour: str) -> None:
    style = "round,pad=0,rounding_size=0.08"
    axis.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle=style, facecolor=colour, edgecolor=INK))
    axis.text(left + width / 2, bottom + height / 2, words, ha="center", va="center")


def _arrow(axis: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, color=INK, shrinkA=1, shrinkB=1))


def _legend(axis: Any, left: float, bottom: float) -> None:
    for place, (words, colour) in enumerate({"frozen": FROZEN, "learns": TRAINED}.items()):
        _box(axis, left + 1.1 * place, bottom, 0.3, 0.22, "", colour)
        axis.text(left + 1.1 * place + 0.38, bottom + 0.11, words, va="center", fontsize=8)


if __name__ == "__main__":
    sys.exit(main())
