"""Working ahead: in order, bounded, with errors in their place, and gone when the loop is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from vlmvid.training.prefetch import Prefetch


class Source:
    """Numbers that tell how many were asked for and whether they were closed."""

    def __init__(self, count: int, fail_at: int | None = None) -> None:
        self.count, self.fail_at = count, fail_at
        self.asked = 0
        self.closed_in = ""

    def __iter__(self) -> Iterator[int]:
        try:
            for number in range(self.count):
                self.asked += 1
                if number == self.fail_at:
                    raise LookupError(f"number {number}")
                yield number
        finally:
            self.closed_in = threading.current_thread().name


def wait_until_idle(source: Source) -> int:
    """How far `source` has been read once nothing moves any more."""
    deadline = time.monotonic() + 5
    seen = -1
    while seen != source.asked and time.monotonic() < deadline:
        seen = source.asked
        time.sleep(0.05)
    return source.asked


@pytest.mark.parametrize("depth", [1, 3, 100])
def test_items_come_in_order_and_the_source_is_closed_in_its_thread(depth: int) -> None:
    source = Source(20)
    with Prefetch(source, depth) as ahead:
        assert list(ahead) == list(range(20))
    assert source.closed_in == "prefetch"


@pytest.mark.parametrize("depth", [1, 4])
def test_no_more_than_depth_items_wait(depth: int) -> None:
    source = Source(50)
    with Prefetch(source, depth) as ahead:
        for taken, _ in enumerate(ahead, start=1):
            if taken in (1, 10):
                assert wait_until_idle(source) == taken + depth
                assert ahead.num_ready == depth
    assert source.asked == 50


def test_an_error_comes_where_its_item_would_have_come() -> None:
    source = Source(9, fail_at=3)
    taken = []
    with Prefetch(source, 5) as ahead, pytest.raises(LookupError, match="number 3"):
        for number in ahead:
            taken.append(number)
    assert taken == [0, 1, 2]
    assert source.closed_in == "prefetch"


def test_leaving_early_ends_the_thread_and_closes_the_source() -> None:
    source = Source(1000)
    with Prefetch(source, 2) as ahead:
        assert next(iter(ahead)) == 0
    assert source.asked <= 4 and source.closed_in == "prefetch"
    assert "prefetch" not in {thread.name for thread in threading.enumerate()}


def test_an_error_of_the_loop_is_not_hidden() -> None:
    with pytest.raises(KeyError, match="mine"), Prefetch(Source(10), 2) as ahead:
        for _ in ahead:
            raise KeyError("mine")


def test_abort_frees_an_item_in_work() -> None:
    released, asked = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 0
        asked.set()
        assert released.wait(60)
        raise LookupError("nobody waits for this")

    start = time.monotonic()
    with pytest.raises(KeyError, match="mine"), Prefetch(items(), 2, abort=released.set) as ahead:
        assert next(iter(ahead)) == 0
        assert asked.wait(60)
        raise KeyError("mine")
    assert time.monotonic() - start < 10
    assert "prefetch" not in {thread.name for thread in threading.enumerate()}


def test_nothing_to_do() -> None:
    with Prefetch(Source(0), 1) as ahead:
        assert list(ahead) == []
