"""Leave out clips and captions that are not to be learnt from."""

from __future__ import annotations

from flows._stages import whole_flow

filter = whole_flow("filter", "Leave out clips and captions that are not to be learnt from.")
