"""What gc must not get in the way of: stages that run on this machine, runs that begin meanwhile, another gc."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from vlmvid.errors import ArtifactError
from vlmvid.pipeline.gc_references import recipe_files

GC_LOCK = "gc.lock"
REST = 9.0


def running_stages(home: Path) -> list[str]:
    """What runs on this machine, as ``stage key``, and ``tracking of NAME`` between stages: whose locks are held.

    Raises PermissionError as `is_held`.
    """
    found = []
    for path in lock_files(home):
        if is_held(path):
            name, _, key = path.stem.rpartition("-")
            found.append(f"{name} {key}" if path.parent.parent == home else f"tracking of {name}")
    return found


def lock_files(home: Path) -> list[Path]:
    """The locks of stages and of what is tracked."""
    folders = (home / "locks", home / "tracking" / "locks")
    return [path for folder in folders for path in sorted(folder.glob("*.lock")) if path.name != GC_LOCK]


class RunWatch:
    """Whether a run has begun in a store since this was made; asked before each thing that goes.

    Recipes, which a run touches first, and new lock files are looked at each time. To try the locks that were free
    takes 0.1 ms each, so they are tried again only after `REST` times as long as that took the last time.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._recipes = _asked_for(home)
        self._tried: set[Path] = set()
        self._rests_until = 0.0
        self._has_begun = False

    def has_begun(self) -> bool:
        """Whether a run has begun; from then on True, also when it has ended."""
        self._has_begun = self._has_begun or not _asked_for(self._home) <= self._recipes or self._holds_locks()
        return self._has_begun

    def _holds_locks(self) -> bool:
        files = set(lock_files(self._home))
        started = time.monotonic()
        if started >= self._rests_until:
            self._tried.clear()
        held = any(is_held(path) for path in files - self._tried)
        if not self._tried:
            now = time.monotonic()
            self._rests_until = now + REST * (now - started)
        self._tried |= files
        return held


def _asked_for(home: Path) -> set[tuple[str, float]]:
    """The store's recipes and when each was asked for: a run that begins adds to them."""
    return {(path.name, path.stat().st_mtime) for path in recipe_files(home)}


@contextmanager
def only_one(home: Path, dry_run: bool) -> Iterator[None]:
    """Hold the store at `home` against another gc, unless this one is a dry run; raises ArtifactError when it works."""
    if dry_run:
        yield
        return
    path = home / "locks" / GC_LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ArtifactError(f"another `vlmvid gc` works on {home}; wait until it has ended") from None
    try:
        yield
    finally:
        _unlink_locked(path)
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a process holds a lock file; looking at it does not make it younger.

    Raises PermissionError for one that may not even be read.
    """
    try:
        before = path.stat()
        lock = FileLock(path)
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return _is_held_for_readers(path)
    with suppress(FileNotFoundError):
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    lock.release()
    return False


def _is_held_for_readers(path: Path) -> bool:
    """As `is_held`, for a lock file that may be read and not written."""
    import fcntl  # not on Windows, where every lock file may be opened by all who may read it

    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def remove_lock(path: Path) -> None:
    """Remove a lock file while we hold it, so that nobody else does; one that is held stays."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return
    _unlink_locked(path)
    lock.release()


def _unlink_locked(path: Path) -> None:
    with suppress(PermissionError):  # Windows removes no open file
        path.unlink(missing_ok=True)
