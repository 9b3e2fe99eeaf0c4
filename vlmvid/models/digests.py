"""Digests of files, and what a recipe expects of them. Light: never imports torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from vlmvid.errors import CheckpointError
from vlmvid.models.sources import NamedFiles

HashFile = Callable[[Path], str]
_WEIGHTS = (".safetensors", ".bin", ".pth")


def sha256_file(path: Path) -> str:
    """The hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def files_digest(files: Iterable[tuple[str, Path | None]], hash_file: HashFile = sha256_file) -> str:
    """One hexadecimal sha256 of names and bytes, whatever their order; a None path is a name alone."""
    rows = sorted((name, hash_file(path) if path is not None else "") for name, path in files)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def check_digest(name: str, expected: str, files: NamedFiles, hash_file: HashFile = sha256_file) -> None:
    """Raise CheckpointError unless `expected` is the sha256 of these files or of their one weight file.

    The first is the digest that `vlmvid plan` shows, over weights, configs and tokenizer; the second is what the
    weights' publisher states.
    """
    weights = [path for _, path in files if path is not None and path.suffix in _WEIGHTS]
    found = {"all files": files_digest(files, hash_file)}
    if len(weights) == 1:
        found[weights[0].name] = hash_file(weights[0])
    if expected.removeprefix("sha256:") not in found.values():
        values = ", ".join(f"{digest} ({what})" for what, digest in found.items())
        raise CheckpointError(
            f"the weights of {name} are not the expected ones: sha256 is set to {expected}, found {values}; get the "
            "right files, or set sha256 to the digest of these if you trust them"
        )
