"""Several processes that torchrun has started for one stage: the first is the pipeline, the others help it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from vlmvid.pipeline.context import RunContext

Value = TypeVar("Value")


def is_torchrun() -> bool:
    """Whether torchrun has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def is_helper() -> bool:
    """Whether this process is not the first of them."""
    return is_torchrun() and int(os.environ["RANK"]) > 0


@dataclass(frozen=True)
class Processes:
    """The processes that work together; one alone waits for nobody.

    Attributes:
        device: of this process.
        rank: its number, from 0.
    """

    device: str
    rank: int = 0

    def from_first(self, value: Value) -> Value:
        """What the first process has for `value`."""
        from vlmvid.training.distributed import from_first

        return from_first(value)

    def wait_for_all(self) -> None:
        """Go on when every process has come here."""
        from vlmvid.training.distributed import wait_for_all

        wait_for_all()


@contextmanager
def joined(context: RunContext) -> Iterator[Processes]:
    """Within the block the processes of torchrun can talk to each other; without torchrun there is this one."""
    if not is_torchrun():
        yield Processes(context.device)
        return
    from vlmvid.training.distributed import process_group, rank

    with process_group(context.device) as device:
        yield Processes(device, rank())
