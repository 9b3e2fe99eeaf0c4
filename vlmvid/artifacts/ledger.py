"""One row per clip and stage: what happened to it, and why.

One append-only JSON Lines file per writer; the state is the union on read, the newest row of a
clip wins. A line torn by a kill is the last of its file and is ignored.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from vlmvid.errors import DecodeError
from vlmvid.types import Record

if TYPE_CHECKING:
    from vlmvid.artifacts.mirror import Mirror

Status = Literal["ok", "filtered", "failed_permanent", "failed_transient"]
FREQUENT_EVENT = "train.step"
_LEAST_SECONDS = 1e-6  # which a float of today's Unix seconds still tells apart
_append_lock = Lock()


class LedgerRow(Record):
    """The outcome of one clip in one stage.

    `key` is the clip key of the stage (for ingest: of the manifest row), `time_seconds` the wall
    clock (Unix seconds), `attempts` counts failures at this key in a row, and is 1 for what did not fail.
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
    """Append one line in a single write, so that a kill or a full disk tears at most the last line.

    A torn line is ended first, so that it does not spoil the next one. Raises OSError when the disk refuses.
    """
    data = (line + "\n").encode()
    with _append_lock:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
                data = b"\n" + data
            while data:  # a disk that is nearly full takes a part and says nothing; the next write is refused
                data = data[file.write(data) :]


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a JSON Lines file; a torn last line is skipped."""
    return (value for value, _ in _lines_from(path, 0))


def _lines_from(path: Path, start: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Each JSON object that begins at byte `start` or later, and where the next one begins."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            start += len(raw)
            try:
                value = json.loads(raw)
            except ValueError:
                continue  # a torn line that a later append ended
            yield value, start


class Ledger:
    """The ledger of one stage under `folder`; what was read once is kept, so a second look costs only new rows."""

    def __init__(self, folder: Path, stage: str, mirror: Mirror | None = None) -> None:
        self._folder = folder / stage
        self._stage = stage
        self._mirror = mirror
        self._writer = self._folder / f"{os.getpid()}-{os.urandom(4).hex()}.jsonl"
        self._newest: dict[str, LedgerRow] = {}
        self._read_to: dict[Path, int] = {}
        self._latest = 0.0
        self._reading = Lock()

    def record(self, rows: Iterable[LedgerRow]) -> None:
        """Append rows; they are stamped with the time of writing.

        What this ledger has read or written before stays older, whatever became of the machine's clock.
        """
        self._latest = now = max(time.time(), self._latest + _LEAST_SECONDS)
        text = "\n".join(row.model_copy(update={"time_seconds": now}).model_dump_json() for row in rows)
        if text and self._mirror is None:
            append_line(self._writer, text)
        elif text and self._mirror is not None:
            # Objects cannot grow, so each call makes one of its own.
            path = self._writer.with_stem(f"{self._writer.stem}-{os.urandom(6).hex()}")
            append_line(path, text)
            self._mirror.push(path)

    def record_changes(self, rows: Iterable[LedgerRow]) -> None:
        """Append those rows of which the ledger says something else: most decisions stay when a limit changes."""
        known = self.rows()
        self.record(row for row in rows if row.key not in known or not _says_the_same(row, known[row.key]))

    def record_failures(self, failures: Sequence[tuple[str, str, DecodeError]]) -> None:
        """Append a row for each (key, video_id, why it failed); `attempts` counts on from the newest failure."""
        # Without failures the ledger, which holds every clip, is not read.
        known = self.rows() if failures else {}
        attempts = {key: row.attempts for key, row in known.items() if row.status.startswith("failed")}
        self.record(
            LedgerRow(
                key=key,
                video_id=video_id,
                stage=self._stage,
                status="failed_transient" if error.transient else "failed_permanent",
                reason_code=error.reason_code,
                message=str(error),
                attempts=attempts.get(key, 0) + 1,
            )
            for key, video_id, error in failures
        )

    def rows(self) -> dict[str, LedgerRow]:
        """The newest row of every key."""
        with self._reading:
            if self._mirror is not None:
                self._mirror.pull_folder(self._folder)
            for file in sorted(self._folder.glob("*.jsonl")):
                for value, end in _lines_from(file, self._read_to.get(file, 0)):
                    self._read_to[file] = end
                    row = LedgerRow.model_validate(value)
                    self._latest = max(self._latest, row.time_seconds)
                    known = self._newest.get(row.key)
                    if known is None or row.time_seconds >= known.time_seconds:
                        self._newest[row.key] = row
            return dict(self._newest)


def _says_the_same(row: LedgerRow, known: LedgerRow) -> bool:
    return row == known.model_copy(update={"time_seconds": row.time_seconds, "attempts": row.attempts})


class EventLog:
    """What the stages did, in order: an append-only JSON Lines file that tests and people can follow.

    In a shared store the file has this machine's events; those of all lie in the folder of the file's name, in small
    pieces. Steps of training wait there for the next event of another kind.
    """

    def __init__(self, path: Path, mirror: Mirror | None = None) -> None:
        self._path = path
        self._mirror = mirror
        self._waiting: list[str] = []
        self._lock = Lock()

    def emit(self, name: str, **fields: str | int | float) -> None:
        """Append one event with the time and process id."""
        row = {"event": name, "time_seconds": time.time(), "pid": os.getpid(), **fields}
        line = json.dumps(row, sort_keys=True)
        append_line(self._path, line)
        if self._mirror is None:
            return
        with self._lock:
            self._waiting.append(line)
            if name == FREQUENT_EVENT:
                return
            lines, self._waiting = self._waiting, []
        piece = self._path.with_suffix("") / f"{os.getpid()}-{os.urandom(8).hex()}.jsonl"
        append_line(piece, "\n".join(lines))
        self._mirror.push(piece)

    def read(self) -> list[dict[str, Any]]:
        """Every event so far, of all machines."""
        if self._mirror is None:
            return list(read_lines(self._path))
        folder = self._path.with_suffix("")
        self._mirror.pull_folder(folder)
        rows = [row for piece in folder.glob("*.jsonl") for row in read_lines(piece)]
        return sorted(rows, key=lambda row: float(row["time_seconds"]))
