"""The video index: what is found, what is told of it, and what is refused."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.unit.video_index_fixtures import MAKER, make_index, table_row, unit_rows
from vlmvid.errors import ArtifactError, ConfigError
from vlmvid.serving import video_index
from vlmvid.serving.video_index import VideoIndex
from vlmvid.serving.video_index_files import IndexDescription
from vlmvid.serving.video_index_table import MAX_FACET_VALUES

N, D = 1500, 24


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "my index"
    make_index(folder, unit_rows(N, D))
    return folder


@pytest.fixture
def index(built: Path) -> VideoIndex:
    return VideoIndex.open(built)


def oracle(queries: np.ndarray, gallery: np.ndarray, rows: list[int], k: int) -> list[list[int]]:
    scores = (queries.astype(np.float64) @ gallery.astype(np.float64).T).astype(np.float32)
    return [sorted(rows, key=lambda row: (-line[row], row))[:k] for line in scores]


def test_it_finds_what_a_full_sort_finds_and_filters(index: VideoIndex) -> None:
    queries = unit_rows(3, D, seed=2).astype(np.float32)
    gallery = unit_rows(N, D)
    rows, scores = index.search(queries, 10)
    assert rows.tolist() == oracle(queries, gallery, list(range(N)), 10)
    assert (rows.dtype, scores.dtype, scores.shape) == (np.int64, np.float32, (3, 10))
    rows, _ = index.search(queries, 10, {"colour": ["red", "blue"]})
    assert rows.tolist() == oracle(queries, gallery, [row for row in range(N) if row % 3 != 1], 10)
    assert {index.clip(row).attributes["colour"] for row in rows[0]} == {"red", "blue"}
    rows, scores = index.search(queries, 10, {"colour": []})
    assert rows.shape == scores.shape == (3, 0)


def test_what_it_says_of_clips(index: VideoIndex) -> None:
    assert (index.num_clips, index.embed_dim, index.model_digest, index.model_name) == (N, D, MAKER.digest, "tiny")
    first, last = index.clips([0, N - 1])
    assert (first.video_id, last.video_id, last.row, last.path) == ("v0", f"v{N - 1}", N - 1, f"/videos/{N - 1}.mp4")
    assert (first.captions, first.attributes) == (("caption 0",), {"colour": "red", "number": "0"})
    assert index.row_of("v1234") == 1234
    assert index.facets == {"colour": {"blue": 500, "green": 500, "red": 500}}, "an attribute of many values is none"
    assert index.moment(3, np.ones(D, np.float32)) is None
    with pytest.raises(ConfigError, match="'v12x' is no video_id.*did you mean"):
        index.row_of("v12x")
    for row in (-1, N):
        with pytest.raises(ConfigError, match=f"row {row} is not in this index"):
            index.clip(row)


def test_the_clips_like_one_do_not_name_itself(index: VideoIndex) -> None:
    rows, scores = index.like(7, 3)
    everywhere = oracle(unit_rows(N, D)[7:8].astype(np.float32), unit_rows(N, D), [r for r in range(N) if r != 7], 3)
    assert rows.tolist() == everywhere and scores.shape == (1, 3)
    rows, _ = index.like(7, 3, {"colour": ["red"]})  # it is green itself
    assert len(rows[0]) == 3 and all(row % 3 == 0 for row in rows[0])


def test_tags_are_the_index_s_own_words(index: VideoIndex) -> None:
    tags = index.text_tags(unit_rows(1, D)[0].astype(np.float32), 4)
    assert len(tags) == 4 and {text for text, _ in tags} <= {f"caption {i}" for i in range(7)} | {
        "red",
        "green",
        "blue",
    }
    assert [score for _, score in tags] == sorted((score for _, score in tags), reverse=True)


def test_many_threads_find_what_one_finds(index: VideoIndex) -> None:
    queries = [unit_rows(1, D, seed=seed).astype(np.float32) for seed in range(16)]
    alone = [index.search(query, 5)[0].tolist() for query in queries]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda query: index.search(query, 5)[0].tolist(), queries)) == alone


def test_what_does_not_fit_is_refused(index: VideoIndex) -> None:
    query = np.ones((1, D), np.float32)
    for queries, k, where, words in (
        (query[:, 1:], 3, {}, r"expected queries \(Q, 24\)"),
        (query * np.nan, 3, {}, "NaN or infinity"),
        (query, 0, {}, "k=0"),
        (query, 3, {"size": ["big"]}, "'size' is no attribute that this index filters by; it has colour"),
        (query, 3, {"colour": ["rde"]}, "no clip has colour='rde'.*did you mean 'red'"),
    ):
        with pytest.raises(ConfigError, match=words):
            index.search(queries, k, where)


def test_hostile_names_and_captions_are_data(tmp_path: Path) -> None:
    name = "../../etc/passwd\n<script>alert(1)</script>.mp4"
    row = table_row(0, video_id=name, path=f"/videos/{name}", captions=("\u202e'; DROP TABLE\x1b[31m",))
    index = make_index(tmp_path / "index", unit_rows(1, D), [row.model_copy(update={"attributes": {name: "\n"}})])
    clip = index.clip(index.row_of(name))
    assert (clip.video_id, clip.captions, clip.attributes) == (name, row.captions, {name: "\n"})
    assert index.facets == {name: {"\n": 1}} and index.search(np.ones((1, D), np.float32), 1, {name: ["\n"]})[0] == 0


def test_attributes_without_end_are_no_facets(tmp_path: Path) -> None:
    rows = [
        table_row(
            i,
            attributes={
                f"name {i}": "x",
                "just": str(i % MAX_FACET_VALUES),
                "over": str(i % 101),
                "long": "x" * (201 if i == 500 else 1),
            },
        )
        for i in range(1000)
    ]
    index = make_index(tmp_path / "index", unit_rows(1000, 4), rows)
    assert not {"over", "long"} & index.facets.keys() and len(index.facets) == 50
    assert index.facets["just"] == {str(value): 10 for value in range(100)}
    assert index.clip(999).attributes["over"] == str(999 % 101)


def test_it_opens_while_a_build_puts_another_table_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_index(tmp_path / "index", unit_rows(3, D))
    original = video_index.read_description

    def read_and_be_late(folder: Path) -> IndexDescription:
        found = original(folder)
        if found.num_clips == 3:
            with monkeypatch.context() as patched:
                patched.setattr(video_index, "read_description", original)
                make_index(folder, unit_rows(5, D))
        return found

    monkeypatch.setattr(video_index, "read_description", read_and_be_late)
    assert VideoIndex.open(tmp_path / "index").num_clips == 5


class TestDamage:
    @pytest.fixture
    def folder(self, built: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(built, tmp_path / "copy"))

    def test_no_index(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="is no video index: it has no index.json; make one: vlmvid index"):
            VideoIndex.open(tmp_path / "nowhere")
        (tmp_path / "manifest.json").write_text("{}")
        with pytest.raises(ArtifactError, match="artifact of a stage.*without opening a video: vlmvid index"):
            VideoIndex.open(tmp_path)

    def test_half_written(self, folder: Path) -> None:
        (folder / "index.json").unlink()
        (folder / "clips").mkdir()
        with pytest.raises(ArtifactError, match="was not finished; run the command that builds it again"):
            VideoIndex.open(folder)

    @pytest.mark.parametrize("name", ["embeddings.npy", "rows.parquet", "facets.npy", "tags.json", "tags.npy"])
    def test_a_file_that_is_cut_or_gone(self, folder: Path, name: str) -> None:
        (path,) = folder.glob(f"tables/*/{name}")
        whole = path.read_bytes()
        path.write_bytes(whole[:-10])
        with pytest.raises(ArtifactError, match=f"damaged: .*{name} has {len(whole) - 10} bytes"):
            VideoIndex.open(folder)
        path.unlink()
        with pytest.raises(ArtifactError, match=f"{name} of the video index cannot be read"):
            VideoIndex.open(folder)

    @pytest.mark.parametrize("name", ["embeddings.npy", "rows.parquet", "facets.npy", "tags.json", "tags.npy"])
    def test_a_file_of_other_content(self, folder: Path, name: str) -> None:
        (path,) = folder.glob(f"tables/*/{name}")
        path.write_bytes(b"\0" * path.stat().st_size)
        with pytest.raises(ArtifactError, match="cannot be read.*build it again"):
            VideoIndex.open(folder)

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}'])
    def test_a_broken_description(self, folder: Path, text: str) -> None:
        (folder / "index.json").write_text(text)
        with pytest.raises(ArtifactError, match="build it again"):
            VideoIndex.open(folder)

    def test_a_newer_format(self, folder: Path) -> None:
        path = folder / "index.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
        with pytest.raises(ArtifactError, match="newer vlmvid"):
            VideoIndex.open(folder)

    def test_embeddings_of_another_index(self, folder: Path) -> None:
        path = folder / "index.json"
        value = json.loads(path.read_text())
        path.write_text(json.dumps({**value, "num_clips": N - 1}))
        with pytest.raises(ArtifactError, match="do not belong together"):
            VideoIndex.open(folder)

    def test_an_embedding_that_is_no_number(self, tmp_path: Path) -> None:
        values = unit_rows(5, D)
        values[3, 2] = np.nan
        with pytest.raises(ArtifactError, match="NaN or infinity"):
            make_index(tmp_path / "index", values)
        assert not (tmp_path / "index" / "index.json").exists()
