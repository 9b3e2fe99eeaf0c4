"""Files and seeded choices that several datasets share."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path

from vlmvid.errors import ConfigError, DecodeError, MissingDataError
from vlmvid.types import Split
from vlmvid.video.paths import check_file, printable

MAX_TEXT_BYTES = 1 << 24
VIDEO_SUFFIXES = (
    ".3gp",
    ".asf",
    ".avi",
    ".f4v",
    ".flv",
    ".gif",
    ".m2ts",
    ".m4v",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpeg",
    ".mpg",
    ".mts",
    ".mxf",
    ".nut",
    ".ogg",
    ".ogv",
    ".ts",
    ".vob",
    ".webm",
    ".wmv",
    ".y4m",
)
"""How the names of video files end, in any case."""


def find_root(root: str, package: str | None) -> Path:
    """The folder `root`, or the folder `root` of an installed distribution, without importing it."""
    if package is None:
        folder = Path(root).expanduser().absolute()
    else:
        try:
            folder = Path(str(importlib.metadata.distribution(package).locate_file(root))).absolute()
        except importlib.metadata.PackageNotFoundError:
            raise ConfigError(f"data.options.package={package!r} is not installed; install it with pip") from None
    if not folder.is_dir():
        raise MissingDataError(f"data.options.root: {folder} is no folder; give the folder that holds the files")
    return folder


def oversize(name: str, size: int) -> DecodeError | None:
    """The error for a file of captions of so many bytes, when it is too large to be one: it could fill the memory."""
    if size <= MAX_TEXT_BYTES:
        return None
    return DecodeError(
        f"{name} has {size:,} bytes, more than the {MAX_TEXT_BYTES:,} that a file of captions may have; take it away "
        "or shorten it",
        reason_code="caption_too_large",
    )


def read_text(path: Path, restrict_root: Path | None = None) -> str:
    """A caption file's text; raises DecodeError when it is not UTF-8, cannot be read, is too large, or lies outside of
    the root.
    """
    too_large = oversize(printable(path), check_file(path, restrict_root).st_size)
    if too_large is not None:
        raise too_large
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DecodeError(f"{path} cannot be read as UTF-8 text: {error}", reason_code="broken_caption") from error


def list_videos(root: Path, *, recursive: bool = True) -> tuple[list[bytes], dict[bytes, str]]:
    """Names of the video files below `root`, relative and sorted, and folders that cannot be listed, with why.

    Bytes, because a name need not be UTF-8. Links to folders are not followed, so no loop is either.
    """
    base = os.fsencode(root)
    suffixes = tuple(os.fsencode(suffix) for suffix in VIDEO_SUFFIXES)
    names: list[bytes] = []
    unlisted: dict[bytes, str] = {}

    def note(error: OSError) -> None:
        name = os.path.relpath(os.fsencode(error.filename), base)
        unlisted[name] = f"this folder cannot be listed: {error.strerror}; what it holds is left out until it can"

    for folder, folders, files in os.walk(base, onerror=note):
        names += [os.path.relpath(os.path.join(folder, f), base) for f in files if f.lower().endswith(suffixes)]
        if not recursive:
            folders.clear()
    return sorted(names), unlisted


def check_name(path: Path) -> None:
    """Raise DecodeError (``name_not_utf8``) for a path that no manifest or ledger can hold."""
    if printable(path) != str(path):
        raise DecodeError(f"the name {printable(path)} is not UTF-8; rename it", reason_code="name_not_utf8")


def unit_hash(seed: int) -> Callable[[str], float]:
    """A function from texts to [0, 1), fixed by `seed` on every machine."""
    return lambda text: int.from_bytes(hashlib.sha256(f"{seed}:{text}".encode()).digest()[:8], "big") / 2**64


def split_of(name: str, seed: int, val_fraction: float, test_fraction: float) -> Split:
    """The split of a name: a seeded hash, so that adding files moves no other file."""
    value = unit_hash(seed)(name)
    if value < test_fraction:
        return "test"
    return "val" if value < test_fraction + val_fraction else "train"
