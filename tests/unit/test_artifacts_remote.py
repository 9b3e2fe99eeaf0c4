"""A store that machines share, on a real S3 server of this machine, through a proxy that drops connections."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.s3_fixtures import Proxy, bucket, s3_server
from vlmvid.artifacts import Facts, KeyParts, LedgerRow, Store, open_store
from vlmvid.artifacts.files import MissingResult
from vlmvid.artifacts.mirror import Mirror
from vlmvid.artifacts.objects import Objects, may_pass
from vlmvid.artifacts.shared_store import SharedStore
from vlmvid.errors import ArtifactError, ConfigError

__all__ = ["bucket", "s3_server"]
FACTS = Facts(recipe="r")


@pytest.fixture(params=["s3", "memory", "file"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return str(request.getfixturevalue("bucket"))
    return f"memory://{os.urandom(4).hex()}/home" if request.param == "memory" else f"file://{tmp_path}/shared"


Machine = Callable[[str], Store]


@pytest.fixture
def machine(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Opens the store as a machine of that name would: each has a cache of its own."""

    def start(name: str, *, verify: bool = False) -> Store:
        monkeypatch.setenv("VLMVID_CACHE", str(tmp_path / name))
        return open_store(uri, verify=verify)

    return start


def features(seed: int, rows: int = 3) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(rows, 2, 4)).astype(np.float32)


def publish(store: Store, text: str = "a report", stage: str = "evaluate") -> str:
    parts = KeyParts(stage=stage, config={"a": 1})

    def write(folder: Path) -> None:
        (folder / "samples").mkdir()
        (folder / "report.md").write_text(text)
        (folder / "samples" / "a.bin").write_bytes(b"abc")

    return store.publish(parts, "report", write, FACTS).key


def objects_of(store: Store) -> Objects:
    mirror = store._mirror  # type: ignore[attr-defined]
    assert isinstance(mirror, Mirror)
    return mirror.objects


def test_two_machines_share_a_store(machine: Machine, uri: str) -> None:
    first = machine("one")
    shard = first.clips("encode").write(["a", "b", "c"], {"features": features(0)})
    first.ledger("encode").record([LedgerRow(key="a", video_id="v", stage="encode", status="ok", shard=shard)])
    key = publish(first)
    first.events.emit("train.step", step=1)
    first.events.emit("stage.finished", stage="encode")
    second = machine("two")
    assert second.uri == uri and second.home != first.home
    rows = second.clips("encode").rows(["c", "a", "x"])
    assert set(rows) == {"a", "c"}
    array = second.clips("encode").array(shard, "features")
    assert isinstance(array, np.memmap)
    some = second.clips("encode").gather("features", [rows["c"], rows["a"]])
    np.testing.assert_array_equal(some, features(0)[[2, 0]])
    assert second.ledger("encode").rows()["a"].shard == shard
    ref = second.ref("evaluate", key)
    assert ref is not None and ref.uri == f"{uri}/stages/evaluate/{key}"
    folder = second.open_artifact("evaluate", key)
    assert (folder / "report.md").read_text() == "a report" and (folder / "samples" / "a.bin").read_bytes() == b"abc"
    # And back: the first machine sees what the second one adds, and what it replaces.
    second.clips("encode").write(["d"], {"features": features(1, rows=1)})
    second.ledger("encode").record([LedgerRow(key="d", video_id="w", stage="encode", status="filtered")])
    publish(second, "another report")
    assert set(first.clips("encode").rows("abcd")) == set("abcd")
    assert set(first.ledger("encode").rows()) == {"a", "d"}
    assert (first.open_artifact("evaluate", key) / "report.md").read_text() == "another report"
    found = [event["event"] for event in second.events.read()]
    assert found == ["stage.published", "train.step", "stage.finished", "stage.published"]
    previous = first.previous(KeyParts(stage="evaluate", config={"a": 2}), "r")
    assert previous is not None and previous.key == key


def test_accepted_code_and_small_files_are_shared(machine: Machine, uri: str) -> None:
    first = machine("one")
    old = KeyParts(stage="encode", code={"m": "1"}, packages={"torch": "1"})
    first.accept_code("encode", {"m": "2"}, {"torch": "1"}, old)
    recipe = first.home / "recipes" / "r.yaml"
    recipe.parent.mkdir()
    recipe.write_text("a: 1")
    first.share(recipe)
    second = machine("two")
    assert second.accepted_code("encode", {"m": "2"}, {"torch": "1"}) == ({"m": "1"}, {"torch": "1"}, True)
    assert second.local_path(first.address(recipe)).read_text() == "a: 1"
    for outside in ("s3://elsewhere/r.yaml", f"{uri}/../r.yaml"):
        with pytest.raises(ConfigError, match="is not in the store"):
            second.local_path(outside)


