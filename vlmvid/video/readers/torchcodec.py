"""Random access to video frames with torchcodec, behind checks that keep it right.

torchcodec numbers frames as the mapping says that it is given here, PyAV's, so it reads no packets on
opening. It takes the first frame that is not earlier than the wanted one, also when the wanted one
never comes out of the decoder, so the timestamp of every frame is compared.

The package is an extra: it needs the shared libraries of FFmpeg and a release that fits torch.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import ConfigError
from vlmvid.video.options import ReaderOptions
from vlmvid.video.readers.checked import CheckedReader


class TorchcodecReader(CheckedReader):
    """`VideoReader` on torchcodec, on the CPU; see `CheckedReader` and `vlmvid.video.readers.reader.open_video`."""

    name = "torchcodec"

    def __init__(self, path: str, options: ReaderOptions) -> None:
        self._decoders = _import_decoders()
        super().__init__(path, options)

    def _open_library(self) -> Any:
        # The scheme keeps FFmpeg from reading a colon in the file name as a protocol.
        return self._decoders.VideoDecoder(
            f"file:{self.path}",
            stream_index=self._source.stream.index,
            dimension_order="NHWC",
            num_ffmpeg_threads=self.options.num_threads,
            device="cpu",
            custom_frame_mappings=self._frame_mappings(),
        )

    def _read_with(self, library: Any, indices: list[int]) -> NDArray[np.uint8]:
        batch = library.get_frames_at(indices)
        seconds = batch.pts_seconds.numpy()
        # Both are a number of ticks times the time base, rounded once or twice.
        off = np.abs(seconds - self.pts_seconds[indices]) > 0.5 * float(self.index.time_base)
        if off.any():
            number = indices[int(np.argmax(off))]
            raise ValueError(
                f"it gives the frame at {seconds[off][0]:.6f} s for frame {number}, which is shown at "
                f"{self.pts_seconds[number]:.6f} s"
            )
        frames: NDArray[np.uint8] = batch.data.numpy()
        return frames

    def _frame_mappings(self) -> str:
        index = self.index
        durations = np.diff(np.append(index.pts, index.end_pts))
        rows = zip(index.pts.tolist(), durations.tolist(), self.is_key.tolist(), strict=True)
        return json.dumps({"frames": [{"pts": p, "duration": d, "key_frame": int(k)} for p, d, k in rows]})


def torchcodec_problem() -> str | None:
    """Why torchcodec cannot be used here and the mend, in words; None when it can."""
    try:
        _import_decoders()
    except ConfigError as error:
        return str(error)
    return None


def _import_decoders() -> Any:
    try:
        from torchcodec import decoders
    except ImportError as error:
        raise ConfigError(
            f"reader='torchcodec' needs the package torchcodec, which cannot be imported ({error}); install it with "
            "pip install 'vlmvid[torchcodec]', or use reader='pyav'"
        ) from error
    except (RuntimeError, OSError, AttributeError) as error:
        # torchcodec tries one library per FFmpeg version and puts all their tracebacks into its message.
        raise ConfigError(
            "reader='torchcodec': the package torchcodec is installed but does not load; it needs the shared "
            "libraries of FFmpeg 4 to 8 (Debian: apt install ffmpeg) and a release for this torch (0.13 for torch "
            "2.13; 0.14 needs CUDA); mend that, or use reader='pyav'"
        ) from error
    return decoders
