"""Measure the aligned model."""

from __future__ import annotations

from flows._stages import whole_flow

evaluate = whole_flow("evaluate", "Measure the aligned model.")
