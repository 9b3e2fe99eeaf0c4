"""Requests that wait while the model works are answered together, by one call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Generic, TypeVar

from vlmvid.serving.web.errors import busy, ending
from vlmvid.serving.web.threads import DaemonThreads

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """A queue in front of a function, which runs in a thread of its own.

    Fifty clients then share one pass of the model and one over the embeddings, and the event loop goes on meanwhile.
    When a call with several items raises, each is tried alone, so that one bad request does not fail its neighbours.

    Args:
        work: one result per item, in their order.
        name: what a refused request is told that the others wait for.
        most_waiting: further items are refused with `busy`.
        most_together: so many items a call.
        retry_seconds: after so long a refused request may come again.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Sequence[R]],
        *,
        name: str,
        most_waiting: int,
        most_together: int,
        retry_seconds: int,
    ) -> None:
        self._work = work
        self._name = name
        self._most_waiting = most_waiting
        self._most_together = most_together
        self._retry_seconds = retry_seconds
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._taken: list[tuple[T, asyncio.Future[R]]] = []
        self._is_ending = False
        self._arrived = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work within the block; what is not done at its end is refused, and a call that is not done is left alone."""
        thread = DaemonThreads(1, f"vlmvid-{self._name}")
        task = asyncio.create_task(self._serve(thread))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self.refuse_all()
            thread.shutdown()

    def refuse_all(self) -> None:
        """Refuse what waits, what is in work, and what comes from now on, because the server ends."""
        self._is_ending = True
        for _, future in (*self._taken, *self._waiting):
            if not future.done():
                future.set_exception(ending())
        self._waiting.clear()

    async def do(self, item: T) -> R:
        """The result of one item; raises what `work` raises for it, and WebError when too many wait.

        Cancelling it takes an item out that is not in work yet.
        """
        if self._is_ending:
            raise ending()
        if len(self._waiting) >= self._most_waiting:  # those that were given up keep no place
            self._waiting = deque(pair for pair in self._waiting if not pair[1].done())
        if len(self._waiting) >= self._most_waiting:
            raise busy(self._name, self._retry_seconds)
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._arrived.set()
        return await future

    async def _serve(self, thread: DaemonThreads) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            taken = self._taken = self._take()
            if not taken:
                self._arrived.clear()
                continue
            outcomes = await loop.run_in_executor(thread, self._outcomes, [item for item, _ in taken])
            for (_, future), outcome in zip(taken, outcomes, strict=True):
                if future.done():
                    continue
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

    def _take(self) -> list[tuple[T, asyncio.Future[R]]]:
        taken: list[tuple[T, asyncio.Future[R]]] = []
        while self._waiting and len(taken) < self._most_together:
            item, future = self._waiting.popleft()
            if not future.done():
                taken.append((item, future))
        return taken

    def _outcomes(self, items: list[T]) -> list[R | Exception]:
        try:
            return list(self._work(items))
        except Exception as error:
            if len(items) == 1:
                return [error]
        return [outcome for item in items for outcome in self._outcomes([item])]
