"""Build the model folder and register it."""

from __future__ import annotations

from flows._stages import whole_flow

register = whole_flow("register", "Build the model folder and register it.")
