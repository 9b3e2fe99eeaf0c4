"""The exact frame table of a video stream, read from its packets without decoding.

Headers lie: they over-report frame counts, and their average rate says nothing about a variable
one. One pass over the packets gives the timestamp of every frame, the keyframes from which each
can be reached, which packets nothing refers to, and whether the file ends too early.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vlmvid.video.gop.references import ReferenceReader
from vlmvid.video.gop.truncation import ends_before_its_tag, ends_too_early


@dataclass(frozen=True, slots=True)
class PacketIndex:
    """Frames in presentation order with what is needed to reach them.

    Attributes:
        time_base: seconds per tick of all timestamps.
        pts: int64 (num_frames,), strictly increasing presentation times in ticks.
        positions: int64 (num_frames,), each frame's place among the packets in decode order.
        key_pts: int64 (K,), increasing presentation times of the keyframes.
        key_positions: int64 (K,), the keyframes' places in decode order.
        packet_sizes: int64 (num_packets,), bytes of each packet in decode order.
        unreferenced: bool (num_packets,), packets whose picture no other one refers to, in decode
            order; all False for codecs that do not say.
        corrupt: bool (num_packets,), packets that the container knows to be damaged.
        end_pts: when the last frame leaves the screen, in ticks.
        counted: True when packets do not tell the frames apart (timestamps missing or repeated);
            then frames are found by decoding from the start and counting.
        keys_refresh: False when some H.264 or HEVC keyframe is no clean start (open groups of
            pictures, intra refresh).
        is_truncated: True when the file ends before its last declared packet.
        has_orientation_message: True when the first packet says how the picture is turned; later frames
            then come out of the decoder without that.
    """

    time_base: Fraction
    pts: NDArray[np.int64]
    positions: NDArray[np.int64]
    key_pts: NDArray[np.int64]
    key_positions: NDArray[np.int64]
    packet_sizes: NDArray[np.int64]
    unreferenced: NDArray[np.bool_]
    corrupt: NDArray[np.bool_]
    end_pts: int
    counted: bool
    keys_refresh: bool
    is_truncated: bool
    has_orientation_message: bool = False

    def __len__(self) -> int:
        return int(self.pts.size)

    def seconds(self, ticks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Ticks in seconds, float64; one correctly rounded division per value."""
        return ticks * self.time_base.numerator / np.float64(self.time_base.denominator)

    @property
    def end_seconds(self) -> float:
        """When the last frame leaves the screen."""
        return self.end_pts * self.time_base.numerator / self.time_base.denominator

    @property
    def has_closed_gops(self) -> bool:
        """True when every keyframe stands at the same place in decode and presentation order."""
        places = np.searchsorted(self.pts, self.key_pts)
        inside = places < len(self)
        return bool((self.pts[places[inside]] == self.key_pts[inside]).all()) and bool(
            (places[inside] == self.key_positions[inside]).all()
        )

    @property
    def reorders(self) -> bool:
        """True when some frame is decoded before one that is shown earlier."""
        return bool((np.diff(self.positions) < 0).any())

    def decode_position(self, pts: int | None) -> int:
        """Where the packet of the frame at `pts` stands in decode order; 0 when no frame has that time."""
        place = int(np.searchsorted(self.pts, pts)) if pts is not None else len(self)
        return int(self.positions[place]) if place < len(self) and self.pts[place] == pts else 0

    def key_number(self, pts: int) -> int:
        """Which keyframe is the last at or before `pts`; -1 when none is."""
        return int(np.searchsorted(self.key_pts, pts, side="right")) - 1


