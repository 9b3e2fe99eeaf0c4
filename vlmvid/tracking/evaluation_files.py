"""The files of an evaluation as one digest, so that gates read what was registered."""

from __future__ import annotations

from pathlib import Path

from vlmvid.artifacts import hash_json
from vlmvid.artifacts.digests import sha256_file


def files_digest(folder: Path) -> str:
    """A digest of the names and contents of all files in `folder`, which has no folders of its own."""
    return hash_json({path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.is_file()})