def test_without_its_manifest_a_result_does_not_exist(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The upload ends before the commit, as a kill would end it: nobody sees the result, and it can be made again."""
    first = machine("one")

    def killed(self: Objects, name: str, data: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            first.clips("encode").write(["a"], {"features": features(0, rows=1)})
        with pytest.raises(KeyboardInterrupt):
            publish(first)
    key = KeyParts(stage="evaluate", config={"a": 1}).key
    for store in (first, machine("two"), machine("one")):
        assert store.clips("encode").rows(["a"]) == {}
        assert store.manifest("evaluate", key) is None and store.ref("evaluate", key) is None
        with pytest.raises(ArtifactError, match="does not exist"):
            store.open_artifact("evaluate", key)
    again = machine("one")
    again.clips("encode").write(["a"], {"features": features(0, rows=1)})
    publish(again)
    second = machine("two")
    rows = second.clips("encode").rows(["a"])
    np.testing.assert_array_equal(second.clips("encode").gather("features", [rows["a"]]), features(0, rows=1))
    assert second.ref("evaluate", key) is not None


def test_a_process_killed_before_the_manifest_leaves_nothing(bucket: str, tmp_path: Path) -> None:
    code = f"""
import os, signal
import numpy as np
from vlmvid.artifacts import open_store
from vlmvid.artifacts.objects import Objects
store = open_store({bucket!r})
upload = Objects.upload
def then_die(self, path, name):
    upload(self, path, name)
    os.kill(os.getpid(), signal.SIGKILL)
Objects.upload = then_die
store.clips("encode").write(["a"], {{"features": np.zeros((1, 2))}})
"""
    environment = {**os.environ, "VLMVID_CACHE": str(tmp_path / "one")}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == -9
    os.environ["VLMVID_CACHE"] = str(tmp_path / "two")
    assert open_store(bucket).clips("encode").rows(["a"]) == {}


def test_two_machines_that_make_the_same_result_do_no_harm(machine: Machine) -> None:
    first, second = machine("one"), machine("two")
    for store in (first, second):
        assert store.clips("encode").rows(["a"]) == {}
    # Both find nothing and write shard [a], with other bytes, as another GPU might; and the artifact with another text.
    for seed, store in enumerate((first, second)):
        store.clips("encode").write(["a"], {"features": features(seed, rows=1)})
        key = publish(store, f"by {seed}")
    # Each has its own files whole; the last one counts for all others.
    for seed, store in enumerate((first, second, machine("three"))):
        rows = list(store.clips("encode").rows(["a"]).values())
        got = store.clips("encode").gather("features", rows)
        np.testing.assert_array_equal(got, features(min(seed, 1), rows=1))
        assert (store.open_artifact("evaluate", key) / "report.md").read_text() == "by 1"


def damage(store: Store, folder: str) -> None:
    """Change a byte of the only object below `folder`."""
    objects = objects_of(store)
    names = [folder]
    while True:
        below = objects.names(names[-1])
        if below == {names[-1].rpartition("/")[2]} or not below:
            break
        (name,) = below if len(below) == 1 else (sorted(below)[0],)
        names.append(f"{names[-1]}/{name}")
    data = bytearray(objects.read(names[-1]) or b"")
    data[-1] ^= 1
    objects.write(names[-1], bytes(data))


def test_a_damaged_object_is_noticed_and_made_again(machine: Machine) -> None:
    first = machine("one")
    shard = first.clips("encode").write(["a"], {"features": features(0, rows=1)})
    key = publish(first)
    damage(first, f"clips/encode/data/{shard}")
    damage(first, f"stages/evaluate/data/{key}")
    second = machine("two")
    assert set(second.clips("encode").rows(["a"])) == {"a"}
    with pytest.raises(ArtifactError, match="is damaged: it has .* its manifest says"):
        second.clips("encode").array(shard, "features")
    with pytest.raises(ArtifactError, match="is damaged"):
        second.open_artifact("evaluate", key)
    assert second.clips("encode").rows(["a"]) == {} and second.ref("evaluate", key) is None
    assert first.clips("encode").rows(["a"]) == {}
    second.clips("encode").write(["a"], {"features": features(0, rows=1)})
    publish(second)
    third = machine("three")
    rows = third.clips("encode").rows(["a"])
    np.testing.assert_array_equal(third.clips("encode").gather("features", [rows["a"]]), features(0, rows=1))
    assert third.open_artifact("evaluate", key)


def test_verify_fetches_and_hashes_everything_again(machine: Any) -> None:
    first = machine("one")
    shard = first.clips("encode").write(["a"], {"features": features(0, rows=1)})
    key = publish(first)
    assert machine("one", verify=True).verify_clips("encode") == []
    assert machine("one", verify=True).ref("evaluate", key) is not None
    damage(first, f"clips/encode/data/{shard}")
    damage(first, f"stages/evaluate/data/{key}")
    # The local copies are good; what the others would get is not.
    checking = machine("one", verify=True)
    assert checking.verify_clips("encode") == [shard]
    assert checking.ref("evaluate", key) is None
    assert machine("two").clips("encode").rows(["a"]) == {}


def test_a_cache_can_be_lost_at_any_time(machine: Machine, tmp_path: Path) -> None:
    import shutil

    store = machine("one")
    shard = store.clips("encode").write(["a"], {"features": features(0, rows=1)})
    shutil.rmtree(tmp_path / "one")
    again = machine("one")
    assert set(again.clips("encode").rows(["a"])) == {"a"}
    np.testing.assert_array_equal(again.clips("encode").array(shard, "features"), features(0, rows=1))
    # A copy that was cut short is fetched again.
    (again.home / "clips" / "encode" / shard / "features.npy").write_bytes(b"short")
    rows = list(again.clips("encode").rows(["a"]).values())
    got = machine("one").clips("encode").gather("features", rows)
    np.testing.assert_array_equal(got, features(0, rows=1))


def test_a_large_file_goes_up_in_parts(bucket: str, tmp_path: Path) -> None:
    import boto3

    path = tmp_path / "large.bin"
    path.write_bytes(np.random.default_rng(0).bytes(11 * 2**20))
    Objects(bucket, part_bytes=5 * 2**20).upload(path, "large.bin")
    name, _, prefix = bucket.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    head = client.head_object(Bucket=name, Key=f"{prefix}/large.bin")
    client.close()
    assert head["ContentLength"] == 11 * 2**20
    assert head["ETag"].strip('"').endswith("-3")  # so S3 marks an object of three parts
    assert Objects(bucket).read("large.bin") == path.read_bytes()


@pytest.mark.parametrize("size", [3 * 2**20, 11 * 2**20])
@pytest.mark.parametrize("client_retries", [True, False])
def test_a_connection_that_drops_in_an_upload_is_tried_again(
    client_retries: bool, size: int, bucket: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one piece and in three parts; with the retries of the S3 client below, and with ours alone."""
    import s3fs

    path = tmp_path / "large.bin"
    path.write_bytes(np.random.default_rng(0).bytes(size))
    if not client_retries:
        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
        monkeypatch.setenv("AWS_RETRY_MODE", "standard")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    # aiohttp tries a PUT again once by itself, so that one cut of a part is never seen.
    with closing(Proxy(s3_server, cuts=6, after=2**20)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.uri)
        if not client_retries:
            with pytest.raises(ArtifactError, match="tried 1 times"):
                Objects(bucket, part_bytes=5 * 2**20, attempts=1).upload(path, "large.bin")
            assert proxy.num_cut >= 2
            proxy.num_cut = 0
        objects = Objects(bucket, part_bytes=5 * 2**20, first_wait_seconds=0.05)
        objects.upload(path, "large.bin")
        assert proxy.num_cut == 6
        assert objects.read("large.bin") == path.read_bytes()


def test_a_store_that_does_not_answer_is_named(
    bucket: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(bucket)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    objects = Objects(store.uri, attempts=3, first_wait_seconds=0.01)
    with pytest.raises(ArtifactError, match=r"cannot upload x in the store s3://.*tried 3 times"):
        objects.upload(Path(__file__), "x")
    with pytest.raises(ConfigError, match=r"VLMVID_HOME='s3://.*is not writable"):
        open_store(bucket)


def test_an_outage_does_not_read_as_no_result(
    bucket: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    monkeypatch.setenv("VLMVID_CACHE", str(tmp_path / "one"))
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    first = open_store(bucket)
    key = publish(first)
    shard = first.clips("encode").write(["a"], {"features": features(0, rows=1)})
    with closing(Proxy(s3_server, cuts=10**6, after=0)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.uri)
        cut = SharedStore(Mirror(Objects(bucket, attempts=1), first.home), verify=True)
        for ask in (
            lambda: cut.manifest("evaluate", key),
            lambda: cut.ref("evaluate", key),
            lambda: cut.input_key("evaluate", key),
            lambda: cut.clips("encode").rows(["a"]),
            lambda: cut.verify_clips("encode"),
        ):
            with pytest.raises(ArtifactError, match="cannot .* in the store") as caught:
                ask()
            assert not isinstance(caught.value, MissingResult)
        assert proxy.num_cut >= 5
    # What cannot be fetched for a while is not damaged: neither the artifact nor the shard is given up.
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    checking = SharedStore(Mirror(Objects(bucket, attempts=1), first.home), verify=True)
    checking.clips("encode").rows(["a"])

    def cut_off(self: Objects, name: str, path: Path) -> None:
        raise ArtifactError(f"cannot download {name} in the store: ConnectionResetError")

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "_get", cut_off)
        for ask in (lambda: checking.verify_clips("encode"), lambda: checking.manifest("evaluate", key)):
            with pytest.raises(ArtifactError, match="cannot download"):
                ask()
    assert checking.verify_clips("encode") == [] and checking.clips("encode").rows(["a"])["a"].shard == shard
    assert checking.manifest("evaluate", key) is not None
    assert checking.manifest("evaluate", "0" * 16) is None


def test_an_artifact_whose_object_is_gone_is_missing(machine: Any) -> None:
    first = machine("one")
    key = publish(first)
    objects = objects_of(first)
    name = f"stages/evaluate/data/{key}"
    for digest in objects.names(name):
        for file in objects.names(f"{name}/{digest}") - {"samples"}:
            objects.delete(f"{name}/{digest}/{file}")
    assert machine("two", verify=True).manifest("evaluate", key) is None
    with pytest.raises(MissingResult):
        machine("two").open_artifact("evaluate", key)
    assert machine("two").manifest("evaluate", key) is None, "the next run computes it again"
    publish(first)
    assert (machine("two").open_artifact("evaluate", key) / "report.md").read_text() == "a report"


def test_a_shard_whose_object_is_gone_is_missing(machine: Machine) -> None:
    first = machine("one")
    shard = first.clips("encode").write(["a"], {"features": features(0, rows=1)})
    objects = objects_of(first)
    name = f"clips/encode/data/{shard}"
    (digest,) = objects.names(name)
    objects.delete(f"{name}/{digest}/features.npy")
    second = machine("two").clips("encode")
    assert set(second.rows("a")) == {"a"}
    with pytest.raises(MissingResult):
        second.array(shard, "features")
    assert second.rows("a") == {} and machine("three").clips("encode").rows("a") == {}


def test_a_local_folder_that_is_gone_says_nothing_of_the_result(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = publish(machine("one"))
    second = machine("two")

    def lost(self: Objects, name: str, path: Path) -> None:
        raise MissingResult(f"cannot download {name}: the folder of {path} is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "_get", lost)
        with pytest.raises(MissingResult):
            second.open_artifact("evaluate", key)
    assert second.manifest("evaluate", key) is not None


def test_a_write_lists_no_shards(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine("two").clips("encode").write(["x"], {"features": features(9, rows=1)})
    clips = machine("one").clips("encode")
    clips.rows([])
    asked: list[str] = []
    names = Objects.names

    def counted(self: Objects, folder: str) -> set[str]:
        asked.append(folder)
        return names(self, folder)

    monkeypatch.setattr(Objects, "names", counted)
    shards = [clips.write([key], {"features": features(i, rows=1)}) for i, key in enumerate("abc")]
    assert clips.write(["b"], {"features": features(1, rows=1)}) == shards[1]
    for i, shard in enumerate(shards):
        np.testing.assert_array_equal(clips.array(shard, "features"), features(i, rows=1))
    assert asked == []
    assert set(clips.rows("abcx")) == set("abcx") and len(asked) == 1


def test_a_bucket_that_is_not_there_is_refused_at_once(bucket: str) -> None:
    with pytest.raises(ConfigError, match=r"no-such-bucket.* is not writable: .*not tried again"):
        open_store("s3://no-such-bucket/home")


def test_unknown_protocols_are_refused() -> None:
    with pytest.raises(ConfigError, match="nosuch"):
        open_store("nosuch://bucket/home")


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (OSError(16, "slow down"), True),
        (FileNotFoundError(), False),
        (PermissionError(), False),
        (ValueError(), False),
    ],
)
def test_what_is_tried_again(error: BaseException, passes: bool) -> None:
    assert may_pass(error) is passes


def test_errors_of_transport_are_tried_again() -> None:
    import aiohttp
    from botocore import exceptions

    assert may_pass(aiohttp.ServerDisconnectedError())
    assert may_pass(aiohttp.ClientPayloadError())
    assert may_pass(exceptions.EndpointConnectionError(endpoint_url="x"))
    assert may_pass(exceptions.ReadTimeoutError(endpoint_url="x"))
    assert not may_pass(exceptions.NoCredentialsError())
