"""Weights from files: safe, strict, and the ones that were expected."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from tests.unit.models_fixtures import copy_tokenizer, random_frames, save_model, tiny_clip, tiny_vision
from vlmvid.config.encoders import TextConfig, VisionConfig
from vlmvid.errors import CheckpointError, ConfigError, DatasetError
from vlmvid.models.backbones import load_vision_backbone
from vlmvid.models.backbones.timm_backbone import create_timm
from vlmvid.models.digests import sha256_file
from vlmvid.models.module_files import read_tensors
from vlmvid.models.saving import load_vision, save_vision
from vlmvid.models.tensors import load_tensor_file
from vlmvid.models.text import load_text_encoder
from vlmvid.models.weights import text_weights_digest, vision_weights_digest


class Evil:
    """A pickle that writes a file when it is read without ``weights_only=True``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def timm_folder(folder: Path, **changes: Any) -> Path:
    """A tiny timm model in the layout of its repositories on the hub."""
    from timm.models import save_for_hf

    torch.manual_seed(0)
    save_for_hf(create_timm("test_vit", num_classes=7), str(folder), safe_serialization=True)
    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in (state | changes).items() if v is not None}, folder / "model.safetensors")
    return folder


def as_pickle(folder: Path) -> Path:
    """The same weights, as the pickle of older repositories."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def load(backbone: str, **settings: Any) -> Any:
    return load_vision_backbone(VisionConfig.model_validate({"backbone": backbone, **settings}))


@pytest.mark.parametrize("family", ["hf", "timm"])
def test_pickles_give_the_same_weights_as_safetensors(family: str, tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "m") if family == "timm" else save_model(tiny_vision("vit"), tmp_path / "m")
    expected = load(f"{family}:{folder}").module.state_dict()
    found = load(f"{family}:{as_pickle(folder)}").module.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("family", ["hf", "timm", "text", "dense"])
def test_a_pickle_that_runs_code_is_refused_before_it_runs(family: str, tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "m") if family == "timm" else save_model(tiny_clip(), tmp_path / "m")
    copy_tokenizer(folder)
    place, written = folder, tmp_path / "written"
    if family == "dense":
        place = folder / "2_Dense"
        place.mkdir()
        (place / "config.json").write_text(json.dumps({"in_features": 16, "out_features": 4}))
        modules = [
            {"type": f"sentence_transformers.models.{k}", "path": p}
            for k, p in (("Transformer", ""), ("Dense", "2_Dense"))
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
    else:
        (folder / "model.safetensors").unlink()
    torch.save({"x": Evil(written)}, place / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pytorch_model.bin cannot be read.*as safetensors"):
        if family in ("text", "dense"):
            load_text_encoder(TextConfig(encoder=f"hf:{folder}"))
        else:
            load(f"{family}:{folder}")
    assert not written.exists()
    # The same file does its work where it is trusted: the test can fail.
    torch.load(place / "pytorch_model.bin", weights_only=False)
    assert written.exists()


def test_a_plain_pickle_is_refused_too(tmp_path: Path) -> None:
    folder = save_model(tiny_vision("vit"), tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Evil(tmp_path / "written")}, protocol=2))
    with pytest.raises(CheckpointError, match="could run code"):
        load(f"hf:{folder}")
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("kind", ["zip.pt", "legacy.pt", "a.safetensors"])
def test_damaged_weight_files_are_errors_of_vlmvid(kind: str, tmp_path: Path) -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.int64)}
    path = tmp_path / kind
    if kind.endswith("safetensors"):
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip.pt")
    good, rng, refused = path.read_bytes(), random.Random(0), 0
    causes = set()
    for _ in range(300):
        damaged = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(min(len(good), 700))] = rng.randrange(256)
        path.write_bytes(damaged[: rng.randrange(len(good))] if rng.random() < 0.2 else damaged)
        for read, expected in ((read_tensors, CheckpointError), (load_tensor_file, DatasetError)):
            if read is load_tensor_file and kind == "a.safetensors":
                continue
            try:
                read(path)
            except expected as error:
                assert str(path) in str(error) and not str(error).endswith("read: ")
                causes.add(type(error.__cause__))
                refused += 1
    assert refused > 100
    # The damage reaches deep enough to raise more than the reader's own classes.
    assert kind == "a.safetensors" or {UnicodeDecodeError, KeyError} <= causes


@pytest.mark.parametrize("family", ["hf", "timm"])
def test_a_damaged_pickle_of_a_model_is_a_checkpoint_error(family: str, tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "m") if family == "timm" else save_model(tiny_vision("vit"), tmp_path / "m")
    path = as_pickle(folder) / "pytorch_model.bin"
    # Opcodes that pop what was never pushed, text that is no text, a lookup of nothing, and an end too soon.
    for data in (b"\x80\x02s.", b"\x80\x02X\x01\x00\x00\x00\xff.", b"\x80\x02h\x09.", b"\x80\x02"):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="pytorch_model.bin"):
            load(f"{family}:{folder}")


def test_missing_extra_and_misshapen_tensors_are_listed(tmp_path: Path) -> None:
    folder = save_model(tiny_vision("dinov2"), tmp_path / "m")
    path = folder / "model.safetensors"
    good = load_file(path)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"layernorm.bias": None}, "1 missing: layernorm.bias$"),
        ({"layernorm.bias": torch.zeros(3)}, r"1 of another shape: layernorm.bias \(3,\) instead of \(16,\)"),
        ({"encoder.layer.7.norm1.weight": torch.zeros(3)}, "1 too many: encoder.layer.7.norm1.weight"),
        (
            {name: None for name in good if "norm1" in name or "norm2" in name},
            r"12 missing: (\S+, ){7}\S+ and 4 more",
        ),
    ]
    for change, message in changes:
        state = {name: tensor for name, tensor in (good | change).items() if tensor is not None}
        save_file(state, path, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=message):
            load(f"hf:{folder}")


def test_heads_and_other_towers_are_left_out(tmp_path: Path) -> None:
    folder = save_model(tiny_vision("dinov2"), tmp_path / "m")
    before = load(f"hf:{folder}").module.state_dict()
    state = load_file(folder / "model.safetensors")
    heads = {"classifier.weight": torch.zeros(2, 32), "classifier.bias": torch.zeros(2), "decoder.norm": torch.zeros(1)}
    save_file(state | heads, folder / "model.safetensors", metadata={"format": "pt"})
    after = load(f"hf:{folder}").module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_timm_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "m", **{"norm.bias": None, "blocks.99.x": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"do not fit timm:test_vit(.|\n)*Missing.*norm.bias(.|\n)*blocks.99.x"):
        load(f"timm:{folder}")
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="do not fit"):
        load(f"timm:{folder}")


def test_a_local_timm_folder_is_the_model_it_describes(tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "m")
    values = json.loads((folder / "config.json").read_text())
    values["pretrained_cfg"] |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (folder / "config.json").write_text(json.dumps(values))
    backbone = load(f"timm:{folder}", image_size=96, feature="cls_mean")
    assert backbone.preprocessing.mean == (0.1, 0.2, 0.3) and backbone.grid_side == 6
    state = load_file(folder / "model.safetensors")
    assert torch.equal(backbone.module.state_dict()["norm.weight"], state["norm.weight"])
    save_vision(backbone, tmp_path / "saved")
    frames = random_frames(2, 96)
    assert (load_vision(tmp_path / "saved").encode_frames(frames) == backbone.encode_frames(frames)).all()
    assert str(tmp_path) not in (tmp_path / "saved" / "vision.json").read_text()
    random = load(f"timm:{folder}", pretrained=False, seed=2)
    assert not torch.equal(random.module.state_dict()["pos_embed"], state["pos_embed"])
    # The place is no part of the digest; the architecture and the bytes are.
    digest = vision_weights_digest(VisionConfig(backbone=f"timm:{folder}"))
    folder.rename(tmp_path / "moved")
    moved = VisionConfig(backbone=f"timm:{tmp_path / 'moved'}")
    assert vision_weights_digest(moved) == digest
    (tmp_path / "moved" / "config.json").write_text((tmp_path / "moved" / "config.json").read_text() + " ")
    assert vision_weights_digest(moved) != digest


def test_a_folder_that_is_no_timm_model_is_refused(tmp_path: Path) -> None:
    for name in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match="is not the folder of a timm model"):
            load(f"timm:{name}")


def test_weights_other_than_the_expected_are_refused_before_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(tiny_vision("vit"), tmp_path / "m")
    plain = VisionConfig(backbone=f"hf:{folder}")
    digest = vision_weights_digest(plain)
    file_digest = sha256_file(folder / "model.safetensors")
    for expected in (digest, digest.removeprefix("sha256:"), file_digest):
        config = plain.model_copy(update={"sha256": expected})
        assert vision_weights_digest(config) == digest
        load_vision_backbone(config)
    other = plain.model_copy(update={"sha256": "0" * 64})
    message = (
        rf"expected ones: sha256 is set to 0{{64}}, found {digest.removeprefix('sha256:')} \(all files\), {file_digest}"
    )
    monkeypatch.setattr("vlmvid.models.backbones.hf_backbone.load_hf", lambda *_: pytest.fail("was loaded"))
    for action in (vision_weights_digest, load_vision_backbone):
        with pytest.raises(CheckpointError, match=message):
            action(other)
    assert "sha256" not in plain.key_config() and plain.key_config() == other.key_config()


def test_texts_other_than_the_expected_are_refused() -> None:
    plain = TextConfig(encoder="minilm")
    digest = text_weights_digest(plain)
    assert text_weights_digest(plain.model_copy(update={"sha256": digest})) == digest
    other = plain.model_copy(update={"sha256": "sha256:" + "0" * 64})
    for action in (text_weights_digest, load_text_encoder):
        with pytest.raises(CheckpointError, match=rf"of minilm are not.*found {digest.removeprefix('sha256:')}"):
            action(other)
    assert other.key_config() == plain.key_config()


def test_an_expected_digest_is_checked_when_it_is_read() -> None:
    for wrong in ("abc", "sha256:" + "g" * 64):
        with pytest.raises(ValidationError, match="sha256"):
            VisionConfig(backbone="timm:test_vit", sha256=wrong)
    with pytest.raises(ValidationError, match="pretrained=False reads no weights"):
        VisionConfig(backbone="timm:test_vit", pretrained=False, sha256="0" * 64)


def test_a_model_type_is_enough_for_random_weights() -> None:
    backbone = load("hf:dinov2", pretrained=False, image_size=28, feature="cls_mean")
    assert (backbone.token_dim, backbone.grid_side, backbone.feature_dim) == (768, 2, 1536)
    config = VisionConfig(backbone="hf:dinov2", pretrained=False)
    assert vision_weights_digest(config) != vision_weights_digest(config.model_copy(update={"backbone": "hf:vit"}))
    with pytest.raises(ConfigError, match="did you mean 'dinov2'"):
        load("hf:dinov22", pretrained=False)
    for name, settings in (("dinov2", {}), ("me/dinov2", {"pretrained": False})):
        with pytest.raises(ConfigError, match="nor in the Hugging Face cache"):
            load(f"hf:{name}", **settings)


def test_code_that_comes_with_a_model_is_never_run(tmp_path: Path) -> None:
    values = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModel": "mine.Mine"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'written')!r}, 'w')\nclass Mine: pass\n")
    with pytest.raises(ConfigError, match="without the model's own code"):
        load(f"hf:{tmp_path}", pretrained=False)
    assert not (tmp_path / "written").exists()
