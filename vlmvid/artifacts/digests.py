"""sha256 of source files, remembered under what the file system says about them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from threading import Lock

from vlmvid.artifacts.ledger import append_line, read_lines


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """The sha256 of a text's UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


class DigestCache:
    """Content digests keyed by (absolute path, size, mtime_ns, ctime_ns, inode).

    Any difference re-hashes; `verify=True` re-hashes every file once between two calls of
    `forget_verified`. One append-only
    file per writer, so that two runs never overwrite each other's rows.
    """

    def __init__(self, folder: Path, *, verify: bool = False) -> None:
        self._folder = folder
        self._writer = folder / f"{os.getpid()}-{os.urandom(4).hex()}.jsonl"
        self._verify = verify
        self._lock = Lock()
        self._known: dict[tuple[str | int, ...], str] | None = None
        self._verified: set[tuple[str | int, ...]] = set()
        self.num_hashed = 0

    def digest(self, path: Path) -> str:
        """The sha256 of `path`; raises OSError when it cannot be read."""
        absolute = path.absolute()
        key = _identity(absolute)
        with self._lock:
            if self._known is None:
                self._known = self._load()
            remembered = self._known.get(key)
            if remembered is not None and (not self._verify or key in self._verified):
                return remembered
        value = sha256_file(absolute)
        with self._lock:
            self.num_hashed += 1
            self._verified.add(key)
            if remembered != value and _identity(absolute) == key:
                self._known[key] = value
                append_line(self._writer, json.dumps({"key": list(key), "sha256": value}))
        return value

    def forget_verified(self) -> None:
        """With ``verify``, hash every file once more from here on."""
        with self._lock:
            self._verified.clear()

    def _load(self) -> dict[tuple[str | int, ...], str]:
        known: dict[tuple[str | int, ...], str] = {}
        for file in sorted(self._folder.glob("*.jsonl"), key=lambda p: p.stat().st_mtime_ns):
            for row in read_lines(file):
                known[tuple(row["key"])] = row["sha256"]
        return known


def _identity(path: Path) -> tuple[str | int, ...]:
    status = path.stat()
    return (str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