def filled_packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The stream's packets from where the container stands, without empty ones.

    An empty packet would tell the decoder that the stream has ended.
    """
    return (packet for packet in container.demux(stream) if packet.size)


@dataclass(slots=True)
class _Pass:
    """What one pass over the packets gathers, in decode order; `is_cut` when bytes are missing at the end."""

    is_cut: bool
    shown: list[tuple[int | None, int]] = field(default_factory=list)
    keys: list[tuple[int, int]] = field(default_factory=list)
    durations: dict[int | None, int] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    layers: list[int] = field(default_factory=list)
    corrupt: list[bool] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    keys_refresh: bool = True
    has_orientation_message: bool = False
    num_empty: int = 0

    def cut_back(self) -> None:
        """Forget what the cut end of the file spoils, so that the frames left are numbered without a gap.

        Packets at the end that the cut goes through are no frames. A frame that is lost was to be decoded
        after all that are left, and is shown no sooner than it is decoded: what is shown later than
        the last decoding time that is known may stand behind a gap.
        """
        last_dts = None
        while self.corrupt and self.corrupt[-1]:
            last_dts = self.dts.pop()
            self.corrupt.pop()
            self.sizes.pop()
            self.layers.pop()
            self.is_cut = True
        end = len(self.sizes)
        if self.is_cut and last_dts is None:
            last_dts = self.dts[-1] if self.dts else None
        self.keys = [key for key in self.keys if key[1] < end]
        self.shown = [
            (pts, position)
            for pts, position in self.shown
            if position < end and (last_dts is None or pts is None or pts <= last_dts)
        ]


def read_packet_index(container: InputContainer, stream: VideoStream, path: str) -> PacketIndex:
    """Demux the whole stream once; the container stands at its end afterwards.

    Raises the FFmpeg error of a failing read, except invalid data, which marks the index as truncated.
    """
    found = _Pass(is_cut=ends_too_early(container, stream, path))
    try:
        _gather(container, stream, found)
    except av.error.InvalidDataError:
        found.is_cut = True
    # A header that promises more than is there may also be false, so no frame is given up for it.
    lacks_frames = container.format.name == "avi" and stream.frames > len(found.shown) + found.num_empty
    lacks_frames |= ends_before_its_tag(stream, _end_pts(found, stream), _ticks_per_frame(stream))
    times = {pts for pts, _ in found.shown if pts is not None}
    counted = len(times) != len(found.shown) or _has_no_pts(container, stream)
    found.cut_back()
    frames = np.array([] if counted else sorted(found.shown), dtype=np.int64).reshape(-1, 2)
    key_table = np.array(sorted(found.keys), dtype=np.int64).reshape(-1, 2)
    layers = np.array(found.layers, dtype=np.int64)
    return PacketIndex(
        time_base=_time_base(stream),
        pts=frames[:, 0],
        positions=frames[:, 1],
        key_pts=key_table[:, 0],
        key_positions=key_table[:, 1],
        packet_sizes=np.array(found.sizes, dtype=np.int64),
        # A picture of a lower temporal layer may serve one of a higher layer, whatever its own says.
        unreferenced=(layers >= 0) & (layers == layers.max(initial=-1)),
        corrupt=np.array(found.corrupt, dtype=np.bool_),
        end_pts=_end_pts(found, stream),
        counted=counted,
        keys_refresh=found.keys_refresh,
        is_truncated=found.is_cut or lacks_frames,
        has_orientation_message=found.has_orientation_message,
    )


def _gather(container: InputContainer, stream: VideoStream, found: _Pass) -> None:
    references = ReferenceReader.of(stream)
    hides_packets = stream.codec_context.name == "vp8"
    for packet in container.demux(stream):
        if not packet.size:
            found.num_empty += packet.dts is not None  # a frame that shows the one before it again
            continue
        pts, position = packet.pts, len(found.sizes)
        said = references.read(packet) if references else None
        if references and not position:
            found.has_orientation_message = references.has_orientation_message(packet)
        if packet.is_keyframe and pts is not None:
            found.keys.append((pts, position))
            found.keys_refresh &= said is None or said.is_refresh
        if not packet.is_discard and not (hides_packets and _is_hidden_vp8(packet)):
            found.shown.append((pts, position))
            found.durations[pts] = packet.duration or 0
        found.sizes.append(packet.size)
        found.layers.append(said.disposable_layer if said else -1)
        found.corrupt.append(packet.is_corrupt)
        found.dts.append(packet.dts)


def counted_index(index: PacketIndex, stream: VideoStream, frame_pts: list[int | None], *, is_cut: bool) -> PacketIndex:
    """`index` with the frames that decoding really gave, for streams whose packets do not tell.

    Frames without usable timestamps are laid out evenly at the stream's average rate. `is_cut` says that
    counting ended at damage, behind which no number is sure.
    """
    step = _ticks_per_frame(stream)
    known = [pts for pts in frame_pts if pts is not None]
    rising = len(known) == len(frame_pts) and all(a < b for a, b in zip(known, known[1:], strict=False))
    ticks = known if rising else [step * i for i in range(len(frame_pts))]
    return replace(
        index,
        pts=np.array(ticks, dtype=np.int64),
        positions=np.arange(len(ticks), dtype=np.int64),
        key_pts=index.key_pts[:0],
        key_positions=index.key_positions[:0],
        end_pts=(ticks[-1] if ticks else 0) + step,
        counted=True,
        is_truncated=index.is_truncated or is_cut,
    )


def _has_no_pts(container: InputContainer, stream: VideoStream) -> bool:
    # AVI stores decoding order alone; what FFmpeg gives as presentation times is wrong where frames are reordered.
    return container.format.name == "avi" and stream.codec_context.reorder_depth > 0


def _end_pts(found: _Pass, stream: VideoStream) -> int:
    last = max((pts for pts, _ in found.shown if pts is not None), default=0)
    return last + (found.durations.get(last) or _ticks_per_frame(stream))


def _time_base(stream: VideoStream) -> Fraction:
    return stream.time_base or Fraction(1, 90_000)


def _ticks_per_frame(stream: VideoStream) -> int:
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return max(1, round(1 / (rate * _time_base(stream))))


def _is_hidden_vp8(packet: Packet[VideoStream]) -> bool:
    # RFC 6386, 9.1: bit 4 of the first byte is show_frame; alternate reference frames clear it.
    return not memoryview(packet)[0] & 0x10
