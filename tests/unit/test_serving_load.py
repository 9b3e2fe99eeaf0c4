"""Model folders and the registry: what is loaded is what was written, by hash, without foreign code."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest

from tests.unit.tracking_fixtures import client_of, fresh_home, open_home
from vlmvid.config.alignment import AlignConfig, OptimConfig
from vlmvid.config.encoders import TextConfig, VisionConfig
from vlmvid.config.schema import DecodeConfig, SamplingConfig
from vlmvid.errors import ArtifactError, ConfigError, DecodeError, TrackingError
from vlmvid.models.alignment import AlignmentModel, save_alignment
from vlmvid.models.backbones import load_vision_backbone
from vlmvid.models.saving import save_text, save_vision
from vlmvid.models.text import load_text_encoder
from vlmvid.serving.load import load
from vlmvid.serving.model_folder import MANIFEST, Part, verify_model_folder, write_model_folder
from vlmvid.serving.visual_features import StoredAs
from vlmvid.tracking import RegisteredModel, Registration
from vlmvid.tracking.mlflow import MlflowTracker
from vlmvid.video.clip_decoder import decode_clip
from vlmvid.video.options import ClipJob
from vlmvid.video.writer import write_mp4

TEXTS = ["a red square moves left", "ein Ball"]
DECODE = DecodeConfig(sampling=SamplingConfig(num_frames=3), image_size=64, reader="pyav")


def tiny_bert(folder: Path) -> Path:
    """A random BERT with a word-piece vocabulary, as a Hugging Face folder."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "red", "square", "moves"]
    (folder / "vocab.txt").write_text("\n".join([*words, *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]))
    tokenizer = BertTokenizerFast(vocab_file=str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    config = BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(config).save_pretrained(folder)
    return folder


@cache
def template() -> tuple[Path, Path]:
    """A model folder with random weights, and a video."""
    root = Path(mkdtemp(prefix="vlmvid-serving-"))
    vision = load_vision_backbone(VisionConfig(backbone="timm:test_vit", pretrained=False), "cpu")
    text = load_text_encoder(TextConfig(encoder=f"hf:{tiny_bert(root / 'bert')}", max_length=16), "cpu")
    config = AlignConfig(projection_dim=8, optim=OptimConfig(num_steps=1, global_batch_size=2))
    alignment = AlignmentModel(vision.feature_dim, text.encode(["a"]).shape[1], 3, config)
    save_vision(vision, root / "v")
    save_text(text, root / "t")
    save_alignment(alignment, root / "a")
    write_model_folder(
        root / "model",
        parts={"vision": root / "v", "text": root / "t", "alignment": root / "a"},
        decode=DECODE,
        stored=StoredAs(),
        info={"recipe": "tiny"},
    )
    frames = np.random.default_rng(0).integers(0, 255, (6, 3, 64, 96), dtype=np.uint8)
    write_mp4(root / "clip.mp4", frames, fps=6.0)
    return root / "model", root / "clip.mp4"


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(template()[0], tmp_path / "model"))


def test_embeddings_are_normalised_and_repeatable(model_folder: Path) -> None:
    clip = template()[1]
    model = load(model_folder, device="cpu")
    video, text = model.encode_video([clip, str(clip)]), model.encode_text(TEXTS)
    assert (video.shape, text.shape, video.dtype, text.dtype) == ((2, 8), (2, 8), np.float32, np.float32)
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([video, text]), axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(video[0], video[1])
    assert not np.allclose(text[0], text[1])
    similarity = model.similarity(video, text)
    assert similarity.shape == (2, 2)
    assert similarity[1, 0] == pytest.approx(float(np.dot(video[1], text[0])), abs=1e-6)
    again = load(str(model_folder), device="cpu")
    np.testing.assert_array_equal(again.encode_video([clip]), model.encode_video([clip]))
    assert (again.decode, again.info) == (DECODE, {"recipe": "tiny"})
    assert model.encode_video([]).shape == (0, 8) and model.encode_text([]).shape == (0, 8)
    frames = decode_clip(ClipJob(str(clip)), DECODE).frames
    features = model._vision.backbone.encode_frames(frames)[None]
    np.testing.assert_array_equal(model.embed_video_features(features)[0], model.encode_video([clip])[0])
    with pytest.raises(DecodeError):
        model.encode_video([model_folder / MANIFEST])


