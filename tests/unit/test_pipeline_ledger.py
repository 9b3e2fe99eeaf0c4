"""The ledger after a stage that was ended: a row for every stored result, and none twice."""

from __future__ import annotations

import json
import resource
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.needs import ON_POSIX
from tests.tiny import write_dataset
from tests.unit.pipeline_fixtures import ledger_of, request_for, run
from vlmvid.artifacts.ledger import Ledger, LedgerRow, Status, append_line, read_lines
from vlmvid.cli import main


@pytest.mark.parametrize(("stage", "keep_frames"), [("decode", True), ("encode", True), ("encode", False)])
def test_an_end_between_a_shard_and_its_rows_loses_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, keep_frames: bool
) -> None:
    decode = {"sampling": {"num_frames": 2}, "image_size": 32, "keep_frames": keep_frames}
    request = request_for(
        tmp_path, tmp_path / "home", write_dataset(tmp_path), decode=decode, align=None, evaluate=None
    )
    original = Ledger.record

    def ends(ledger: Ledger, rows: Iterable[LedgerRow]) -> None:
        found = list(rows)
        if found and found[0].stage == stage and found[0].shard:
            raise KeyboardInterrupt
        original(ledger, found)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Ledger, "record", ends)
        run(request)
    run(request)
    for name in ("ingest", "decode", "encode"):
        rows = ledger_of(request, name)  # type: ignore[arg-type]
        assert len(rows) == 10 and {row.status for row in rows.values()} == {"ok"}, name


def test_ingest_says_the_same_only_once(tmp_path: Path) -> None:
    request = request_for(tmp_path, tmp_path / "home", write_dataset(tmp_path), align=None, evaluate=None)
    run(request, "ingest")
    for folder in (tmp_path / "home" / "stages" / "ingest").iterdir():
        (folder / "manifest.json").unlink()
    run(request, "ingest")
    files = (tmp_path / "home" / "ledger" / "ingest").glob("*.jsonl")
    assert sum(1 for file in files for _ in read_lines(file)) == 10


def row(status: Status, key: str = "a") -> LedgerRow:
    return LedgerRow(key=key, video_id=key, stage="decode", status=status)


def test_the_last_row_counts_whatever_the_clock_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day = time.time() + 86_400
    monkeypatch.setattr(time, "time", lambda: day)
    Ledger(tmp_path, "decode").record([row("failed_transient")])
    # The clock was a day ahead, and is put right before the next process looks, and writes.
    monkeypatch.setattr(time, "time", lambda: day - 86_400)
    later = Ledger(tmp_path, "decode")
    assert later.rows()["a"].status == "failed_transient"
    later.record([row("ok")])
    assert later.rows()["a"].status == "ok" == Ledger(tmp_path, "decode").rows()["a"].status
    later.record([row("failed_permanent")])
    assert Ledger(tmp_path, "decode").rows()["a"].status == "failed_permanent"


def test_a_torn_line_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, '{"a": 1}')
    path.write_bytes(path.read_bytes() + b'{"a": 2')
    append_line(path, '{"a": 3}')
    assert list(read_lines(path)) == [{"a": 1}, {"a": 3}]


@ON_POSIX
def test_a_disk_that_takes_half_a_line_is_an_error(tmp_path: Path) -> None:
    """As a full disk does, a limit of the file's size lets a write through in part, and refuses the next."""
    path = tmp_path / "lines.jsonl"
    append_line(path, json.dumps("a" * 50))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            append_line(path, json.dumps("b" * 100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    append_line(path, json.dumps("c"))
    assert list(read_lines(path)) == ["a" * 50, "c"]


def test_a_full_disk_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(arguments: object) -> int:
        with Path("/dev/full").open("wb", buffering=0) as file:
            return file.write(b"a")

    monkeypatch.setattr("vlmvid.cli.recipes._plan", full)
    assert main(["plan", "any.yaml"]) == 1
    told = capsys.readouterr().err
    assert "there is no space left on the disk" in told and "run the same command again" in told
