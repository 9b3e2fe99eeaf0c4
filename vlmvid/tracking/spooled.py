"""One run that is written to the local spool first and sent to a tracking service when it answers.

Nothing here knows MLflow: `vlmvid.tracking.backend.Backend` is what a service must offer. Every call a stage makes ends
in the spool; sending happens in between, with short timeouts, and never raises into the stage.

What that costs a stage: metrics are sent at most every 5 s, and sending takes at most a twentieth of the time even
where the service is slow. When it stops answering, that costs the call that was under way (at most 5 s), and then one
attempt (at most 3 s until it answers again) after 30 s, 60 s, 120 s and so on up to every 600 s.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlmvid.artifacts.keys import flatten
from vlmvid.config.addresses import without_secrets
from vlmvid.errors import TrackingError
from vlmvid.tracking.backend import Backend, OpenRun, RunSpec
from vlmvid.tracking.base import RunStatus
from vlmvid.tracking.outage import Breaker, Refused, RunVanished, without_password
from vlmvid.tracking.spool import Record, Spool
from vlmvid.tracking.spool_claim import SpoolClaim

MAX_PARAMS = 100
MAX_PARAM_CHARS = 500
SEND_BATCH = 1000
SEND_WHEN_WAITING = 200
SEND_EVERY_SECONDS = 5.0
# After a sending the next one waits this many times as long as it took.
REST = 20.0
SLOW_SECONDS = 1.0
# A backlog that takes longer is sent in parts; the last part at the end of the pipeline.
SEND_SECONDS = 5.0
STAGE_END_SECONDS = 30.0
_EVERYTHING = 2**63


class SpooledRun:
    """A `StageRun` in front of a spool. Safe to use from several threads."""

    def __init__(
        self, spec: RunSpec, backend: Backend, claim: SpoolClaim, breaker: Breaker, parent: SpooledRun | None = None
    ) -> None:
        self.spec = spec
        self.lost: list[str] = []
        self._backend = backend
        self.claim = claim
        self._breaker = breaker
        self.parent = parent
        self._open: OpenRun | None = None
        self._lock = threading.RLock()
        self._waiting = 0
        self._sent_at = time.monotonic()
        self._rest_seconds = 0.0
        self._ended = False
        # An earlier process finished this run but could not say so; a reuse changes nothing of that.
        with claim.held() as spool:
            statuses = [record["status"] for record in spool.pending(_EVERYTHING)[0] if record["kind"] == "status"]
        self._finished_before = not spec.computed and statuses[-1:] == ["FINISHED"]

    @property
    def spool(self) -> Spool:
        """Where records wait."""
        return self.claim.claim()

    @property
    def is_ended(self) -> bool:
        """Was `end` called?"""
        return self._ended

    @property
    def run_id(self) -> str | None:
        """The service's id of the run; None while the service has not answered."""
        return self._open.run_id if self._open else None

    @property
    def chain(self) -> list[RunSpec]:
        """What finds this run again: the specs from the top one to its own."""
        return [*(self.parent.chain if self.parent else []), self.spec]

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record settings; a parameter that the run has already is not recorded again."""
        flat = sorted(flatten(params).items())[:MAX_PARAMS]
        self._write(
            [{"kind": "param", "key": clean_name(k), "value": str(v)[:MAX_PARAM_CHARS]} for k, v in flat], send=True
        )

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers with the present time; sent in batches."""
        now = time.time_ns() // 1_000_000
        records: list[Record] = [
            {"kind": "metric", "key": clean_name(key), "value": float(value), "step": step, "timestamp_ms": now}
            for key, value in metrics.items()
        ]
        with self._lock:
            waited = time.monotonic() - self._sent_at
            many = self._waiting + len(records) >= SEND_WHEN_WAITING
            self._write(records, send=waited >= self._rest_seconds and (many or waited >= SEND_EVERY_SECONDS))

    def log_file(self, path: Path, artifact_folder: str | None = None) -> None:
        """Attach a file or the content of a folder; read when it is sent."""
        self._write([{"kind": "file", "path": str(path.resolve()), "folder": artifact_folder}], send=True)

    def log_json(self, name: str, value: object) -> None:
        """Attach `value` as a JSON file; what JSON does not know is written as its `str`."""
        self._write([{"kind": "json", "name": name, "value": _jsonable(value)}], send=True)

    def log_table(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Add rows to a table; what JSON does not know is written as its `str`."""
        self._write([{"kind": "table", "name": name, "rows": [_jsonable(row) for row in rows]}], send=True)

    def log_dataset(self, name: str, digest: str, source: str, num_rows: int, context: str) -> None:
        """Record which data the run read, as metadata."""
        record: Record = {"name": name, "digest": digest, "source": source, "num_rows": num_rows, "context": context}
        self._write([{"kind": "dataset", **record}], send=True)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Record labels."""
        self._write([{"kind": "tag", "key": key, "value": str(value)} for key, value in tags.items()], send=True)

    def end(self, status: RunStatus, budget_seconds: float = STAGE_END_SECONDS) -> None:
        """Record the final status, send what waits for about `budget_seconds`, and let go of the spool."""
        now = time.time_ns() // 1_000_000
        if not (self._finished_before and status == "FINISHED"):
            self._write([{"kind": "status", "status": status, "end_time_ms": now}], send=False)
        self._ended = True
        # Who cancels does not wait long before he kills.
        self.flush(last_chance=True, budget_seconds=budget_seconds if status != "KILLED" else SEND_SECONDS)
        self.claim.release()

    def flush(self, *, last_chance: bool = False, budget_seconds: float = SEND_SECONDS) -> bool:
        """Send what waits, if the service is believed to be there; True when nothing is left.

        No batch is begun after `budget_seconds`.
        """
        with self._lock, self.claim.held() as spool:
            if not self._breaker.allows(last_chance=last_chance):
                return False
            started = time.monotonic()
            self._waiting, self._rest_seconds = 0, 0.0
            try:
                is_empty = self.send_all(spool, started + budget_seconds)
                self._rest_seconds = REST * (time.monotonic() - started)
                return is_empty
            except (TrackingError, OSError) as error:
                self._open = None if isinstance(error, RunVanished) else self._open
                self._breaker.failed(without_secrets(str(error)))
                return False
            finally:
                self._sent_at = time.monotonic()

    def gaps(self) -> list[str]:
        """What of this run the service does not have."""
        with self._lock, self.claim.held() as spool:
            waiting = Counter(record["kind"] for record in spool.pending(_EVERYTHING)[0] if record["kind"] != "run")
            path = spool.path
        if not waiting and self._open is not None:
            return list(self.lost)
        what = ", ".join(f"{count} {kind}" for kind, count in sorted(waiting.items())) or "the run itself"
        return [
            *self.lost,
            f"{self.spec.name}: not recorded at {without_password(self._backend.uri)}: {what} "
            f"({self._breaker.reason or 'not sent yet'}); kept in {path}, "
            "sent by the next run of this home that finds the service",
        ]

    def opened_id(self) -> str:
        """The run's id after opening it if need be; raises TrackingError when the service is away."""
        with self._lock:
            return self._opened().run_id

    def page(self) -> str | None:
        """The run's address for a browser; None while it is not open, or when the service has no pages."""
        return self._backend.page(self._open.run_id) if self._open else None

    def close(self) -> None:
        """End the run as KILLED if nobody has and nobody will; raises TrackingError when the service is away."""
        if self._open is not None:
            self._backend.close(self._open)

    def send_all(self, spool: Spool, deadline: float) -> bool:
        """Send what waits in `spool`; no batch is begun after `deadline` (`time.monotonic`). True when nothing is left.

        Raises TrackingError for an outage.
        """
        run = self._opened()
        while True:
            records, end = spool.pending(SEND_BATCH)
            if records:
                # The status that an earlier attempt left behind does not end this one.
                final = self._ended or self._finished_before or self.spec.replayed
                self._send(run, [r for r in records if r["kind"] != "run" and (final or r["kind"] != "status")])
                spool.acknowledge(end)
            # Not before: a service may say that it is well and still answer nothing.
            self._breaker.succeeded()
            if not records or time.monotonic() > deadline:
                return not records

    def _opened(self) -> OpenRun:
        if self._breaker.broken or self._open is None:
            self._backend.check()
        if self._open is None:
            parent_id = self.parent.opened_id() if self.parent else None
            self._open = self._backend.open_run(self.spec, parent_id)
        return self._open

    def _send(self, run: OpenRun, records: list[Record]) -> None:
        """Send a batch; when it is refused, find the records that are at fault and leave them out."""
        try:
            self.lost.extend(f"{self.spec.name}: {text}" for text in self._backend.send(run, records))
        except Refused as error:
            if len(records) > 1:
                for record in records:
                    self._send(run, [record])
                return
            name = next((records[0][key] for key in ("key", "name", "path") if key in records[0]), "")
            self.lost.append(f"{self.spec.name}: {records[0]['kind']} {name!r} was refused and is lost: {error}")

    def _write(self, records: list[Record], *, send: bool) -> None:
        with self._lock, self.claim.held() as spool:
            try:
                spool.append([self._header(), *records] if spool.is_new else records)
            except (OSError, ValueError) as error:
                self.lost.append(f"{self.spec.name}: {len(records)} records are lost: {spool.path}: {error}")
                return
            self._waiting += len(records)
            # A slow service is not asked for every single thing.
            resting = self._rest_seconds > REST * SLOW_SECONDS and time.monotonic() - self._sent_at < self._rest_seconds
            if send and not resting:
                self.flush()

    def _header(self) -> Record:
        """What a process needs that replays this spool: the specs, from the top."""
        chain = [{"name": one.name, "identity": dict(one.identity), "tags": dict(one.tags)} for one in self.chain]
        return {"kind": "run", "service": self._backend.scope, "chain": chain}


def clean_name(name: str) -> str:
    """A metric or parameter name that every MLflow server takes: ``R@1`` becomes ``R_at_1``."""
    return re.sub(r"[^\w./ -]", "_", name.replace("@", "_at_"), flags=re.ASCII)[:250]


def _jsonable(value: object) -> object:
    """`value` with everything that JSON does not know replaced by its `str`."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
