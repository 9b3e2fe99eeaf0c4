"""The figures that the quickstart must reach, from real runs, as one JSON document.

    python -m benchmarks.quickstart --out benchmarks/quickstart.json            everything
    python -m benchmarks.quickstart --only worlds                              two temporal modules, 3 seeds
    python -m benchmarks.quickstart --only knobs                               2 knobs x 4 values x 3 seeds
    python -m benchmarks.quickstart --only stamps --stamps-dir FOLDER          real pictures, 3 seeds

The exit code is 1 when a figure that was asked for is missed. Stages run without Prefect and
without tracking, in the store given by --home; a second run finds everything cached. A seed is the
seed of the data and of the training.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.documents import finish
from vlmvid.pipeline import STAGES, make_request, pipeline_run

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "configs" / "pipelines" / "quickstart.yaml"
STAMPS = ROOT / "configs" / "pipelines" / "stamps.yaml"
SEEDS = (0, 1, 2)
KNOB_VALUES = (0.0, 0.3, 0.6, 0.9)
ATTRIBUTES = ("shape", "colour", "size", "count", "motion", "order")
# Per knob: the figure that must rise, and one that must not move.
KNOBS = {
    "caption_noise": (("hallucination", "false_yes_rate"), ("bias", "skew_warm_at_40")),
    "group_correlation": (("bias", "skew_warm_at_40"), ("hallucination", "false_yes_rate")),
}
Metric = dict[str, Any]


def evaluate(recipe: Path, overrides: Sequence[str], home: Path) -> dict[tuple[str, str], Metric]:
    """Run the stages up to evaluate; the metrics by (task, name)."""
    request = make_request(recipe, [*overrides, "tracking.enabled=false"], home=home)
    with pipeline_run(request) as context:
        for stage in context.recipe.stages():
            if stage != "register":
                ref = STAGES[stage].run(request)
    results = json.loads((Path(ref.uri) / "metrics.json").read_text())
    return {(result["task"], metric["name"]): metric for result in results for metric in result["metrics"]}


def over_seeds(metrics: Sequence[Metric]) -> dict[str, Any]:
    """Mean over seeds with a 95 % interval: the larger of the sampling and the between-seed error."""
    values = [metric["value"] for metric in metrics]
    mean = sum(values) / len(values)
    halves = [(metric["ci_high"] - metric["ci_low"]) / 2 for metric in metrics if metric["ci_low"] is not None]
    sampling = math.sqrt(sum(half**2 for half in halves)) / len(values)
    between = 1.96 * math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
    half = max(sampling, between)
    bounds = [bound for metric in metrics for bound in (metric["ci_low"], metric["ci_high"]) if bound is not None]
    is_rate = all(0 <= bound <= 1 for bound in bounds)
    low, high = (max(mean - half, 0.0), min(mean + half, 1.0)) if is_rate else (mean - half, mean + half)
    return {
        "mean": round(mean, 5),
        "ci_low": round(low, 5),
        "ci_high": round(high, 5),
        "values": [round(value, 5) for value in values],
        "num_samples": [metric["num_samples"] for metric in metrics],
    }


def rank_correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Spearman's rho, ties at their mean rank."""

    def ranks(values: Sequence[float]) -> list[float]:
        ordered = sorted(values)
        return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]

    a, b = ranks(xs), ranks(ys)
    mean = (len(xs) - 1) / 2
    covariance = sum((i - mean) * (j - mean) for i, j in zip(a, b, strict=True))
    spread = math.sqrt(sum((i - mean) ** 2 for i in a) * sum((j - mean) ** 2 for j in b))
    return covariance / spread if spread else 0.0


def seeded(seed: int) -> list[str]:
    return [f"data.options.seed={seed}", f"align.seed={seed}"]


def worlds(home: Path) -> dict[str, Any]:
    """Unseen-combination retrieval per attribute and temporal pairs, transformer against frame mean."""
    document: dict[str, Any] = {}
    for kind in ("transformer", "frame_mean"):
        runs = [evaluate(QUICKSTART, [*seeded(seed), f"align.pooling.kind={kind}"], home) for seed in SEEDS]

        def pick(task: str, name: str, runs: list[dict[tuple[str, str], Metric]] = runs) -> dict[str, Any]:
            return over_seeds([run[task, name] for run in runs])

        attributes = {
            name: {
                "r_at_1": pick("attributes", f"{name}_r_at_1"),
                "chance": pick("attributes", f"{name}_r_at_1/chance"),
            }
            for name in ATTRIBUTES
        }
        for row in attributes.values():
            row["apart"] = row["r_at_1"]["ci_low"] > row["chance"]["ci_high"]
        names = (
            "temporal_pair_accuracy",
            "temporal_pair_group_score",
            "temporal_pair_accuracy_shuffled",
            "shuffle_change_max",
        )
        document[kind] = {
            "t2v_r_at_1": pick("retrieval", "t2v_r_at_1"),
            "attributes": attributes,
            "temporal": {name: pick("temporal", name) for name in names},
            "pairs": {name: runs[0]["temporal", name] for name in names[:2]},
        }
    return document


