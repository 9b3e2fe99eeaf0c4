"""Faults of disks, clocks, files and networks, on ten tiny clips and without servers: in this process, so cheap."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from tests.e2e.bench import Survival, variables
from tests.tiny import read_rows, write_clip, write_dataset, write_rows
from tests.unit.pipeline_fixtures import request_for, run
from vlmvid.artifacts.ledger import read_lines
from vlmvid.errors import ConfigError
from vlmvid.pipeline import RunRequest
from vlmvid.pipeline.context import open_context
from vlmvid.pipeline.index import read_index
from vlmvid.pipeline.plan import plan

STAGES = ("ingest", "decode", "encode", "align", "evaluate")
KILOBYTE = 1024


@dataclass(frozen=True)
class Result:
    """What the tiny recipe ends in: features by clip, the aligned weights, the metrics, the ledger's statuses."""

    features: dict[str, bytes]
    weights: bytes
    metrics: bytes
    ledger: dict[str, dict[str, str]]


class Tiny:
    """The tiny recipe's clips in a folder, and what they come to when nothing is in the way."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder = folder
        self.manifest = write_dataset(folder)
        started = time.monotonic()
        request = self.request(folder / "undisturbed")
        run(request)
        self.expected = result(request)
        self.seconds = time.monotonic() - started

    def request(self, home: Path | str, name: str = "run", **sections: Any) -> RunRequest:
        """The tiny recipe over these clips."""
        place = self.folder / name
        place.mkdir(exist_ok=True)
        return request_for(place, home, self.manifest, **sections)  # type: ignore[arg-type]

    def survived(self, started: float, runs: int, note: str = "") -> Survival:
        return Survival(runs, time.monotonic() - started - self.seconds, note)


def result(request: RunRequest) -> Result:
    """Read what a finished run has left; each clip has one row in every index."""
    open_context.cache_clear()
    context = open_context(request)
    index = read_index(context.folder("encode"))
    assert len({row.video_id for row in index}) == len(index)
    good = [row for row in index if row.status == "ok"]
    array = context.store.clips("encode").gather("features", [row.location for row in good])
    ledger = {
        stage: {row.video_id: row.status for row in context.store.ledger(stage).rows().values()}
        for stage in ("ingest", "decode", "encode")
    }
    return Result(
        features={row.video_id: np.ascontiguousarray(one).tobytes() for row, one in zip(good, array, strict=True)},
        weights=(context.folder("align") / "alignment.safetensors").read_bytes(),
        metrics=(context.folder("evaluate") / "metrics.json").read_bytes(),
        ledger=ledger,
    )


# Disks.


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Callable[[str], None]]:
    """A file system of `size` bytes at `place`; what it gives takes other mount options. Needs root."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)

    try:
        yield remount
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def full_disk(tiny: Tiny) -> Survival:
    """A disk that grows by a few kilobytes each time it is full: every write of a run is once the one that fails."""
    started, failures = time.monotonic(), []
    with small_disk(tiny.folder / "disk", 16 * KILOBYTE) as remount:
        home, size = tiny.folder / "disk" / "home", 16 * KILOBYTE
        while True:
            open_context.cache_clear()
            try:
                request = tiny.request(home)
                run(request)
                break
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
                failures.append("a write")
            except ConfigError as error:
                assert "No space left on device" in str(error), error
                failures.append("the start")
            size += 24 * KILOBYTE
            assert size < 64 * 2**20, "it never fitted"
            remount(f"size={size}")
        assert result(request) == tiny.expected
        assert not [path for path in home.rglob(".*")], "a write that failed left its temporary file"
    return tiny.survived(started, len(failures) + 1, f"{len(failures)} times full")


def full_disk_under_weights(tiny: Tiny) -> Survival:
    """safetensors has an error of its own for it, which says neither to us nor to Prefect that it may pass."""
    from torch import nn

    from vlmvid.models.module_files import save_module

    started = time.monotonic()
    with small_disk(tiny.folder / "weights", 64 * KILOBYTE) as remount:
        path = tiny.folder / "weights" / "module.safetensors"
        try:
            save_module(nn.Linear(200, 200), path)
        except OSError as error:
            assert error.errno == errno.ENOSPC and error.filename == str(path)
        else:
            raise AssertionError("160 kB fitted into 64")
        remount(f"size={1024 * KILOBYTE}")
        save_module(nn.Linear(200, 200), path)
    return tiny.survived(started, 2)


def read_only(tiny: Tiny) -> Survival:
    """A store that is finished and then read-only: a run says so at once, and what is there can be read."""
    started = time.monotonic()
    with small_disk(tiny.folder / "fixed", 64 * 2**20) as remount:
        home = tiny.folder / "fixed" / "home"
        request = tiny.request(home)
        run(request)
        remount("ro")
        open_context.cache_clear()
        try:
            tiny.request(home)
        except ConfigError as error:
            assert "is not writable" in str(error) and "set VLMVID_HOME" in str(error)
        else:
            raise AssertionError("a store that is read-only was taken")
        remount("rw")
        open_context.cache_clear()
        assert {stage.status for stage in plan(tiny.request(home))} == {"cached"}
        assert result(request) == tiny.expected
    return tiny.survived(started, 2)


