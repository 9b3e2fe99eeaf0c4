"""Videos that visitors send: received within limits, kept for a while, never under a name of theirs."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from vlmvid.artifacts.files import scratch_folder
from vlmvid.serving.web.errors import WebError, busy, shown, unknown_upload
from vlmvid.serving.web.options import ServeOptions

FIELD = "file"
_FRAMING_BYTES = 16 << 10  # what a form has around its file
_RETRY_SECONDS = 5
_DRAINED_BYTES, _DRAINED_SECONDS = 1 << 30, 20.0
_SWEEPS = 10  # as often within the time that an upload is kept


@dataclass(slots=True)
class Upload:
    """A video that was received and can be read.

    Attributes:
        name: what it is addressed by; nobody can guess it.
        folder: holds the file alone and goes with it.
        seconds: how long the video is.
        used: when it was last asked for, on the monotonic clock.
    """

    name: str
    folder: Path
    seconds: float = 0.0
    used: float = 0.0

    @property
    def path(self) -> str:
        """The file."""
        return str(self.folder / "video")


class Uploads:
    """The uploads of one server, in a temporary folder that goes with it."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._root: Path | None = None
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._num_receiving = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep uploads within the block, each for its time."""
        with scratch_folder() as root:
            self._root = root
            task = asyncio.create_task(self._sweep())
            try:
                yield
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                self._kept.clear()

    @asynccontextmanager
    async def received(self, request: Request) -> AsyncIterator[Upload]:
        """The video of a request, on disk for the time of the block; `keep` makes it stay.

        Raises WebError for a body that is too large or no form with one file, and when too many are on their way.
        """
        if self._num_receiving >= self._options.max_receiving:
            raise busy("the room for uploads", _RETRY_SECONDS)
        self._num_receiving += 1
        assert self._root is not None  # requests come while the server runs
        name = secrets.token_hex(16)
        upload = Upload(name, self._root / name)
        drains = False
        try:
            await self._receive(request, upload)
            yield upload
        except _MoreComesError:
            drains = True
            raise
        finally:
            self._num_receiving -= 1
            if upload.name not in self._kept:
                _remove(upload)
            if drains:  # in nobody's way
                await _drain(request)

    def keep(self, upload: Upload) -> None:
        """Have it stay until its time is over, or others need the room."""
        upload.used = time.monotonic()
        self._kept[upload.name] = upload
        while len(self._kept) > self._options.max_uploads:
            _remove(self._kept.popitem(last=False)[1])

    def get(self, name: str) -> Upload:
        """A kept upload; raises WebError for any other name."""
        upload = self._kept.get(name)
        if upload is None:
            raise unknown_upload()
        upload.used = time.monotonic()
        self._kept.move_to_end(name)
        return upload

    def drop(self, name: str) -> None:
        """Remove a kept upload; raises WebError for any other name."""
        _remove(self._kept.pop(self.get(name).name))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._options.upload_seconds / _SWEEPS)
            oldest = time.monotonic() - self._options.upload_seconds
            for upload in [upload for upload in self._kept.values() if upload.used < oldest]:
                self.drop(upload.name)

    async def _receive(self, request: Request, upload: Upload) -> None:
        parser = MultiPartParser(request.headers, self._chunks(request), max_files=1, max_fields=4, max_part_size=4096)
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise _no_file("the request is no form (multipart/form-data)")
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise _no_file(f"the form cannot be read: {error.message}") from error
        try:
            sent = form.get(FIELD)
            if not isinstance(sent, UploadFile) or len(form.multi_items()) != 1:
                raise _no_file(f"the form has the fields {_names(form)}, not one file as {FIELD!r}")
            if (sent.size or 0) > self._options.max_upload_bytes:
                raise self._too_large()
            upload.folder.mkdir()
            await asyncio.to_thread(_copy, sent.file, Path(upload.path))
        finally:
            await form.close()

    async def _chunks(self, request: Request) -> AsyncGenerator[bytes, None]:
        """The body as it comes, never more than what an upload may have."""
        most = self._options.max_upload_bytes + _FRAMING_BYTES
        declared = request.headers.get("content-length", "")
        received, has_more, started = 0, True, time.monotonic()
        is_too_large = declared.isdigit() and int(declared) > most
        while has_more and not is_too_large:
            seconds = self._options.grace_seconds + received / self._options.least_bytes_a_second
            left = started + seconds - time.monotonic()
            try:
                message = await asyncio.wait_for(request.receive(), min(self._options.idle_seconds, max(left, 0)))
            except TimeoutError:
                raise self._too_slow(received, time.monotonic() - started) from None
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            has_more = message.get("more_body", False)
            received += len(message["body"])
            is_too_large = received > most
            if not is_too_large:
                yield message["body"]
        if is_too_large:
            raise self._too_large(_MoreComesError if has_more else WebError)

    def _too_slow(self, received: int, seconds: float) -> WebError:
        return WebError(
            408,
            "too_slow",
            f"{received:,} bytes of the upload came in {seconds:.0f} s; an upload must not pause for "
            f"{self._options.idle_seconds:g} s, and after {self._options.grace_seconds:g} s it must bring "
            f"{self._options.least_bytes_a_second:,} bytes a second; send it again, or a smaller copy",
        )

    def _too_large(self, kind: type[WebError] = WebError) -> WebError:
        most = self._options.max_upload_bytes
        size = f"{most / 2**20:g} MiB" if most >= 2**20 else f"{most:,} bytes"
        return kind(
            413,
            "too_large",
            f"the upload has more than {size}; send a shorter piece or a smaller copy, or start the server with "
            "--max-upload-mb",
        )


class _MoreComesError(WebError):
    """A refusal of a body that has not come as a whole."""


async def _drain(request: Request) -> None:
    """Take some more of a body that was refused, and forget it.

    A browser reads no answer before it has sent its request; a connection that is closed under it is all that it tells.
    """
    if request.headers.get("expect"):
        return  # the client waits for leave to send, and will not get it
    drained, give_up = 0, time.monotonic() + _DRAINED_SECONDS
    while drained < _DRAINED_BYTES and (left := give_up - time.monotonic()) > 0:
        try:
            message = await asyncio.wait_for(request.receive(), left)
        except TimeoutError:
            return
        drained += len(message.get("body", b""))
        if not message.get("more_body"):
            return


def _no_file(why: str) -> WebError:
    return WebError(422, "no_file", f"{why}; send a form with the video as {FIELD!r}")


def _names(form: FormData) -> str:
    return ", ".join(shown(name) for name, _ in form.multi_items()) or "none"


def _copy(source: BinaryIO, to: Path) -> None:
    with to.open("xb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


def _remove(upload: Upload) -> None:
    shutil.rmtree(upload.folder, ignore_errors=True)
