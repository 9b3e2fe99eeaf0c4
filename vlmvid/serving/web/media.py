"""Videos opened for requests: in decode workers, so that none can hang, crash or fill the server."""

from __future__ import annotations

import asyncio
import base64
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from typing import TypeVar

from vlmvid.config.schema import DecodeConfig
from vlmvid.errors import DecodeError
from vlmvid.serving.visual_features import VisualFeatures
from vlmvid.serving.web.errors import busy
from vlmvid.serving.web.options import ServeOptions
from vlmvid.serving.web.threads import DaemonThreads
from vlmvid.types import FrameBatch
from vlmvid.video.isolation.pool import DecodePool, Outcomes
from vlmvid.video.options import ClipJob, DecodeLimits
from vlmvid.video.paths import check_file
from vlmvid.video.probing import DurationJob
from vlmvid.video.thumbnails import ThumbnailJob

T = TypeVar("T")
Key = tuple[ThumbnailJob, int, int, int]
_RETRY_SECONDS = 2
_FAILURE_BYTES = 1024  # what a remembered failure counts


class Media:
    """Thumbnails, lengths and frames of files, by `decode_workers` processes.

    A thumbnail is made once for all who ask for it, and remembered until others need the memory; so is the reason why
    there is none.
    """

    def __init__(self, decode: DecodeConfig, options: ServeOptions) -> None:
        limits = DecodeLimits(
            seconds=options.decode_seconds,
            memory_bytes=options.decode_bytes,
            max_frame_pixels=options.max_frame_pixels,
        )
        self._options = options
        self._pool = DecodePool(decode, limits, num_workers=options.decode_workers)
        self._threads = DaemonThreads(options.decode_workers, "vlmvid-media")
        self._num_waiting = 0
        self._kept: OrderedDict[Key, bytes | DecodeError] = OrderedDict()
        self._kept_bytes = 0
        self._in_work: dict[Key, asyncio.Task[bytes | DecodeError]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """End the workers with the block."""
        try:
            yield
        finally:
            self._threads.shutdown()
            await asyncio.to_thread(self._pool.close)

    async def thumbnail(self, clip: ClipJob, seconds: float | None) -> bytes:
        """The frame on screen `seconds` after the file's first one, as JPEG; None takes the middle of the clip.

        Raises DecodeError as the pool does, and WebError when too many wait for the decoders.
        """
        status = await asyncio.to_thread(check_file, clip.path)
        job = ThumbnailJob(
            path=clip.path,
            start_seconds=clip.start_seconds,
            end_seconds=clip.end_seconds,
            seconds=None if seconds is None else round(seconds, 3),
            side=self._options.thumbnail_side,
        )
        key = (job, status.st_mtime_ns, status.st_size, status.st_ino)
        found = self._kept.get(key)
        if found is None:
            task = self._in_work.get(key)
            if task is None:
                task = self._in_work[key] = asyncio.create_task(self._make(key))
                task.add_done_callback(lambda _: self._in_work.pop(key))
            # Who goes away does not take the picture from those who wait for the same one.
            found = await asyncio.shield(task)
        else:
            self._kept.move_to_end(key)
        if isinstance(found, DecodeError):
            raise found
        return found

    async def duration(self, path: str) -> float:
        """How many seconds a file lasts; raises as `thumbnail`."""
        found = await self._one(lambda: self._pool.run([DurationJob(path=path)]))
        return float(found["duration_seconds"])

    async def frames(
        self, vision: VisualFeatures, path: str, start_seconds: float = 0.0, end_seconds: float | None = None
    ) -> FrameBatch:
        """The frames of a clip that a model sees; raises as `thumbnail`."""
        # Some policies draw by what the whole file holds, so that naming the job reads it.
        return await self._one(lambda: self._pool.decode([vision.job(path, start_seconds, end_seconds)]))

    async def _make(self, key: Key) -> bytes | DecodeError:
        made: bytes | DecodeError
        try:
            found = await self._one(lambda: self._pool.run([key[0]]))
            made = base64.b64decode(found["jpeg"], validate=True)
        except DecodeError as error:
            if error.transient:
                return error
            made = DecodeError(str(error), reason_code=error.reason_code)  # without a traceback that holds on to things
        self._keep(key, made)
        return made

    def _keep(self, key: Key, made: bytes | DecodeError) -> None:
        self._kept[key] = made
        self._kept_bytes += _size(made)
        while self._kept_bytes > self._options.thumbnail_bytes:
            self._kept_bytes -= _size(self._kept.popitem(last=False)[1])

    async def _one(self, start: Callable[[], Outcomes[T | DecodeError]]) -> T:
        if self._num_waiting >= self._options.max_waiting_pictures:
            raise busy("the video decoders", _RETRY_SECONDS)
        self._num_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, _only, start)
        finally:
            self._num_waiting -= 1


def _only(start: Callable[[], Outcomes[T | DecodeError]]) -> T:
    with closing(start()) as outcomes:
        outcome = next(outcomes)
    if isinstance(outcome, DecodeError):
        raise outcome
    return outcome


def _size(made: bytes | DecodeError) -> int:
    return len(made) if isinstance(made, bytes) else _FAILURE_BYTES
