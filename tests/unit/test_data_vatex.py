from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import COLOURS, write_clip
from vlmvid.config.schema import DataConfig
from vlmvid.data import open_dataset
from vlmvid.data.base import Dataset
from vlmvid.errors import DatasetError, MissingDataError

TRAIN, VAL, TEST = "Ptf_2VRj-V0_000122_000132", "abc_000003_000013", "with_under_000000_000010"


def entry(video_id: str, **changes: Any) -> dict[str, Any]:
    return {"videoID": video_id, "enCap": [f"{video_id} one", "two ", "two"], "chCap": ["一"], **changes}


def write(root: Path, **files: list[Any]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    files = {"train": [entry(TRAIN)], "val": [entry(VAL)], "test": [entry(TEST, chCap=None)], **files}
    names = {
        "train": "vatex_training_v1.0.json",
        "val": "vatex_validation_v1.0.json",
        "test": "vatex_public_test_english_v1.1.json",
    }
    for name, values in files.items():
        (root / names[name]).write_text(json.dumps(values))
    return root


def opened(root: Path, **options: Any) -> Dataset:
    return open_dataset(DataConfig(name="vatex", options={"root": str(root), **options}))


def test_clips_and_whole_videos(tmp_path: Path) -> None:
    root = write(tmp_path)
    write_clip(root / f"videos/{TRAIN}.mp4", COLOURS["red"])
    write_clip(root / "videos/abc.mp4", COLOURS["red"])
    clips, defects = opened(root).clips(tmp_path)
    assert defects == []
    found = {c.video_id: (Path(c.path).name, c.start_seconds, c.end_seconds, c.split) for c in clips}
    assert found == {
        TRAIN: (f"{TRAIN}.mp4", 0.0, None, "train"),
        VAL: ("abc.mp4", 3.0, 13.0, "val"),
        TEST: (f"{TEST}.mp4", 0.0, None, "test"),  # not there: ingest says so
    }
    assert clips[0].captions == (f"{TRAIN} one", "two")
    assert [c.attributes["source"] for c in clips] == ["Ptf_2VRj-V0", "abc", "with_under"]
    assert len(opened(root).source_files()) == 6


def test_languages(tmp_path: Path) -> None:
    clips, defects = opened(write(tmp_path), language="zh").clips(tmp_path)
    assert [c.captions for c in clips] == [("一",), ("一",)]
    assert [(d.video_id, d.reason_code) for d in defects] == [(TEST, "missing_caption")]


def test_the_retrieval_split_of_a_list(tmp_path: Path) -> None:
    other = "xyz_000000_000010"
    root = write(tmp_path, val=[entry(VAL), entry(other)])
    (root / "val_list_split2.txt").write_text(f"{other}\n\n")
    clips, _ = opened(root, test_list="val_list_split2.txt").clips(tmp_path)
    assert {c.video_id: c.split for c in clips} == {TRAIN: "train", VAL: "val", other: "test"}
    (root / "val_list_split2.txt").write_text("nobody\n")
    with pytest.raises(DatasetError, match="names 1 ids that vatex_validation_v1.0.json lacks, e.g. nobody"):
        opened(root, test_list="val_list_split2.txt").clips(tmp_path)
    (root / "val_list_split2.txt").write_text("\n")
    with pytest.raises(DatasetError, match="names no id"):
        opened(root, test_list="val_list_split2.txt").clips(tmp_path)


def test_an_id_without_a_window(tmp_path: Path) -> None:
    backwards, plain = "abc_000013_000003", "plain"
    root = write(tmp_path, train=[entry(backwards), entry(plain)], val=[], test=[])
    write_clip(root / "abc.mp4", COLOURS["red"])
    clips, defects = opened(root).clips(tmp_path)
    assert [c.video_id for c in clips] == [plain]
    assert [(d.video_id, d.reason_code) for d in defects] == [(backwards, "empty_window")]


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ([{"enCap": ["x"]}], "entry 1 is not VATEX's: KeyError.'videoID'"),
        ([entry(TRAIN), entry(TRAIN)], f"duplicate video_id '{TRAIN}'"),
        ([entry(TRAIN, enCap=[3])], "entry 1 is not VATEX's"),
        (["text"], "entry 1 is not VATEX's"),
    ],
)
def test_wrong_entries(tmp_path: Path, train: list[Any], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        opened(write(tmp_path, train=train)).clips(tmp_path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "vatex_training_v1.0.json").unlink()
    with pytest.raises(MissingDataError, match=r"vatex_training_v1.0.json cannot be read"):
        opened(root).clips(tmp_path)
    assert [c.split for c in opened(root, train=None).clips(tmp_path)[0]] == ["val", "test"]
