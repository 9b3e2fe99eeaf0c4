"""Random access to video frames with decord, behind checks that keep it right.

decord 0.6.0 numbers frames by their order in the packet stream and believes the container. It
loops without end, holding the interpreter, when the container declares more frames than it holds
(dmlc/decord#373); it gives wrong frames where seeking is coarse or a keyframe is no clean start; and
it puts the last good frame in place of a damaged one.

``DECORD_EOF_RETRY_MAX`` stays as it is: small values make decord give up on sound files, because
it counts polls of its decoding thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import ConfigError
from vlmvid.video.options import ReaderOptions
from vlmvid.video.readers.checked import CheckedReader


class DecordReader(CheckedReader):
    """`VideoReader` on decord; see `CheckedReader`, and `open_video` for arguments and errors."""

    name = "decord"

    def __init__(self, path: str, options: ReaderOptions) -> None:
        self._decord = _import_decord()
        self._errors = (*self._errors, self._decord.DECORDError)
        super().__init__(path, options)

    def _open_library(self) -> Any:
        self._decord.logging.set_level(self._decord.logging.QUIET)
        # The scheme keeps FFmpeg from reading a colon in the file name as a protocol. A positive fault
        # tolerance below 1 / num_frames raises at the first replaced frame.
        frames = self._decord.VideoReader(
            f"file:{self.path}", num_threads=self.options.num_threads, fault_tol=0.5 / self.num_frames
        )
        if len(frames) != self.num_frames:
            raise ValueError(f"it counts {len(frames)} frames, the file holds {self.num_frames}")
        return frames

    def _read_with(self, library: Any, indices: list[int]) -> NDArray[np.uint8]:
        frames: NDArray[np.uint8] = library.get_batch(indices).asnumpy()
        return frames


def decord_problem() -> str | None:
    """Why decord cannot be used here and the mend, in words; None when it can."""
    try:
        _import_decord()
    except ConfigError as error:
        return str(error)
    return None


def _import_decord() -> Any:
    try:
        import decord
    except (ImportError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"reader='decord' needs the package decord, which does not load ({_first_line(error)}); install it (it has "
            "wheels for x86-64 Linux, x86-64 macOS and Windows only) or use reader='pyav'"
        ) from error
    return decord


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
