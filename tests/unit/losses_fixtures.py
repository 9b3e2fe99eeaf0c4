"""What the tests of losses share: unit rows, and a look at every tensor that is made."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def unit_rows(num_rows: int, dim: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num_rows, dim, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(rows).to(dtype)


class Created(TorchDispatchMode):
    """The operations that ran and the numbers in each new storage."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []
        self.numels: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations.append(func.overloadpacket.__name__)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.numels.append(tensor.untyped_storage().nbytes() // tensor.element_size())
        return result
