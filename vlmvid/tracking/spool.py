"""Records that wait for the tracking service: a JSON Lines file and how far it was sent.

A record is written to the file first and sent from there, so that neither an outage nor a killed
process loses it. The side file ``*.sent`` holds the byte offset up to which the service has
everything; it is replaced atomically after each successful sending. A process killed between the
sending and that replacement sends the same records again with the same timestamps, which the
service recognises as the same points.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from vlmvid.artifacts.files import write_bytes

Record = dict[str, Any]


class Spool:
    """The waiting records of one run.

    One process at a time writes a spool (`vlmvid.tracking.spool_claim` sees to that); threads may share it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sent_path = path.with_suffix(".sent")
        self._lock = threading.Lock()
        if not path.exists():
            self._sent_path.unlink(missing_ok=True)
        self._sent = self._read_sent()
        self._end = self._drop_torn_line()

    @property
    def is_new(self) -> bool:
        """Has nothing been written since it was made, or since it was last sent completely?"""
        with self._lock:
            self._notice_removal()
            return self._end == 0

    def first(self) -> Record | None:
        """The first record, sent or not; None when there is none."""
        with self._lock:
            self._notice_removal()
            if self._end == 0:
                return None
            with self.path.open("rb") as file:
                return _parse(file.readline())

    def append(self, records: list[Record]) -> None:
        """Write `records` behind the others; raises OSError when the disk refuses."""
        data = "".join(json.dumps(record) + "\n" for record in records).encode()
        with self._lock:
            self._notice_removal()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                start = file.tell()
                try:
                    left = data
                    while left:  # a disk that is nearly full takes a part and says nothing; the next write is refused
                        left = left[file.write(left) :]
                except OSError:
                    file.truncate(start)
                    raise
            self._end += len(data)

    def pending(self, limit: int) -> tuple[list[Record], int]:
        """The next `limit` records that were not sent, and the offset behind them."""
        with self._lock:
            self._notice_removal()
            if self._sent >= self._end:
                return [], self._sent
            records: list[Record] = []
            with self.path.open("rb") as file:
                file.seek(self._sent)
                while len(records) < limit and file.tell() < self._end:
                    records.append(_parse(file.readline()))
                return records, file.tell()

    def acknowledge(self, offset: int) -> None:
        """The service has everything before `offset`; a spool that is sent completely is removed."""
        with self._lock:
            if offset < self._end:
                write_bytes(self._sent_path, str(offset).encode())
                self._sent = offset
                return
            # The records go before the offset: an offset without records is harmless and removed
            # when the spool is opened, records without their offset would be sent again.
            self.path.unlink(missing_ok=True)
            self._sent_path.unlink(missing_ok=True)
            self._sent = self._end = 0

    def __len__(self) -> int:
        """How many records wait."""
        return len(self.pending(2**63)[0])

    def _notice_removal(self) -> None:
        if not self.path.exists():  # sent completely, or someone cleaned up
            self._sent = self._end = 0

    def _read_sent(self) -> int:
        try:
            return int(self._sent_path.read_text())
        except (FileNotFoundError, ValueError):
            return 0  # sending everything again is harmless

    def _drop_torn_line(self) -> int:
        """Cut what a killed process left of its last line; returns the file's end."""
        if not self.path.exists():
            return 0
        data = self.path.read_bytes()
        end = data.rfind(b"\n") + 1
        if end < len(data):
            os.truncate(self.path, end)
        return end


def _parse(line: bytes) -> Record:
    """The record of a line; a damaged line becomes a record of kind ``damaged``, never an error."""
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if isinstance(record, dict) and "kind" in record:
        return record
    return {"kind": "damaged", "name": repr(line[:60])}
