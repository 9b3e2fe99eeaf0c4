"""In which precision losses compute."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32 or, where they are wider, in their own dtype."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
