"""The store: whole or absent, content-addressed, honest about damage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vlmvid.artifacts import Facts, KeyParts, LedgerRow, Row, open_store
from vlmvid.artifacts.digests import DigestCache, sha256_file
from vlmvid.artifacts.files import staging_folder, write_bytes
from vlmvid.artifacts.keys import first_difference
from vlmvid.artifacts.ledger import Ledger, read_lines
from vlmvid.errors import ArtifactError, ConfigError, DecodeError


def parts(**changes: object) -> KeyParts:
    values: dict[str, object] = {
        "stage": "encode",
        "inputs": {"decode": "k1"},
        "config": {"vision": {"backbone": "a", "layer": None}},
        "weights": {"vision": "w"},
        "code": {"vlmvid.models.text": "c1"},
        "packages": {"torch": "2.13.0"},
    }
    return KeyParts.model_validate({**values, **changes})


def test_publish_then_ref(tmp_path: Path) -> None:
    store = open_store(tmp_path / "home")
    assert store.ref("encode", parts().key) is None
    ref = store.publish(parts(), "embeddings", lambda f: write_bytes(f / "a" / "x.bin", b"123"), Facts(recipe="r"))
    assert store.ref("encode", parts().key) == ref
    manifest = store.manifest("encode", ref.key)
    assert manifest is not None
    assert manifest.files["a/x.bin"].sha256 == sha256_file(Path(ref.uri) / "a" / "x.bin")
    assert manifest.parts == parts()


def test_an_artifact_without_a_whole_manifest_does_not_exist(tmp_path: Path) -> None:
    store = open_store(tmp_path / "home")
    ref = store.publish(parts(), "embeddings", lambda f: write_bytes(f / "x.bin", b"123"), Facts(recipe="r"))
    (Path(ref.uri) / "x.bin").write_bytes(b"12")
    assert store.ref("encode", ref.key) is None
    (Path(ref.uri) / "x.bin").write_bytes(b"123")
    assert store.ref("encode", ref.key) == ref
    (Path(ref.uri) / "manifest.json").write_text("{")
    assert store.ref("encode", ref.key) is None
    assert store.why_not_cached(parts(), "r") == "files of its stored result are missing or damaged"


def test_a_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path / "home")

    def write(folder: Path) -> None:
        write_bytes(folder / "x.bin", b"1")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.publish(parts(), "embeddings", write, Facts(recipe="r"))
    assert store.ref("encode", parts().key) is None
    assert list((tmp_path / "home" / "stages" / "encode").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": {"decode": "k2"}}, "input decode: k1 -> k2"),
        ({"config": {"vision": {"backbone": "b", "layer": None}}}, "config vision.backbone: a -> b"),
        ({"config": {"vision": {"backbone": "a", "layer": 3}}}, "config vision.layer: None -> 3"),
        ({"weights": {"vision": "v"}}, "weights vision: w -> v"),
        ({"code": {"vlmvid.models.text": "c2"}}, "code vlmvid.models.text changed"),
        ({"code": {"vlmvid.models.text": "c1", "vlmvid.x": "n"}}, "code vlmvid.x is new"),
        ({"packages": {"torch": "2.14.0"}}, "package torch: 2.13.0 -> 2.14.0"),
    ],
)
def test_why_not_cached_names_the_first_difference(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    store = open_store(tmp_path / "home")
    assert store.why_not_cached(parts(), "r") == "no earlier result in this store"
    store.publish(parts(), "embeddings", lambda f: None, Facts(recipe="r"))
    changed = parts(**changes)
    assert changed.key != parts().key
    assert store.why_not_cached(changed, "other") == "no earlier result of recipe 'other' in this store"
    assert store.why_not_cached(changed, "r") == words
    assert first_difference(parts(), parts()) is None


def test_what_is_missing_from_an_artifact_is_its_revision(tmp_path: Path) -> None:
    store = open_store(tmp_path / "home")
    key = parts().key
    for revision, known_as in (("", key), ("abc", f"{key}+abc"), ("", key)):
        store.publish(parts(), "embeddings", lambda f: None, Facts(recipe="r", revision=revision))
        assert store.input_key("encode", key) == known_as


def test_publishing_again_replaces_the_artifact(tmp_path: Path) -> None:
    store = open_store(tmp_path / "home")
    for content in (b"one", b"other"):
        ref = store.publish(parts(), "embeddings", lambda f, c=content: write_bytes(f / "x", c), Facts(recipe="r"))  # type: ignore[misc]
        assert (Path(ref.uri) / "x").read_bytes() == content
    assert [p.name for p in (tmp_path / "home" / "stages" / "encode").iterdir()] == [ref.key]


def test_accepting_code_pins_the_old_digests(tmp_path: Path) -> None:
    store = open_store(tmp_path / "home")
    assert store.accepted_code("decode", {"m": "new"}, {"av": "18"}) == ({"m": "new"}, {"av": "18"}, False)
    store.accept_code("decode", {"m": "new"}, {"av": "18"}, parts(code={"m": "old"}, packages={"av": "17"}))
    assert store.accepted_code("decode", {"m": "new"}, {"av": "18"}) == ({"m": "old"}, {"av": "17"}, True)
    assert store.accepted_code("decode", {"m": "newer"}, {"av": "18"})[2] is False


def test_a_home_that_cannot_be_used_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="not writable.*set VLMVID_HOME"):
        open_store(tmp_path / "file" / "home")


def test_staging_keeps_the_first_writer(tmp_path: Path) -> None:
    final = tmp_path / "a"
    with staging_folder(final) as folder:
        (folder / "x").write_text("first")
    with staging_folder(final) as folder:
        (folder / "x").write_text("second")
    assert (final / "x").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


class TestClipStore:
    def test_rows_and_gather_join_by_key(self, tmp_path: Path) -> None:
        store = open_store(tmp_path).clips("decode")
        store.write(["a", "b"], {"x": np.arange(4).reshape(2, 2)})
        store.write(["c"], {"x": np.array([[9, 9]])})
        rows = store.rows(["c", "a", "missing"])
        assert set(rows) == {"c", "a"}
        assert store.gather("x", [rows["c"], rows["a"], rows["c"]]).tolist() == [[9, 9], [0, 1], [9, 9]]

    def test_another_process_sees_new_shards(self, tmp_path: Path) -> None:
        first, second = open_store(tmp_path).clips("decode"), open_store(tmp_path).clips("decode")
        assert second.rows(["a"]) == {}
        shard = first.write(["a"], {"x": np.zeros((1, 2))})
        assert second.rows(["a"]) == {"a": Row(shard, 0)}

    def test_writing_again_is_harmless_and_damage_is_replaced(self, tmp_path: Path) -> None:
        store = open_store(tmp_path).clips("decode")
        shard = store.write(["a"], {"x": np.arange(3)[None]})
        assert store.write(["a"], {"x": np.arange(3)[None]}) == shard
        file = tmp_path / "clips" / "decode" / shard / "x.npy"
        file.write_bytes(file.read_bytes()[:-1])
        fresh = open_store(tmp_path).clips("decode")
        assert fresh.rows(["a"]) == {}
        fresh.write(["a"], {"x": np.arange(3)[None]})
        assert fresh.gather("x", [fresh.rows(["a"])["a"]]).tolist() == [[0, 1, 2]]

    def test_verify_finds_flipped_bytes(self, tmp_path: Path) -> None:
        store = open_store(tmp_path).clips("decode")
        shard = store.write(["a"], {"x": np.arange(3)[None]})
        assert store.verify() == []
        file = tmp_path / "clips" / "decode" / shard / "x.npy"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        assert store.verify() == [shard]
        assert store.rows(["a"]) == {}

    def test_row_counts_must_fit(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="1 rows for 2 keys"):
            open_store(tmp_path).clips("decode").write(["a", "b"], {"x": np.zeros((1, 2))})

    def test_a_kill_in_the_middle_of_a_write_leaves_no_shard(self, tmp_path: Path) -> None:
        code = (
            "import os, signal, sys, numpy as np\n"
            "from vlmvid.artifacts import open_store, shards\n"
            "def die(*args): os.kill(os.getpid(), signal.SIGKILL)\n"
            "shards.write_json = die\n"
            f"open_store({str(tmp_path)!r}).clips('decode').write(['a'], {{'x': np.zeros((1, 2))}})\n"
        )
        assert subprocess.run([sys.executable, "-c", code]).returncode == -9
        store = open_store(tmp_path).clips("decode")
        assert store.rows(["a"]) == {}
        store.write(["a"], {"x": np.zeros((1, 2))})
        assert set(store.rows(["a"])) == {"a"}


class TestDigests:
    def test_unchanged_files_are_not_hashed_again(self, tmp_path: Path) -> None:
        file = tmp_path / "v.mp4"
        file.write_bytes(b"one")
        first = DigestCache(tmp_path / "digests")
        assert first.digest(file) == sha256_file(file)
        second = DigestCache(tmp_path / "digests")
        assert second.digest(file) == sha256_file(file)
        assert (first.num_hashed, second.num_hashed) == (1, 0)

    def test_replaced_content_of_equal_size_is_seen(self, tmp_path: Path) -> None:
        file = tmp_path / "v.mp4"
        file.write_bytes(b"one")
        cache = DigestCache(tmp_path / "digests")
        before = cache.digest(file)
        status = file.stat()
        file.write_bytes(b"two")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # the change time still differs
        assert cache.digest(file) == sha256_file(file) != before

    def test_verify_hashes_every_file_once(self, tmp_path: Path) -> None:
        file = tmp_path / "v.mp4"
        file.write_bytes(b"one")
        DigestCache(tmp_path / "digests").digest(file)
        cache = DigestCache(tmp_path / "digests", verify=True)
        assert [cache.digest(file), cache.digest(file)] == [sha256_file(file)] * 2
        assert cache.num_hashed == 1


class TestLedger:
    def row(self, status: str, key: str = "k") -> LedgerRow:
        return LedgerRow.model_validate({"key": key, "video_id": "v", "stage": "decode", "status": status})

    def test_the_newest_row_of_all_writers_wins(self, tmp_path: Path) -> None:
        one, two = Ledger(tmp_path, "decode"), Ledger(tmp_path, "decode")
        one.record([self.row("failed_transient")])
        time.sleep(0.01)
        two.record([self.row("ok"), self.row("failed_permanent", "other")])
        assert {k: r.status for k, r in one.rows().items()} == {"k": "ok", "other": "failed_permanent"}
        assert len(list((tmp_path / "decode").glob("*.jsonl"))) == 2

    def test_a_torn_line_is_ignored(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path, "decode")
        ledger.record([self.row("ok")])
        file = next((tmp_path / "decode").glob("*.jsonl"))
        with file.open("a") as stream:
            stream.write('{"key": "torn", "vid')
        assert set(ledger.rows()) == {"k"}
        ledger.record([self.row("ok", "next")])  # completes the torn line, which stays unreadable
        ledger.record([self.row("ok", "after")])
        assert "after" in ledger.rows()

    def test_rows_that_were_read_are_not_read_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        reader, other = Ledger(tmp_path, "decode"), Ledger(tmp_path, "decode")
        reader.record([self.row("ok"), self.row("ok", "next")])
        theirs, mine = self.row("failed_permanent", "k"), self.row("ok", "mine")
        validated: list[str] = []
        validate = LedgerRow.model_validate
        monkeypatch.setattr(LedgerRow, "model_validate", lambda row: (validated.append(row["key"]), validate(row))[1])
        assert set(reader.rows()) == {"k", "next"} == set(reader.rows())
        other.record([theirs])
        reader.record([mine])
        assert {k: r.status for k, r in reader.rows().items()} == {"k": "failed_permanent", "next": "ok", "mine": "ok"}
        assert sorted(validated) == ["k", "k", "mine", "next"]

    def test_failures_count_on_until_one_succeeds(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path, "decode")
        failure = ("k", "v", DecodeError("the disk is away", reason_code="read_error", transient=True))
        for expected in (1, 2):
            ledger.record_failures([failure])
            row = ledger.rows()["k"]
            assert (row.attempts, row.status, row.reason_code) == (expected, "failed_transient", "read_error")
        ledger.record([self.row("ok")])
        ledger.record_failures([("k", "v", DecodeError("broken", reason_code="unreadable"))])
        row = ledger.rows()["k"]
        assert (row.attempts, row.status, row.message, row.stage) == (1, "failed_permanent", "broken", "decode")

    def test_a_store_reads_its_ledger_anew_after_a_refresh(self, tmp_path: Path) -> None:
        store = open_store(tmp_path)
        store.ledger("decode").record([self.row("ok")])
        assert set(store.ledger("decode").rows()) == {"k"}
        for file in (tmp_path / "ledger" / "decode").iterdir():
            file.unlink()
        store.refresh()
        assert store.ledger("decode").rows() == {}

    def test_read_lines_of_nothing(self, tmp_path: Path) -> None:
        assert list(read_lines(tmp_path / "none.jsonl")) == []
        (tmp_path / "x.jsonl").write_text(json.dumps({"a": 1}) + "\n\n")
        with_blank = list(read_lines(tmp_path / "x.jsonl"))
        assert with_blank == [{"a": 1}]
