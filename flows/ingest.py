"""Read the dataset and digest its files."""

from __future__ import annotations

from flows._stages import whole_flow

ingest = whole_flow("ingest", "Read the dataset and digest its files.")
