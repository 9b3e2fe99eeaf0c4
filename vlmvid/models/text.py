"""Frozen text encoders: texts to features, with plain transformers and the model's own pooling.

Features are not normalised; the projection head begins with a LayerNorm.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vlmvid.config.encoders import TextConfig
from vlmvid.errors import ConfigError
from vlmvid.models import sources
from vlmvid.models.runtime import resolve_device
from vlmvid.models.text_families import text_folder
from vlmvid.models.torchvision_compat import ensure_torchvision
from vlmvid.models.transformers_loading import clean_config, pretrained_model

# B texts of a batch, L tokens, D channels
Pooling = Literal["mean", "cls", "last"]
_ST_POOLING: dict[str, Pooling] = {
    "mean": "mean",
    "cls": "cls",
    "lasttoken": "last",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
# Modules of a sentence-transformers folder that this encoder reproduces. Normalize is left out
# on purpose: its result differs only by a positive factor per text.
_ST_MODULES = ("Transformer", "Pooling", "Normalize")
_CAUSAL = ("ForCausalLM", "LMHeadModel")
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
_UNPADDED = "siglip_text_model"


class TextEncoder:
    """A frozen transformer with its tokenizer and pooling.

    Attributes:
        pooling: ``mean`` over the tokens, ``cls`` = first token, ``last`` = last token.
        max_length: tokens after which a text is cut.
    """

    def __init__(self, module: nn.Module, tokenizer: Any, pooling: Pooling, max_length: int) -> None:
        self.module = module.eval().requires_grad_(False).to(torch.float32)
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.max_length = max_length
        config: Any = module.config
        self._model_config = config
        self.embed_dim = int(config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """Features float32 (M, embed_dim) of M texts, in their order, not normalised.

        Each distinct text is encoded once, in batches of similar length. A feature depends on
        the texts beside it only by float32 rounding (relative 1e-5 of the largest component).
        Raises ValueError for a text that has no token and for a batch size below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return np.zeros((0, self.embed_dim), dtype=np.float32)
        tokens = self._tokenize(distinct)
        order = sorted(range(len(distinct)), key=lambda i: (len(tokens[i]), distinct[i]))
        features = np.empty((len(distinct), self.embed_dim), dtype=np.float32)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            features[rows] = self._forward([tokens[i] for i in rows])
        row_of = {text: row for row, text in enumerate(distinct)}
        return features[[row_of[text] for text in texts]]

    def describe(self) -> dict[str, Any]:
        """Everything but the weights and the tokenizer, as JSON values."""
        return {
            "architecture": clean_config(self._model_config),
            "pooling": self.pooling,
            "max_length": self.max_length,
            "embed_dim": self.embed_dim,
        }

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        encoded = self.tokenizer(texts, truncation=True, max_length=self.max_length, padding=False)["input_ids"]
        for text, ids in zip(texts, encoded, strict=True):
            if not ids:
                raise ValueError(f"the text {text!r} has no token; drop empty captions")
        return cast("list[list[int]]", encoded)

    def _forward(self, rows: list[list[int]]) -> NDArray[np.float32]:
        length = max(len(ids) for ids in rows)
        pad_id = self.tokenizer.pad_token_id
        input_ids = torch.full((len(rows), length), 0 if pad_id is None else int(pad_id), dtype=torch.long)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        for row, ids in enumerate(rows):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = 1
        with torch.inference_mode():
            mask = mask.to(self.device)
            output = self.module(input_ids=input_ids.to(self.device), attention_mask=mask)
            pooled = pool_tokens(output.last_hidden_state, mask, self.pooling)
        return cast("NDArray[np.float32]", pooled.to("cpu", torch.float32).numpy())


