"""Kept tokens: other features without the videos or the backbone, poolings over patches, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlmvid
from tests.tiny import RECIPE, write_dataset
from tests.unit.pipeline_fixtures import count_opens, features_of, index_of, ledger_of, request_for, run, statuses
from tests.unit.tracking_fixtures import fresh_home
from vlmvid.artifacts.arrays import as_float32
from vlmvid.errors import ConfigError, StageError
from vlmvid.models.alignment import load_alignment
from vlmvid.models.backbones.base import FrozenBackbone
from vlmvid.models.embedding import embed_videos
from vlmvid.pipeline import RunRequest
from vlmvid.pipeline.context import open_context
from vlmvid.pipeline.encode import read_patches, vision_backbone
from vlmvid.pipeline.indexing import index_request
from vlmvid.pipeline.indexing_table import build_index
from vlmvid.pipeline.search import search_index

FUSED = "decode.keep_frames=false"
KEPT = "encode.keep_tokens=true"
ENCODE = {"align": None, "evaluate": None}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


def count_forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    forwards: list[int] = []
    original = FrozenBackbone.encode_clips

    def counted(self: FrozenBackbone, frames: Any, *args: Any, **kwargs: Any) -> Any:
        forwards.append(len(frames))
        return original(self, frames, *args, **kwargs)

    monkeypatch.setattr(FrozenBackbone, "encode_clips", counted)
    return forwards


def column_of(request: RunRequest, name: str) -> np.ndarray[Any, Any]:
    rows = [row.location for row in index_of(request) if row.status == "ok"]
    return as_float32(open_context(request).store.clips("encode").gather(name, rows))


def test_another_feature_needs_neither_videos_nor_forward_passes(
    tmp_path: Path, home: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(request_for(tmp_path, home, manifest, (FUSED, KEPT), **ENCODE))
    opened, forwards = count_opens(monkeypatch), count_forwards(monkeypatch)
    overrides = (FUSED, KEPT, "encode.vision.feature=cls_mean")
    again = request_for(tmp_path, home, manifest, overrides, **ENCODE)
    run(again)
    assert (opened, forwards) == ([], [])
    fresh = request_for(tmp_path, tmp_path / "other", manifest, overrides, **ENCODE)
    run(fresh)
    assert sum(forwards) == 10
    assert features_of(again).tobytes() == features_of(fresh).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_features_of_kept_tokens_are_those_of_the_tokens(
    tmp_path: Path, home: Path, manifest: Path, dtype: str
) -> None:
    overrides = (FUSED, f"encode.dtype={dtype}", "encode.vision.feature=cls", "encode.also=[mean, cls_mean]")
    direct = request_for(tmp_path, home, manifest, overrides, **ENCODE)
    run(direct)
    kept = request_for(tmp_path, home, manifest, (*overrides, KEPT), **ENCODE)
    run(kept)
    context = open_context(kept)
    patches = read_patches(context, [row for row in index_of(kept) if row.status == "ok"])
    tolerance = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    np.testing.assert_allclose(column_of(kept, "mean"), patches.mean(axis=2), atol=tolerance, rtol=tolerance)
    for name in ("features", "mean", "cls_mean"):
        np.testing.assert_allclose(column_of(kept, name), column_of(direct, name), atol=tolerance, rtol=tolerance)
    both = np.concatenate([column_of(direct, "features"), column_of(direct, "mean")], axis=-1)
    np.testing.assert_array_equal(column_of(direct, "cls_mean"), both)
    backbone = vision_backbone(context)
    assert patches.shape == (10, 2, backbone.num_patches, backbone.token_dim)


def test_a_pooling_over_patches_is_trained_measured_and_served(tmp_path: Path, home: Path, manifest: Path) -> None:
    align = {**RECIPE["align"], "pooling": {"kind": "attentive", "width": 8, "num_heads": 2}}
    tracked = {"tracking": {"uri": f"sqlite:///{fresh_home(home)}/mlflow.db"}, "register": {"model_name": "m"}}
    request = request_for(tmp_path, home, manifest, (FUSED, KEPT), align=align, **tracked)
    refs = run(request)
    folder = json.loads((Path(refs["register"].uri) / "registered.json").read_text())["model_folder"]
    model = vlmvid.load(folder)
    assert model.reads == "tokens"
    rows = [row for row in index_of(request) if row.status == "ok"]
    stored = embed_videos(load_alignment(Path(refs["align"].uri)), read_patches(open_context(request), rows))
    paths = [tmp_path / f"clip{i}.mp4" for i in range(10)]
    np.testing.assert_allclose(model.encode_video(paths), stored, atol=1e-5)
    index = tmp_path / "index"
    build_index(index_request(refs["encode"].uri, folder, str(index)))
    hits = search_index(["something red"], model=folder, index=str(index), top_k=10)
    scores = model.similarity(stored, model.encode_text(["something red"]))[:, 0]
    by_hand = {row.video_id: score for row, score in zip(rows, scores, strict=True)}
    np.testing.assert_allclose([hit.score for hit in hits], [by_hand[hit.video_id] for hit in hits], atol=1e-3)
    assert len(hits) == 10


def test_a_pooling_over_patches_without_tokens_is_refused_before_any_work(tmp_path: Path, manifest: Path) -> None:
    align = {**RECIPE["align"], "pooling": {"kind": "tome"}}
    with pytest.raises(ConfigError, match=r"'tome' reads patch tokens.*keep_tokens: true"):
        request_for(tmp_path, tmp_path / "home", manifest, (), align=align)


class TestTokensThatAreGone:
    @pytest.fixture
    def request_(self, tmp_path: Path, home: Path, manifest: Path) -> RunRequest:
        request = request_for(tmp_path, home, manifest, (FUSED, KEPT), **ENCODE)
        run(request)
        assert statuses(request)["encode"][0] == "cached"
        return request

    def test_they_are_made_again(self, request_: RunRequest, home: Path) -> None:
        whole = features_of(request_)
        shards = sorted((home / "clips" / "tokens").iterdir())
        lost = len(open_context(request_).store.clips("tokens").manifests()[shards[0].name].keys)
        shutil.rmtree(shards[0])
        open_context.cache_clear()
        assert statuses(request_)["encode"] == ("run", f"the tokens of {lost} clips are missing or damaged")
        run(request_)
        assert sorted((home / "clips" / "tokens").iterdir()) == shards
        assert features_of(request_).tobytes() == whole.tobytes()
        assert statuses(request_)["encode"][0] == "cached"

    def test_damage_is_found_and_mended(self, request_: RunRequest, home: Path) -> None:
        path = next((home / "clips" / "tokens").glob("*/patches.npy"))
        values = path.read_bytes()
        path.write_bytes(values[:-1] + bytes([values[-1] ^ 1]))
        verified = request_.model_copy(update={"verify": True})
        open_context.cache_clear()
        assert statuses(verified)["encode"] == ("run", "1 stored shards are damaged")
        run(verified)
        assert path.read_bytes() == values


class TestFeaturesThatAreNotFinite:
    @pytest.fixture
    def poisoned(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The backbone gives NaN for a clip whose first pixel is green."""
        original = FrozenBackbone.encode_clips

        def poison(self: FrozenBackbone, frames: Any, *args: Any, **kwargs: Any) -> Any:
            found = original(self, frames, *args, **kwargs)
            for clip in range(len(frames)):
                red, green, blue = frames[clip, 0, :, 0, 0].tolist()
                if green > 2 * max(red, blue):
                    for values in found.values():
                        values[clip, -1] = np.nan
            return found

        monkeypatch.setattr(FrozenBackbone, "encode_clips", poison)

    @pytest.mark.usefixtures("poisoned")
    @pytest.mark.parametrize("kept", [(), (KEPT,)])
    def test_they_cost_their_clip_and_name_it(
        self, tmp_path: Path, home: Path, manifest: Path, kept: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        overrides = (FUSED, "options.max_failed_fraction=0.5", *kept)
        request = request_for(tmp_path, home, manifest, overrides, **ENCODE)
        run(request)
        bad = [row for row in index_of(request) if row.status != "ok"]
        assert [(row.video_id, row.reason_code) for row in bad] == [(v, "not_finite") for v in ("v1", "v5", "v9")]
        assert bad[0].message.startswith("the features or tokens of timm:test_vit hold NaN or infinity")
        assert ledger_of(request, "encode")["v1"].status == "failed_permanent"
        assert np.isfinite(features_of(request)).all() and len(features_of(request)) == 7
        forwards = count_forwards(monkeypatch)
        run(request_for(tmp_path, home, manifest, (*overrides, "encode.also=[]"), **ENCODE), "ingest", "encode")
        assert forwards == []

    @pytest.mark.usefixtures("poisoned")
    def test_with_kept_frames_the_stage_is_cached_and_retried_when_asked(
        self, tmp_path: Path, home: Path, manifest: Path
    ) -> None:
        request = request_for(tmp_path, home, manifest, ("options.max_failed_fraction=0.5",), **ENCODE)
        run(request)
        assert statuses(request)["encode"][0] == "cached"
        retried = request.model_copy(update={"retry_failed": True})
        assert statuses(retried)["encode"] == ("run", "--retry failed: 3 clips are tried again")

    def test_tokens_beyond_the_stored_dtype_refuse_the_clip(
        self, tmp_path: Path, home: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = FrozenBackbone.encode_clips

        def with_a_large_patch(self: FrozenBackbone, frames: Any, *args: Any, **kwargs: Any) -> Any:
            found = original(self, frames, *args, **kwargs)
            found["tokens"][0, 0, -1, 0] = 1e5  # fits float32, not float16
            return found

        monkeypatch.setattr(FrozenBackbone, "encode_clips", with_a_large_patch)
        overrides = (FUSED, KEPT, "encode.vision.feature=cls", "encode.dtype=float16")
        request = request_for(tmp_path, home, manifest, (*overrides, "options.max_failed_fraction=0.5"), **ENCODE)
        run(request)
        good = [row for row in index_of(request) if row.status == "ok"]
        assert [row.video_id for row in index_of(request) if row.reason_code == "not_finite"] == ["v0", "v4", "v8"]
        assert np.isfinite(read_patches(open_context(request), good)).all()

    @pytest.mark.usefixtures("poisoned")
    def test_too_many_of_them_stop_the_run(self, tmp_path: Path, home: Path, manifest: Path) -> None:
        with pytest.raises(StageError, match=r"3 of 10 clips failed \(3 x not_finite\)"):
            run(request_for(tmp_path, home, manifest, (FUSED,), **ENCODE))
