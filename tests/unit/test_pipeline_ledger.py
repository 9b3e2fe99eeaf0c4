"""The ledger after a stage that was ended: a row for every stored result, and none twice."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.tiny import write_dataset
from tests.unit.pipeline_fixtures import ledger_of, request_for, run
from vlmvid.artifacts.ledger import Ledger, LedgerRow, read_lines


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
