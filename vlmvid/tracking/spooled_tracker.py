"""A tracker over any service: one parent run, one child per stage, parts below it, each with its spool."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlmvid.config.addresses import without_secrets
from vlmvid.errors import TrackingError
from vlmvid.tracking.backend import Backend, RunSpec
from vlmvid.tracking.base import RegisteredModel, Registration, RunStatus, StageRun, status_of
from vlmvid.tracking.outage import Breaker, without_password
from vlmvid.tracking.spool import Spool
from vlmvid.tracking.spool_claim import SpoolClaim
from vlmvid.tracking.spooled import MAX_PARAM_CHARS, SEND_SECONDS, STAGE_END_SECONDS, SpooledRun

logger = logging.getLogger(__name__)

PIPELINE_END_SECONDS = 120.0


class SpooledTracker:
    """A `Tracker` over a `Backend`."""

    def __init__(self, backend: Backend, spool_folder: Path, tags: Mapping[str, str]) -> None:
        self._backend = backend
        self._spool_folder = spool_folder
        self._tags = dict(tags)
        self._origin: dict[str, str] = {}
        self._breaker = Breaker()
        self._parent: SpooledRun | None = None
        # By spool file: a pipeline or stage that is entered again continues the same spool.
        self._runs: dict[Path, SpooledRun] = {}
        self._open_stages: dict[str, SpooledRun] = {}
        self._latest: dict[str, SpooledRun] = {}

    @property
    def gaps(self) -> list[str]:
        """What the service does not have, run by run; empty when all is well."""
        return [gap for run in self._runs.values() for gap in run.gaps()]

    def start_pipeline(
        self, *, pipeline_key: str, name: str, config: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        """Open the parent run and record the recipe: whole as config.json, flat as parameters."""
        self._breaker.retry_now()
        tags = {**tags, **self._origin}
        spec = RunSpec(
            name=name,
            identity={"vlmvid.pipeline_key": pipeline_key},
            tags={**self._tags, **tags},
        )
        self._parent = self._run(spec, None)
        self._latest = {"pipeline": self._parent}
        self._parent.log_json("config.json", dict(config))
        self._parent.log_params(config)
        if tags:
            self._parent.set_tags(tags)

    def note_origin(self, tags: Mapping[str, str]) -> None:
        """Put `tags` on the parent run, if it is open, and on the runs that are opened until `finish`."""
        self._origin.update(tags)
        if self._parent is not None and not self._parent.is_ended:
            self._parent.set_tags(tags)

    def log_pipeline_file(self, path: Path) -> None:
        """Attach a file to the parent run, if it is open."""
        if self._parent is not None and not self._parent.is_ended:
            self._parent.log_file(path)

    def links(self) -> dict[str, str]:
        """Addresses of the latest pipeline's runs for a browser: of the parent as ``pipeline``, of stages by name."""
        pages = {name: run.page() for name, run in self._latest.items()}
        return {name: page for name, page in pages.items() if page}

    @contextmanager
    def stage(self, stage: str, key: str, *, cached: bool = False) -> Iterator[StageRun]:
        """Open the child run of a stage; see `Tracker.stage`."""
        if self._parent is None:
            raise TrackingError(f"stage {stage!r} has no pipeline; call start_pipeline first")
        spec = RunSpec(
            name=stage,
            identity={"vlmvid.stage_key": key, "vlmvid.stage": stage},
            tags={**self._tags, **self._origin},
            computed=not cached,
        )
        run = self._run(spec, self._open_stages.get(stage.rpartition("/")[0], self._parent))
        self._open_stages[stage] = self._latest[stage] = run
        if cached:
            run.flush()
        else:
            run.set_tags({"vlmvid.cached": "false", **self._origin})
        status: RunStatus = "FINISHED"
        try:
            yield run
        except BaseException as error:
            status = status_of(error)
            run.set_tags({"vlmvid.error": without_secrets(f"{type(error).__name__}: {error}")[:MAX_PARAM_CHARS]})
            raise
        finally:
            self._open_stages.pop(stage, None)
            run.end(status)

    def register(self, wanted: Registration, stage_run: StageRun) -> RegisteredModel:
        """Offered by the implementations that have a registry."""
        raise TrackingError(
            f"{without_password(self._backend.uri)} has no model registry; cannot register {wanted.model_name!r}"
        )

    def finish(self, status: RunStatus) -> None:
        """End the parent run after a last attempt to send what still waits, of this pipeline and of earlier ones."""
        if self._parent is None:
            return
        deadline = time.monotonic() + (SEND_SECONDS if status == "KILLED" else PIPELINE_END_SECONDS)
        for run in list(self._runs.values()):
            run.flush(last_chance=True, budget_seconds=max(0.0, deadline - time.monotonic()))
        self._parent.end(status, budget_seconds=max(SEND_SECONDS, deadline - time.monotonic()))
        self._origin = {}
        if self._parent.run_id is not None and not self._breaker.broken:
            try:
                self._backend.close_children(self._parent.run_id)
            except TrackingError as error:
                self._breaker.failed(str(error))
        if status != "KILLED":
            self._replay(min(deadline, time.monotonic() + STAGE_END_SECONDS))

    def _replay(self, deadline: float) -> None:
        """Send what ended processes left of other runs of this home, e.g. of a recipe that was changed since."""
        for path in sorted(self._spool_folder.glob("*.jsonl")):
            if self._breaker.broken or time.monotonic() > deadline:
                return
            if path not in self._runs:
                with SpoolClaim(path).held() as spool:
                    if spool.path == path:  # else another process has it
                        self._replay_one(path, spool, deadline)

    def _replay_one(self, path: Path, spool: Spool, deadline: float) -> None:
        header = spool.first()
        if header is None or header["kind"] != "run" or header["service"] != self._backend.scope:
            return
        run: SpooledRun | None = None
        for one in header["chain"]:
            spec = RunSpec(one["name"], one["identity"], one["tags"], replayed=True)
            run = SpooledRun(spec, self._backend, SpoolClaim(self._path_of(spec, run)), self._breaker, run)
        if run is None:
            return
        try:
            if run.send_all(spool, deadline):
                run.close()
            self._breaker.succeeded()
        except (TrackingError, OSError) as error:
            self._breaker.failed(without_secrets(str(error)))
        if run.lost:
            logger.warning("of what an earlier run left in %s: %s", path, "; ".join(run.lost))

    def _run(self, spec: RunSpec, parent: SpooledRun | None) -> SpooledRun:
        path = self._path_of(spec, parent)
        earlier = self._runs.get(path)
        claim = earlier.claim if earlier else SpoolClaim(path)
        claim.claim()  # held until the run ends
        run = SpooledRun(spec, self._backend, claim, self._breaker, parent)
        if earlier:
            run.lost = earlier.lost
        self._runs[path] = run
        return run

    def _path_of(self, spec: RunSpec, parent: SpooledRun | None) -> Path:
        chain = [*(parent.chain if parent else []), spec]
        identity = [self._backend.scope, *(item for one in chain for item in sorted(one.identity.items()))]
        tag = hashlib.sha256(repr(identity).encode())
        name = re.sub(r"[^\w-]", "_", spec.name)[:40]
        return self._spool_folder / f"{name}-{tag.hexdigest()[:16]}.jsonl"
