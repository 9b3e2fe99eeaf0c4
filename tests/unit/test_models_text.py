"""Text encoders against sentence-transformers and against plain transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.models_fixtures import copy_tokenizer, save_model, tiny_clip
from vlmvid.config.encoders import TextConfig
from vlmvid.errors import ConfigError
from vlmvid.models import sources
from vlmvid.models.text import TextEncoder, load_text_encoder, pool_tokens
from vlmvid.models.transformers_loading import quiet_transformers

TEXTS = [
    "a dog runs on the beach",
    "",
    "two people cook a meal in a small kitchen, talking to each other while the water boils",
    "a red ball",
    "a dog runs on the beach",
]


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return load_text_encoder(TextConfig(encoder="minilm"))


def test_minilm_equals_sentence_transformers(minilm: TextEncoder) -> None:
    from sentence_transformers import SentenceTransformer

    with quiet_transformers():
        reference = SentenceTransformer(str(sources.minilm_folder()), device="cpu")
    expected = reference.encode(TEXTS, show_progress_bar=False)
    features = minilm.encode(TEXTS)
    assert features.shape == (5, 384) and features.dtype == np.float32
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, expected, atol=1e-6)
    # Not normalised by the encoder itself.
    assert np.abs(np.linalg.norm(features, axis=1) - 1).min() > 0.1


def test_meaning_is_closer_than_words(minilm: TextEncoder) -> None:
    query, same, other = minilm.encode(
        ["a kitten sleeps on the sofa", "a young cat naps on a couch", "a car sleeps in the garage of the house"]
    )

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    assert cosine(query, same) > cosine(query, other) + 0.2


def test_a_text_does_not_depend_on_the_batch(minilm: TextEncoder) -> None:
    together = minilm.encode(TEXTS, batch_size=64)
    for batch_size in (1, 2, 3):
        np.testing.assert_allclose(
            minilm.encode(TEXTS, batch_size=batch_size), together, rtol=0, atol=1e-5 * np.abs(together).max()
        )
    reordered = minilm.encode(TEXTS[::-1])
    np.testing.assert_array_equal(reordered[::-1], together)


def test_each_distinct_text_is_encoded_once(minilm: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    forward = minilm._forward
    monkeypatch.setattr(minilm, "_forward", lambda batch: rows.append(len(batch)) or forward(batch))
    features = minilm.encode(["b", "a", "b", "b"], batch_size=2)
    assert rows == [2]
    np.testing.assert_array_equal(features[0], features[2])
    assert minilm.encode([]).shape == (0, 384)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        minilm.encode(["a"], batch_size=0)


def test_long_texts_are_cut_at_max_length() -> None:
    encoder = load_text_encoder(TextConfig(encoder="minilm", max_length=8))
    # [CLS] and [SEP] take two of the eight places.
    long, cut = encoder.encode(["one two three four five six seven eight nine", "one two three four five six"])
    np.testing.assert_allclose(long, cut, atol=1e-5)
    assert load_text_encoder(TextConfig(encoder="minilm", max_length=100_000)).max_length == 512


def test_pooling_by_hand() -> None:
    tokens = torch.arange(2 * 3 * 2, dtype=torch.float32).view(2, 3, 2)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool_tokens(tokens, mask, "mean").tolist() == [[1.0, 2.0], [8.0, 9.0]]
    assert pool_tokens(tokens, mask, "cls").tolist() == [[0.0, 1.0], [6.0, 7.0]]
    assert pool_tokens(tokens, mask, "last").tolist() == [[2.0, 3.0], [10.0, 11.0]]


def small_copy(folder: Path, **files: object) -> Path:
    """The MiniLM folder with a model of two tiny layers and the given JSON files."""
    from transformers import BertConfig, BertModel

    from vlmvid.models.runtime import seeded

    with seeded(2):
        config = BertConfig(
            vocab_size=30522, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
        )
        save_model(BertModel(config), folder, preprocessor=None)
    copy_tokenizer(folder)
    for name, values in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(values))
    return folder


MODULES = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
POOLING_MODULE = {"type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling", "path": "1_Pooling"}


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "lasttoken", "include_prompt": True}, "last"),
    ],
)
def test_a_sentence_transformers_folder_states_its_pooling(tmp_path: Path, pooling: object, expected: str) -> None:
    folder = small_copy(tmp_path / "m", modules=[*MODULES, POOLING_MODULE], **{"1_Pooling__config": pooling})
    encoder = load_text_encoder(TextConfig(encoder=f"st:{folder}"))
    assert (encoder.pooling, encoder.embed_dim) == (expected, 16)
    assert load_text_encoder(TextConfig(encoder=f"st:{folder}", pooling="mean")).pooling == "mean"


def test_sentence_transformers_modules_that_change_the_result_are_refused(tmp_path: Path) -> None:
    dense = {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}
    pooling = {"pooling_mode_max_tokens": True}
    folder = small_copy(tmp_path / "a", modules=[*MODULES, dense])
    with pytest.raises(ConfigError, match="'Dense'.* are not supported"):
        load_text_encoder(TextConfig(encoder=f"st:{folder}"))
    folder = small_copy(tmp_path / "b", modules=[*MODULES, POOLING_MODULE], **{"1_Pooling__config": pooling})
    with pytest.raises(ConfigError, match="pooling_mode_max_tokens.*set text.pooling"):
        load_text_encoder(TextConfig(encoder=f"st:{folder}"))


def test_a_plain_encoder_is_averaged_and_a_causal_one_read_at_its_end(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    bert = load_text_encoder(TextConfig(encoder=f"hf:{small_copy(tmp_path / 'bert')}"))
    assert bert.pooling == "mean"
    torch.manual_seed(0)
    sizes = {"vocab_size": 30522, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    gpt = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=101, eos_token_id=102))
    folder = save_model(gpt, tmp_path / "gpt", preprocessor=None)
    copy_tokenizer(folder)
    encoder = load_text_encoder(TextConfig(encoder=f"hf:{folder}"))
    assert encoder.pooling == "last" and encoder.max_length == 32
    ids = torch.tensor([encoder.tokenizer("a red ball")["input_ids"]])
    expected = gpt.eval().transformer(input_ids=ids).last_hidden_state[0, -1].detach().numpy()
    features = encoder.encode(["a red ball", TEXTS[2]])
    np.testing.assert_allclose(features[0], expected, rtol=1e-4, atol=1e-5)


def test_the_text_tower_of_clip_is_taken(tmp_path: Path) -> None:
    clip = tiny_clip()
    folder = save_model(clip, tmp_path / "clip")
    copy_tokenizer(folder)
    encoder = load_text_encoder(TextConfig(encoder=f"hf:{folder}"))
    assert encoder.pooling == "last"
    ids = torch.tensor([encoder.tokenizer("a red ball")["input_ids"]])
    expected = clip.text_model(input_ids=ids).last_hidden_state[0, -1].detach().numpy()
    np.testing.assert_allclose(encoder.encode([TEXTS[2], "a red ball"])[1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("bert", "unknown text encoder family 'bert'.*known: hf, minilm, st"),
        ("minilm:x", "is not complete"),
        ("st:", "is not complete"),
        ("hf", "is not complete"),
        ("st:/no/such/folder", "does not exist"),
    ],
)
def test_unknown_encoders_are_refused(encoder: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_text_encoder(TextConfig(encoder=encoder))


def test_encoder_decoders_and_fixed_length_towers_are_refused(tmp_path: Path) -> None:
    for model_type in ("t5", "siglip_text_model"):
        folder = tmp_path / model_type
        shutil.copytree(small_copy(tmp_path / f"bert_{model_type}"), folder)
        (folder / "config.json").write_text(
            json.dumps({"model_type": model_type, "is_encoder_decoder": model_type == "t5"})
        )
        with pytest.raises(ConfigError, match=f"type '{model_type}' are not supported"):
            load_text_encoder(TextConfig(encoder=f"hf:{folder}"))


def test_a_folder_without_a_tokenizer_is_a_config_error(tmp_path: Path) -> None:
    folder = small_copy(tmp_path / "m")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        (folder / name).unlink()
    with pytest.raises(ConfigError, match="has no tokenizer"):
        load_text_encoder(TextConfig(encoder=f"hf:{folder}"))
