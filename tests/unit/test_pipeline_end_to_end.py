"""A recipe with align.end_to_end: what is trained, measured, registered, searched, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlmvid
from tests.tiny import RECIPE, read_rows, write_dataset
from tests.unit.models_fixtures import small_copy
from tests.unit.pipeline_fixtures import features_of, index_of, request_for, run, statuses
from tests.unit.tracking_fixtures import fresh_home
from vlmvid.errors import ConfigError
from vlmvid.models.saving import load_vision
from vlmvid.pipeline import ingest
from vlmvid.pipeline.align import split_clips
from vlmvid.pipeline.clip_embeddings import ClipEmbeddings
from vlmvid.pipeline.context import open_context
from vlmvid.pipeline.encode import read_patches, vision_backbone
from vlmvid.pipeline.indexing import index_request, plan_index
from vlmvid.pipeline.preflight import preflight

LORA = {"rank": 2}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


def sections(tmp_path: Path, **end_to_end: Any) -> dict[str, Any]:
    folder = tmp_path / "text"
    if not folder.is_dir():
        small_copy(folder)
    text = {"encoder": f"hf:{folder}"}
    return {
        "align": {**RECIPE["align"], "end_to_end": end_to_end},
        "encode": {**RECIPE["encode"], "text": text},
    }


def test_adapted_encoders_are_trained_measured_and_served(tmp_path: Path, home: Path, manifest: Path) -> None:
    augmentation = {"min_area": 0.6, "brightness": 0.2}
    parts = sections(tmp_path, vision={**LORA, "use_dora": True}, text=LORA, augmentation=augmentation)
    tracked = {"tracking": {"uri": f"sqlite:///{fresh_home(home)}/mlflow.db"}, "register": {"model_name": "m"}}
    request = request_for(tmp_path, home, manifest, (), **parts, **tracked)
    preflight(request)
    refs = run(request)
    context = open_context(request)
    align = context.folder("align")
    assert {path.name for path in align.iterdir() if path.is_dir()} == {"vision", "text"}

    paths = [tmp_path / f"clip{i}.mp4" for i in range(10)]
    frames = context.store.clips("decode").gather("frames", [row.location for row in index_of(request, "decode")])
    adapted = load_vision(align / "vision").encode_clips(frames)["mean"]
    # The backbone that other stages share is as it was.
    np.testing.assert_array_equal(vision_backbone(context).encode_clips(frames)["mean"], features_of(request))
    assert np.abs(adapted - features_of(request)).max() > 1e-4

    folder = json.loads((Path(refs["register"].uri) / "registered.json").read_text())["model_folder"]
    model = vlmvid.load(folder)
    assert model.info["adapted"] == ["vision", "text"]
    assert not (Path(folder) / "alignment" / "vision").exists()
    np.testing.assert_allclose(model.embed_video_features(adapted), model.encode_video(paths), atol=1e-5)
    # What evaluate measured is what the model gives.
    rows = read_rows(manifest)[6:]
    pairs = [(number, caption) for number, row in enumerate(rows) for caption in row["captions"]]
    scores = model.similarity(model.encode_video(paths[6:]), model.encode_text([caption for _, caption in pairs]))
    ranks = [(scores[:, i] >= scores[own, i]).sum() for i, (own, _) in enumerate(pairs)]
    results = json.loads((Path(refs["evaluate"].uri) / "metrics.json").read_text())
    measured = {metric["name"]: metric["value"] for metric in results[0]["metrics"]}
    assert measured["t2v_mean_rank"] == pytest.approx(np.mean(ranks))
    with pytest.raises(ConfigError, match="was trained end to end.*give the videos themselves"):
        plan_index(index_request(refs["encode"].uri, folder, str(tmp_path / "index")))
    assert all(status == "cached" for status, _ in statuses(request).values())


def test_a_pooling_over_patches_reads_those_of_the_adapted_backbone(tmp_path: Path, home: Path, manifest: Path) -> None:
    parts = sections(tmp_path, vision=LORA)
    parts["align"]["pooling"] = {"kind": "attentive", "width": 8, "num_heads": 2}
    request = request_for(tmp_path, home, manifest, ("encode.keep_tokens=true",), **parts)
    run(request)
    context = open_context(request)
    clips = split_clips(context, "test")
    by_id = {row.clip.video_id: row for row in ingest.read_rows(context)}
    embeddings = ClipEmbeddings(context, [by_id[clip.video_id] for clip in clips])
    found = embeddings._features
    assert [row.clip for row in embeddings.rows] == clips
    encoded = {row.video_id: row for row in index_of(request, "encode")}
    stored = read_patches(context, [encoded[clip.video_id] for clip in clips])
    assert found.shape == stored.shape and np.abs(found - stored).max() > 1e-4
    rows = {row.video_id: row.location for row in index_of(request, "decode")}
    frames = context.store.clips("decode").gather("frames", [rows[clip.video_id] for clip in clips])
    backbone = load_vision(context.folder("align") / "vision")
    tokens = backbone.encode_clips(frames, keep_tokens=True)["tokens"]
    np.testing.assert_array_equal(found, tokens[:, :, backbone.num_prefix_tokens :])


@pytest.mark.parametrize("side", ["vision", "text"])
def test_one_side_may_learn_alone(tmp_path: Path, home: Path, manifest: Path, side: str) -> None:
    request = request_for(tmp_path, home, manifest, (), **sections(tmp_path, **{side: LORA}))
    run(request)
    align = open_context(request).folder("align")
    assert [path.name for path in align.iterdir() if path.is_dir()] == [side]
    assert [json.loads(row)["step"] for row in (align / "curves.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]


def test_the_key_knows_the_adapters(tmp_path: Path, home: Path, manifest: Path) -> None:
    requests = [
        request_for(tmp_path, home, manifest, (), **sections(tmp_path, **sides))
        for sides in ({"vision": LORA}, {"vision": {"rank": 3}}, {"text": LORA})
    ]
    keys = [open_context(request).keys for request in requests]
    assert len({key.key("align") for key in keys}) == 3 and len({key.key("encode") for key in keys}) == 1
    parts = keys[0].parts("align")
    assert "vlmvid.models.lora" in parts.code and "peft" in parts.packages


def test_frames_that_are_not_stored_are_refused_before_any_work(tmp_path: Path, home: Path, manifest: Path) -> None:
    with pytest.raises(ConfigError, match="end_to_end.vision trains on frames.*keep_frames: true"):
        request_for(tmp_path, home, manifest, ("decode.keep_frames=false",), **sections(tmp_path, vision=LORA))
    fused = request_for(tmp_path, home, manifest, ("decode.keep_frames=false",), **sections(tmp_path, text=LORA))
    assert "decode" not in open_context(fused).recipe.stages()


def test_an_encoder_without_the_named_layers_is_refused_before_any_work(
    tmp_path: Path, home: Path, manifest: Path
) -> None:
    wanted = {"target_modules": ["q_proj"]}
    request = request_for(tmp_path, home, manifest, (), **sections(tmp_path, vision=wanted))
    with pytest.raises(ConfigError, match=r"no linear layer named 'q_proj'; its linear layers are .*attn\.qkv"):
        preflight(request)


def test_augmented_frames_teach_something_else(tmp_path: Path, home: Path, manifest: Path) -> None:
    weights = []
    for augmentation in (None, {"min_area": 0.3, "max_area": 0.5}):
        request = request_for(
            tmp_path, home, manifest, (), **sections(tmp_path, vision=LORA, augmentation=augmentation)
        )
        run(request)
        folder = open_context(request).folder("align")
        weights.append(sorted((path.name, path.read_bytes()) for path in (folder / "vision").glob("*.safetensors")))
    assert weights[0] and weights[0] != weights[1]


def test_augmentation_needs_an_encoder_that_sees_frames(tmp_path: Path, home: Path, manifest: Path) -> None:
    with pytest.raises(ConfigError, match="only a vision encoder that learns reads"):
        request_for(tmp_path, home, manifest, (), **sections(tmp_path, text=LORA, augmentation={}))