# Clocks.


def clock_jump(tiny: Tiny) -> Survival:
    """The clock goes back an hour after decoding, and ahead a day after encoding."""
    started, real, offset = time.monotonic(), time.time, [0.0]
    request = tiny.request(tiny.folder / "clock")
    with patch.object(time, "time", lambda: real() + offset[0]):
        for stage, jump in zip(STAGES, (0.0, 0.0, -3600.0, 86400.0, 0.0), strict=True):
            offset[0] = jump
            run(request, stage)
        offset[0] = -3600.0
        open_context.cache_clear()
        assert {stage.status for stage in plan(request)} == {"cached"}
    assert result(request) == tiny.expected
    return tiny.survived(started, 1)


# Files.


def replaced_file(tiny: Tiny) -> Survival:
    """Other content under the same name, of the same size and with the same time of change."""
    started = time.monotonic()
    path = tiny.folder / "clip3.mp4"
    before, status = path.read_bytes(), path.stat()
    request = tiny.request(tiny.folder / "replaced")
    run(request)
    other = bytearray(write_clip(tiny.folder / "other.mp4", (9, 99, 199), shift=3).read_bytes())
    padded = other.ljust(len(before), b"\0") if len(other) < len(before) else other
    try:
        path.write_bytes(padded)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        open_context.cache_clear()
        statuses = {stage.name: stage.status for stage in plan(request)}
        assert statuses["ingest"] == statuses["decode"] == statuses["encode"] == "run", statuses
        shards = len(_written(request))
        run(request)
        found = result(request)
        changed = {name for name in found.features if found.features[name] != tiny.expected.features[name]}
        assert changed == {"v3"}, changed
        assert len(_written(request)) == shards + 2  # one shard of one clip in decode, one in encode
    finally:
        path.write_bytes(before)
    open_context.cache_clear()
    run(request)
    assert result(request).features == tiny.expected.features
    assert len(_written(request)) == shards + 2, "what was known was computed again"
    return tiny.survived(started, 3)


def two_names(tiny: Tiny) -> Survival:
    """A copy of a clip under another name and video_id, in the same dataset and later in another."""
    started = time.monotonic()
    shutil.copy(tiny.folder / "clip0.mp4", tiny.folder / "copy.mp4")
    rows = read_rows(tiny.manifest)
    again = write_rows(tiny.folder / "twice.jsonl", [*rows, {**rows[0], "video_id": "again", "path": "copy.mp4"}])
    place = tiny.folder / "twice"
    place.mkdir()
    request = request_for(place, tiny.folder / "twice-home", again, align=None, evaluate=None)
    run(request)
    decoded = [row for row in _written(request) if row["stage"] == "decode"]
    assert sum(row["ok"] for row in decoded) == len(rows), "a content was decoded twice"
    index = {row.video_id: row.location for row in read_index(open_context(request).folder("encode"))}
    assert index["again"] == index["v0"] and len(index) == len(rows) + 1
    return tiny.survived(started, 1)


def _written(request: RunRequest) -> list[dict[str, Any]]:
    return [row for row in read_lines(Path(request.home) / "events.jsonl") if row["event"] == "shard.written"]


# The network.


def shared_store(tiny: Tiny, *, fault: Mapping[str, Any]) -> Survival:
    """A home in S3, behind a network that breaks connections off, or lets bytes through slowly."""
    import boto3
    from moto.server import ThreadedMotoServer

    from tests.e2e.network import BadNetwork

    started = time.monotonic()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    values = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    try:
        with closing(BadNetwork((host, port), **fault)) as network, variables(values):
            name = f"faults-{os.urandom(4).hex()}"
            with closing(boto3.client("s3")) as client:
                client.create_bucket(Bucket=name)
            os.environ["AWS_ENDPOINT_URL"] = network.uri
            os.environ["VLMVID_CACHE"] = str(tiny.folder / f"cache-{name}")
            request = tiny.request(f"s3://{name}/home")
            run(request)
            # Another machine, which has nothing of it yet.
            os.environ["VLMVID_CACHE"] = str(tiny.folder / f"other-{name}")
            assert result(request) == tiny.expected
            note = network.said()
            os.environ.pop("VLMVID_CACHE")
    finally:
        open_context.cache_clear()
        server.stop()
    return tiny.survived(started, 1, note)


SMALL: dict[str, Callable[[Tiny], Survival]] = {
    "full disk, at every write": full_disk,
    "full disk, under weights": full_disk_under_weights,
    "read-only store": read_only,
    "clock an hour back and a day ahead": clock_jump,
    "file replaced under the same name": replaced_file,
    "same content under two names": two_names,
    "S3 breaks every third connection off": lambda tiny: shared_store(tiny, fault={"cut_every": 3}),
    "S3 answers slowly": lambda tiny: shared_store(tiny, fault={"bytes_per_second": 200_000}),
}
