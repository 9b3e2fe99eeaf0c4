"""The tables of docs/pooling.md, from the registry of poolings and from what was measured.

``python -m benchmarks.pooling_table`` writes them. Scores come from ``benchmarks/pooling.json``, where it is
there::

    {"protocol": "one sentence on data, encoder and seeds",
     "kinds": {"frame_mean": {"retrieval_r1": SCORE, "temporal_pairs": SCORE}, ...}}

SCORE is ``{"value", "ci_low", "ci_high", "num_samples"}``, rates in [0, 1]. A kind without a score is "not measured".
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, get_args

from vlmvid.config.encoders import POOLING_OPTIONS, PoolingConfig, PoolingKind
from vlmvid.models.pooling import POOLINGS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "pooling.md"
SCORES = ROOT / "benchmarks" / "pooling.json"
NUM_FRAMES, NUM_PATCHES, FEATURE_DIM = 8, 196, 768
KINDS: tuple[PoolingKind, ...] = get_args(PoolingKind)
SCORE_COLUMNS = {"retrieval_r1": "T2V R@1", "temporal_pairs": "temporal pairs"}


def definitions() -> list[str]:
    """The lines of the table of definitions."""
    rows = []
    for kind in KINDS:
        spec = POOLINGS.get(kind)
        options = ", ".join(f"`{option}`" for option, kinds in POOLING_OPTIONS.items() if kind in kinds)
        order = "no" if spec.is_order_blind else "yes"
        rows.append([f"`{kind}`", spec.definition, spec.source, options or "none", order])
    return _table(["kind", "definition", "source", "options", "order of frames matters"], rows)


def numbers(scores: dict[str, Any]) -> list[str]:
    """The lines of the table of counts and scores; `scores` is the parsed ``pooling.json`` or empty."""
    rows = []
    for kind in KINDS:
        spec, config = POOLINGS.get(kind), PoolingConfig(kind=kind)
        tokens_in = NUM_FRAMES * (NUM_PATCHES if spec.reads == "tokens" else 1)
        tokens_out = spec.num_tokens_out(config, NUM_FRAMES, NUM_PATCHES)
        flops = spec.flops(config, NUM_FRAMES, NUM_PATCHES, FEATURE_DIM)
        measured = scores.get("kinds", {}).get(kind, {})
        cells = [_score(measured.get(name)) for name in SCORE_COLUMNS]
        rows.append([f"`{kind}`", str(tokens_in), str(tokens_out), f"{flops / 1e6:,.3g}", spec.flops_formula, *cells])
    return _table(["kind", "tokens in", "tokens out", "MFLOPs", "FLOPs", *SCORE_COLUMNS.values()], rows)


def page() -> str:
    """The page with its tables written anew."""
    text = PAGE.read_text(encoding="utf-8")
    scores = json.loads(SCORES.read_text(encoding="utf-8")) if SCORES.is_file() else {}
    protocol = [scores["protocol"]] if scores else ["The scores are not measured yet."]
    for name, lines in (("definitions", definitions()), ("numbers", numbers(scores)), ("protocol", protocol)):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, rest = text.split(begin)
        text = before + "\n".join([begin, *lines, end]) + rest.split(end)[1]
    return text


def _score(score: dict[str, Any] | None) -> str:
    if score is None:
        return "not measured"
    value, low, high = (f"{100 * score[name]:.1f}" for name in ("value", "ci_low", "ci_high"))
    return f"{value} % ({low} to {high}, n = {score['num_samples']})"


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    sys.stderr.write(f"wrote {PAGE}\n")


if __name__ == "__main__":
    main()
