"""A store that machines share, and the local folder that each of them works in.

Everything is written below the local folder first, as in a local store, and uploaded from there. What has a
manifest (shards, artifacts) becomes, for ``<folder>/<name>/``::

    <folder>/data/<name>/<16 digits of its sha256>/<file>    every file
    <folder>/commits/<name>.json                             the manifest, last

so an object is never written with other content, and of two machines that make the same result each finds its own
files whole: the manifest that came last counts. Without it the result does not exist. All other shared files (ledger,
events, recipes) are small, are written once, and have the same path in both places.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vlmvid.artifacts.digests import sha256_text
from vlmvid.artifacts.files import MissingResult, staging_folder, write_bytes
from vlmvid.artifacts.objects import DamagedObject, Objects
from vlmvid.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from vlmvid.artifacts.shards import FileInfo

logger = logging.getLogger(__name__)
CACHE_VARIABLE = "VLMVID_CACHE"
DIGEST_LENGTH = 16


class Mirror:
    """The objects of a shared store and `home`, the local folder with what this machine has of them."""

    def __init__(self, objects: Objects, home: Path) -> None:
        self.objects = objects
        self.home = home

    @property
    def uri(self) -> str:
        """The address of the shared store."""
        return self.objects.uri

    def uri_of(self, path: Path) -> str:
        """The address of a local file or folder in the shared store."""
        return f"{self.uri}/{self._name(path)}"

    def path_of(self, uri: str) -> Path:
        """The local place of an address; raises ConfigError when it is outside of this store."""
        if not uri.startswith(f"{self.uri}/") or ".." in uri.split("/"):
            raise ConfigError(f"{uri} is not in the store {self.uri}; give a local file, or one of that store")
        return self.home / uri.removeprefix(f"{self.uri}/")

    # Small files that are written once.

    def push(self, path: Path) -> None:
        """Upload a file to its own place."""
        self.objects.upload(path, self._name(path))

    def pull(self, path: Path) -> Path:
        """`path`, fetched first when it is not here; whether it exists anywhere shows when it is opened."""
        if not path.exists():
            data = self.objects.read(self._name(path))
            if data is not None:
                write_bytes(path, data)
        return path

    def pull_folder(self, folder: Path) -> None:
        """Fetch the files of a folder that are not here yet."""
        missing = {name for name in self.objects.names(self._name(folder)) if not (folder / name).exists()}
        found = self.objects.read_all(f"{self._name(folder)}/{name}" for name in sorted(missing))
        for name, data in found.items():
            write_bytes(self.home / name, data)

    # What has a manifest.

    def committed(self, parent: Path) -> set[str]:
        """The names of the complete results below `parent`."""
        names = self.objects.names(f"{self._name(parent)}/commits")
        return {name.removesuffix(".json") for name in names if name.endswith(".json")}

    def commits(self, parent: Path, names: set[str]) -> dict[str, bytes]:
        """The manifests of the given results, without those that are gone."""
        objects = {self._commit_name(parent / name): name for name in sorted(names)}
        return {objects[name]: data for name, data in self.objects.read_all(objects).items()}

    def commit(self, folder: Path) -> bytes | None:
        """The manifest of a complete result; None when there is none."""
        return self.objects.read(self._commit_name(folder))

    def publish(self, folder: Path, manifest: str, files: Mapping[str, FileInfo], *, source: Path) -> None:
        """Upload the result of `folder` from the temporary folder `source`: its files, then `manifest` as the commit.

        From there, because other processes of this machine may put what is committed in the place of `folder`.
        """
        for name, info in files.items():
            self.objects.upload(source / name, self._data_name(folder, name, info))
        self.objects.write(self._commit_name(folder), (source / manifest).read_bytes())

    def fetch(self, folder: Path, name: str, info: FileInfo, *, anew: bool = False) -> Path:
        """A file of a complete result as a verified local copy, downloaded when it is not here, or with `anew`.

        Raises DamagedObject when its bytes are others than the manifest says, MissingResult when it is gone.
        """
        path = folder / name
        if anew or not _has_size(path, info.size):
            self.objects.download(self._data_name(folder, name, info), path, size=info.size, sha256=info.sha256)
        return path

    def fetch_all(self, folder: Path, manifest: str, data: bytes, files: Mapping[str, FileInfo]) -> None:
        """Make the local folder that of the complete result whose manifest has the bytes `data`.

        Raises as `fetch`; a result of which an object is damaged or gone loses its commit, so that the next run
        computes it again.
        """
        try:
            here = (folder / manifest).read_bytes() == data
        except OSError:
            here = False
        if here and all(_has_size(folder / name, info.size) for name, info in files.items()):
            return
        try:
            with staging_folder(folder, replace=True) as temporary:
                for name, info in files.items():
                    to = temporary / name
                    self.objects.download(self._data_name(folder, name, info), to, size=info.size, sha256=info.sha256)
                write_bytes(temporary / manifest, data)
        except MissingResult as error:
            if self.is_lost(folder, files, error):
                self._delete_commit(folder, data)
            raise

    def is_lost(self, folder: Path, files: Mapping[str, FileInfo], error: MissingResult) -> bool:
        """Whether `error`, raised by fetching these files, means that an object of a result is damaged or gone.

        The store is asked: the local place of a download may be what was not there.
        """
        if isinstance(error, DamagedObject):
            return True
        names = (self._data_name(folder, name, info) for name, info in files.items())
        return any(not self.objects.exists(name) for name in names)

    def withdraw(self, folder: Path, manifest: str) -> None:
        """Remove the commit of a damaged or incomplete result, as far as this machine may.

        It stays when it is another one than the local manifest: then somebody has made the result again.
        """
        try:
            data = (folder / manifest).read_bytes()
        except OSError:
            return
        self._delete_commit(folder, data)

    def _delete_commit(self, folder: Path, data: bytes) -> None:
        try:
            if self.commit(folder) == data:
                self.objects.delete(self._commit_name(folder))
        except ArtifactError as error:
            logger.warning("%s stays although it is damaged or incomplete: %s", self.uri_of(folder), error)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.home).as_posix()

    def _commit_name(self, folder: Path) -> str:
        return f"{self._name(folder.parent)}/commits/{folder.name}.json"

    def _data_name(self, folder: Path, name: str, info: FileInfo) -> str:
        return f"{self._name(folder.parent)}/data/{folder.name}/{info.sha256[:DIGEST_LENGTH]}/{name}"


def open_mirror(uri: str) -> Mirror:
    """The shared store at `uri`, proved writable, with its local folder below VLMVID_CACHE.

    Raises ConfigError when the protocol is unknown, or when a test object cannot be written.
    """
    uri = uri.rstrip("/")
    objects = Objects(uri, attempts=1)  # protocols try again by themselves; a wrong address should show soon
    probe = f"write-tests/{os.getpid()}-{os.urandom(4).hex()}"
    try:
        objects.write(probe, b"")
        objects.delete(probe)
    except ArtifactError as error:
        raise ConfigError(f"VLMVID_HOME={uri!r} is not writable: {error}") from error
    return mirror_of(uri)


def mirror_of(uri: str) -> Mirror:
    """The shared store at `uri` and its local folder, without a look at either; raises ConfigError as `Objects`."""
    uri = uri.rstrip("/")
    words = re.sub(r"[^A-Za-z0-9.-]+", "-", uri)[-60:].strip("-")
    return Mirror(Objects(uri), cache_folder() / f"{words}-{sha256_text(uri)[:12]}")


def cache_folder() -> Path:
    """Where local copies of shared stores lie: VLMVID_CACHE, else ``vlmvid`` in the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "vlmvid"


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