def knobs(home: Path) -> dict[str, Any]:
    """Each knob at four values over three seeds: its figure must rise, its control must stay."""
    document: dict[str, Any] = {}
    for knob, (figure, control) in KNOBS.items():
        rows = {
            value: [evaluate(QUICKSTART, [*seeded(seed), f"data.options.{knob}={value}"], home) for seed in SEEDS]
            for value in KNOB_VALUES
        }
        xs = [value for value in KNOB_VALUES for _ in SEEDS]

        def curve(name: tuple[str, str], rows: Any = rows, xs: Any = xs) -> dict[str, Any]:
            points = {str(value): over_seeds([run[name] for run in runs]) for value, runs in rows.items()}
            first, last = points[str(KNOB_VALUES[0])], points[str(KNOB_VALUES[-1])]
            return {
                "metric": "/".join(name),
                "points": points,
                "rank_correlation": round(
                    rank_correlation(xs, [run[name]["value"] for runs in rows.values() for run in runs]), 3
                ),
                "end_points_apart": first["ci_high"] < last["ci_low"],
                "end_points_overlap": first["ci_low"] <= last["ci_high"] and last["ci_low"] <= first["ci_high"],
            }

        document[knob] = {"figure": curve(figure), "control": curve(control)}
    return document


def stamps(home: Path, folder: Path) -> dict[str, Any]:
    """T2V R@1 on unseen captions of real pictures against chance, mean of three seeds."""
    runs = [evaluate(STAMPS, [*seeded(seed), f"data.options.root={folder}"], home) for seed in SEEDS]
    recall = over_seeds([run["retrieval", "t2v_r_at_1"] for run in runs])
    chance = runs[0]["retrieval", "t2v_r_at_1/chance"]["value"]
    return {"t2v_r_at_1": recall, "chance": round(chance, 5), "times_chance": round(recall["mean"] / chance, 2)}


def reached(document: dict[str, Any]) -> dict[str, bool]:
    """Which of the figures that were asked for were met."""
    met: dict[str, bool] = {}
    if "worlds" in document:
        transformer, mean = (document["worlds"][kind] for kind in ("transformer", "frame_mean"))
        met["every attribute above chance, intervals apart"] = all(
            row["apart"] for row in transformer["attributes"].values()
        )
        met["temporal pairs: transformer's lower bound above 60 %"] = (
            transformer["temporal"]["temporal_pair_accuracy"]["ci_low"] > 0.6
        )
        pairs = mean["temporal"]
        met["temporal pairs: frame mean has 50 % in its interval"] = (
            pairs["temporal_pair_accuracy"]["ci_low"] <= 0.5 <= pairs["temporal_pair_accuracy"]["ci_high"]
        )
        met["temporal pairs: frame mean's group score is 0"] = pairs["temporal_pair_group_score"]["mean"] == 0
        met["frame mean changes by at most 1e-5 under shuffling"] = max(pairs["shuffle_change_max"]["values"]) <= 1e-5
    for knob, row in document.get("knobs", {}).items():
        met[f"{knob}: its figure rises, end points apart"] = (
            row["figure"]["rank_correlation"] > 0 and row["figure"]["end_points_apart"]
        )
        met[f"{knob}: the control does not move"] = row["control"]["end_points_overlap"]
    if "stamps" in document:
        met["stamps: T2V R@1 at least 12 x chance"] = document["stamps"]["times_chance"] >= 12
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("VLMVID_HOME", ".vlmvid")) / "benchmarks")
    parser.add_argument("--only", choices=["worlds", "knobs", "stamps"])
    parser.add_argument("--stamps-dir", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    started = time.perf_counter()
    document: dict[str, Any] = {
        "machine": platform.platform(),
        "python": platform.python_version(),
        "seeds": list(SEEDS),
    }
    if arguments.only in (None, "worlds"):
        document["worlds"] = worlds(arguments.home)
    if arguments.only in (None, "knobs"):
        document["knobs"] = knobs(arguments.home)
    if arguments.only == "stamps" or (arguments.only is None and arguments.stamps_dir):
        if arguments.stamps_dir is None:
            parser.error("--only stamps needs --stamps-dir; `make stamps` fetches the pictures")
        document["stamps"] = stamps(arguments.home, arguments.stamps_dir)
    document["reached"] = reached(document)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    document["cpu_seconds"] = round(usage.ru_utime + usage.ru_stime, 1)
    document["wall_seconds"] = round(time.perf_counter() - started, 1)
    document["peak_memory_mib"] = round(usage.ru_maxrss / 1024)
    return finish(document, arguments.out)


if __name__ == "__main__":
    sys.exit(main())
