"""What each pooling makes of the same frozen tokens, on the synthetic world.

    python -m benchmarks.pooling_scores --backbone video:/FOLDER --home /tmp/pooling --out benchmarks/pooling.json
    python -m benchmarks.pooling_table

The tokens of one backbone (the tiny ViT of configs/encode/tiny_vit.yaml, which benchmarks.image_initialisation
trains and writes) are stored once for each of three seeds of the world; then pooling and heads are trained for each
kind, all with the same steps, and measured on clips whose combinations of attributes were never seen. Stages run
without Prefect and without tracking; what is in the store already is not computed again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, get_args

from benchmarks.quickstart import QUICKSTART, SEEDS, Metric, evaluate, over_seeds, seeded
from vlmvid.config.encoders import PoolingKind

# Smaller outputs than the defaults, which are meant for 14 x 14 patches and more; the tiny ViT has 4 x 4.
OPTIONS: dict[str, tuple[str, ...]] = {
    "adaptive_3d": ("align.pooling.output_side=2",),
    "slow_fast": ("align.pooling.output_side=2",),
}
METRICS = {"retrieval_r1": ("retrieval", "t2v_r_at_1"), "temporal_pairs": ("temporal", "temporal_pair_accuracy")}


def overrides(kind: str, backbone: str, seed: int, num_steps: int) -> list[str]:
    return [
        f"encode.vision={{backbone: '{backbone}', feature: mean}}",
        "encode.keep_tokens=true",
        "encode.dtype=float16",
        f"align.pooling={{kind: {kind}}}",
        f"align.optim.num_steps={num_steps}",
        *seeded(seed),
        "evaluate.tasks=[retrieval, temporal]",
        *OPTIONS.get(kind, ()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, help="of the tokens, as in a recipe")
    parser.add_argument("--home", type=Path, required=True, help="where tokens and results are kept")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--num-steps", type=int, default=300)
    parser.add_argument("--kinds", nargs="+", default=get_args(PoolingKind))
    arguments = parser.parse_args()
    kinds: dict[str, dict[str, Any]] = {}
    for kind in arguments.kinds:
        runs = [
            evaluate(QUICKSTART, overrides(kind, arguments.backbone, seed, arguments.num_steps), arguments.home)
            for seed in SEEDS
        ]
        kinds[kind] = {name: summary([run[key] for run in runs]) for name, key in METRICS.items()}
        print(json.dumps({kind: kinds[kind]}), flush=True)
    protocol = (
        f"synthetic world of configs/pipelines/quickstart.yaml; tokens of a 64 px ViT trained on single frames of it; "
        f"{arguments.num_steps} steps, {len(SEEDS)} seeds of data and training; text-to-video R@1 and accuracy on "
        "temporal pairs (chance 50 %)"
    )
    if arguments.out:
        arguments.out.write_text(json.dumps({"protocol": protocol, "kinds": kinds}, indent=1) + "\n", encoding="utf-8")


def summary(metrics: list[Metric]) -> dict[str, Any]:
    found = over_seeds(metrics)
    return {
        "value": found["mean"],
        "ci_low": found["ci_low"],
        "ci_high": found["ci_high"],
        "num_samples": found["num_samples"][0],
    }


if __name__ == "__main__":
    main()
