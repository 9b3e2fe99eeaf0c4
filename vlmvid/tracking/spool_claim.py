"""Which spool file a run of this process writes: one file has one writer.

Two processes may track the same run: a pipeline that is started twice has one parent run. The second one finds the
file held and takes the next beside it (``NAME.2.jsonl``). What a killed process left is taken over by the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from vlmvid.tracking.spool import Spool

_EVERYTHING = 2**63


class SpoolClaim:
    """The spool of one run, at `path` or beside it, held against other processes until `release`.

    The system releases it when the process is killed. Locks are files in the folder ``locks`` beside that of the
    spools. Threads may share a claim once it is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: FileLock | None = None
        self._spool: Spool | None = None

    def claim(self) -> Spool:
        """The spool, with what ended processes left of this run in it."""
        if self._spool is None:
            self._spool = self._first_free()
        return self._spool

    def release(self) -> None:
        """Let others have the spool; what waits in it stays."""
        if self._lock is not None:
            self._lock.release()
        self._lock = self._spool = None

    @contextmanager
    def held(self) -> Iterator[Spool]:
        """The spool for the time of the block; afterwards it is held or not as before."""
        was_held = self._spool is not None
        try:
            yield self.claim()
        finally:
            if not was_held:
                self.release()

    def _first_free(self) -> Spool:
        for number in count(1):
            path = self.path if number == 1 else self.path.with_name(f"{self.path.stem}.{number}.jsonl")
            lock = lock_spool(path)
            if lock is not None:
                break
        self._lock = lock
        spool = Spool(path)
        for other in sorted(self.path.parent.glob(f"{self.path.stem}*.jsonl")):
            if other != path:
                _take_over(other, spool)
        return spool


def lock_spool(path: Path) -> FileLock | None:
    """A lock on the spool at `path`, already taken; None when another process, or another run of this one, has it."""
    folder = path.parent.parent / "locks"
    lock = FileLock(folder / f"{path.stem}.lock", thread_local=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except OSError:
        return lock  # nothing can be written here: then nobody else writes, and the spool itself will say so
    return lock


def _take_over(path: Path, spool: Spool) -> None:
    """Append what an ended process left at `path`, and remove it; killed in between, the next one does it again."""
    lock = lock_spool(path)
    if lock is None:
        return
    try:
        other = Spool(path)
        records, end = other.pending(_EVERYTHING)
        header = other.first()
        if records:
            known = spool.is_new and header is not None and header not in records
            spool.append([header, *records] if known and header is not None else records)
        other.acknowledge(end)
    except OSError:
        return  # it stays where it is
    finally:
        lock.release()
