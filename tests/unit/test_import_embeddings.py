"""Folders of SAIL and of clip-retrieval into the store, and back by id."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from vlmvid.artifacts import ArtifactRef, open_store
from vlmvid.cli import main
from vlmvid.data.embedding_files import numbered_files, read_ids
from vlmvid.errors import ArtifactError, ConfigError, DatasetError
from vlmvid.pipeline import import_embeddings as module
from vlmvid.pipeline.import_embeddings import import_embeddings, read_embeddings
from vlmvid.pipeline.index import IndexRow, locate, read_columns, read_index, write_index

RNG = np.random.default_rng(3)


def values(rows: int, dim: int = 6, dtype: type = np.float16) -> NDArray[Any]:
    return RNG.standard_normal((rows, dim)).astype(dtype)


def sail_folder(folder: Path, *batches: NDArray[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, batch in enumerate(batches):
        torch.save(torch.from_numpy(batch), folder / f"{number}.pt")
    return folder


def clip_folder(folder: Path, lengths: tuple[int, ...], kinds: tuple[str, ...] = ("img", "text")) -> dict[str, Any]:
    """A folder as clip-retrieval writes it; what it holds, by kind."""
    (folder / "metadata").mkdir(parents=True)
    held: dict[str, Any] = {"paths": []}
    for kind in kinds:
        (folder / f"{kind}_emb").mkdir()
        parts = [values(length, dim=4 if kind == "img" else 3) for length in lengths]
        for number, part in enumerate(parts):
            np.save(folder / f"{kind}_emb" / f"{kind}_emb_{number}.npy", part)
        held[kind] = np.concatenate(parts)
    for number, length in enumerate(lengths):
        paths = [f"pictures/{number}_{row}.jpg" for row in range(length)]
        table = pa.table({"image_path": paths, "caption": [f"a {path}" for path in paths], "row": list(range(length))})
        pq.write_table(table, folder / "metadata" / f"metadata_{number}.parquet")
        held["paths"] += paths
    return held


def sail(folder: Path, home: Path, **options: Any) -> ArtifactRef:
    return import_embeddings(folder, format="sail", name="cc3m", home=home, **options)


class TestSail:
    def test_rows_come_back_by_id(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "ROWS_PER_SHARD", 7)
        batches = [values(4) for _ in range(11)] + [values(3)]  # so that 10.pt sorts before 2.pt as a text
        folder = sail_folder(tmp_path / "sail", *batches)
        ids = [f"clip {row:03d}" for row in RNG.permutation(47)]
        (tmp_path / "ids.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
        ref = sail(folder, tmp_path / "home", ids=tmp_path / "ids.txt")
        whole = np.concatenate(batches)
        names, features = read_embeddings(ref.uri)
        assert names == ids
        assert features.dtype == np.float32
        assert np.array_equal(features, whole.astype(np.float32))
        asked = [ids[46], ids[0], ids[20]]
        names, features = read_embeddings(ref.uri, asked)
        assert names == asked
        assert np.array_equal(features, whole[[46, 0, 20]].astype(np.float32))

    def test_the_artifact_says_what_it_holds(self, tmp_path: Path) -> None:
        ref = sail(sail_folder(tmp_path / "sail", values(3), values(2)), tmp_path / "home")
        manifest = open_store(tmp_path / "home").manifest("import", ref.key)
        assert manifest is not None
        assert (ref.kind, manifest.recipe, manifest.counts) == ("embeddings", "cc3m", {"ok": 5})
        columns = read_columns(Path(ref.uri))
        assert {name: (info.dtype, info.shape) for name, info in columns.items()} == {"features": ("float16", (6,))}
        rows = read_index(Path(ref.uri))
        assert [row.video_id for row in rows] == [f"row-{number:09d}" for number in range(5)]
        stored = np.load(tmp_path / "home" / "clips" / "import" / rows[4].shard / "features.npy")
        assert stored.dtype == np.float16
        assert len(stored) == 5  # one shard for both files

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
    def test_dicts_and_dtypes(self, tmp_path: Path, dtype: torch.dtype) -> None:
        (tmp_path / "sail").mkdir()
        cls, frames = torch.randn(3, 4).to(dtype), torch.randn(3, 2, 5).to(dtype)
        torch.save({"cls": cls, "frames": frames}, tmp_path / "sail" / "0.pt")
        ref = sail(tmp_path / "sail", tmp_path / "home")
        for name, tensor in {"cls": cls, "frames": frames}.items():
            assert np.array_equal(read_embeddings(ref.uri, column=name)[1], tensor.float().numpy())
        with pytest.raises(ArtifactError, match="no column 'features'; it has: cls, frames"):
            read_embeddings(ref.uri)

    def test_the_second_import_does_nothing_and_a_longer_folder_adds_rows(self, tmp_path: Path) -> None:
        folder, home = sail_folder(tmp_path / "sail", values(4), values(4)), tmp_path / "home"
        ref = sail(folder, home)
        shards = {path: path.stat().st_mtime_ns for path in (home / "clips" / "import").rglob("*") if path.is_file()}
        written = (Path(ref.uri) / "manifest.json").stat().st_mtime_ns
        assert sail(folder, home) == ref
        assert (Path(ref.uri) / "manifest.json").stat().st_mtime_ns == written
        more = values(2)
        torch.save(torch.from_numpy(more), folder / "2.pt")
        longer = sail(folder, home)
        assert longer.key != ref.key
        names, features = read_embeddings(longer.uri)
        assert len(names) == 10
        assert np.array_equal(features[8:], more.astype(np.float32))
        after = {path: path.stat().st_mtime_ns for path in (home / "clips" / "import").rglob("*") if path.is_file()}
        assert shards.items() < after.items()
        assert len(after) - len(shards) == 2
        new = next(path for path in after.keys() - shards.keys() if path.suffix == ".npy")
        assert len(np.load(new)) == 2

    def test_a_shard_that_is_gone_is_written_again(self, tmp_path: Path) -> None:
        folder, home = sail_folder(tmp_path / "sail", values(4)), tmp_path / "home"
        ref = sail(folder, home)
        before = read_embeddings(ref.uri)[1]
        [shard] = (home / "clips" / "import").iterdir()
        (shard / "features.npy").unlink()
        assert sail(folder, home) == ref
        assert np.array_equal(read_embeddings(ref.uri)[1], before)

    def test_rows_that_are_not_finite_are_refused_by_id(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        batch = values(5)
        batch[1, 2], batch[3, 0] = np.nan, np.inf
        ref = sail(sail_folder(tmp_path / "sail", batch), tmp_path / "home", ids=self._ids(tmp_path, "abcde"))
        assert "2 of 5 rows were refused, the first is 'b'" in caplog.text
        names, features = read_embeddings(ref.uri)
        assert names == ["a", "c", "e"]
        assert np.array_equal(features, batch[[0, 2, 4]].astype(np.float32))
        row = read_index(Path(ref.uri))[3]
        assert (row.video_id, row.status, row.reason_code) == ("d", "failed_permanent", "not_finite")
        with pytest.raises(ArtifactError, match=r"1 of 2 clips have no result, e\.g\. 'b': row 1 of .*0\.pt holds NaN"):
            read_embeddings(ref.uri, ["a", "b"])
        with pytest.raises(ArtifactError, match=r"1 of 1 ids are not in .*the first is 'z'"):
            read_embeddings(ref.uri, ["z"])

    def test_nothing_but_refused_rows(self, tmp_path: Path) -> None:
        folder = sail_folder(tmp_path / "sail", np.full((2, 3), np.nan, np.float32))
        with pytest.raises(DatasetError, match="every row was refused, e.g. 'row-000000000'"):
            sail(folder, tmp_path / "home")

    def test_every_broken_file_is_named(self, tmp_path: Path) -> None:
        folder = sail_folder(tmp_path / "sail", *[values(4) for _ in range(9)])
        (folder / "1.pt").write_bytes((folder / "1.pt").read_bytes()[:300])
        (folder / "3.pt").write_bytes(b"")
        torch.save(torch.zeros(4, 7, dtype=torch.float16), folder / "4.pt")
        torch.save(torch.zeros(4, 6), folder / "5.pt")
        torch.save(["a"], folder / "6.pt")
        with pytest.raises(DatasetError, match="5 of 9 batches") as caught:
            sail(folder, tmp_path / "home")
        for words in (
            "1.pt cannot be read",
            "3.pt cannot be read",
            "4.pt: rows of features are float16 (7,); those of the first file float16 (6,)",
            "5.pt: rows of features are float32 (6,)",
            "6.pt holds 'features' is list",
        ):
            assert words in str(caught.value)
        assert not (tmp_path / "home" / "stages").exists()

    @pytest.mark.parametrize(
        ("tensor", "words"),
        [
            (torch.zeros(4), r"features is float32 \(4,\); expected rows"),
            (torch.zeros(0, 4), r"features is float32 \(0, 4\)"),
            (torch.zeros(2, 4, dtype=torch.int64), r"features is int64 \(2, 4\)"),
            ({"a": torch.zeros(2, 4), "b": torch.zeros(3, 4)}, "2 rows of a and 3 rows of b"),
        ],
    )
    def test_tensors_that_are_no_rows(self, tmp_path: Path, tensor: Any, words: str) -> None:
        (tmp_path / "sail").mkdir()
        torch.save(tensor, tmp_path / "sail" / "0.pt")
        with pytest.raises(DatasetError, match=words):
            sail(tmp_path / "sail", tmp_path / "home")

    @pytest.mark.parametrize("name", ["../../../../pwned", "cls/mean", "", ".hidden", "a\n", "é"])
    def test_keys_that_cannot_name_a_column(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "sail").mkdir()
        torch.save({"cls": torch.zeros(2, 4), name: torch.zeros(2, 4)}, tmp_path / "sail" / "0.pt")
        with pytest.raises(DatasetError) as caught:
            sail(tmp_path / "sail", tmp_path / "a" / "home")
        assert f"{tmp_path / 'sail' / '0.pt'} holds a tensor of the key {name!r}" in str(caught.value)
        assert not [path for path in tmp_path.rglob("*.npy")]

    def test_a_key_with_a_dot_or_a_dash_names_a_column(self, tmp_path: Path) -> None:
        (tmp_path / "sail").mkdir()
        torch.save({"cls.mean-1": torch.ones(2, 4)}, tmp_path / "sail" / "0.pt")
        ref = sail(tmp_path / "sail", tmp_path / "home")
        assert read_embeddings(ref.uri, column="cls.mean-1")[1].tolist() == [[1.0] * 4] * 2

    @pytest.mark.parametrize("lengths", [(4, 2, 4), (2, 4), (4, 4, 3, 3)])
    def test_batches_of_two_sizes_are_two_runs(self, tmp_path: Path, lengths: tuple[int, ...]) -> None:
        folder = sail_folder(tmp_path / "sail", *[values(length) for length in lengths])
        with pytest.raises(DatasetError, match="batches of two sizes"):
            sail(folder, tmp_path / "home")

    def test_files_that_do_not_count_up(self, tmp_path: Path) -> None:
        folder = sail_folder(tmp_path / "sail", *[values(2) for _ in range(4)])
        (folder / "2.pt").rename(folder / "02.pt")
        assert [path.name for path in numbered_files(folder, "", ".pt").values()] == ["0.pt", "1.pt", "02.pt", "3.pt"]
        (folder / "02.pt").rename(folder / "last.pt")
        with pytest.raises(DatasetError, match=r"last\.pt has no number"):
            sail(folder, tmp_path / "home")
        (folder / "last.pt").rename(folder / "03.pt")
        with pytest.raises(DatasetError, match="have the same number"):
            sail(folder, tmp_path / "home")
        (folder / "03.pt").unlink()
        with pytest.raises(DatasetError, match=r"lacks 2\.pt \(1 such files\)"):
            sail(folder, tmp_path / "home")
        with pytest.raises(DatasetError, match="is no folder"):
            sail(tmp_path / "nowhere", tmp_path / "home")
        (tmp_path / "empty").mkdir()
        with pytest.raises(DatasetError, match=r"holds no file \{number\}\.pt"):
            sail(tmp_path / "empty", tmp_path / "home")

    @pytest.mark.parametrize(
        ("ids", "words"),
        [
            ("abc", "gives 3 ids for 4 rows"),
            ("abca", "rows 0 and 3 have the same id 'a'"),
            ("ab d", "the id of row 2 is empty"),
        ],
    )
    def test_ids_that_do_not_fit(self, tmp_path: Path, ids: str, words: str) -> None:
        folder = sail_folder(tmp_path / "sail", values(4))
        with pytest.raises(DatasetError, match=words):
            sail(folder, tmp_path / "home", ids=self._ids(tmp_path, ids))

    def test_ids_in_a_table(self, tmp_path: Path) -> None:
        table = tmp_path / "ids.parquet"
        pq.write_table(pa.table({"video_id": ["a", "b"], "clip": [10, 11], "gap": ["x", None]}), table)
        folder, home = sail_folder(tmp_path / "sail", values(2)), tmp_path / "home"
        assert read_embeddings(sail(folder, home, ids=table).uri)[0] == ["a", "b"]
        assert read_embeddings(sail(folder, home, ids=table, column="clip").uri)[0] == ["10", "11"]
        with pytest.raises(DatasetError, match="row 1 is empty"):
            sail(folder, home, ids=table, column="gap")
        with pytest.raises(DatasetError, match=r"no column 'clips' \(did you mean 'clip'\?\); it has: video_id, clip"):
            sail(folder, home, ids=table, column="clips")
        with pytest.raises(ConfigError, match="--column 'clip' names a column of a table"):
            sail(folder, home, column="clip")
        with pytest.raises(ConfigError, match="read as a text file"):
            sail(folder, home, ids=self._ids(tmp_path, "ab"), column="clip")
        table.write_bytes(b"PAR1")
        with pytest.raises(DatasetError, match="cannot be read as Parquet"):
            sail(folder, home, ids=table)

    def test_ids_in_a_text_file(self, tmp_path: Path) -> None:
        (tmp_path / "ids").write_bytes("\ufeffa b\r\n\u2028c\n".encode())
        assert read_ids(tmp_path / "ids", None) == ["a b", "\u2028c"]
        (tmp_path / "ids").write_bytes(b"\xff")
        with pytest.raises(DatasetError, match="cannot be read as UTF-8"):
            read_ids(tmp_path / "ids", None)
        with pytest.raises(DatasetError, match="gone cannot be read: No such file"):
            sail(sail_folder(tmp_path / "sail", values(1)), tmp_path / "home", ids=tmp_path / "gone")

    def _ids(self, folder: Path, ids: str) -> Path:
        path = folder / "ids.txt"
        path.write_text("".join(f"{name.strip()}\n" for name in ids))
        return path


class TestClipRetrieval:
    def test_pictures_and_texts_come_back_by_id(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "ROWS_PER_SHARD", 4)
        held = clip_folder(tmp_path / "clip", (3, 9, 1))
        ref = import_embeddings(tmp_path / "clip", format="clip-retrieval", name="laion", home=tmp_path / "home")
        for column, kind in {"features": "img", "text_features": "text"}.items():
            names, features = read_embeddings(ref.uri, column=column)
            assert names == held["paths"]
            assert np.array_equal(features, held[kind].astype(np.float32))
        asked = ["pictures/1_8.jpg", "pictures/0_0.jpg"]
        assert np.array_equal(read_embeddings(ref.uri, asked)[1], held["img"][[11, 0]].astype(np.float32))
        assert set(read_columns(Path(ref.uri))) == {"features", "text_features"}

    def test_one_kind_without_metadata(self, tmp_path: Path) -> None:
        held = clip_folder(tmp_path / "clip", (2,), kinds=("img",))
        (tmp_path / "clip" / "metadata" / "metadata_0.parquet").unlink()
        (tmp_path / "clip" / "metadata").rmdir()
        ref = import_embeddings(tmp_path / "clip", format="clip-retrieval", name="x", home=tmp_path / "home")
        names, features = read_embeddings(ref.uri)
        assert names == ["row-000000000", "row-000000001"]
        assert np.array_equal(features, held["img"].astype(np.float32))

    def test_a_column_of_the_metadata(self, tmp_path: Path) -> None:
        clip_folder(tmp_path / "clip", (2, 2))
        options: dict[str, Any] = {"format": "clip-retrieval", "name": "x", "home": tmp_path / "home"}
        ref = import_embeddings(tmp_path / "clip", column="caption", **options)
        assert read_embeddings(ref.uri)[0][3] == "a pictures/1_1.jpg"
        with pytest.raises(DatasetError, match="rows 0 and 2 have the same id '0'.*choose another column"):
            import_embeddings(tmp_path / "clip", column="row", **options)

    def test_parts_that_do_not_fit(self, tmp_path: Path) -> None:
        clip_folder(tmp_path / "clip", (2, 2))
        options: dict[str, Any] = {"format": "clip-retrieval", "name": "x", "home": tmp_path / "home"}
        texts = tmp_path / "clip" / "text_emb" / "text_emb_1.npy"
        np.save(texts, values(3, 3))
        with pytest.raises(DatasetError, match="1 of 2 batches.*2 rows of features and 3 rows of text_features"):
            import_embeddings(tmp_path / "clip", **options)
        texts.write_bytes(texts.read_bytes()[:-1])
        with pytest.raises(DatasetError, match=r"text_emb_1\.npy cannot be read as a \.npy file"):
            import_embeddings(tmp_path / "clip", **options)
        texts.unlink()
        with pytest.raises(DatasetError, match="text_features lacks number 1"):
            import_embeddings(tmp_path / "clip", **options)
        np.save(texts, values(2, 3))
        pq.write_table(pa.table({"image_path": ["a"]}), tmp_path / "clip" / "metadata" / "metadata_1.parquet")
        with pytest.raises(DatasetError, match="metadata, image_path gives 3 ids for 4 rows"):
            import_embeddings(tmp_path / "clip", **options)
        (tmp_path / "other").mkdir()
        with pytest.raises(DatasetError, match="neither img_emb/ nor text_emb/"):
            import_embeddings(tmp_path / "other", **options)

    def test_objects_in_an_array_are_not_run(self, tmp_path: Path) -> None:
        clip_folder(tmp_path / "clip", (2,), kinds=("img",))
        np.save(tmp_path / "clip" / "img_emb" / "img_emb_0.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
        with pytest.raises(DatasetError, match="cannot be read as a .npy file"):
            import_embeddings(tmp_path / "clip", format="clip-retrieval", name="x", home=tmp_path / "home")


class TestReading:
    def test_other_folders_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="is no artifact"):
            read_embeddings(tmp_path)

    @pytest.mark.parametrize(
        "address", ["/", "/one", "x", "s3://bucket", "s3://bucket/key", "s3://stages/encode/key", "memory://a/b/c/d"]
    )
    def test_addresses_too_short_for_an_artifact(
        self, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ArtifactError, match="is no artifact of a store"):
            read_embeddings(address)
        assert not list(tmp_path.iterdir())

    def test_a_folder_that_looks_like_an_artifact(self, tmp_path: Path) -> None:
        (tmp_path / "manifest.json").write_text("{}")
        with pytest.raises(ArtifactError, match="is no artifact of a store"):
            read_embeddings(tmp_path)

    def test_an_index_without_columns_is_read(self, tmp_path: Path) -> None:
        rows = [IndexRow(video_id="a", key="k", status="ok", shard="s", row=3)]
        write_index(rows, tmp_path)
        assert read_columns(tmp_path) == {}
        assert locate(tmp_path) == {"a": rows[0].location}

    def test_an_unknown_format_names_the_known(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="unknown embedding format 'sial'.*clip-retrieval, sail"):
            import_embeddings(tmp_path, format="sial", name="x", home=tmp_path / "home")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "VLMVID_HOME", str(tmp_path / "home"))
    folder = sail_folder(tmp_path / "sail", values(3))
    command = ["import-embeddings", str(folder), "--format", "sail", "--out", "mine"]
    assert main([*command, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["kind"], value["counts"]) == ("embeddings", {"ok": 3})
    assert len(read_embeddings(value["uri"])[0]) == 3
    assert main(command) == 0
    assert capsys.readouterr().out == f"import: 3 ok\n{value['uri']}\n"
    assert main([*command, "--column", "x"]) == 2
    (folder / "0.pt").write_bytes(b"")
    assert main(command) == 1
    assert "0.pt cannot be read" in capsys.readouterr().err
