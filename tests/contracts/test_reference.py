"""docs/reference says what the code says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_reference_is_what_the_code_says() -> None:
    script = [sys.executable, "scripts/make_reference.py", "--check"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, f"{done.stderr}; run: python scripts/make_reference.py"
