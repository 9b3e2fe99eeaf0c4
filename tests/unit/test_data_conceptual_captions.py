from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.tiny import RECIPE
from tests.unit.pipeline_fixtures import NO_TRACKING, run, statuses
from vlmvid.config.schema import DataConfig, DecodeConfig, SamplingConfig
from vlmvid.data import open_dataset
from vlmvid.data.base import Dataset, Defect
from vlmvid.errors import ConfigError, DatasetError, DecodeError, MissingDataError
from vlmvid.pipeline import make_request
from vlmvid.pipeline.encode import read_index
from vlmvid.types import Clip
from vlmvid.video.clip_decoder import decode_clip
from vlmvid.video.options import ClipJob

LONG = ["longSV_captions", "shortSV_captions"]


def picture(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def members(key: str, caption: str | bytes, seed: int = 0, **described: Any) -> dict[str, bytes]:
    text = caption.encode() if isinstance(caption, str) else caption
    about = {"url": f"http://pictures/{key}", "key": key, "status": "success", **described}
    return {f"{key}.jpg": picture(seed), f"{key}.txt": text, f"{key}.json": json.dumps(about).encode()}


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def write_download_table(path: Path, rows: dict[str, str]) -> None:
    table = {
        "url": [f"http://pictures/{key}" for key in rows],
        "key": list(rows),
        "status": list(rows.values()),
        "error_message": [None if status == "success" else "HTTP Error 404" for status in rows.values()],
    }
    pq.write_table(pa.table(table), path)


def opened(root: Path, **options: Any) -> Dataset:
    return open_dataset(DataConfig(name="cc3m", options={"root": str(root), **options}))


def read(root: Path, **options: Any) -> tuple[list[Clip], list[Defect]]:
    return opened(root, **options).clips(root)


def test_shards_and_folders_give_the_same_clips(tmp_path: Path) -> None:
    files = members("000000001", "a dog", 1) | members("000000002", "a cat", 2)
    write_tar(tmp_path / "tars/00000.tar", files)
    write_files(tmp_path / "files/00000", files)
    shards, folders = opened(tmp_path / "tars"), opened(tmp_path / "files")
    (from_shards, one), (from_folders, other) = shards.clips(tmp_path), folders.clips(tmp_path)
    assert one == other == []
    assert [(c.video_id, c.captions) for c in from_shards] == [
        ("00000/000000001", ("a dog",)),
        ("00000/000000002", ("a cat",)),
    ]
    assert [c.model_copy(update={"path": ""}) for c in from_shards] == [
        c.model_copy(update={"path": ""}) for c in from_folders
    ]
    assert shards.generated_files() == [c.path for c in from_shards] and folders.generated_files() == []
    assert [shards.source_of(name) for name in shards.generated_files()] == ["00000.tar"] * 2
    assert list(shards.source_files()) == ["00000.tar"] and len(folders.source_files()) == 6
    for name, clip in zip(shards.generated_files(), from_folders, strict=True):
        shards.materialise(name, tmp_path / "copies")
        assert (tmp_path / "copies" / name).read_bytes() == Path(clip.path).read_bytes()


def test_a_copied_picture_is_decoded_as_a_clip_of_one_frame(tmp_path: Path) -> None:
    write_tar(tmp_path / "00000.tar", members("a", "a dog"))
    opened(tmp_path).materialise("00000/a.jpg", tmp_path / "out")
    config = DecodeConfig(sampling=SamplingConfig(num_frames=1), image_size=40)
    batch = decode_clip(ClipJob(str(tmp_path / "out/00000/a.jpg")), config)
    by_pillow = np.asarray(Image.open(io.BytesIO(picture())))[:, 10:50].transpose(2, 0, 1)
    assert batch.frames.shape == (1, 3, 40, 40)
    # Decoders differ in how they widen the halved chroma of noise.
    assert np.corrcoef(batch.frames[0].ravel(), by_pillow.ravel())[0, 1] > 0.9


def test_long_captions_come_from_the_json_of_each_picture(tmp_path: Path) -> None:
    more = {"longSV_captions": ["a long text"], "shortSV_captions": "short"}
    write_tar(tmp_path / "00000.tar", members("a", "raw", **more) | members("b", "only raw"))
    clips, defects = read(tmp_path, captions=["txt", *LONG])
    assert defects == []
    assert [c.captions for c in clips] == [("raw", "a long text", "short"), ("only raw",)]
    clips, defects = read(tmp_path, captions=LONG[:1])
    assert [c.captions for c in clips] == [("a long text",)]
    assert [(d.video_id, d.reason_code) for d in defects] == [("00000/b", "missing_caption")]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_long_captions_come_from_a_table_by_address(tmp_path: Path, suffix: str) -> None:
    root, table = tmp_path / "cc", tmp_path / f"dreamlip.{suffix}"
    write_tar(root / "00000.tar", members("a", "raw") | members("b", "not in the table"))
    columns = {"Image Path": ["http://pictures/a", "http://elsewhere"], LONG[0]: ['two\nlines, "quoted"', "x"]}
    if suffix == "parquet":
        pq.write_table(pa.table(columns), table)
    else:
        rows = ['"http://pictures/a","two\nlines, ""quoted"""', "http://elsewhere,x"]
        table.write_text(f"Image Path,{LONG[0]}\n" + "\n".join(rows) + "\n")
    options = {"captions": ["txt", LONG[0]], "captions_table": str(table)}
    clips, _ = read(root, **options)
    assert [c.captions for c in clips] == [("raw", 'two\nlines, "quoted"'), ("not in the table",)]
    assert table.name in opened(root, **options).source_files()
    with pytest.raises(DatasetError, match=f"dreamlip.{suffix} lacks the column 'nothing'; it has: Image Path"):
        read(root, **{**options, "captions": ["nothing"]})
    with pytest.raises(MissingDataError, match=r"captions_table: .*nowhere.csv is no file"):
        read(root, captions_table="nowhere.csv")


def test_what_was_not_downloaded_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "00000.tar", members("a", "raw"))
    write_download_table(tmp_path / "00000.parquet", {"a": "success", "b": "failed_to_download", "c": "success"})
    write_download_table(tmp_path / "urls.parquet", {"x": "failed_to_download"})  # belongs to no shard
    clips, defects = read(tmp_path)
    assert [c.video_id for c in clips] == ["00000/a"]
    assert [(d.video_id, d.reason_code) for d in defects] == [
        ("00000/b", "not_downloaded"),
        ("00000/c", "missing_picture"),
    ]
    assert "http://pictures/b was not downloaded: failed_to_download, HTTP Error 404" in defects[0].message
    assert set(opened(tmp_path).source_files()) == {"00000.tar", "00000.parquet"}


