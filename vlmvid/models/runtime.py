"""Where a model runs and how its random start is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vlmvid.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """The torch device called `name`; ``"auto"`` is CUDA where there is one, else the CPU.

    Raises ConfigError for a name that torch does not know and for CUDA where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}; expected auto, cpu, cuda or cuda:INDEX") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r} was asked for, but torch sees no CUDA GPU; use device: cpu or auto")
    return device


def limit_threads(num_threads: int | None) -> None:
    """Compute with at most this many CPU threads from here on; None leaves torch's own choice."""
    if num_threads is not None:
        torch.set_num_threads(num_threads)


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Draw from a generator seeded with `seed` inside the block; restore the caller's state after it.

    The CPU generator, and that of `device` where it is a CUDA device, are the ones seeded.
    """
    cuda = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
