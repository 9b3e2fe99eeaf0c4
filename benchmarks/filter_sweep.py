"""What filtering by alignment score does to captions that lie, as one JSON document.

    python -m benchmarks.filter_sweep --out benchmarks/filter_sweep.json

The quickstart's world with `caption_noise` at three levels. A model trained on all captions of a level scores them, a
share is kept, and the same recipe is trained on that. Two controls keep as many captions by lot, or exactly the true
ones. The sweep knows which captions are false: the world without noise is the same world with true captions.
The pooling is the mean over frames, which costs a tenth of the quickstart's transformer and sees objects as well.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vlmvid.artifacts.ledger import read_lines
from vlmvid.data.synthetic.gallery import training_clips
from vlmvid.data.synthetic.language import Knobs, training_captions
from vlmvid.pipeline import STAGES, make_request, pipeline_run
from vlmvid.pipeline.register import read_registered
from vlmvid.pipeline.sources import CLIPS_FILE

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "configs" / "pipelines" / "quickstart.yaml"
SEEDS = (0, 1, 2)
NOISES = (0.0, 0.3, 0.6)
KEEPS = (0.8, 0.6, 0.4)
CONTROLLED = 0.6  # the share at which whole clips and the lot are tried
FIGURES = {"t2v_r_at_1": ("retrieval", "t2v_r_at_1"), "false_yes_rate": ("hallucination", "false_yes_rate")}
COMMON = (
    "tracking.enabled=false",
    "evaluate.tasks=[retrieval,hallucination]",
    "evaluate.num_bootstrap=100",
    "align.pooling={kind: frame_mean}",
)
Captions = dict[str, tuple[str, ...]]


def run_stages(overrides: Sequence[str], home: Path, *, register: bool = False) -> dict[str, Path]:
    """The folders of the stages up to evaluate, or register."""
    request = make_request(QUICKSTART, [*COMMON, *overrides], home=home)
    with pipeline_run(request) as context:
        stages = [stage for stage in context.recipe.stages() if register or stage != "register"]
        return {stage: Path(STAGES[stage].run(request).uri) for stage in stages}


def figures(folder: Path) -> dict[str, float]:
    results = json.loads((folder / "metrics.json").read_text())
    found = {(result["task"], metric["name"]): metric["value"] for result in results for metric in result["metrics"]}
    return {name: found[place] for name, place in FIGURES.items()}


def captions_of(seed: int, noise: float) -> tuple[Captions, set[tuple[str, str]]]:
    """The captions of every training clip, and which of them are false, as (video_id, caption)."""
    options = {"num_train": 600, "num_temporal_pairs": 60}  # the quickstart's
    said: Captions = {}
    false: set[tuple[str, str]] = set()
    for clip in training_clips(seed, options["num_train"], options["num_temporal_pairs"]):
        told = training_captions(clip.scene, seed=seed, index=clip.number, knobs=Knobs(caption_noise=noise))
        true = training_captions(clip.scene, seed=seed, index=clip.number, knobs=Knobs())
        said[clip.video_id] = told
        false |= {(clip.video_id, t) for t, u in zip(told, true, strict=True) if t != u and t not in true}
    return said, false


def by_lot(said: Captions, keep: float, seed: int) -> Captions:
    pairs = [(video_id, n) for video_id, captions in said.items() for n in range(len(captions))]
    chosen = set(random.Random(seed).sample(pairs, round(keep * len(pairs))))
    kept = {v: tuple(c for n, c in enumerate(captions) if (v, n) in chosen) for v, captions in said.items()}
    return {v: captions or said[v][:1] for v, captions in kept.items()}


def shares(captions: Captions, false: set[tuple[str, str]], total: int) -> dict[str, float]:
    """The share of captions that is kept, and among these of false ones and of those that tell of an absence."""
    pairs = [(video_id, caption) for video_id, texts in captions.items() for caption in texts]
    return {
        "kept": len(pairs) / total,
        "false_share": sum(pair in false for pair in pairs) / len(pairs),
        "absence_share": sum("there is no" in caption for _, caption in pairs) / len(pairs),
    }


def with_captions(captions: Captions, name: str, common: Sequence[str], home: Path) -> dict[str, float]:
    """The figures after training on exactly these captions."""
    path = home / "sidecars" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"video_id": v, "captions": c}) + "\n" for v, c in captions.items()))
    rule = f"filter.caption_mixing={{synthetic: '{path}', ratio: 1.0}}"
    return figures(run_stages([*common, rule], home)["evaluate"])


def level(seed: int, noise: float, home: Path) -> dict[str, Any]:
    """Every figure of one seed and level of noise."""
    common = [f"data.options.seed={seed}", f"align.seed={seed}", f"data.options.caption_noise={noise}"]
    said, false = captions_of(seed, noise)
    total = sum(len(captions) for captions in said.values())
    folders = run_stages(common, home, register=True)
    model = read_registered(folders["register"])["model_folder"]
    rows: dict[str, Any] = {"all": {**figures(folders["evaluate"]), **shares(said, false, total)}}
    for per, keep in [*(("caption", keep) for keep in KEEPS), ("clip", CONTROLLED)]:
        rule = f"filter.alignment_score={{model: '{model}', keep_fraction: {keep}, per: {per}}}"
        folders = run_stages([*common, rule], home)
        rows[f"best {keep:.0%} of {per}s"] = {
            **figures(folders["evaluate"]),
            **told_apart(folders["filter"], false, total),
        }
    captions = by_lot(said, CONTROLLED, seed)
    rows[f"{CONTROLLED:.0%} of captions by lot"] = {
        **with_captions(captions, f"lot-{seed}-{noise}-{CONTROLLED}", common, home),
        **shares(captions, false, total),
    }
    true = {v: tuple(c for c in captions if (v, c) not in false) for v, captions in said.items()}
    rows["the true ones"] = {
        **with_captions(true, f"true-{seed}-{noise}", common, home),
        **shares(true, false, total),
    }
    return rows


def told_apart(folder: Path, false: set[tuple[str, str]], total: int) -> dict[str, float]:
    """`shares` of what the filter left, and the chance that a false caption scores below a true one (`auroc`)."""
    kept = {row["clip"]["video_id"]: tuple(row["clip"]["captions"]) for row in read_lines(folder / CLIPS_FILE)}
    scores = pq.read_table(folder / "scores.parquet").to_pylist()
    ranked = sorted(scores, key=lambda row: row["score"])
    is_false = [(row["video_id"], row["caption"]) in false for row in ranked]
    num_false, seen, below = sum(is_false), 0, 0
    for lies in is_false:
        seen += lies
        below += 0 if lies else seen
    pairs = num_false * (len(ranked) - num_false)
    return {**shares(kept, false, total), "auroc": below / pairs if pairs else math.nan}


def over_seeds(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Mean and standard error over seeds, of each figure that is a number."""
    summary: dict[str, Any] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if any(math.isnan(value) for value in values):
            continue
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1) / len(values))
        summary[name] = {"mean": round(mean, 4), "stderr": round(spread, 4), "values": [round(v, 4) for v in values]}
    return summary


def table(levels: Mapping[str, Any]) -> str:
    """The table of docs/filtering.md."""
    lines = ["| caption_noise | captions | kept | false | of an absence | T2V R@1 | false yes rate |"]
    lines.append("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for noise, rows in levels.items():
        for name, row in rows.items():
            cells = [noise, name]
            cells += [f"{100 * row[key]['mean']:.0f} %" for key in ("kept", "false_share", "absence_share")]
            for key in FIGURES:
                cells.append(f"{100 * row[key]['mean']:.1f} % ± {100 * row[key]['stderr']:.1f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("VLMVID_HOME", ".vlmvid")) / "benchmarks")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    home = arguments.home.absolute()
    levels = {}
    for noise in NOISES:
        found = [level(seed, noise, home) for seed in arguments.seeds]
        levels[str(noise)] = {name: over_seeds([rows[name] for rows in found]) for name in found[0]}
    document = {
        "machine": platform.platform(),
        "python": platform.python_version(),
        "seeds": arguments.seeds,
        "levels": levels,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(document, indent=2) + "\n")
    sys.stdout.write(table(levels) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
