"""The web service under load; `benchmarks/serve_load.py` is the whole of it, with figures in benchmarks/RESULTS.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_fifty_clients_over_a_hundred_thousand_clips(tmp_path: Path) -> None:
    out = tmp_path / "load.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.serve_load",
        "--seconds",
        "4",
        "--soak-seconds",
        "90",
        "--out",
        str(out),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert out.is_file(), done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert all(found["reached"].values()), json.dumps(found, indent=2)
    assert found["setting"]["clips"] == 100_000
