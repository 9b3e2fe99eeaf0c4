"""Writes that are either whole or absent, whenever the process dies."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vlmvid.errors import ArtifactError

SCRATCH_PREFIX = ".vlmvid-scratch-"


class MissingResult(ArtifactError):
    """A stored result is not there, or is damaged: computing it again is the mend.

    Other ArtifactErrors (a shared store that does not answer, a newer format) say nothing of that.
    """


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` durable (a rename is only as durable as its folder)."""
    if os.name != "posix":
        return  # folders cannot be opened there
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Make the bytes of `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` under a temporary name, fsync, rename to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON with sorted keys, atomically."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The JSON value in `path`; raises MissingResult when it is missing or does not parse."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingResult(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise MissingResult(f"{path} cannot be read as JSON: {error}") from error


@contextmanager
def staging_folder(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside `final` that becomes `final` on a clean exit.

    When `final` is there already it stays and ours is dropped (both hold the same content, because
    the name is derived from it), unless `replace` is given.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(6)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                fsync_file(file)
            else:
                fsync_folder(file)
        fsync_folder(temporary)
        replaced = final.with_name(f"{temporary.name}.replaced")
        if replace:
            with suppress(FileNotFoundError):
                final.rename(replaced)
        try:
            temporary.rename(final)
        except OSError:
            if not final.is_dir():
                raise
        fsync_folder(final.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder below `parent` (None: the system's place for such) that goes at the end.

    It has a name by which `vlmvid gc` knows what a killed process left.
    """
    with tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=parent) as name:
        yield Path(name)
