"""Work ahead of the one who needs it, by a bounded number of items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from threading import Semaphore, Thread
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Takes items from an iterable in a thread of its own, at most `depth` ahead of the loop over it.

    The iterable is not asked for another item while `depth` wait. Its error is raised where its
    item would have come. Leaving the ``with`` block waits for the item in work, if any, and then
    closes the iterable, in the thread.

    Args:
        items: what is taken.
        depth: so many items may wait.
        abort: called when the ``with`` block is left, in the thread that leaves it, while `items` may be
            at work: makes them give up an item that may take long. What they raise or give then is dropped.
    """

    def __init__(self, items: Iterable[T], depth: int, *, abort: Callable[[], None] | None = None) -> None:
        self._items = items
        self._abort = abort
        self._slots = Semaphore(depth)
        # One-element lists are items, an error ends the loop, None ends it well.
        self._ready: SimpleQueue[list[T] | BaseException | None] = SimpleQueue()
        self._stopping = False
        self._thread = Thread(target=self._work, name="prefetch", daemon=True)

    @property
    def num_ready(self) -> int:
        """Items that wait to be taken."""
        return self._ready.qsize()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._slots.release()
        if self._abort is not None:
            self._abort()
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        while True:
            found = self._ready.get()
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            self._slots.release()
            yield found[0]

    def _work(self) -> None:
        iterator = iter(self._items)
        try:
            while self._may_go_on():
                self._ready.put([next(iterator)])
        except StopIteration:
            self._ready.put(None)
        except BaseException as error:  # raised again by the one who waits for the item
            self._ready.put(error)
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def _may_go_on(self) -> bool:
        self._slots.acquire()
        return not self._stopping
