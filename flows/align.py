"""Learn a pooling and projection heads on stored features."""

from __future__ import annotations

from flows._stages import whole_flow

align = whole_flow("align", "Learn a pooling and projection heads on stored features.")