def pool_tokens(tokens_BLD: Tensor, mask_BL: Tensor, pooling: Pooling) -> Tensor:
    """Tokens (B, L, D) padded on the right, with a 0/1 mask (B, L), to features (B, D)."""
    match pooling:
        case "mean":
            weights = mask_BL.unsqueeze(-1).to(tokens_BLD.dtype)
            return (tokens_BLD * weights).sum(dim=1) / weights.sum(dim=1)
        case "cls":
            return tokens_BLD[:, 0]
        case "last":
            rows = torch.arange(len(tokens_BLD), device=tokens_BLD.device)
            return tokens_BLD[rows, mask_BL.sum(dim=1) - 1]


def load_text_encoder(config: TextConfig, device: str = "cpu") -> TextEncoder:
    """The frozen text encoder of `config` on `device`.

    ``minilm``: the PyPI package's all-MiniLM-L6-v2. ``st:/folder``: a sentence-transformers
    folder. ``hf:REPO_OR_FOLDER``: a transformers model, or the text tower of a two-tower one.
    Raises ConfigError for an unknown or unavailable encoder.
    """
    target = resolve_device(device)
    folder = text_folder(config)
    module = _load_module(folder)
    tokenizer = load_tokenizer(folder)
    pooling = config.pooling if config.pooling != "auto" else _own_pooling(folder, module)
    encoder = TextEncoder(module, tokenizer, pooling, _usable_length(config.max_length, tokenizer, module))
    encoder.module.to(target)
    return encoder


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder, from its files alone; raises ConfigError when there is none."""
    ensure_torchvision()
    from transformers import AutoTokenizer

    # Without one of these transformers makes a tokenizer with an empty vocabulary, in silence.
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise ConfigError(f"{folder} has no tokenizer; expected one of {', '.join(_VOCABULARIES)}")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: transformers cannot read the tokenizer: {error}") from error


def _load_module(folder: Path) -> nn.Module:
    ensure_torchvision()
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    config = getattr(config, "text_config", config)
    if config.is_encoder_decoder or config.model_type == _UNPADDED:
        raise ConfigError(
            f"{folder}: text models of type {config.model_type!r} are not supported (an encoder-decoder, or one that "
            "needs texts padded to a fixed length); use an encoder such as minilm"
        )
    return pretrained_model(folder, config)


def _own_pooling(folder: Path, module: nn.Module) -> Pooling:
    modules_file = folder / "modules.json"
    if modules_file.is_file():
        return _sentence_transformers_pooling(folder)
    config: Any = module.config
    # From the file: transformers writes the class that it built over this entry of the config.
    names = sources.read_json(folder / "config.json").get("architectures") or ()
    # A causal model sees the whole text only at its last token; CLIP's text tower is one.
    causal = config.model_type == "clip_text_model" or any(name.endswith(_CAUSAL) for name in names)
    return "last" if causal else "mean"


def _sentence_transformers_pooling(folder: Path) -> Pooling:
    import json

    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    kinds = {str(module["type"]).rpartition(".")[2]: str(module["path"]) for module in modules}
    unknown = [kind for kind in kinds if kind not in _ST_MODULES]
    if unknown or kinds.get("Transformer", "") != "":
        raise ConfigError(
            f"{folder}: sentence-transformers modules {list(kinds)} are not supported; expected {_ST_MODULES}"
        )
    if "Pooling" not in kinds:
        return "mean"
    values = sources.read_json(folder / kinds["Pooling"] / "config.json")
    stated = values.get("pooling_mode")
    chosen = [key for key in values if key.startswith("pooling_mode_") and values[key]] if stated is None else [stated]
    if len(chosen) != 1 or chosen[0] not in _ST_POOLING:
        raise ConfigError(f"{folder}: pooling {chosen} is not supported; set text.pooling to mean, cls or last")
    return _ST_POOLING[chosen[0]]


def _usable_length(asked: int, tokenizer: Any, module: nn.Module) -> int:
    config: Any = module.config
    limits = [asked, int(tokenizer.model_max_length), getattr(config, "max_position_embeddings", None)]
    return min(limit for limit in limits if limit is not None)
