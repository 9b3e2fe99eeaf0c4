"""Search, page and report in figures: the parts one after another, into one document.

python -m benchmarks.serve --out benchmarks/serve.json [--only search]

A part is a program of its own, which says what it measures and takes more options: `benchmarks.serve_search`,
`benchmarks.serve_load`, `benchmarks.serve_report`. Exit code 1 when a figure was missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.documents import finish

PARTS = ("search", "load", "report")


def run_part(part: str) -> dict[str, Any]:
    """The document of a part."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "part.json"
        command = [sys.executable, "-m", f"benchmarks.serve_{part}", "--out", str(out)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL)
        if not out.is_file():
            raise SystemExit(f"{' '.join(command)} ended with exit code {done.returncode} and no document")
        document: dict[str, Any] = json.loads(out.read_text())
        return document


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="these parts alone")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = {part: run_part(part) for part in options.only or PARTS}
    reached = {f"{part}: {what}": met for part, some in found.items() for what, met in some.pop("reached").items()}
    return finish({**found, "reached": reached}, options.out)


if __name__ == "__main__":
    sys.exit(main())
