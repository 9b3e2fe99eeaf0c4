"""Text encoders against sentence-transformers and against plain transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.models_fixtures import copy_tokenizer, save_model, small_copy, tiny_clip, tiny_siglip
from vlmvid.config.encoders import TextConfig
from vlmvid.errors import ConfigError
from vlmvid.models import sources
from vlmvid.models.saving import load_text, save_text
from vlmvid.models.text import TextEncoder, load_text_encoder
from vlmvid.models.text_pooling import end_of_text, pool_tokens
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
    assert load_text_encoder(TextConfig(encoder="minilm", max_length=100_000)).settings.max_length == 256


def test_pooling_by_hand() -> None:
    tokens = torch.arange(2 * 3 * 2, dtype=torch.float32).view(2, 3, 2)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    end = torch.tensor([[False, True, False], [True, False, True]])
    assert pool_tokens(tokens, mask, "max").tolist() == [[2.0, 3.0], [10.0, 11.0]]
    assert pool_tokens(tokens, mask, "eos", end).tolist() == [[2.0, 3.0], [6.0, 7.0]]
    torch.testing.assert_close(
        pool_tokens(tokens, mask, "mean_sqrt_length"),
        torch.tensor([[2.0, 4.0], [24.0, 27.0]]) / mask.sum(1)[:, None].sqrt(),
    )
    torch.testing.assert_close(
        pool_tokens(tokens, mask, "weighted_mean"), torch.tensor([[4 / 3, 7 / 3], [52 / 6, 58 / 6]])
    )
    without_prompt = torch.tensor([[0, 1, 0], [0, 1, 1]])
    assert pool_tokens(tokens, without_prompt, "cls").tolist() == [[2.0, 3.0], [8.0, 9.0]]
    assert pool_tokens(tokens, without_prompt, "mean").tolist() == [[2.0, 3.0], [9.0, 10.0]]
    with pytest.raises(ValueError, match="where the end-of-text tokens are"):
        pool_tokens(tokens, mask, "eos")
    assert pool_tokens(tokens, mask, "mean").tolist() == [[1.0, 2.0], [8.0, 9.0]]
    assert pool_tokens(tokens, mask, "cls").tolist() == [[0.0, 1.0], [6.0, 7.0]]
    assert pool_tokens(tokens, mask, "last").tolist() == [[2.0, 3.0], [10.0, 11.0]]


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
    assert (encoder.settings.poolings, encoder.embed_dim) == ((expected,), 16)
    assert load_text_encoder(TextConfig(encoder=f"st:{folder}", pooling="mean")).settings.poolings == ("mean",)


def test_a_plain_encoder_is_averaged_and_a_causal_one_read_at_its_end(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    bert = load_text_encoder(TextConfig(encoder=f"hf:{small_copy(tmp_path / 'bert')}"))
    assert bert.settings.poolings == ("mean",)
    torch.manual_seed(0)
    sizes = {"vocab_size": 30522, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    gpt = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=101, eos_token_id=102))
    folder = save_model(gpt, tmp_path / "gpt", preprocessor=None)
    copy_tokenizer(folder)
    encoder = load_text_encoder(TextConfig(encoder=f"hf:{folder}"))
    assert encoder.settings.poolings == ("last",) and encoder.settings.max_length == 32
    ids = torch.tensor([encoder.tokenizer("a red ball")["input_ids"]])
    expected = gpt.eval().transformer(input_ids=ids).last_hidden_state[0, -1].detach().numpy()
    features = encoder.encode(["a red ball", TEXTS[2]])
    np.testing.assert_allclose(features[0], expected, rtol=1e-4, atol=1e-5)


def test_the_text_tower_of_clip_is_read_at_its_end_of_text_token(tmp_path: Path) -> None:
    clip = tiny_clip()
    folder = save_model(clip, tmp_path / "clip")
    copy_tokenizer(folder)
    encoder = load_text_encoder(TextConfig(encoder=f"hf:{folder}"))
    assert encoder.settings.poolings == ("eos",)
    # A text that holds the token in its middle: CLIP reads the first one.
    texts = ["a red ball", TEXTS[2], "a red [SEP] ball"]
    batch = encoder.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = clip.text_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output
    np.testing.assert_allclose(encoder.encode(texts), expected.numpy(), rtol=1e-4, atol=1e-5)
    last = load_text_encoder(TextConfig(encoder=f"hf:{folder}", pooling="last")).encode(texts)
    assert np.abs(last - encoder.encode(texts)).max(axis=1)[2] > 1e-3


def test_old_clip_configs_are_read_at_their_highest_token(tmp_path: Path) -> None:
    clip = tiny_clip()
    clip.config.text_config.eos_token_id = 2
    folder = save_model(clip, tmp_path / "clip")
    copy_tokenizer(folder)
    texts = ["a red ball", TEXTS[2]]
    encoder = load_text_encoder(TextConfig(encoder=f"hf:{folder}"))
    module = encoder.module
    assert module.eos_token_id == 2
    batch = encoder.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output
    np.testing.assert_allclose(encoder.encode(texts), expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("ids", "eos_ids", "expected"),
    [
        ([5, 9, 7, 9], (9,), 1),
        ([5, 9, 7], (3, 7), 2),
        ([5, 9, 7], (4,), None),
        ([5, 9, 7], (), None),
        ([5, 9, 7], (2,), 1),
        ([5, 2, 7], (2,), 1),
    ],
)
def test_the_end_of_a_text(ids: list[int], eos_ids: tuple[int, ...], expected: int | None) -> None:
    assert end_of_text(ids, eos_ids) == expected


def test_a_text_without_an_end_of_text_token_is_refused(tmp_path: Path) -> None:
    clip = tiny_clip()
    clip.config.text_config.eos_token_id = 29_000
    folder = save_model(clip, tmp_path / "clip")
    copy_tokenizer(folder)
    with pytest.raises(ValueError, match="'a ball' has no end-of-text token; use text.pooling: last or mean"):
        load_text_encoder(TextConfig(encoder=f"hf:{folder}")).encode(["a ball"])


@pytest.mark.parametrize("tower", ["siglip", "siglip2"])
def test_siglip_texts_are_padded_to_its_length_without_a_mask(tower: str, tmp_path: Path) -> None:
    model = tiny_siglip(tower)
    folder = save_model(model, tmp_path / tower)
    copy_tokenizer(folder)
    encoder = load_text_encoder(TextConfig(encoder=f"hf:{folder}", max_length=500))
    assert (encoder.settings.fixed_length, encoder.settings.max_length, encoder.embed_dim) == (12, 12, 10)
    batch = encoder.tokenizer(TEXTS, padding="max_length", max_length=12, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        expected = model.text_model(input_ids=batch["input_ids"])
    found = encoder.encode(TEXTS, batch_size=2)
    np.testing.assert_allclose(found, expected.pooler_output.numpy(), rtol=1e-4, atol=1e-5)
    mean = load_text_encoder(TextConfig(encoder=f"hf:{folder}", pooling="mean"))
    np.testing.assert_allclose(mean.encode(TEXTS), expected.last_hidden_state.mean(dim=1).numpy(), rtol=1e-4, atol=1e-5)
    save_text(encoder, tmp_path / "saved")
    np.testing.assert_array_equal(load_text(tmp_path / "saved").encode(TEXTS), encoder.encode(TEXTS))


def test_texts_are_batched_by_length(minilm: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[list[int]] = []
    forward = minilm._forward
    monkeypatch.setattr(
        minilm, "_forward", lambda batch: lengths.append([len(row.ids) for row in batch]) or forward(batch)
    )
    texts = [" ".join(["word"] * count) for count in (9, 1, 5, 3, 7, 2, 8)]
    features = minilm.encode(texts, batch_size=3)
    assert lengths == [[3, 4, 5], [7, 9, 10], [11]]
    alone = np.concatenate([minilm.encode([text]) for text in texts])
    np.testing.assert_allclose(features, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


def test_texts_that_memory_cannot_hold_are_encoded_in_smaller_batches(
    minilm: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = minilm.encode(TEXTS)
    forward, tried = minilm._forward, []

    def small(batch: list[object]) -> np.ndarray:
        tried.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(batch)  # type: ignore[arg-type]

    encoder = load_text_encoder(TextConfig(encoder="minilm"))
    forward = encoder._forward
    monkeypatch.setattr(encoder, "_forward", small)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert tried == [4, 2, 2]


def test_a_prompt_of_plain_transformers_is_text_before_the_text() -> None:
    prompted = load_text_encoder(TextConfig(encoder="minilm", prompt="a video of "))
    plain = load_text_encoder(TextConfig(encoder="minilm"))
    np.testing.assert_array_equal(prompted.encode(["a dog"]), plain.encode(["a video of a dog"]))


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


def test_encoder_decoders_are_refused(tmp_path: Path) -> None:
    folder = small_copy(tmp_path / "t5")
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    with pytest.raises(ConfigError, match="type 't5' are not supported"):
        load_text_encoder(TextConfig(encoder=f"hf:{folder}"))


def test_a_folder_without_a_tokenizer_is_a_config_error(tmp_path: Path) -> None:
    folder = small_copy(tmp_path / "m")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        (folder / name).unlink()
    with pytest.raises(ConfigError, match="has no tokenizer"):
        load_text_encoder(TextConfig(encoder=f"hf:{folder}"))


def test_half_precision_differs_in_rounding_and_is_kept_by_the_saved_encoder(tmp_path: Path) -> None:
    texts = ["a dog runs", "a much longer text about two cats that sleep on a roof"]
    exact = load_text_encoder(TextConfig(encoder="minilm")).encode(texts)
    encoder = load_text_encoder(TextConfig(encoder="minilm", precision="bfloat16"))
    rounded = encoder.encode(texts)
    assert rounded.dtype == np.float32 and not np.array_equal(rounded, exact)
    cosines = (rounded * exact).sum(1) / np.linalg.norm(rounded, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosines.min() > 0.999
    save_text(encoder, tmp_path)
    np.testing.assert_array_equal(load_text(tmp_path).encode(texts), rounded)
    with pytest.raises(ConfigError, match="precision: float16 needs a GPU"):
        load_text_encoder(TextConfig(encoder="minilm", precision="float16"), device="cpu")


def test_the_default_precision_is_no_part_of_the_key() -> None:
    assert "precision" not in TextConfig(encoder="minilm").key_config()
    assert TextConfig(encoder="minilm", precision="bfloat16").key_config()["precision"] == "bfloat16"


def test_saved_files_do_not_tell_what_was_encoded_before(tmp_path: Path) -> None:
    encoder = load_text_encoder(TextConfig(encoder=f"hf:{small_copy(tmp_path / 'model')}", max_length=16))
    saved = []
    for name in ("fresh", "used"):
        save_text(encoder, tmp_path / name)
        saved.append({p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*.*")})
        encoder.encode(["a red square", "two small blue circles move to the left"])
    assert len(saved[0]) > 3 and saved[0] == saved[1]
