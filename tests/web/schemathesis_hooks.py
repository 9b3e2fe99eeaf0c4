"""What schemathesis sends as a file: a video that can be read. Loaded by its command and by the test."""

from __future__ import annotations

import tempfile
from pathlib import Path

import schemathesis
from hypothesis import strategies as st

from tests.tiny import COLOURS, write_clip


def _videos() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return [write_clip(Path(folder) / f"{name}.mp4", COLOURS[name]).read_bytes() for name in ("red", "blue")]


schemathesis.openapi.format("binary", st.sampled_from(_videos()))
