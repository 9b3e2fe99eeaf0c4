"""Interleaved documents of both layouts, from small files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vlmvid.config.schema import DataConfig
from vlmvid.data import Dataset, open_dataset
from vlmvid.data.interleaved import _alternating
from vlmvid.errors import ConfigError, DatasetError
from vlmvid.video import open_video

OBELICS = {
    "texts": ["A dog\n\nruns.", None, None, "", "A cat sleeps.", None],
    "images": [None, "dog.png", "deep/cat.jpg", None, None, "end.png"],
    "metadata": '[null, {"alt_text": "dog"}, null, null, null, null]',
    "general_metadata": '{"url": "https://example.org"}',
}
MMC4 = {
    "text_list": ["First sentence.", "Second sentence.", "  "],
    "url": "https://example.org/page",
    "image_info": [
        {"image_name": "dog.png", "matched_text_index": 1, "matched_sim": 0.25, "face_detections": None},
        {"image_name": "cat.png", "matched_text_index": 0, "matched_sim": 0.5, "face_detections": None},
    ],
    "similarity_matrix": [[0.1, 0.25, 0.0], [0.5, 0.1, 0.0]],
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def opened(path: Path, **options: Any) -> Dataset:
    return open_dataset(DataConfig(name="interleaved", options={"path": str(path), **options}))


def test_obelics_images_get_the_nearest_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "docs.jsonl", OBELICS, "")
    expected = {
        "both": [("A dog runs.", "A cat sleeps."), ("A dog runs.", "A cat sleeps."), ("A cat sleeps.",)],
        "before": [("A dog runs.",), ("A dog runs.",), ("A cat sleeps.",)],
    }
    for text, captions in expected.items():
        clips, defects = opened(path, text=text).clips(tmp_path)
        assert defects == [] and [clip.captions for clip in clips] == captions
    assert [clip.video_id for clip in clips] == ["00000001#001", "00000001#002", "00000001#005"]
    assert [clip.path for clip in clips] == [str(tmp_path / n) for n in ("dog.png", "deep/cat.jpg", "end.png")]
    assert clips[1].attributes == {"document": "00000001", "position": 2}
    clips, [defect] = opened(path, text="after").clips(tmp_path)
    assert [clip.captions for clip in clips] == [("A cat sleeps.",)] * 2
    assert (defect.video_id, defect.path, defect.reason_code) == ("00000001#005", "end.png", "missing_caption")


def test_mmc4_images_get_the_matched_sentence(tmp_path: Path) -> None:
    clips, defects = opened(write(tmp_path / "docs.jsonl", MMC4)).clips(tmp_path)
    assert [(clip.video_id, clip.captions) for clip in clips] == [
        ("00000001#000", ("Second sentence.",)),
        ("00000001#001", ("First sentence.",)),
    ]
    assert clips[0].attributes == {
        "document": "00000001",
        "position": 0,
        "url": "https://example.org/page",
        "similarity": 0.25,
    }
    assert defects == []


@pytest.mark.parametrize("document", [OBELICS, MMC4], ids=["obelics", "mmc4"])
def test_parquet_gives_what_json_lines_give(tmp_path: Path, document: dict[str, Any]) -> None:
    lines = opened(write(tmp_path / "docs.jsonl", document, document)).clips(tmp_path)
    pq.write_table(pa.Table.from_pylist([document, document]), tmp_path / "docs.parquet")
    assert opened(tmp_path / "docs.parquet").clips(tmp_path) == lines
    assert len(lines[0]) >= 4


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "not JSON"),
        ('{"texts": ["\udce9"]}', "not JSON"),
        ([1], "a document is an object, got list"),
        ({"text": "a"}, "texts and images .OBELICS. or text_list and image_info .MMC4.; this one has text"),
        ({}, "this one has none"),
        ({"texts": ["a"], "images": []}, "lists of equal length; got 1 entries and 0 entries"),
        ({"texts": "a", "images": ["b"]}, "got str and 1 entries"),
        ({"texts": ["a"], "images": ["b.png"]}, r"place 0 must hold a text or an image, .*got \('a', 'b.png'\)"),
        ({"texts": [None], "images": [None]}, r"got \(None, None\)"),
        ({"texts": [3], "images": [None]}, r"got \(3, None\)"),
        ({"text_list": ["a"], "image_info": {}}, "must be lists; got 1 entries and dict"),
        ({"text_list": ["a"], "image_info": [{"image_name": "b.png", "matched_text_index": 1}]}, "from 0 to 0; .* 1$"),
        ({"text_list": ["a"], "image_info": [{"image_name": "b.png", "matched_text_index": -1}]}, "'b.png' and -1"),
        ({"text_list": ["a"], "image_info": [{"image_name": "b.png", "matched_text_index": True}]}, "and True"),
        ({"text_list": ["a"], "image_info": [{"matched_text_index": 0}]}, "got None and 0"),
        ({"text_list": ["a"], "image_info": ["b.png"]}, "got None and None"),
    ],
)
def test_a_broken_document_is_a_defect_and_costs_no_other(tmp_path: Path, row: Any, words: str) -> None:
    path = tmp_path / "docs.jsonl"
    write(path, MMC4)
    text = row if isinstance(row, str) else json.dumps(row)
    path.write_bytes(text.encode("utf-8", "surrogateescape") + b"\n" + path.read_bytes())
    clips, [defect] = opened(path).clips(tmp_path)
    assert [clip.video_id for clip in clips] == ["00000002#000", "00000002#001"]
    assert (defect.video_id, defect.path, defect.reason_code) == ("00000001", str(path), "broken_document")
    assert re.search(words, defect.message), defect.message
    assert defect.message.startswith(f"{path}, line 1: ")


def test_an_image_that_cannot_be_a_clip_is_a_defect_and_costs_no_other(tmp_path: Path) -> None:
    images = ["https://example.org/a.png", "good.png", "a\0.png", None]
    document = {"texts": [None, None, None, "words"], "images": images}
    lone = '{"texts": ["\\ud800", null], "images": [null, "b.png"]}'
    silent = {"text_list": [" "], "image_info": [{"image_name": "c.png", "matched_text_index": 0}]}
    clips, defects = opened(write(tmp_path / "d.jsonl", document, lone, silent)).clips(tmp_path)
    assert [clip.path for clip in clips] == [str(tmp_path / "good.png")]
    assert [(defect.video_id, defect.reason_code) for defect in defects] == [
        ("00000001#000", "protocol_not_allowed"),
        ("00000001#002", "broken_document"),
        ("00000002#001", "broken_document"),
        ("00000003#000", "missing_caption"),
    ]


def test_files_that_cannot_be_read_name_the_option(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no parquet")
    for name in ("missing.jsonl", "missing.parquet", "text.parquet"):
        with pytest.raises(DatasetError, match=f"{name}.*data.options.path"):
            opened(tmp_path / name).clips(tmp_path)
    with pytest.raises(DatasetError, match="has no images"):
        opened(write(tmp_path / "empty.jsonl", "", "")).clips(tmp_path)
    with pytest.raises(ConfigError, match="data.options.image_root: .*no-folder is no folder"):
        opened(write(tmp_path / "docs.jsonl", MMC4), image_root=str(tmp_path / "no-folder"))


def test_images_of_one_document_share_a_split_and_places_enter_no_key(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    path = write(tmp_path / "docs.jsonl", *[MMC4] * 60)
    dataset = opened(path, image_root=str(tmp_path / "images"), test_fraction=0.4, val_fraction=0.2)
    clips, _ = dataset.clips(tmp_path)
    splits = {(clip.attributes["document"], clip.split) for clip in clips}
    assert len(splits) == 60 and {split for _, split in splits} == {"train", "val", "test"}
    assert dataset.source_files() == {
        "docs.jsonl": path,
        "dog.png": tmp_path / "images" / "dog.png",
        "cat.png": tmp_path / "images" / "cat.png",
    }
    assert dataset.index_file() == path
    assert str(tmp_path) not in json.dumps(dataset.key_config())


def test_an_image_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "dog.png")
    clip = opened(write(tmp_path / "docs.jsonl", MMC4)).clips(tmp_path)[0][0]
    with open_video(clip.path) as video:
        assert video.num_frames == 1
        np.testing.assert_array_equal(video.frames_at([0]).frames[0].transpose(1, 2, 0), pixels)


places = st.lists(st.one_of(st.tuples(st.text(max_size=3), st.none()), st.tuples(st.none(), st.text(max_size=3))))


@given(places, st.sampled_from(["before", "after", "both"]))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_the_nearest_texts_by_search(pairs: list[tuple[str | None, str | None]], text: str) -> None:
    texts, images = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    found = _alternating(texts, images, text, {})
    assert [image.position for image in found] == [place for place, name in enumerate(images) if name is not None]
    for image in found:
        before = [" ".join(t.split()) for t in texts[: image.position][::-1] if t and t.split()][:1]
        after = [" ".join(t.split()) for t in texts[image.position :] if t and t.split()][:1]
        wanted = {"before": before, "after": after, "both": before + after}[text]
        assert image.captions == tuple(dict.fromkeys(wanted))
