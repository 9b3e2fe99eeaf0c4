"""The spool loses nothing, repeats nothing that was acknowledged, and survives a kill."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from vlmvid.tracking.spool import Spool


def tag(value: int) -> dict[str, object]:
    return {"kind": "tag", "key": "k", "value": value}


def values(spool: Spool) -> list[object]:
    return [record["value"] for record in spool.pending(10**6)[0]]


def test_waiting_records_survive_reopening(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s" / "run.jsonl")
    spool.append([tag(1), tag(2), tag(3)])
    records, end = spool.pending(2)
    assert [record["value"] for record in records] == [1, 2]
    spool.acknowledge(end)
    again = Spool(tmp_path / "s" / "run.jsonl")
    assert values(again) == [3]
    assert len(again) == 1


def test_a_spool_that_was_sent_leaves_no_files(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "run.jsonl")
    spool.append([tag(1), tag(2)])
    spool.acknowledge(spool.pending(1)[1])
    spool.acknowledge(spool.pending(9)[1])
    assert list(tmp_path.iterdir()) == []
    spool.append([tag(3)])
    assert values(spool) == [3]


def test_a_torn_last_line_is_dropped_and_the_next_record_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    Spool(path).append([tag(1)])
    with path.open("ab") as file:
        file.write(b'{"kind": "tag", "ke')
    spool = Spool(path)
    spool.append([tag(2)])
    assert values(spool) == [1, 2]


def test_a_kill_while_the_sent_spool_is_removed_loses_no_later_record(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.with_suffix(".sent").write_text("5000")  # the records went, the offset did not
    spool = Spool(path)
    spool.append([tag(1)])
    assert values(spool) == [1]
    assert values(Spool(path)) == [1]


def test_a_spool_that_someone_removed_is_empty(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "run.jsonl")
    spool.append([tag(1)])
    spool.path.unlink()
    spool.append([tag(2)])
    assert values(spool) == [2]
    spool.path.unlink()
    assert values(spool) == []


def test_a_damaged_line_or_offset_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(b'not json\n{"kind": "tag", "key": "k", "value": 2}\n[1]\n')
    path.with_suffix(".sent").write_text("x")
    kinds = [record["kind"] for record in Spool(path).pending(10)[0]]
    assert kinds == ["damaged", "tag", "damaged"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["append", "send", "reopen"]), st.integers(1, 5)), max_size=20))
def test_any_order_of_operations_keeps_the_queue(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.jsonl"
        spool, expected, counter = Spool(path), [], 0
        for action, count in steps:
            if action == "append":
                new = list(range(counter, counter + count))
                counter += count
                spool.append([tag(value) for value in new])
                expected += new
            elif action == "send":
                records, end = spool.pending(count)
                assert [record["value"] for record in records] == expected[:count]
                spool.acknowledge(end)
                expected = expected[count:]
            else:
                spool = Spool(path)
            assert values(spool) == expected