@pytest.mark.parametrize("name", ["vision/vision.safetensors", "text/text.json", "decode.json"])
def test_a_changed_or_missing_file_is_refused_by_name(model_folder: Path, name: str) -> None:
    data = bytearray((model_folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (model_folder / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{name} was changed"):
        load(model_folder)
    (model_folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        load(model_folder)


def test_files_that_were_slipped_in_and_other_manifests_are_refused(model_folder: Path) -> None:
    extra = model_folder / "text" / "tokenizer" / "added_tokens.json"
    extra.write_text("{}")
    with pytest.raises(ArtifactError, match="added_tokens.json is not listed"):
        verify_model_folder(model_folder)
    extra.unlink()
    manifest = json.loads((model_folder / MANIFEST).read_text())
    (model_folder / MANIFEST).write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(ArtifactError, match="format version 99"):
        verify_model_folder(model_folder)
    (model_folder / MANIFEST).write_text("[]")
    with pytest.raises(ArtifactError, match="no 'files'"):
        verify_model_folder(model_folder)
    (model_folder / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="holds 0 models"):
        load(model_folder)


def test_writing_is_whole_repeatable_and_never_replaces_another_model(tmp_path: Path) -> None:
    root = template()[0].parent
    parts: dict[Part, Path] = {"vision": root / "v", "text": root / "t", "alignment": root / "a"}
    rest: dict[str, Any] = {"decode": DECODE, "stored": StoredAs()}
    for _ in range(2):
        write_model_folder(tmp_path / "m", parts=parts, **rest, info={"recipe": "tiny"})
    assert (tmp_path / "m" / MANIFEST).read_bytes() == (root / "model" / MANIFEST).read_bytes()
    with pytest.raises(ArtifactError, match="another model"):
        write_model_folder(tmp_path / "m", parts=parts, **rest, info={"recipe": "other"})
    with pytest.raises(ArtifactError, match="vision part"):
        write_model_folder(tmp_path / "n", parts={**parts, "vision": tmp_path / "no"}, **rest, info={})
    with pytest.raises(ArtifactError, match="alignment part"):
        write_model_folder(tmp_path / "n", parts={"vision": root / "v"}, **rest, info={})
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def register(home: Path, fingerprint: str, key: str = "r1", folder: Path | None = None) -> RegisteredModel:
    tracker: MlflowTracker = open_home(home)
    tracker.start_pipeline(pipeline_key="p", name="demo", config={}, tags={})
    with tracker.stage("register", key) as run:
        registered = tracker.register(
            Registration(
                model_folder=folder or template()[0],
                model_name="tiny",
                alias="candidate",
                fingerprint=fingerprint,
                tags={"vlmvid.dataset": "synthetic"},
            ),
            run,
        )
    assert tracker.gaps == []
    return registered


def test_one_fingerprint_gives_one_version_and_the_alias_follows(tmp_path: Path) -> None:
    home = fresh_home(tmp_path / "home")
    first = register(home, "f1")
    assert (first.name, first.version, first.uri) == ("tiny", "1", "models:/tiny/1")
    second = register(home, "f2", key="r2")
    client = client_of(home)
    assert str(client.get_model_version_by_alias("tiny", "candidate").version) == second.version == "2"
    # An interrupted call: the version is there, the alias is not moved yet.
    assert register(home, "f1") == first
    assert str(client.get_model_version_by_alias("tiny", "candidate").version) == first.version
    assert len(client.search_model_versions("name = 'tiny'")) == 2
    version = client.get_model_version("tiny", "1")
    assert version.tags == {"vlmvid.fingerprint": "f1", "vlmvid.dataset": "synthetic"}
    assert client.get_run(version.run_id).data.tags["vlmvid.stage"] == "register"


def test_loading_from_the_registry_needs_no_code_execution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = fresh_home(tmp_path / "home")
    register(home, "f1")
    monkeypatch.setenv("MLFLOW_ALLOW_MODEL_CODE_EXECUTION", "false")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("VLMVID_HOME", str(home))
    expected = load(template()[0], device="cpu").encode_text(TEXTS)
    run_id = client_of(home).get_model_version("tiny", "1").run_id
    for uri in ("models:/tiny@candidate", "models:/tiny/1", f"runs:/{run_id}/model/f1"):
        np.testing.assert_array_equal(load(uri, device="cpu").encode_text(TEXTS), expected)
    for uri, message in (
        ("models:/tiny@champion", "champion"),
        ("models:/tiny/7", "7"),
        ("models:/other/1", "other"),
        ("models:/tiny", "expected models:/NAME/VERSION"),
    ):
        with pytest.raises(TrackingError, match=message):
            load(uri)
    monkeypatch.setenv("VLMVID_HOME", str(tmp_path / "empty"))
    with pytest.raises(TrackingError, match="no tracking database"):
        load("models:/tiny/1")
    assert not (tmp_path / "empty").exists()
    monkeypatch.setenv("VLMVID_HOME", "s3://bucket/home")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        load("models:/tiny/1")


def test_a_tampered_registered_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = fresh_home(tmp_path / "home")
    register(home, "f1")
    (weights,) = (home / "mlartifacts").rglob("alignment.safetensors")
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ArtifactError, match=r"alignment\.safetensors was changed"):
        load("models:/tiny@candidate", tracking_uri=f"sqlite:///{home / 'mlflow.db'}")


def test_pyfunc_gives_the_same_embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = fresh_home(tmp_path / "home")
    register(home, "f1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow.pyfunc
    import pandas

    assert not list((home / "mlartifacts").rglob("*.pkl"))
    clip = str(template()[1])
    monkeypatch.setenv("VLMVID_SERVING_ROOT", str(template()[1].parent))
    pyfunc = mlflow.pyfunc.load_model("models:/tiny@candidate", model_config={"device": "cpu"})
    model = load(template()[0], device="cpu")
    expected = np.concatenate([model.encode_text(TEXTS[:1]), model.encode_video([clip]), model.encode_text(TEXTS[1:])])
    rows = [{"text": TEXTS[0]}, {"video": clip}, {"text": TEXTS[1]}]
    np.testing.assert_allclose(pyfunc.predict(rows), expected, atol=1e-6)
    np.testing.assert_allclose(pyfunc.predict(pandas.DataFrame(rows)), expected, atol=1e-6)
    with pytest.raises(Exception, match="row 0 must have exactly one of"):
        pyfunc.predict([{"text": "a", "video": clip}])
    with pytest.raises(Exception, match="1025 rows, and at most 1024"):
        pyfunc.predict([{"text": "a"}] * 1025)
