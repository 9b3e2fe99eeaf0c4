"""The families of text encoders, and which files decide each one's result.

Apart from the vision families, so that a change to one of those re-encodes no text.
Light: never imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vlmvid.config.encoders import TextConfig
from vlmvid.errors import ConfigError
from vlmvid.models import sources
from vlmvid.registry import Registry

_TEXT_FILES = (
    "config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)


def text_folder(config: TextConfig) -> Path:
    """The folder of a text encoder; raises ConfigError for an unknown family or a missing folder."""
    family, colon, name = config.encoder.partition(":")
    finder = TEXT_ENCODERS.get(family)
    if (family == "minilm") == bool(colon) or (colon and not name):
        raise ConfigError(
            f"text encoder {config.encoder!r} is not complete; expected minilm, st:/FOLDER or hf:REPO_OR_FOLDER"
        )
    return finder(name)


def text_files(config: TextConfig) -> sources.NamedFiles:
    """The files that decide a text encoder: weights, configs and tokenizer."""
    folder = text_folder(config)
    named: sources.NamedFiles = [(path.name, path) for path in sources.weight_files(folder)]
    return named + [(name, folder / name) for name in _TEXT_FILES if (folder / name).is_file()]


TEXT_ENCODERS: Registry[Callable[[str], Path]] = Registry("text encoder family")
TEXT_ENCODERS.register("minilm", lambda name: sources.minilm_folder())
TEXT_ENCODERS.register("st", sources.model_folder)
TEXT_ENCODERS.register("hf", sources.model_folder)
