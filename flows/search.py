"""Answer the recipe's queries."""

from __future__ import annotations

from flows._stages import whole_flow

search = whole_flow("search", "Answer the recipe's queries.")
