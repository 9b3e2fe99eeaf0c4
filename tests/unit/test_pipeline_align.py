"""What the align stage hands to training: splits, false captions, words; and ids that do not match."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny import RECIPE, read_rows, write_dataset, write_rows
from tests.unit.pipeline_fixtures import NO_TRACKING, index_of, request_for, run
from vlmvid.artifacts.columns import StoredColumn
from vlmvid.config import load_recipe
from vlmvid.errors import ConfigError, DatasetError
from vlmvid.pipeline import RunRequest, align
from vlmvid.pipeline.context import open_context
from vlmvid.pipeline.encode import read_features
from vlmvid.pipeline.index import IndexRow, read_index
from vlmvid.pipeline.preflight import check_training_clips, preflight
from vlmvid.pipeline.request import make_request

SECTIONS = {**NO_TRACKING, "evaluate": None}
ENCODED = ("ingest", "decode", "encode")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Six clips to train on, two of split val, two of split test; the first three have a false caption."""
    path = write_dataset(tmp_path)
    rows = read_rows(path)
    for i, row in enumerate(rows):
        row["split"] = "val" if i in (6, 7) else row["split"]
        row["counterfactual_captions"] = ["a purple picture", row["captions"][0] + " in the dark"] if i < 3 else []
    return write_rows(path, rows)


def request_with(tmp_path: Path, home: Path, manifest: Path, **changes: Any) -> RunRequest:
    return request_for(tmp_path, home, manifest, **SECTIONS, align=RECIPE["align"] | changes)


def test_everything_that_a_recipe_asks_for_reaches_training(tmp_path: Path, home: Path, manifest: Path) -> None:
    request = request_with(
        tmp_path,
        home,
        manifest,
        captions_per_clip=2,
        hard_negatives={"captions": 1},
        auxiliary=[{"kind": "captioning", "weight": 0.1}],
        pooling={"kind": "transformer", "width": 8, "depth": 1, "num_heads": 2},
        early_stopping={"metric": "loss", "every": 2, "patience": 3},
    )
    refs = run(request)
    curves = [json.loads(line) for line in (Path(refs["align"].uri) / "curves.jsonl").read_text().splitlines()]
    assert [row["step"] for row in curves if "val_loss" in row] == [2, 4, 6]
    assert all("loss_captioning" in row for row in curves)
    data, validation = align._data(open_context(request))
    assert data.video_ids == ("v0", "v1", "v2", "v3", "v4", "v5")
    assert [len(rows) for rows in data.captions_of] == [1, 2, 1, 2, 1, 2]
    # "a purple picture" is one text, whoever is not purple.
    assert [len(rows) for rows in data.counterfactuals_of] == [2, 2, 2, 0, 0, 0]
    assert len({row for rows in data.counterfactuals_of for row in rows}) == 4
    assert data.caption_ids is not None and len(data.caption_ids[0]) == data.text_features.shape[0] == 8 + 4
    assert validation is not None and validation.video_ids == ("v6", "v7")
    assert validation.counterfactuals_of == () and validation.caption_ids is None
    clips = [clip for clip in align.split_clips(open_context(request), "train") if clip.captions]
    assert [clip.video_id for clip in clips] == list(data.video_ids)
    assert isinstance(data.video_features, StoredColumn)
    encoded = {row.video_id: row for row in index_of(request, "encode")}
    stored = read_features(open_context(request), [encoded[video_id] for video_id in data.video_ids])
    np.testing.assert_array_equal(data.video_features.read(), stored)


def test_early_stopping_without_validation_clips_is_refused(tmp_path: Path, home: Path, manifest: Path) -> None:
    write_rows(manifest, [row for row in read_rows(manifest) if row["split"] != "val"])
    request = request_with(tmp_path, home, manifest, early_stopping={})
    with pytest.raises(ConfigError, match="early_stopping looks at the split 'val': .* no encoded clip with a caption"):
        run(request)


def test_a_batch_larger_than_the_split_is_refused(tmp_path: Path, home: Path, manifest: Path) -> None:
    request = request_with(tmp_path, home, manifest, optim={**RECIPE["align"]["optim"], "global_batch_size": 7})
    with pytest.raises(ConfigError, match="global_batch_size=7, but there are 6 clips to train on"):
        run(request)


def test_captions_whose_ids_the_embeddings_lack_are_counted_and_named(
    tmp_path: Path, home: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_with(tmp_path, home, manifest)
    run(request, *ENCODED)

    def with_other_ids(folder: Path) -> list[IndexRow]:
        names = {video_id: f"{video_id}.mp4" for video_id in ("v1", "v4")}
        rows = read_index(folder)
        return [row.model_copy(update={"video_id": names.get(row.video_id, row.video_id)}) for row in rows]

    monkeypatch.setattr(align, "read_index", with_other_ids)
    with pytest.raises(DatasetError) as raised:
        align.split_clips(open_context(request), "train")
    words = "2 of 6 clips of split 'train' are not among the embeddings, e.g. 'v1', 'v4'; these have 'v1.mp4', 'v4.mp4'"
    assert f"{words} instead" in str(raised.value)


def test_the_kept_recipe_says_what_was_asked_nulls_included(tmp_path: Path, home: Path) -> None:
    for path in sorted(Path("configs").glob("*/*.yaml")):
        if path.parent.name not in ("align", "pipelines"):
            continue
        asked = load_recipe(path, ["tracking.enabled=false"])
        kept = make_request(path, ["tracking.enabled=false"], home=home).recipe
        assert load_recipe(kept) == asked
    recipe = Path("configs/pipelines/quickstart.yaml")
    kept = make_request(recipe, ["align.optim.grad_clip_norm=null", "tracking.enabled=false"], home=home).recipe
    align = load_recipe(kept).align
    assert align is not None and align.optim.grad_clip_norm is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"optim": {**RECIPE["align"]["optim"], "global_batch_size": 7}},
            "global_batch_size=7, but .* has 6 captioned",
        ),
        ({"hard_negatives": {"captions": 1}}, "captions=1, but no clip of dataset 'manifest' has counterfactual"),
        ({"early_stopping": {}}, "looks at the split 'val', and dataset 'manifest' has no captioned clips"),
    ],
)
def test_too_few_clips_are_known_after_ingest(tmp_path: Path, home: Path, changes: dict[str, Any], words: str) -> None:
    path = write_dataset(tmp_path)
    rows = [{**row, "split": "train" if i < 6 else "test"} for i, row in enumerate(read_rows(path))]
    request = request_with(tmp_path, home, write_rows(path, rows), **changes)
    run(request, "ingest")
    with pytest.raises(ConfigError, match=words):
        check_training_clips(request)
    good = request_with(tmp_path, home, path)
    run(good, "ingest")
    check_training_clips(good)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"video_head": {"kind": "identity"}}, "(?s)identity.*projection_dim"),
        ({"hard_negatives": {"reversed_clips": 0.5}}, "frame_mean does not"),
    ],
)
def test_a_head_or_pooling_that_cannot_work_is_known_before_ingest(
    tmp_path: Path, home: Path, manifest: Path, changes: dict[str, Any], words: str
) -> None:
    changes = {"pooling": {"kind": "frame_mean"}, **changes}
    with pytest.raises(ConfigError, match=words):
        preflight(request_with(tmp_path, home, manifest, **changes))
