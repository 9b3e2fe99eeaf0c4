"""Folders of sentence-transformers, against the package itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.models_fixtures import small_copy
from vlmvid.config.encoders import TextConfig
from vlmvid.errors import CheckpointError, ConfigError
from vlmvid.models.runtime import seeded
from vlmvid.models.saving import load_text, save_text
from vlmvid.models.text import load_text_encoder
from vlmvid.models.text_families import text_files
from vlmvid.models.torchvision_compat import ensure_torchvision
from vlmvid.models.transformers_loading import quiet_transformers
from vlmvid.models.weights import text_weights_digest

TEXTS = [
    "a dog runs on the beach",
    "",
    "two people cook a MEAL in a small kitchen, talking to each other",
    "a red ball",
]
PROMPTS = {"query": "a question: ", "passage": "text "}
MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


def written(folder: Path, *, pooling: Any = "mean", dense: tuple[nn.Module, ...] = (), **options: Any) -> Path:
    """A folder that the package itself writes: a tiny BERT, a pooling, dense layers, a normalisation at the end."""
    ensure_torchvision()
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    include_prompt = options.pop("include_prompt", True)
    with quiet_transformers(), seeded(3):
        transformer = Transformer(
            str(small_copy(folder.parent / f"{folder.name}_bert")), **options.pop("transformer", {})
        )
        pool = Pooling(16, pooling_mode=pooling, include_prompt=include_prompt)
        modules: list[nn.Module] = [transformer, pool]
        width = pool.get_embedding_dimension()
        for activation in dense:
            modules.append(Dense(width, 6, activation_function=activation))
            width = 6
        model = SentenceTransformer(modules=[*modules, Normalize()], device="cpu", **options)
        model.save_pretrained(str(folder), create_model_card=False)
    return folder


def reference(folder: Path, **options: Any) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    with quiet_transformers():
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return np.asarray(model.encode(TEXTS, show_progress_bar=False, **options))


def encoded(folder: Path, **settings: Any) -> np.ndarray:
    """Features of length 1: `TextEncoder` leaves the normalisation at the end out."""
    features = load_text_encoder(TextConfig(encoder=f"st:{folder}", max_length=500, **settings)).encode(TEXTS)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@pytest.mark.parametrize("pooling", [*MODES, ("lasttoken", "cls"), ("mean", "max", "weightedmean")])
def test_every_pooling_equals_the_package(pooling: Any, tmp_path: Path) -> None:
    folder = written(tmp_path / "m", pooling=pooling)
    np.testing.assert_allclose(encoded(folder), reference(folder), rtol=0, atol=1e-6)


def test_older_folders_name_their_poolings_one_by_one(tmp_path: Path) -> None:
    folder = written(tmp_path / "m", pooling=("cls", "mean"))
    values = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(values | {"pooling_mode_max_tokens": False}))
    np.testing.assert_allclose(encoded(folder), reference(folder), rtol=0, atol=1e-6)
    assert load_text_encoder(TextConfig(encoder=f"st:{folder}")).settings.poolings == ("cls", "mean")


@pytest.mark.parametrize(
    "activations", [(nn.Tanh(),), (nn.Identity(), nn.GELU()), (nn.ReLU(), nn.SiLU(), nn.Sigmoid())]
)
def test_dense_layers_equal_the_package(activations: tuple[nn.Module, ...], tmp_path: Path) -> None:
    folder = written(tmp_path / "m", dense=activations, pooling=("mean", "cls"))
    np.testing.assert_allclose(encoded(folder), reference(folder), rtol=0, atol=1e-6)
    encoder = load_text_encoder(TextConfig(encoder=f"st:{folder}"))
    assert encoder.embed_dim == 6 and len(encoder.tail) == len(activations)
    save_text(encoder, tmp_path / "saved")
    np.testing.assert_array_equal(load_text(tmp_path / "saved").encode(TEXTS), encoder.encode(TEXTS))


def test_a_normalisation_in_the_middle_is_kept(tmp_path: Path) -> None:
    folder = written(tmp_path / "m", dense=(nn.Tanh(),))
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    assert [entry["type"].rpartition(".")[2] for entry in modules] == ["Transformer", "Pooling", "Dense", "Normalize"]
    path.write_text(json.dumps([*modules[:2], modules[3] | {"path": ""}, modules[2]]))
    features = load_text_encoder(TextConfig(encoder=f"st:{folder}")).encode(TEXTS)
    np.testing.assert_allclose(features, reference(folder), rtol=0, atol=1e-6)


@pytest.mark.parametrize("include_prompt", [True, False])
def test_prompts_equal_the_package(include_prompt: bool, tmp_path: Path) -> None:
    folder = written(tmp_path / "m", include_prompt=include_prompt, prompts=PROMPTS, default_prompt_name="passage")
    np.testing.assert_allclose(encoded(folder), reference(folder), rtol=0, atol=1e-6)
    by_name = encoded(folder, prompt="query")
    np.testing.assert_allclose(by_name, reference(folder, prompt_name="query"), rtol=0, atol=1e-6)
    np.testing.assert_allclose(encoded(folder, prompt=PROMPTS["query"]), by_name, rtol=0, atol=1e-7)
    np.testing.assert_allclose(encoded(folder, prompt=""), reference(folder, prompt=""), rtol=0, atol=1e-6)
    assert np.abs(by_name - encoded(folder)).max() > 1e-3
    if not include_prompt:
        unpooled = encoded(folder, prompt="query", pooling="cls")
        first = load_text_encoder(TextConfig(encoder=f"st:{folder}", prompt="query", pooling="cls"))
        # The first token that is not of the prompt, not the first of all.
        assert first.tokenize(["dog"])[0].first == 4 and unpooled.shape == (4, 16)
        short = load_text_encoder(TextConfig(encoder=f"st:{folder}", prompt="query", max_length=4))
        with pytest.raises(ValueError, match="leaves no token of the text 'a dog'; raise text.max_length"):
            short.encode(["a dog"])


def test_what_a_folder_says_of_length_and_case_holds(tmp_path: Path) -> None:
    folder = written(tmp_path / "m", transformer={"max_seq_length": 7, "do_lower_case": True})
    path = folder / "sentence_bert_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"max_seq_length": 7, "do_lower_case": True}))
    np.testing.assert_allclose(encoded(folder), reference(folder), rtol=0, atol=1e-6)
    settings = load_text_encoder(TextConfig(encoder=f"st:{folder}")).settings
    assert settings.max_length == 7 and settings.lower_case
    path.write_text(json.dumps(values | {"transformer_task": "fill-mask"}))
    with pytest.raises(ConfigError, match="transformer_task='fill-mask' is not supported"):
        encoded(folder)


def test_a_transformer_in_a_folder_of_its_own_is_found(tmp_path: Path) -> None:
    folder = written(tmp_path / "m", dense=(nn.Tanh(),))
    expected = encoded(folder)
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in list(folder.iterdir()):
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(inner / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([modules[0] | {"path": "0_Transformer"}, *modules[1:]]))
    np.testing.assert_array_equal(encoded(folder), expected)
    names = {name for name, _ in text_files(TextConfig(encoder=f"st:{folder}"))}
    assert {
        "modules.json",
        "config_sentence_transformers.json",
        "0_Transformer/model.safetensors",
        "0_Transformer/tokenizer.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
    } <= names


def test_every_file_that_decides_a_feature_is_in_the_digest(tmp_path: Path) -> None:
    folder = written(tmp_path / "m", dense=(nn.Tanh(),))
    config = TextConfig(encoder=f"st:{folder}")
    seen = {text_weights_digest(config)}
    for name in ("2_Dense/model.safetensors", "2_Dense/config.json", "1_Pooling/config.json", "modules.json"):
        path = folder / name
        path.write_bytes(path.read_bytes() + b" ")
        seen.add(text_weights_digest(config))
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("sentence_transformers.models.LSTM", r"'LSTM'\] are not supported \(sentence_transformers.models.LSTM\)"),
        ("custom_st.Transformer", r"not supported \(custom_st.Transformer\)"),
        ("sentence_transformers.models.Pooling", "at most one Pooling"),
    ],
)
def test_modules_that_are_not_known_are_refused_by_name(kind: str, message: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "m")
    modules = json.loads((folder / "modules.json").read_text())
    extra = {"idx": 3, "name": "3", "path": "1_Pooling", "type": kind}
    (folder / "modules.json").write_text(json.dumps([*modules[:2], extra]))
    with pytest.raises(ConfigError, match=message):
        encoded(folder)


def test_layers_that_cannot_be_reproduced_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "m", dense=(nn.Tanh(),))
    dense, pooling = folder / "2_Dense" / "config.json", folder / "1_Pooling" / "config.json"
    good = json.loads(dense.read_text())
    changes: list[tuple[dict[str, Any], type[Exception], str]] = [
        (
            {"activation_function": "os.system"},
            ConfigError,
            "activation 'os.system' is not supported; expected Identity",
        ),
        (
            {"activation_function": "torch.nn.modules.activation.Softshrink"},
            ConfigError,
            "Softshrink' is not supported",
        ),
        ({"use_residual": True}, ConfigError, "with a residual"),
        ({"module_input_name": "token_embeddings"}, ConfigError, "other than sentences"),
        ({"out_features": 7}, CheckpointError, "do not fit the layer's config.json"),
        ({}, ConfigError, "do not take its 32 values"),
    ]
    for change, error, message in changes:
        dense.write_text(json.dumps(good | change))
        if not change:
            pooling.write_text(json.dumps({"pooling_mode": ["cls", "mean"]}))
        with pytest.raises(error, match=message):
            encoded(folder)
    for values, name in [
        ({"pooling_mode": "median"}, "median"),
        ({"pooling_mode_median": True}, "pooling_mode_median"),
    ]:
        pooling.write_text(json.dumps(values))
        with pytest.raises(ConfigError, match=rf"pooling \['{name}'\] is not supported; set text.pooling"):
            encoded(folder)
    (folder / "modules.json").write_text("{}")
    assert load_text_encoder(TextConfig(encoder=f"hf:{small_copy(tmp_path / 'plain')}")).tail.state_dict() == {}
    (folder / "modules.json").write_text('[{"path": ""}]')
    with pytest.raises(ConfigError, match="is not a list of sentence-transformers modules"):
        encoded(folder)


def test_a_default_prompt_that_is_not_there_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "m", prompts=PROMPTS)
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"default_prompt_name": "none"}))
    with pytest.raises(ConfigError, match=r"default_prompt_name 'none' is none of its prompts"):
        encoded(folder)


def test_the_encoder_moves_with_its_layers(tmp_path: Path) -> None:
    encoder = load_text_encoder(TextConfig(encoder=f"st:{written(tmp_path / 'm', dense=(nn.Tanh(),))}"))
    assert encoder.to(torch.device("cpu")) is encoder
    assert not any(p.requires_grad for p in (*encoder.module.parameters(), *encoder.tail.parameters()))
