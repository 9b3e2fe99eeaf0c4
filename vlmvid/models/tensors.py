"""Stored arrays to tensors and back, bfloat16 included, sharing memory where both allow it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlmvid.artifacts.arrays import BFLOAT16
from vlmvid.errors import DatasetError


def to_tensor(array: NDArray[Any]) -> Tensor:
    """The array as a CPU tensor of the same shape and dtype (`BFLOAT16` becomes torch.bfloat16).

    Shares memory, except with a read-only array (a memory map of the store), which torch cannot respect: it is copied.
    """
    values = np.ascontiguousarray(array)
    if not values.flags.writeable:
        values = values.copy()
    if values.dtype == BFLOAT16:
        return torch.from_numpy(values.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def to_array(tensor: Tensor) -> NDArray[Any]:
    """The tensor as an array of the same shape and dtype (torch.bfloat16 becomes `BFLOAT16`).

    Shares memory with a contiguous CPU tensor; a gradient is left behind.
    """
    values = tensor.detach().cpu().contiguous()
    if values.dtype == torch.bfloat16:
        bits: NDArray[Any] = values.view(torch.uint16).numpy()
        return bits.view(BFLOAT16)
    array: NDArray[Any] = values.numpy()
    return array


def load_tensor_file(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a ``.pt`` file that holds one tensor (named ``features``) or a dict of tensors by name.

    Reads tensors only (``weights_only``): nothing in the file is run. Raises DatasetError when it cannot be
    read, is cut short or holds something else.
    """
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # The unpickler follows whatever the bytes say, so damaged ones raise almost any class; nothing else runs here.
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DatasetError(f"{path} cannot be read as a .pt file: {words}; is it complete?") from error
    tensors = value if isinstance(value, dict) else {"features": value}
    wrong = [f"{name!r} is {type(item).__name__}" for name, item in tensors.items() if not isinstance(item, Tensor)]
    if wrong or not tensors:
        raise DatasetError(
            f"{path} holds {', '.join(wrong) or 'nothing'}; expected a tensor, or a dict of tensors by name"
        )
    return {str(name): to_array(item) for name, item in tensors.items()}
