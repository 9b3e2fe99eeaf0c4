"""A look into one video file, for people: its packet index in numbers, and some frames as small pictures."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import DecodeError
from vlmvid.video.gop.packet_index import PacketIndex
from vlmvid.video.measuring import frames_at_middles
from vlmvid.video.options import ReaderOptions
from vlmvid.video.readers.pyav import PyAVReader

_MOST_KEYFRAMES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LookJob:
    """One file to look into, for `DecodePool.run`.

    Attributes:
        path: a local video file.
        num_frames: how many frames are taken, at the middles of as many equal spans of time.
        image_size: side in pixels of their pictures, the middle square of each.
    """

    path: str
    num_frames: int = 8
    image_size: int = 48

    def run(self, *, max_frame_pixels: int) -> dict[str, Any]:
        """``index``, the fields of `IndexFacts`, and ``frames``, a list with `number`, `seconds`, `is_key`, `reason`
        and `pixels` each: base64 of uint8 (3, image_size, image_size), or None with the reason why.

        Raises DecodeError as `vlmvid.video.open_video`.
        """
        options = ReaderOptions(image_size=self.image_size, max_frame_pixels=max_frame_pixels)
        with PyAVReader(self.path, options) as reader:
            facts, frames = index_facts(reader.index), list(_frames(reader, self.num_frames))
        return {"index": asdict(facts), "frames": frames}


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts:
    """What the packets of a video stream tell without decoding.

    Attributes:
        time_base: seconds per tick of its times, e.g. ``1/12288``.
        num_frames: whole frames that are shown.
        num_packets: coded pictures, with those that are decoded and not shown.
        found_by: ``times`` of packets, or ``counting`` where these do not tell frames apart.
        num_keyframes: frames that decoding can start at; none are known where frames are counted.
        first_keyframes_seconds: times of the first 16 of them.
        keyframes_are_clean: False when frames after some keyframe need what stands before it.
        is_reordered: whether some frame is decoded before one that is shown earlier.
        num_unreferenced: packets that no other needs, and that need not be decoded for others.
        num_damaged: packets that the container knows to be damaged.
        packet_bytes_median: bytes of a packet.
        packet_bytes_max: bytes of the largest packet.
    """

    time_base: str
    num_frames: int
    num_packets: int
    found_by: str
    num_keyframes: int
    first_keyframes_seconds: list[float]
    keyframes_are_clean: bool
    is_reordered: bool
    num_unreferenced: int
    num_damaged: int
    packet_bytes_median: float
    packet_bytes_max: int


def index_facts(index: PacketIndex) -> IndexFacts:
    """A packet index in numbers."""
    keys = index.seconds(index.key_pts[:_MOST_KEYFRAMES])
    return IndexFacts(
        time_base=f"{index.time_base.numerator}/{index.time_base.denominator}",
        num_frames=len(index),
        num_packets=int(index.packet_sizes.size),
        found_by="counting" if index.counted else "times",
        num_keyframes=int(index.key_pts.size),
        first_keyframes_seconds=[round(float(second), 6) for second in keys],
        keyframes_are_clean=index.keys_refresh and index.has_closed_gops,
        is_reordered=index.reorders,
        num_unreferenced=int(index.unreferenced.sum()),
        num_damaged=int(index.corrupt.sum()),
        packet_bytes_median=float(np.median(index.packet_sizes)) if index.packet_sizes.size else 0.0,
        packet_bytes_max=int(index.packet_sizes.max(initial=0)),
    )


def pixels_of(frame: dict[str, Any], image_size: int) -> NDArray[np.uint8] | None:
    """The picture of one of a `LookJob`'s frames, uint8 (3, image_size, image_size)."""
    if frame["pixels"] is None:
        return None
    return np.frombuffer(base64.b64decode(frame["pixels"]), np.uint8).reshape(3, image_size, image_size)


def _frames(reader: PyAVReader, num_frames: int) -> Iterator[dict[str, Any]]:
    end_seconds = float(reader.pts_seconds[0]) + reader.duration_seconds
    for number in dict.fromkeys(frames_at_middles(reader.pts_seconds, end_seconds, num_frames).tolist()):
        pixels = reason = None
        try:
            # One by one, so that a damaged frame costs its own picture alone.
            pixels = base64.b64encode(reader.frames_at([number]).frames[0].tobytes()).decode("ascii")
        except DecodeError as error:
            reason = error.reason_code
        yield {
            "number": number,
            "seconds": round(float(reader.pts_seconds[number]), 6),
            "is_key": bool(reader.is_key[number]),
            "reason": reason,
            "pixels": pixels,
        }
