"""Whose the folder of a video index is, and what of it may go.

A folder that a person names may hold a person's files: nothing is removed but what has the form of our own names.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from vlmvid.artifacts.keys import KEY_LENGTH
from vlmvid.errors import ConfigError
from vlmvid.serving.video_index_files import STAGE, stored_description

_OURS = {"index.json", "clips", "ledger", "digests", "tables", "locks", "accepted_code"}
# A hidden one is a temporary one that a killed run left, or a damaged one that was set aside.
_TABLE = re.compile(r"\d+-[0-9a-f]{12}|\.\d+-[0-9a-f]{12}\..+")
_SHARD = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}|\.[0-9a-f]{{{KEY_LENGTH}}}\..+")


def check_folder(folder: Path) -> None:
    """Raise ConfigError unless an index may be built in `folder`: it is not there, empty, or an index already.

    An index is known by an index.json that can be read; one that was not finished, or is damaged, by holding nothing
    but what an index holds, its shards or the lock of its build among it.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder} is a file; name a folder for the index")
    found = {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.is_dir() else set()
    if not found or stored_description(folder) is not None:
        return
    others = found - _OURS
    begun = (folder / "clips" / STAGE).is_dir() or (folder / "locks" / f"{STAGE}-build.lock").is_file()
    if others or not begun:
        raise ConfigError(
            f"--out {folder} holds something else, e.g. {min(others or found)!r}; name a new or empty folder"
        )


def remove_old_tables(folder: Path) -> None:
    """Remove the tables that the index in `folder` does not name: earlier ones, and what a killed run left."""
    description = stored_description(folder)
    _remove(folder / "tables", _TABLE, {description.table} if description is not None else set())


def remove_old_shards(folder: Path, kept: Collection[str]) -> None:
    """Remove the shards of the index in `folder` that are not among `kept`."""
    _remove(folder / "clips" / STAGE, _SHARD, kept)


def _remove(folder: Path, form: re.Pattern[str], kept: Collection[str]) -> None:
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.name not in kept and form.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
