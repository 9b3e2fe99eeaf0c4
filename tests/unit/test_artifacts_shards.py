"""Shards of features: columns, dtypes, gathering against a row-by-row loop, append, newer versions."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vlmvid.artifacts import ClipStore, Facts, KeyParts, Row, gathering, open_store, shards
from vlmvid.artifacts.arrays import BFLOAT16, as_float32, as_stored, dtype_name, finite_rows
from vlmvid.artifacts.digests import sha256_file
from vlmvid.artifacts.formats import require_known_format
from vlmvid.artifacts.gathering import ArrayFile, JoinedFiles, gather_rows
from vlmvid.errors import ArtifactError, DatasetError
from vlmvid.models.tensors import load_tensor_file, to_array, to_tensor

RNG = np.random.default_rng(7)
DTYPES = ("float16", "bfloat16", "float32")


def features(shape: tuple[int, ...], name: Any) -> NDArray[Any]:
    return as_stored(RNG.standard_normal(shape).astype(np.float32), name)


def loop(arrays: Sequence[NDArray[Any]], shards: Sequence[int], rows: Sequence[int]) -> NDArray[Any]:
    """The oracle: one row at a time."""
    out = np.empty((len(rows), *arrays[0].shape[1:]), dtype=arrays[0].dtype)
    for i, (shard, row) in enumerate(zip(shards, rows, strict=True)):
        out[i] = arrays[shard][row]
    return out


def filled(folder: Path, lengths: Sequence[int], shape: tuple[int, ...], name: Any) -> tuple[ClipStore, list[Any]]:
    """A store of shards of those lengths, and what they hold."""
    store, arrays = ClipStore(folder, "encode"), []
    for number, length in enumerate(lengths):
        arrays.append(features((length, *shape), name))
        store.write([f"{number}/{row}" for row in range(length)], {"features": arrays[-1]})
    return store, arrays


class TestDtypes:
    @pytest.mark.parametrize("name", DTYPES)
    def test_a_shard_keeps_every_bit(self, tmp_path: Path, name: str) -> None:
        store, arrays = filled(tmp_path, [3], (4, 5), name)
        [row] = {row.shard for row in store.rows(["0/0"]).values()}
        back = store.array(row, "features")
        assert dtype_name(back.dtype) == name
        assert isinstance(back, np.memmap)
        assert back.tobytes() == arrays[0].tobytes()
        read = as_float32(store.gather("features", [Row(row, 2), Row(row, 0)]))
        assert read.dtype == np.float32
        assert np.array_equal(read, as_float32(arrays[0])[[2, 0]])

    @settings(deadline=None)
    @given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=30))
    def test_bfloat16_rounds_as_torch_does(self, bits: list[int]) -> None:
        values = np.array(bits, dtype=np.uint32).view(np.float32)
        expected = torch.from_numpy(values).to(torch.bfloat16)
        ours = as_stored(values, "bfloat16")
        nan = np.isnan(values)
        assert np.array_equal(np.isnan(as_float32(ours)), nan)
        assert np.array_equal(ours.view(np.uint16)[~nan], expected.view(torch.uint16).numpy()[~nan])
        assert np.array_equal(as_float32(ours)[~nan], expected.float().numpy()[~nan])

    def test_edges_of_bfloat16(self) -> None:
        values = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 3.4e38, 1 + 2**-8, 1 + 3 * 2**-8, 1e-40], np.float32)
        expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
        assert np.array_equal(as_float32(as_stored(values, "bfloat16")), expected, equal_nan=True)

    @pytest.mark.parametrize("name", DTYPES)
    def test_no_copy_where_none_is_needed(self, name: Any) -> None:
        array = features((3, 4), name)
        assert as_stored(array, name) is array
        tensor = to_tensor(array)
        assert str(tensor.dtype) == f"torch.{name}"
        assert np.shares_memory(to_array(tensor), array)
        assert to_array(tensor).dtype == array.dtype
        assert to_array(tensor).tobytes() == array.tobytes()
        assert torch.equal(tensor.float(), torch.from_numpy(as_float32(array)))

    def test_a_memory_map_is_copied_into_a_tensor(self, tmp_path: Path) -> None:
        store, arrays = filled(tmp_path, [2], (3,), "bfloat16")
        stored = store.array(next(iter(store.rows(["0/0"]).values())).shard, "features")
        tensor = to_tensor(stored)
        tensor[0] = 0
        assert stored.tobytes() == arrays[0].tobytes()

    def test_a_tensor_with_a_gradient_or_strides(self) -> None:
        tensor = torch.arange(6.0).reshape(2, 3).requires_grad_()
        assert to_array(tensor.t()).tolist() == [[0, 3], [1, 4], [2, 5]]

    def test_unknown_name(self) -> None:
        with pytest.raises(ArtifactError, match="'int8'.*float16, bfloat16, float32"):
            as_stored(np.zeros(2, np.float32), "int8")  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", DTYPES)
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_finite_rows(self, monkeypatch: pytest.MonkeyPatch, name: Any, bad: float) -> None:
        monkeypatch.setattr("vlmvid.artifacts.arrays._CHECK_BYTES", 2 * 4 * 6)
        values = RNG.standard_normal((7, 2, 3)).astype(np.float32)
        values[6, 1, 2] = values[2, 0, 0] = bad
        assert finite_rows(as_stored(values, name)).tolist() == [True, True, False, True, True, True, False]

    def test_too_large_for_float16_is_not_finite(self) -> None:
        assert finite_rows(as_stored(np.array([[1e5], [1.0]], np.float32), "float16")).tolist() == [False, True]


@st.composite
def selections(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, int]]]:
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    places = [(shard, row) for shard, length in enumerate(lengths) for row in range(length)]
    return lengths, draw(st.lists(st.sampled_from(places), min_size=1, max_size=25))


class TestGather:
    @settings(deadline=None)
    @given(selections(), st.sampled_from([(), (1,), (3,), (2, 3)]))
    def test_equals_the_loop(self, selection: tuple[list[int], list[tuple[int, int]]], shape: tuple[int, ...]) -> None:
        lengths, chosen = selection
        arrays = [features((length, *shape), "float32") for length in lengths]
        shards, rows = (np.array(column, dtype=np.int64) for column in zip(*chosen, strict=True))
        expected = loop(arrays, shards.tolist(), rows.tolist())
        out = np.empty_like(expected)
        gather_rows(arrays.__getitem__, shards, rows, out)
        assert np.array_equal(out, expected)

    @settings(max_examples=25, deadline=None)
    @given(selections(), st.sampled_from(DTYPES), st.integers(1, 7))
    def test_a_column_equals_the_loop(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        selection: tuple[list[int], list[tuple[int, int]]],
        name: str,
        dim: int,
    ) -> None:
        lengths, chosen = selection
        store, arrays = filled(tmp_path_factory.mktemp("store"), lengths, (dim,), name)
        keys = [f"{shard}/{row}" for shard, length in enumerate(lengths) for row in range(length)]
        known = store.rows(keys)
        column = store.column("features", [known[key] for key in keys])
        assert (column.shape, dtype_name(column.dtype)) == ((len(keys), dim), name)
        asked = [f"{shard}/{row}" for shard, row in chosen]
        expected = loop(arrays, *zip(*chosen, strict=True)).tobytes()
        indices = np.array([keys.index(key) for key in asked], dtype=np.int64)
        assert column.take(indices).tobytes() == expected
        assert store.gather("features", [known[key] for key in asked]).tobytes() == expected

    @pytest.mark.parametrize("system", ["Linux", "Windows"])
    def test_every_system_reads_the_same(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
        monkeypatch.setattr(gathering.platform, "system", lambda: system)
        store, arrays = filled(tmp_path, [5, 1, 7], (6,), "float16")
        rows = [
            row
            for number, length in enumerate([5, 1, 7])
            for row in store.rows(f"{number}/{i}" for i in range(length)).values()
        ]
        column = store.column("features", rows)
        assert (column._joined is None) == (system == "Windows")
        out = np.full((4, 6), 9, np.float16)
        assert column.take(np.array([12, 0, 5, 12]), out=out) is out
        whole = np.concatenate(arrays)
        assert np.array_equal(out, whole[[12, 0, 5, 12]])
        assert np.array_equal(column.read(), whole)
        assert column.take(np.array([], dtype=np.int64)).shape == (0, 6)

    @pytest.mark.parametrize("threads", [None, 1, 3])
    def test_large_batches_use_threads(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int | None
    ) -> None:
        monkeypatch.setattr(gathering, "PIECE_BYTES", 700)
        monkeypatch.setattr(gathering, "_num_cores", lambda: 3)
        store, arrays = filled(tmp_path, [40, 40], (33,), "float32")
        rows = list(store.rows(f"{n}/{i}" for n in range(2) for i in range(40)).values())
        column = store.column("features", rows)
        for count in (1, 5, 6, 201):
            indices = RNG.integers(0, 80, count)
            assert np.array_equal(column.take(indices, threads=threads), np.concatenate(arrays)[indices])

    def test_files_with_other_headers_are_not_joined(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        path.write_bytes(bytes(4096))
        assert JoinedFiles.map([ArrayFile(path, 128, 2), ArrayFile(path, 64, 2)], 8) is None
        assert JoinedFiles.map([ArrayFile(path, 128, 2), ArrayFile(tmp_path / "gone", 128, 2)], 8) is None
        assert JoinedFiles.map([ArrayFile(path, 128, 10**6)], 8) is None
        assert JoinedFiles.map([ArrayFile(path, 128, 2)], 2**45 + 1) is None
        assert JoinedFiles.map([], 8) is None

    def test_more_shards_than_files_may_be_open(self, tmp_path: Path) -> None:
        count = 300
        store, arrays = filled(tmp_path, [1] * count, (2,), "float32")
        rows = [store.rows([f"{n}/0"])[f"{n}/0"] for n in (0, count - 1)]
        assert np.array_equal(store.gather("features", rows), np.concatenate([arrays[0], arrays[-1]]))
        every = store.rows(f"{n}/0" for n in range(count))
        column = store.column("features", list(every.values()))
        assert np.array_equal(column.take(np.arange(count)), np.concatenate(arrays))
        if Path("/proc/self/fd").is_dir():
            here = os.fspath(tmp_path)
            opened = [fd for fd in Path("/proc/self/fd").iterdir() if fd.exists() and here in os.readlink(fd)]
            assert 0 < len(opened) <= shards.OPEN_FILES < count

    def test_wrong_requests(self, tmp_path: Path) -> None:
        store, _ = filled(tmp_path, [3, 2], (4,), "float16")
        rows = list(store.rows(["0/0", "1/1"]).values())
        column = store.column("features", rows)
        with pytest.raises(ArtifactError, match=r"rows 0\.\.2 were asked for; there are 2"):
            column.take(np.array([0, 2]))
        with pytest.raises(ArtifactError, match=r"rows -1\.\.0"):
            column.take(np.array([0, -1]))
        with pytest.raises(ArtifactError, match=r"float16 \(1, 4\) to fill; got float32 \(1, 4\)"):
            column.take(np.array([0]), out=np.empty((1, 4), np.float32))
        with pytest.raises(ArtifactError, match="no rows"):
            store.gather("features", [])
        with pytest.raises(ArtifactError, match="row 3 is outside of its shard of 3 rows"):
            store.gather("features", [rows[1], Row(rows[0].shard, 3)])
        with pytest.raises(ArtifactError, match="shard nowhere of encode is missing"):
            store.gather("features", [Row("nowhere", 0)])

    def test_shards_that_differ_are_not_mixed(self, tmp_path: Path) -> None:
        store = ClipStore(tmp_path, "encode")
        store.write(["a"], {"features": np.zeros((1, 8, 4), np.float16)})
        for key, array in {"b": np.zeros((1, 16, 4), np.float16), "c": np.zeros((1, 8, 4), np.float32)}.items():
            store.write([key], {"features": array})
            with pytest.raises(ArtifactError, match="one shard holds rows of float"):
                store.gather("features", list(store.rows(["a", key]).values()))


class TestColumns:
    def test_columns_of_different_shapes_side_by_side(self, tmp_path: Path) -> None:
        store = ClipStore(tmp_path, "encode")
        arrays = {"cls": features((3, 4), "float16"), "patch_mean": features((3, 2, 5), "bfloat16")}
        shard = store.write(["a", "b", "c"], arrays)
        for name, array in arrays.items():
            assert store.gather(name, [Row(shard, 2), Row(shard, 0)]).tobytes() == array[[2, 0]].tobytes()
        infos = store.columns([shard])
        assert {name: (info.dtype, info.shape) for name, info in infos.items()} == {
            "cls": ("float16", (4,)),
            "patch_mean": ("bfloat16", (2, 5)),
        }
        other = store.write(["d"], {"cls": features((1, 4), "float16")})
        assert list(store.columns([shard, other])) == ["cls"]
        assert store.columns([]) == {}

    def test_a_missing_column_names_those_that_are_there(self, tmp_path: Path) -> None:
        store = ClipStore(tmp_path, "encode")
        shard = store.write(["a"], {"patch_mean": np.zeros((1, 2)), "cls": np.zeros((1, 2))})
        with pytest.raises(ArtifactError, match="encode has no column 'tokens'; it has: cls, patch_mean"):
            store.gather("tokens", [Row(shard, 0)])

    def test_a_further_column_of_old_clips_is_a_new_shard(self, tmp_path: Path) -> None:
        store = ClipStore(tmp_path, "encode")
        first = store.write(["a", "b"], {"features": np.zeros((2, 3))})
        tokens = RNG.standard_normal((2, 4, 3))
        second = store.write(["a", "b"], {"features": np.zeros((2, 3)), "tokens": tokens})
        assert second != first
        assert store.write(["a", "b"], {"features": np.zeros((2, 3)), "tokens": tokens}) == second
        assert store.write(["a", "b"], {"features": np.zeros((2, 3))}) == first
        for fresh in (store, ClipStore(tmp_path, "encode")):
            assert fresh.rows(["b", "x"], columns=["tokens"]) == {"b": Row(second, 1)}
            assert fresh.rows(["b"], columns=["depth"]) == {}
            assert set(fresh.rows(["b", "x"])) == {"b"}

    def test_a_clip_of_two_shards_survives_the_loss_of_one(self, tmp_path: Path) -> None:
        store = ClipStore(tmp_path, "encode")
        first = store.write(["a", "b"], {"x": np.zeros((2, 1))})
        second = store.write(["b", "c"], {"x": np.zeros((2, 1))})
        store.discard(first)
        assert store.rows(["a", "b", "c"]) == {"b": Row(second, 0), "c": Row(second, 1)}

    def test_a_replaced_shard_is_read_anew(self, tmp_path: Path) -> None:
        store = ClipStore(tmp_path, "encode")
        shard = store.write(["a"], {"x": np.zeros((1, 1))})
        assert store.gather("x", [Row(shard, 0)]) == 0
        store.discard(shard)
        assert store.write(["a"], {"x": np.ones((1, 1))}) == shard
        assert store.gather("x", [Row(shard, 0)]) == 1


class TestAppend:
    def test_new_clips_touch_no_old_file(self, tmp_path: Path) -> None:
        store, _ = filled(tmp_path, [3, 4], (5,), "float16")
        files = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
        before = {path: (path.stat().st_mtime_ns, path.stat().st_ino, sha256_file(path)) for path in files}
        assert len(before) == 4
        store.write(["new"], {"features": features((1, 5), "float16")})
        assert {path: (path.stat().st_mtime_ns, path.stat().st_ino, sha256_file(path)) for path in files} == before
        assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 6
        assert set(store.rows(["0/0", "1/3", "new"])) == {"0/0", "1/3", "new"}

    def test_a_shard_cut_short_is_said_to_be_damaged(self, tmp_path: Path) -> None:
        store, _ = filled(tmp_path, [3], (5,), "float16")
        row = store.rows(["0/1"])["0/1"]
        file = tmp_path / "encode" / row.shard / "features.npy"
        file.write_bytes(file.read_bytes()[:140])
        with pytest.raises(ArtifactError, match="cannot be read.*--verify"):
            ClipStore(tmp_path, "encode").array(row.shard, "features")
        assert ClipStore(tmp_path, "encode").rows(["0/1"]) == {}


class TestNewerVersion:
    def test_a_shard_of_a_newer_version_is_not_computed_again(self, tmp_path: Path) -> None:
        store, _ = filled(tmp_path, [2], (3,), "float16")
        path = tmp_path / "encode" / store.rows(["0/0"])["0/0"].shard / "shard.json"
        value = {**json.loads(path.read_text()), "format": 2, "compression": "zstd"}
        path.write_text(json.dumps(value))
        before = sorted(tmp_path.rglob("*"))
        fresh = ClipStore(tmp_path, "encode")
        words = r"shard\.json was written by a newer vlmvid \(format 2, this one reads up to 1\); upgrade"
        for act in (
            lambda: fresh.rows(["0/0"]),
            lambda: fresh.verify(),
            lambda: fresh.write(["0/0", "0/1"], {"features": np.zeros((2, 3), np.float16)}),
        ):
            with pytest.raises(ArtifactError, match=words):
                act()
        assert sorted(tmp_path.rglob("*")) == before

    def test_an_artifact_of_a_newer_version_is_refused(self, tmp_path: Path) -> None:
        store = open_store(tmp_path)
        parts = KeyParts(stage="encode")
        ref = store.publish(parts, "embeddings", lambda folder: None, Facts(recipe="r"))
        path = Path(ref.uri) / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": 7, "new_field": 1}))
        for act in (store.ref, store.manifest, store.input_key):
            with pytest.raises(ArtifactError, match=r"manifest\.json was written by a newer vlmvid \(format 7"):
                act("encode", parts.key)
        path.write_text("[]")
        assert store.ref("encode", parts.key) is None

    @pytest.mark.parametrize("value", [None, 3, [], {}, {"format": "2"}, {"format": 1}, {"format": 0}])
    def test_other_values_are_left_to_the_reader(self, value: object) -> None:
        require_known_format(value, 1, "x")


class TestTensorFiles:
    def test_a_tensor_or_a_dict_of_tensors(self, tmp_path: Path) -> None:
        torch.save(torch.ones(2, 3, dtype=torch.bfloat16), tmp_path / "a.pt")
        assert load_tensor_file(tmp_path / "a.pt")["features"].dtype == BFLOAT16
        torch.save({"cls": torch.zeros(2, 3), "mean": torch.zeros(2, 4)}, tmp_path / "b.pt")
        assert {name: array.shape for name, array in load_tensor_file(tmp_path / "b.pt").items()} == {
            "cls": (2, 3),
            "mean": (2, 4),
        }

    @pytest.mark.parametrize("content", [b"", b"not a file of torch", b"PK\x03\x04 cut"])
    def test_unreadable(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.pt").write_bytes(content)
        with pytest.raises(DatasetError, match=r"a\.pt cannot be read as a \.pt file"):
            load_tensor_file(tmp_path / "a.pt")

    @pytest.mark.parametrize("value", [{}, {"a": [1, 2]}, [torch.zeros(2)]])
    def test_other_content(self, tmp_path: Path, value: object) -> None:
        torch.save(value, tmp_path / "a.pt")
        with pytest.raises(DatasetError, match="expected a tensor, or a dict of tensors"):
            load_tensor_file(tmp_path / "a.pt")

    def test_code_in_a_file_is_not_run(self, tmp_path: Path) -> None:
        marker = tmp_path / "ran"

        class Payload:
            def __reduce__(self) -> tuple[Any, ...]:
                return marker.touch, ()

        torch.save({"features": Payload()}, tmp_path / "a.pt")
        with pytest.raises(DatasetError, match="cannot be read"):
            load_tensor_file(tmp_path / "a.pt")
        assert not marker.exists()


class TestWriting:
    @pytest.mark.parametrize("name", ["../pwned", "cls/mean", "", ".hidden", "a\n", "/abs"])
    def test_names_that_are_no_columns(self, tmp_path: Path, name: str) -> None:
        store = ClipStore(tmp_path / "home", "encode")
        with pytest.raises(ArtifactError, match="cannot be named"):
            store.write(["a"], {"features": np.zeros((1, 2)), name: np.zeros((1, 2))})
        assert not list(tmp_path.rglob("*"))

    def test_a_write_reads_no_other_shard(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store, arrays = filled(tmp_path, [2, 2], (3,), "float32")
        rows = store.rows(["0/1", "1/0"])
        ClipStore(tmp_path, "encode").write(["other"], {"features": features((1, 3), "float32")})
        read: list[str] = []
        names, read_manifest = ClipStore._names, ClipStore._read_manifest

        def listed(self: ClipStore) -> set[str]:
            read.append("all")
            return names(self)

        def counted(self: ClipStore, shard: str) -> Any:
            read.append(shard)
            return read_manifest(self, shard)

        monkeypatch.setattr(ClipStore, "_names", listed)
        monkeypatch.setattr(ClipStore, "_read_manifest", counted)
        new = store.write(["new"], {"features": features((1, 3), "float32")})
        assert set(read) == {new}
        monkeypatch.undo()
        assert set(store.rows(["0/1", "1/0", "new", "other"])) == {"0/1", "1/0", "new", "other"}
        assert store.rows(["0/1", "1/0"]) == rows
        np.testing.assert_array_equal(store.gather("features", [rows["1/0"]])[0], arrays[1][0])

    def test_a_damaged_shard_is_written_again(self, tmp_path: Path) -> None:
        store, arrays = filled(tmp_path, [2], (3,), "float32")
        shard = store.rows(["0/0"])["0/0"].shard
        (tmp_path / "encode" / shard / "features.npy").write_bytes(b"short")
        assert store.write(["0/0", "0/1"], {"features": arrays[0]}) == shard
        assert store.missing({"0/0": Row(shard, 0), "0/1": Row(shard, 1)}) == []
        np.testing.assert_array_equal(store.array(shard, "features"), arrays[0])

    def test_another_writer_of_the_same_keys_was_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Both find nothing; the columns that are noted are those that lie there, not those that were dropped."""
        store, values = ClipStore(tmp_path, "encode"), features((1, 3), "float32")
        shards = []

        def overtaken(self: ClipStore, shard: str, manifest: Any, folder: Path) -> None:
            monkeypatch.undo()
            shards.append(ClipStore(tmp_path, "encode").write(["a"], {"first": values}))

        monkeypatch.setattr(ClipStore, "_publish", overtaken)
        assert [store.write(["a"], {"second": values})] == shards
        assert set(store.columns(shards)) == {"first"}
        assert store.rows(["a"], ["second"]) == {}

    def test_threads_write_and_look_at_once(self, tmp_path: Path) -> None:
        store = ClipStore(tmp_path, "encode")

        def work(number: int) -> bool:
            keys = [f"{number}/{row}" for row in range(3)]
            shard = store.write(keys, {"features": np.full((3, 2), number)})
            return store.rows(keys) == {key: Row(shard, row) for row, key in enumerate(keys)}

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(40)))
        again = ClipStore(tmp_path, "encode")
        keys = [f"{number}/{row}" for number in range(40) for row in range(3)]
        assert store.rows(keys) == again.rows(keys) and len(again.rows(keys)) == 120


def test_a_clip_in_two_shards_is_missing_from_neither(tmp_path: Path) -> None:
    store, values = ClipStore(tmp_path, "encode"), np.zeros((2, 3))
    one, two = store.write(["a", "b"], {"x": values}), store.write(["b", "a"], {"x": values})
    for opened in (store, ClipStore(tmp_path, "encode")):
        assert opened.missing({"a": Row(one, 0), "b": Row(two, 0)}) == []
        assert opened.missing({"a": Row(two, 1), "b": Row(one, 1)}) == []
        assert opened.missing({"a": Row(one, 1), "b": Row("gone", 0), "c": Row(one, 0)}) == ["a", "b", "c"]
    store.discard(one)
    assert store.missing({"a": Row(one, 0), "b": Row(two, 0)}) == ["a"]
