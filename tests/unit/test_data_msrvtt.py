from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import COLOURS, RECIPE, write_clip
from tests.unit.pipeline_fixtures import NO_TRACKING, run
from vlmvid.config.schema import DataConfig
from vlmvid.data import open_dataset
from vlmvid.data.base import Dataset
from vlmvid.errors import ConfigError, DatasetError, MissingDataError
from vlmvid.pipeline import make_request
from vlmvid.pipeline.index import read_index

TEST = 'key,vid_key,video_id,sentence\nret0,msr9,video9,a person connects something\nret1,msr8,video8,"red, or not"\n'
SPLITS = {0: "train", 1: "train", 2: "validate", 8: "test", 9: "test"}


def write_annotations(root: Path, **changes: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    videos = [
        {
            "video_id": f"video{i}",
            "url": f"https://www.youtube.com/watch?v=source{i // 2}&t=3",
            "split": split,
            "category": 1,
        }
        for i, split in SPLITS.items()
    ]
    sentences = [
        {"video_id": video["video_id"], "sen_id": n, "caption": f"{video['video_id']} said {min(n, 2)}"}
        for video in videos
        for n in range(4)
    ]
    values = {"info": {}, "videos": videos, "sentences": sentences, **changes}
    (root / "MSRVTT_data.json").write_text(json.dumps(values))
    (root / "MSRVTT_train.9k.csv").write_text("video_id\nvideo0\nvideo1\nvideo2\n")
    (root / "MSRVTT_JSFUSION_test.csv").write_text(TEST)
    return root


def opened(root: Path, **options: Any) -> Dataset:
    return open_dataset(DataConfig(name="msrvtt", options={"root": str(root), **options}))


@pytest.mark.parametrize("separator", [",", ";"])
def test_the_split_1k_a(tmp_path: Path, separator: str) -> None:
    root = write_annotations(tmp_path)
    if separator == ";":
        text = "key;vid_key;video_id;sentence\nret0;msr9;video9;a person connects something\n"
        text += "ret1;msr8;video8;red, or not\n"
        (root / "MSRVTT_JSFUSION_test.csv").write_text(text)
    write_clip(root / "videos/all/video0.mp4", COLOURS["red"])
    dataset = opened(root)
    clips, defects = dataset.clips(tmp_path)
    assert defects == []
    assert {c.video_id: (c.split, c.captions) for c in clips} == {
        **{f"video{i}": ("train", tuple(f"video{i} said {n}" for n in range(3))) for i in range(3)},
        "video9": ("test", ("a person connects something",)),
        "video8": ("test", ("red, or not",)),
    }
    by_id = {c.video_id: c for c in clips}
    assert by_id["video0"].path == str(root / "videos/all/video0.mp4")
    assert by_id["video1"].path == str(root / "video1.mp4")  # not there
    assert by_id["video1"].attributes == {"source": "source0"}
    assert set(dataset.source_files()) == {
        "MSRVTT_data.json",
        "MSRVTT_train.9k.csv",
        "MSRVTT_JSFUSION_test.csv",
        *(f"video{i}.mp4" for i in SPLITS),
    }


def test_the_official_split(tmp_path: Path) -> None:
    clips, _ = opened(write_annotations(tmp_path), train_list=None, test_list=None).clips(tmp_path)
    names = {"train": "train", "validate": "val", "test": "test"}
    assert {c.video_id: c.split for c in clips} == {f"video{i}": names[split] for i, split in SPLITS.items()}


def test_validation_videos_share_no_source_with_training(tmp_path: Path) -> None:
    root = write_annotations(tmp_path)
    videos = [{"video_id": f"video{i}", "url": f"http://y?v=s{i // 5}"} for i in range(300)]
    sentences = [{"video_id": video["video_id"], "caption": "x"} for video in videos]
    (root / "MSRVTT_data.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
    (root / "MSRVTT_train.9k.csv").write_text("video_id\n" + "".join(f"video{i}\n" for i in range(10, 300)))
    clips, _ = opened(root, val_fraction=0.2).clips(tmp_path)
    sources = {split: {c.attributes["source"] for c in clips if c.split == split} for split in ("train", "val")}
    assert not sources["train"] & sources["val"]
    assert 5 <= len(sources["val"]) <= 20
    assert sum(c.split == "test" for c in clips) == 2


def test_a_missing_sentence_and_missing_videos_are_rows_with_a_reason(tmp_path: Path, home: Path) -> None:
    root = write_annotations(tmp_path / "msrvtt")
    (root / "MSRVTT_train.9k.csv").write_text("video_id\nvideo0\nvideo1\nvideo77\n")
    for i in (0, 8, 9):
        write_clip(root / f"videos/video{i}.mp4", COLOURS["blue"], shift=i)
    recipe = {
        **{name: RECIPE[name] for name in ("name", "decode", "encode")},
        "data": {"name": "msrvtt", "options": {"root": str(root)}},
        "options": {**RECIPE["options"], "max_failed_fraction": 0.5},
        **NO_TRACKING,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    request = make_request(path, home=home)
    index = {row.video_id: row.status for row in read_index(Path(run(request)["encode"].uri))}
    assert index == {"video0": "ok", "video8": "ok", "video9": "ok"}
    from vlmvid.pipeline.context import open_context

    manifest = open_context(request).store.manifest("ingest", open_context(request).keys.key("ingest"))
    assert manifest is not None and manifest.counts["ok"] == 3 and sum(manifest.counts.values()) == 5
    failed = {r.video_id: r.reason_code for r in open_context(request).store.ledger("ingest").rows().values()}
    assert failed["video1"] == "missing_file" and failed["video77"] == "missing_caption"


@pytest.mark.parametrize(
    ("file", "content", "error", "words"),
    [
        ("MSRVTT_data.json", None, MissingDataError, "MSRVTT_data.json cannot be read: .*does not exist|no such"),
        ("MSRVTT_data.json", "{", DatasetError, "is not JSON"),
        ("MSRVTT_data.json", "[]", DatasetError, "holds a JSON list; expected a dict"),
        ("MSRVTT_data.json", '{"videos": []}', DatasetError, "not MSR-VTT's: KeyError.'sentences'"),
        ("MSRVTT_train.9k.csv", "id\nvideo0\n", DatasetError, "lacks the column 'video_id'; it has: id"),
        (
            "MSRVTT_train.9k.csv",
            "video_id\nvideo9\n",
            DatasetError,
            "1 videos are in .*9k.csv and in .*test.csv, e.g. video9",
        ),
    ],
)
def test_wrong_files(tmp_path: Path, file: str, content: str | None, error: type[Exception], words: str) -> None:
    root = write_annotations(tmp_path)
    if content is None:
        (root / file).unlink()
    else:
        (root / file).write_text(content)
    with pytest.raises(error, match=words):
        opened(root).clips(tmp_path)


def test_wrong_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train_list=None and test_list='x.csv': give both"):
        opened(write_annotations(tmp_path), train_list=None, test_list="x.csv")
    write_annotations(tmp_path, videos=[{"video_id": "video0", "split": "public"}], sentences=[])
    with pytest.raises(DatasetError, match="the split 'public'; expected train, validate, test"):
        opened(tmp_path, train_list=None, test_list=None).clips(tmp_path)
