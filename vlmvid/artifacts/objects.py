"""Objects of a shared store, through fsspec: few verbs, tried again when the connection drops."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from vlmvid.artifacts.digests import sha256_file
from vlmvid.artifacts.files import MissingResult, fsync_file
from vlmvid.errors import ArtifactError, ConfigError

T = TypeVar("T")
logger = logging.getLogger(__name__)
PART_BYTES = 32 * 2**20
ATTEMPTS = 4
FIRST_WAIT_SECONDS = 1.0
EXTRAS = {"s3": "pip install 'vlmvid[s3]'", "s3a": "pip install 'vlmvid[s3]'"}
# What trying again cannot mend. Every other OSError may pass: resets, time-outs, "slow down", a full disk.
_FINAL = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
# The roots of the errors of transport that are no OSError, by name: their packages come only with an extra.
_PASSING = {
    "aiohttp.ClientError",
    "botocore.ConnectionError",
    "botocore.HTTPClientError",
    "botocore.IncompleteReadError",
    "botocore.ResponseParserError",
    "http.HTTPException",
    "requests.RequestException",
}


class Objects:
    """The objects below one URI, by names relative to it.

    Files are uploaded in parts of `part_bytes` where the protocol knows parts and the file has two or more (S3 wants
    at least 5 MiB). Whatever fails for a passing reason (`may_pass`) is tried `attempts` times in all, with waits of
    `first_wait_seconds` that double, and up to half as long again by chance; below that the protocol's own library
    tries single requests again. After that, and at once for what cannot pass, ArtifactError is raised; MissingResult
    when an object is not there.

    Raises ConfigError when the protocol is unknown or its package is not installed.
    """

    def __init__(
        self,
        uri: str,
        *,
        part_bytes: int = PART_BYTES,
        attempts: int = ATTEMPTS,
        first_wait_seconds: float = FIRST_WAIT_SECONDS,
    ) -> None:
        import fsspec  # not for local stores

        self.uri = uri.rstrip("/")
        self._part_bytes = part_bytes
        self._attempts = attempts
        self._first_wait_seconds = first_wait_seconds
        protocol = uri.partition("://")[0]
        # An instance of our own: fsspec keeps one per set of arguments, whatever the environment says meanwhile.
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if protocol in ("file", "local"):
            options["auto_mkdir"] = True
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.uri, **options)
        except (ImportError, ValueError) as error:
            mend = EXTRAS.get(protocol, "install fsspec's package for it, or use s3://, gs:// or a local folder")
            raise ConfigError(f"the store {uri!r} cannot be opened: {error}; {mend}") from error
        self._part_options = {"chunksize": part_bytes} if protocol in EXTRAS else {}

    def names(self, folder: str) -> set[str]:
        """The last parts of the names directly below `folder`; empty when there is none."""

        def work() -> set[str]:
            try:
                listed = self._files.ls(self._at(folder), detail=False)
            except FileNotFoundError:
                return set()
            return {str(path).rstrip("/").rpartition("/")[2] for path in listed}

        return self._try(f"list {folder}/", work)

    def find(self, folder: str) -> dict[str, tuple[int, float]]:
        """Size in bytes and time of writing (Unix seconds) of every object below `folder`, at any depth, by name."""

        def work() -> dict[str, tuple[int, float]]:
            try:
                listed: dict[str, dict[str, Any]] = self._files.find(self._at(folder), detail=True)
            except FileNotFoundError:
                return {}
            root = f"{self._root.rstrip('/')}/"
            return {path.removeprefix(root): (int(info["size"]), _written(info)) for path, info in listed.items()}

        return self._try(f"list all of {folder}/", work)

    def unfinished_uploads(self) -> dict[tuple[str, str], float]:
        """When each upload in parts that was never completed began (Unix seconds), by name and the store's id of it.

        S3 keeps their parts, and lists them nowhere else; other protocols have none.
        """
        if not hasattr(self._files, "call_s3"):
            return {}
        bucket, _, root = self._root.strip("/").partition("/")
        prefix = f"{root}/" if root else ""

        def work() -> dict[tuple[str, str], float]:
            found = self._files.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix).get("Uploads", [])
            return {(u["Key"].removeprefix(prefix), u["UploadId"]): u["Initiated"].timestamp() for u in found}

        return self._try("list unfinished uploads", work)

    def abort_upload(self, name: str, upload_id: str) -> None:
        """Drop the parts of an upload that was never completed."""
        bucket, _, root = self._root.strip("/").partition("/")
        key = f"{root}/{name}" if root else name

        def work() -> None:
            try:
                self._files.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload_id)
            except FileNotFoundError:
                return

        self._try(f"abort the upload of {name}", work)

    def read(self, name: str) -> bytes | None:
        """The bytes of a small object; None when there is none."""
        return self.read_all([name]).get(name)

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """The bytes of small objects, fetched at the same time where the protocol can; without those that are not."""
        wanted = {self._at(name): name for name in names}

        def work() -> dict[str, bytes]:
            # "return" gives the error in the place of bytes.
            found: dict[str, Any] = self._files.cat(list(wanted), on_error="return") if wanted else {}
            for error in found.values():
                if isinstance(error, Exception) and not isinstance(error, FileNotFoundError):
                    raise error
            return {wanted[path]: value for path, value in found.items() if isinstance(value, bytes)}

        return self._try(f"read {next(iter(wanted.values()), 'nothing')}", work)

    def exists(self, name: str) -> bool:
        """Whether an object is there."""
        return name.rpartition("/")[2] in self.names(name.rpartition("/")[0])

    def write(self, name: str, data: bytes) -> None:
        """Make or replace a small object; it is there whole or not at all."""
        self._try(f"write {name}", lambda: self._files.pipe_file(self._at(name), data))

    def upload(self, path: Path, name: str) -> None:
        """Make or replace an object from a file; it is there whole or not at all."""
        self._try(f"upload {name}", lambda: self._files.put_file(str(path), self._at(name), **self._part_options))

    def download(self, name: str, path: Path, *, size: int, sha256: str) -> None:
        """Fetch an object to `path`, which holds it whole and verified or does not change.

        Raises MissingResult when the object is gone, DamagedObject when its size or sha256 is another one, twice.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        found = ""
        for _ in range(2):  # the second time to tell a bad transfer from a bad object
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
            try:
                self._get(name, temporary)
                found = f"{temporary.stat().st_size} bytes with sha256 {sha256_file(temporary)}"
                if found == f"{size} bytes with sha256 {sha256}":
                    fsync_file(temporary)
                    temporary.replace(path)
                    return
            finally:
                temporary.unlink(missing_ok=True)
        raise DamagedObject(
            f"{self.uri}/{name} is damaged: it has {found}, its manifest says {size} bytes with sha256 {sha256}; "
            "run the stage again, and it is computed anew"
        )

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""

        def work() -> None:
            try:
                self._files.rm_file(self._at(name))
            except FileNotFoundError:
                return

        self._try(f"delete {name}", work)

    def _get(self, name: str, path: Path) -> None:
        self._try(f"download {name}", lambda: self._files.get_file(self._at(name), str(path)))

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _try(self, what: str, work: Callable[[], T]) -> T:
        wait = self._first_wait_seconds
        for attempt in range(1, self._attempts + 1):
            try:
                return work()
            except Exception as error:
                if isinstance(error, ArtifactError):
                    raise
                passing = may_pass(error)
                if not passing or attempt == self._attempts:
                    kind = MissingResult if isinstance(error, FileNotFoundError) else ArtifactError
                    raise kind(
                        f"cannot {what} in the store {self.uri}: {type(error).__name__}: {error} "
                        f"({f'tried {attempt} times' if passing else 'not tried again'}); check the address, the "
                        "credentials and the connection, and run again: what is stored already is kept"
                    ) from error
                logger.warning("store %s: %s failed, is tried again: %s", self.uri, what, error)
                time.sleep(wait + wait / 2 * (os.urandom(1)[0] / 255))
                wait *= 2
        raise ArtifactError(f"attempts={self._attempts} must be at least 1")


class DamagedObject(MissingResult):
    """An object's bytes are not those that its manifest names."""


def _written(info: Mapping[str, Any]) -> float:
    """When an object was written, as the protocol says it; now where it does not."""
    value = next((info[name] for name in ("LastModified", "mtime", "updated", "last_modified") if name in info), None)
    value = info.get("created") if value is None else value
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) else time.time()


def may_pass(error: BaseException) -> bool:
    """Whether an error of a store may be gone the next time: OSErrors, except of missing names and of permissions,
    and what aiohttp, botocore, http.client and requests say of connections."""
    if isinstance(error, OSError):
        return not isinstance(error, _FINAL)
    roots = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    return bool(roots & _PASSING)
