"""The families of text encoders, and which files decide each one's result.

Apart from the vision families, so that a change to one of those re-encodes no text.
Light: never imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from vlmvid.config.encoders import TextConfig
from vlmvid.errors import ConfigError
from vlmvid.models import sources
from vlmvid.models.digests import check_digest
from vlmvid.registry import Registry

# Of the transformer's folder or of any other module's.
_TEXT_FILES = (
    "config.json",
    "modules.json",
    "config_sentence_transformers.json",
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
    """The files that decide a text encoder: weights, configs and tokenizer, each named by its place in the folder."""
    folder = text_folder(config)
    inner = transformer_folder(folder)
    paths = list(sources.weight_files(inner))
    for place in dict.fromkeys([folder, inner, *(folder / path for _, path in sentence_modules(folder))]):
        paths += [place / name for name in _TEXT_FILES if (place / name).is_file()]
        if place not in (folder, inner) and _has_weights(place):
            paths += sources.weight_files(place)
    return [(path.relative_to(folder).as_posix(), path) for path in dict.fromkeys(paths)]


def sentence_modules(folder: Path) -> list[tuple[str, str]]:
    """(type, path) of the modules of a sentence-transformers folder, in order; empty for any other folder.

    Raises ConfigError for a list that cannot be read.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [(str(entry["type"]), str(entry["path"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a list of sentence-transformers modules: {error!r}") from error


def transformer_folder(folder: Path) -> Path:
    """Where the transformer and its tokenizer lie: the folder itself, or the part that its modules name."""
    paths = [path for kind, path in sentence_modules(folder) if kind.rpartition(".")[2] == "Transformer"]
    return folder / paths[0] if paths else folder


def check_text_digest(config: TextConfig) -> None:
    """Raise CheckpointError when `config.sha256` is set and the files are others; see `digests`."""
    if config.sha256 is not None:
        check_digest(config.encoder, config.sha256, text_files(config))


def _has_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin"))


TEXT_ENCODERS: Registry[Callable[[str], Path]] = Registry("text encoder family")
TEXT_ENCODERS.register("minilm", lambda name: sources.minilm_folder())
TEXT_ENCODERS.register("st", sources.sentence_transformers_folder)
TEXT_ENCODERS.register("hf", sources.model_folder)
