"""Blocks of rows that visit every rank of a process group in turn, by messages between neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_SUMS_TAG = 0  # tags 1, 2, ... are those of the fixed tensors


class Ring:
    """The ranks of a group, each with a right neighbour that it sends to and a left one that it receives from.

    Args:
        device: where the tensors are that travel.
        group: the process group, None = all processes. Every rank of it calls the same methods in the same order.
    """

    def __init__(self, device: torch.device, group: dist.ProcessGroup | None = None) -> None:
        self.device, self.group = device, group
        self.size, self.rank = dist.get_world_size(group), dist.get_rank(group)

    def gather(self, numbers: Sequence[int]) -> list[list[int]]:
        """The numbers of every rank, as many from each."""
        own = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        every = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(every, own, group=self.group)
        return [some.tolist() for some in every]

    def sum(self, value: Tensor) -> Tensor:
        """The sum over the ranks."""
        total = value.clone()
        dist.all_reduce(total, group=self.group)
        return total

    def visit_all(
        self,
        fixed: Sequence[Tensor],
        lengths: Sequence[int],
        visit: Callable[[int, Sequence[Tensor]], Tensor | None],
        add: Callable[[Tensor, Tensor], Tensor] = torch.add,
    ) -> Tensor | None:
        """Send the tensors of every rank round the ring; returns what the visits made of this rank's.

        Args:
            fixed: this rank's tensors, each with as many rows; of other ranks they differ in the number of rows alone.
            lengths: rows on each rank.
            visit: called with a rank and that rank's tensors, once for each rank beginning with this one; what it
                returns, one row for each of theirs, is added up on the way and comes home. None from every visit on
                every rank = nothing travels but `fixed`.
            add: how two such results become one.

        While a block is visited the next one is on its way, so a rank holds two blocks beside its own.
        """
        here = [tensor.contiguous() for tensor in fixed]
        arriving: Tensor | None = None
        leaving: Tensor | None = None  # a name of its own: what is being sent must stay in memory
        under_way: list[Any] = []
        for step in range(self.size):
            source = (self.rank - step) % self.size
            next_length = lengths[(source - 1) % self.size]
            following = [tensor.new_empty((next_length, *tensor.shape[1:])) for tensor in here]
            last = step == self.size - 1
            fixed_under_way = [] if last else self._shift(list(zip(here, following, strict=True)), _SUMS_TAG + 1)
            made = visit(source, here)
            _wait(under_way)
            if made is not None:
                leaving = made if arriving is None else add(made, arriving)
                if self.size == 1:
                    return leaving
                arriving = leaving.new_empty((next_length, *leaving.shape[1:]))
                under_way = self._shift([(leaving, arriving)], _SUMS_TAG)
            _wait(fixed_under_way)
            here = following
        _wait(under_way)
        return arriving

    def _shift(self, pairs: list[tuple[Tensor, Tensor]], first_tag: int) -> list[Any]:
        """Begin to send the first of each pair to the right and to receive the second from the left."""
        right, left = ((self.rank + 1) % self.size, (self.rank - 1) % self.size)
        operations = []
        for tag, (leaving, arriving) in enumerate(pairs, first_tag):
            if leaving.numel():
                operations.append(dist.P2POp(dist.isend, leaving, group=self.group, tag=tag, group_peer=right))
            if arriving.numel():
                operations.append(dist.P2POp(dist.irecv, arriving, group=self.group, tag=tag, group_peer=left))
        return list(dist.batch_isend_irecv(operations)) if operations else []


def _wait(works: Sequence[Any]) -> None:
    for work in works:
        work.wait()
