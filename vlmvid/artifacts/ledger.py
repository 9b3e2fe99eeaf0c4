"""One row per clip and stage: what happened to it, and why.

One append-only JSON Lines file per writer; the state is the union on read, the newest row of a
clip wins. A line torn by a kill is the last of its file and is ignored.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from vlmvid.types import Record

Status = Literal["ok", "filtered", "failed_permanent", "failed_transient"]
_append_lock = Lock()


class LedgerRow(Record):
    """The outcome of one clip in one stage.

    `key` is the clip key of the stage (for ingest: of the manifest row), `time_seconds` the wall
    clock (Unix seconds), `attempts` counts tries at this key.
    """

    key: str
    video_id: str
    stage: str
    status: Status
    reason_code: str = ""
    message: str = ""
    attempts: int = 1
    shard: str = ""
    time_seconds: float = 0.0


def append_line(path: Path, line: str) -> None:
    """Append one line in a single write, so that a kill tears at most the last line."""
    with _append_lock:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            file.write((line + "\n").encode())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a JSON Lines file; a torn last line is skipped."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            try:
                value = json.loads(raw)
            except ValueError:
                continue  # a torn line that a later append of the same writer completed
            yield value


class Ledger:
    """The ledger of one stage under `folder`."""

    def __init__(self, folder: Path, stage: str) -> None:
        self._folder = folder / stage
        self._stage = stage
        self._writer = self._folder / f"{os.getpid()}-{os.urandom(4).hex()}.jsonl"

    def record(self, rows: Iterable[LedgerRow]) -> None:
        """Append rows; they are stamped with the time of writing."""
        text = "\n".join(row.model_copy(update={"time_seconds": time.time()}).model_dump_json() for row in rows)
        if text:
            append_line(self._writer, text)

    def rows(self) -> dict[str, LedgerRow]:
        """The newest row of every key."""
        newest: dict[str, LedgerRow] = {}
        for file in sorted(self._folder.glob("*.jsonl")):
            for value in read_lines(file):
                row = LedgerRow.model_validate(value)
                known = newest.get(row.key)
                if known is None or row.time_seconds >= known.time_seconds:
                    newest[row.key] = row
        return newest


class EventLog:
    """What the stages did, in order: an append-only JSON Lines file that tests and people can follow."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def emit(self, name: str, **fields: str | int | float) -> None:
        """Append one event with the time and process id."""
        row = {"event": name, "time_seconds": time.time(), "pid": os.getpid(), **fields}
        append_line(self._path, json.dumps(row, sort_keys=True))

    def read(self) -> list[dict[str, Any]]:
        """Every event so far."""
        return list(read_lines(self._path))
