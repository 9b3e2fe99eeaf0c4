"""The table of docs/recipes.md: what the recipes in configs/align need, as `vlmvid plan` estimates it.

``python -m benchmarks.recipes_table`` writes it anew. No data, weights or network are needed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from vlmvid.pipeline import make_request
from vlmvid.pipeline.estimate import GPUS, bytes_words, hours_words
from vlmvid.pipeline.plan import Needs, needs

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "recipes.md"
RECIPES = sorted((ROOT / "configs" / "align").glob("*.yaml"))
BEGIN, END = "<!-- estimates: begin -->", "<!-- estimates: end -->"
SHOWN = ("a100", "h200", "rtx4090")


def estimates(gpu: str = SHOWN[0]) -> dict[str, Needs]:
    """Per recipe what it needs on `gpu`, without its data."""
    with tempfile.TemporaryDirectory() as home:
        return {path.stem: needs(make_request(path, home=home), gpu) for path in RECIPES}


def rows() -> list[str]:
    """The lines of the table."""
    by_gpu = {gpu: estimates(gpu) for gpu in SHOWN}
    lines = [
        "| recipe | clips | disk, encode | disk, all | encode, A100 | align, A100 | memory, encode | memory, align | "
        + " | ".join(f"all, {GPUS.get(gpu).name}" for gpu in SHOWN[1:])
        + " |",
        "|---|" + "--:|" * (7 + len(SHOWN) - 1),
    ]
    for name, found in by_gpu[SHOWN[0]].items():
        stages = {one.name: one for one in found.stages}
        encode, align = stages["encode"], stages["align"]
        cells = [
            f"{found.data.num_clips:,}" if found.data is not None else "unknown",
            bytes_words(encode.disk_bytes),
            bytes_words(sum(one.disk_bytes or 0 for one in found.stages)),
            hours_words(encode.gpu_hours) + " h",
            hours_words(align.gpu_hours) + " h",
            bytes_words(encode.memory_bytes),
            bytes_words(align.memory_bytes),
        ]
        cells += [hours_words(sum(one.gpu_hours or 0 for one in by_gpu[gpu][name].stages)) + " h" for gpu in SHOWN[1:]]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return lines


def page() -> str:
    """The page with its table written anew."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    return before + "\n".join([BEGIN, *rows(), END]) + rest.split(END)[1]


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    sys.stderr.write(f"wrote {PAGE}\n")


if __name__ == "__main__":
    main()
