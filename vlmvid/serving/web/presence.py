"""Which videos of the index are still there, asked of file systems that may not answer."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from vlmvid.serving.web.threads import DaemonThreads

_SECONDS = 0.5
_NUM_THREADS = 8
_MOST_TOGETHER = 4  # of the threads, for one call
_MOST_WAITING = 256


class Presence:
    """Looks for files in threads of its own, and gives each call half a second.

    A network mount that hangs holds every thread that asks it, for as long as it hangs; once all are held, nothing is
    known of any file, and nobody waits for it.
    """

    def __init__(self) -> None:
        self._threads = DaemonThreads(_NUM_THREADS, "vlmvid-presence")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look within the block."""
        try:
            yield
        finally:
            self._threads.shutdown()

    async def missing(self, paths: Sequence[str]) -> list[bool | None]:
        """Of each path, whether there is no regular file; None where the file system does not say so in time."""
        found: dict[str, bool] = {}
        distinct = list(dict.fromkeys(paths))
        if distinct and self._threads.num_waiting < _MOST_WAITING:
            give_up = time.monotonic() + _SECONDS
            loop = asyncio.get_running_loop()
            looks = [
                loop.run_in_executor(self._threads, _look, distinct[start::_MOST_TOGETHER], found, give_up)
                for start in range(min(_MOST_TOGETHER, len(distinct)))
            ]
            _, late = await asyncio.wait(looks, timeout=_SECONDS)
            for look in late:
                look.cancel()
        return [found.get(path) for path in paths]


def _look(paths: Sequence[str], found: dict[str, bool], give_up: float) -> None:
    for path in paths:
        if time.monotonic() > give_up:
            return
        found[path] = not os.path.isfile(path)
