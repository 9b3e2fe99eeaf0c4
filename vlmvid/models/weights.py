"""Digests of model weights, for stage keys. Never imports torch, so `plan` stays fast.

A digest covers every file that decides the features: weights, model config, preprocessing or
tokenizer. It covers file names and bytes, not the folder they lie in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from vlmvid.config.encoders import TextConfig, VisionConfig
from vlmvid.models.families import vision_files
from vlmvid.models.text_families import text_files

HashFile = Callable[[Path], str]


def sha256_file(path: Path) -> str:
    """The hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def vision_weights_digest(config: VisionConfig, hash_file: HashFile = sha256_file) -> str:
    """A short name for the vision weights: ``"sha256:..."``, or ``"random:SEED:..."``.

    `hash_file` maps a file to its hexadecimal sha256; pass a cached one to read big files once.
    Raises ConfigError when the weights are not on this machine.
    """
    digest = _digest(vision_files(config), hash_file)
    return f"sha256:{digest}" if config.pretrained else f"random:{config.seed}:{digest}"


def text_weights_digest(config: TextConfig, hash_file: HashFile = sha256_file) -> str:
    """A short name for the text encoder's files: ``"sha256:..."``; see `vision_weights_digest`."""
    return f"sha256:{_digest(text_files(config), hash_file)}"


def _digest(files: Iterable[tuple[str, Path | None]], hash_file: HashFile) -> str:
    rows = sorted((name, hash_file(path) if path is not None else "") for name, path in files)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