def test_broken_members_are_defects_and_the_rest_goes_on(tmp_path: Path) -> None:
    files = members("good", "fine") | members("latin", "caf\xe9".encode("latin-1")) | members("blank", " \n")
    files |= {"text.txt": b"no picture", "../out.jpg": picture(), "good.png": picture()}
    files |= {"list.json": b"[1]", "list.jpg": picture(), "list.txt": b"x"}
    write_tar(tmp_path / "00000.tar", files)
    clips, defects = read(tmp_path)
    assert [c.video_id for c in clips] == ["00000/good"]
    assert {d.video_id: d.reason_code for d in defects} == {
        "00000/latin": "broken_caption",
        "00000/blank": "missing_caption",
        "00000/text": "missing_picture",
        "00000/list": "broken_caption",
        "00000/../out.jpg": "unsafe_name",
        "00000/good.png": "duplicate_key",
    }


def test_a_shard_cut_short_loses_only_its_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "00000.tar", members("a", "first") | {"b.txt": b"second", "b.jpg": picture(1)})
    with tarfile.open(path) as archive:
        last = archive.getmember("b.jpg")
    whole = path.read_bytes()
    path.write_bytes(whole[: last.offset_data + last.size // 2])
    dataset = opened(tmp_path)
    clips, defects = dataset.clips(tmp_path)
    assert "00000/a" in [c.video_id for c in clips]
    assert [(d.video_id, d.reason_code) for d in defects] == [("00000", "broken_archive")]
    with pytest.raises(DecodeError, match=r"ends within 00000/b.jpg: it holds \d+ of \d+ bytes"):
        dataset.materialise("00000/b.jpg", tmp_path / "out")
    path.write_bytes(b"no archive at all")
    clips, defects = read(tmp_path)
    assert clips == [] and "broken archive" in defects[0].message


def test_shards_outside_of_the_root_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "elsewhere.tar", members("a", "first"))
    (tmp_path / "cc").mkdir()
    (tmp_path / "cc/00000.tar").symlink_to(tmp_path / "elsewhere.tar")
    config = DataConfig(name="cc12m", options={"root": str(tmp_path / "cc")}, restrict_root=str(tmp_path / "cc"))
    clips, defects = open_dataset(config).clips(tmp_path)
    assert clips == [] and [d.reason_code for d in defects] == ["outside_root"]


def test_wrong_options(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="is no folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(MissingDataError, match="holds no picture"):
        read(tmp_path)
    with pytest.raises(ConfigError, match=r"captions: .* at least 1"):
        read(tmp_path, captions=[])


def test_a_shard_passes_the_pipeline_and_a_changed_one_is_seen(tmp_path: Path, home: Path) -> None:
    files: dict[str, bytes] = {}
    for i in range(4):
        files |= members(f"{i:09d}", f"picture number {i}", i)
    shard = write_tar(tmp_path / "cc/00000.tar", files)
    recipe = {
        **{name: RECIPE[name] for name in ("name", "encode", "options")},
        "data": {"name": "cc3m", "options": {"root": str(tmp_path / "cc")}},
        "decode": {"sampling": {"num_frames": 1}, "image_size": 32},
        **NO_TRACKING,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    request = make_request(path, home=home)
    refs = run(request)
    assert [row.status for row in read_index(Path(refs["encode"].uri))] == ["ok"] * 4
    assert {status for status, _ in statuses(request).values()} == {"cached"}
    write_tar(shard, {**files, "000000003.jpg": picture(9)})
    assert statuses(request)["ingest"] == ("run", "input 00000.tar has other content")
    before = read_index(Path(refs["encode"].uri))
    after = read_index(Path(run(request)["encode"].uri))
    assert [a.key == b.key for a, b in zip(before, after, strict=True)] == [True, True, True, False]
