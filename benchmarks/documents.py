"""What a benchmark leaves: one JSON document, to a file and to stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def finish(document: dict[str, Any], out: Path | None) -> int:
    """Write the document; the exit code says whether all that its ``reached`` holds was reached."""
    text = json.dumps(document, indent=2, sort_keys=True)
    if out:
        out.write_text(text + "\n")
    sys.stdout.write(text + "\n")
    return 0 if all(document["reached"].values()) else 1
