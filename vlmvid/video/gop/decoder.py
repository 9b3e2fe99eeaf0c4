"""Decoding runs of packets from one open container."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vlmvid.errors import DecodeError
from vlmvid.video.containers import open_container, select_stream
from vlmvid.video.gop.packet_index import PacketIndex, filled_packets
from vlmvid.video.gop.plan import GopRun, needed_packets
from vlmvid.video.options import ReaderOptions
from vlmvid.video.paths import printable


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a request.

    Attributes:
        missing: frames that did not come out sound.
        unsure: those of them whose run did not start at a clean keyframe: decoding from further back may help.
    """

    missing: set[int]
    unsure: set[int]


Keep = Callable[[int, VideoFrame], None]
"""Called once per wanted frame with its index in presentation order."""

_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# Reading on costs bytes, a seek costs a search in the container and a new start of the reading.
_PACKETS_READ_ON = 32


class GopDecoder:
    """One open container; decodes runs, each from its keyframe.

    Raises DecodeError when the file cannot be opened or its frames are larger than allowed.
    """

    def __init__(self, path: str, options: ReaderOptions, num_threads: int) -> None:
        self.path = path
        self.num_threads = num_threads
        self._options = options
        self._open()

    @property
    def container(self) -> InputContainer:
        """The open container; another object after decoding had to start over."""
        self._require_open()
        return self._container

    @property
    def stream(self) -> VideoStream:
        """The chosen stream of `container`."""
        self._require_open()
        return self._stream

    def use_threads(self, num_threads: int) -> None:
        """Decode with that many threads from now on; a decoder at work is replaced by a fresh one."""
        if num_threads == self.num_threads:
            return
        self.num_threads = num_threads
        self._require_open()
        if self._context.is_open:
            self.reopen()
        self._context.thread_count = _threads_of(self._context, num_threads)

    def close(self) -> None:
        """Release the file."""
        self._container.close()

    def reopen(self) -> None:
        """Stand at the start of the file with a fresh decoder."""
        self._container.close()
        self._is_open = False
        self._open()

    def stand_at_end(self) -> None:
        """Someone else has read the container to its end: the next run starts with a seek."""
        self._position = sys.maxsize

    def decode(self, index: PacketIndex, runs: Sequence[GopRun], keep: Keep) -> Outcome:
        """Call `keep` for the wanted frames of `runs`; a frame that is missing may have been kept unsound.

        Raises DecodeError where the timestamps of the file prove false.
        """
        self._require_open()
        outcome = Outcome(set(), set())
        for run in runs:
            lost, damaged, started_well = self._decode_run(index, run, keep)
            # At a packet that fails the decoder also drops the frame that it was about to give, so what was
            # decoded before the damage is asked for alone: no frame may depend on which others are wanted.
            for number in sorted(lost):
                place = int(index.positions[number])
                if damaged and place < min(damaged):
                    lost -= {number} - self._decode_run(index, GopRun(run.first, place, (number,)), keep)[0]
            outcome.missing.update(lost)
            if not (started_well and index.keys_refresh):
                outcome.unsure.update(lost)
        return outcome

    def _decode_run(self, index: PacketIndex, run: GopRun, keep: Keep) -> tuple[set[int], list[int], bool]:
        if not self._go_to(index, run):
            return set(run.wanted), [], False
        return self._collect(index, run, keep)

    def decode_whole(self, index: PacketIndex, wanted: Iterable[int], keep: Keep) -> set[int]:
        """As `decode`, from the start of the file: slow, and right for every file; returns what is missing."""
        self.reopen()
        numbers = tuple(sorted(wanted))
        run = GopRun(0, int(index.positions[list(numbers)].max()), numbers)
        return self._collect(index, run, keep, trusts_start=True)[0]

    def decode_counting(self, wanted: Iterable[int], keep: Keep) -> set[int]:
        """As `decode_whole` for streams whose packets do not tell the frames apart: frames are counted."""
        missing = set(wanted)
        for number, frame in enumerate(self.sound_frames()):
            if number in missing:
                keep(number, frame)
                missing.remove(number)
            if not missing:
                break
        return missing

    def sound_frames(self) -> Iterator[VideoFrame]:
        """The frames from the start of the file up to the first damage: behind it a frame may be lost.

        Decode with one thread, so that damage is known to the packet. `is_cut` tells how it ended.
        """
        self.reopen()
        self.is_cut = False
        damaged: list[int] = []
        for frame in self._frames((packet for _, packet in self._numbered(damaged)), damaged):
            if damaged or frame.is_corrupt:
                break
            yield frame
        else:
            self.is_cut = bool(damaged)
            return
        self.is_cut = True

    def _open(self) -> None:
        self._container = open_container(self.path, trusts_header=True)
        try:
            self._stream = select_stream(self._container, self.path, self._options.stream_index)
            refuse_too_large(self._stream.width, self._stream.height, self._options.max_frame_pixels, self.path)
        except BaseException:
            self._container.close()
            raise
        context = self._context = _decoder_of(self._stream)
        context.thread_count = _threads_of(context, self.num_threads)
        context.thread_type = "AUTO"
        # Stops a picture that is larger than the header says before memory is taken for it. FFmpeg counts
        # pixels after rounding each side up, hence the slack.
        # Without "explode" damage within a picture is painted over, and nothing tells.
        limit = 2 * self._options.max_frame_pixels + 2**16
        context.options = {"max_pixels": str(limit), "err_detect": "explode"}
        self._packets = filled_packets(self._container, self._stream)
        self._position = 0
        self._is_open = True
        self.is_cut = False

    def _require_open(self) -> None:
        """Try again when the last `reopen` failed: PyAV crashes when a closed container is used."""
        if not self._is_open:
            self.reopen()

    def _flush(self) -> None:
        if self._context.is_open:
            self._context.flush_buffers()

    def _go_to(self, index: PacketIndex, run: GopRun) -> bool:
        """Stand before packet `run.first` with an empty decoder; False when the file ends before it.

        Containers search by decoding time or by byte, so a seek may land behind the keyframe that is
        needed. The landing is checked, and the file is read from its start when no seek serves.
        """
        if 0 <= run.first - self._position <= _PACKETS_READ_ON:
            self._flush()
        elif not self._seek(index, run):
            self.reopen()
        while self._position < run.first:
            if next(self._packets, None) is None:
                return False
            self._position += 1
        return True

    def _seek(self, index: PacketIndex, run: GopRun) -> bool:
        key = index.key_number(int(index.pts[run.wanted[0]]))
        targets = [int(index.pts[run.wanted[0]]), *index.key_pts[max(0, key - 1) : key + 1][::-1].tolist()]
        for target in targets if key >= 0 else ():
            try:
                self._container.seek(target, stream=self._stream)
                self._flush()
            except av.error.FFmpegError:
                return False
            if self._land(index, run.first):
                return True
        return False

    def _land(self, index: PacketIndex, last_position: int) -> bool:
        """Find the place of the first keyframe after a seek; False when it lies behind `last_position`."""
        packets = filled_packets(self._container, self._stream)
        for packet in packets:
            position = _key_position(index, packet)
            if position is not None:
                self._packets = chain((packet,), packets)
                self._position = position
                return position <= last_position
        return False

    def _numbered(self, damaged: list[int]) -> Iterator[tuple[int, Packet[VideoStream]]]:
        """Packets with their places; the place of one that the container knows to be damaged goes to `damaged`."""
        for packet in self._packets:
            self._position += 1
            if packet.is_corrupt:
                damaged.append(self._position - 1)
            else:
                yield self._position - 1, packet

    def _needed(self, run: GopRun, needed: NDArray[np.bool_], damaged: list[int]) -> Iterator[Packet[VideoStream]]:
        for place, packet in self._numbered(damaged):
            if place > run.last:  # the packet at `last` itself was damaged
                return
            if needed[place - run.first]:
                yield packet
            if place == run.last:
                return

    def _collect(
        self, index: PacketIndex, run: GopRun, keep: Keep, *, trusts_start: bool = False
    ) -> tuple[set[int], list[int], bool]:
        """Decode a run and keep its wanted frames.

        Returns those that are missing or unsound, the places of damage, and whether the first packet gave
        a keyframe: a decoder that is started elsewhere may give grey pictures and say nothing.
        """
        needed = needed_packets(index, run)
        left = {int(index.pts[number]): number for number in run.wanted}
        wanted = dict(left)
        damaged: list[int] = []
        seen: list[int] = []
        reorders, started_well = index.reorders, False
        # After the last wanted frame the decoder is still emptied: frames that it refers to may come
        # out behind it, and tell of damage only then.
        for frame in self._frames(self._needed(run, needed, damaged), damaged):
            if frame.pts is None:
                continue
            pts = frame.pts
            if not reorders and seen and pts <= seen[-1]:
                raise DecodeError(
                    f"{printable(self.path)}: the timestamps are false: the frame at {pts} comes after the one at "
                    f"{seen[-1]} (ticks of {index.time_base} s), although none is said to be decoded out of order; "
                    "encode the file again",
                    reason_code="false_timestamps",
                )
            seen.append(pts)
            if frame.is_corrupt:
                damaged.append(index.decode_position(pts))
            elif pts in left:
                keep(left.pop(pts), frame)
            started_well |= bool(frame.key_frame) and index.decode_position(pts) == run.first
        # After a seek some containers end early, e.g. Matroska at the end of the segment that it leads to.
        started_well &= self._position > run.last
        damaged += _lost(index, run, needed, seen)
        # H.264 and HEVC decoders tell themselves when they were started at no keyframe.
        if not (started_well or trusts_start or self._context.codec.canonical_name in ("h264", "hevc")):
            return set(run.wanted), [], False
        unsound = {number for pts, number in wanted.items() if pts in left}
        return unsound | _dependants(index, wanted, damaged), damaged, started_well

    def _frames(self, packets: Iterable[Packet[VideoStream]], damaged: list[int]) -> Iterator[VideoFrame]:
        """What the decoder gives for `packets`; the places of damaged ones are added to `damaged`.

        A damaged packet does not end the decoding: frames that do not depend on it are sound.
        """
        # With several threads the complaint comes up to that many packets late.
        fed: deque[int] = deque(maxlen=max(1, self._context.thread_count))
        for packet in chain(packets, (None,)):
            if packet is not None:
                fed.append(self._position - 1)
            try:
                yield from self._context.decode(packet)
            except av.error.FFmpegError as error:
                if isinstance(error, MemoryError):
                    raise
                damaged.append(fed[0] if fed else 0)


def _lost(index: PacketIndex, run: GopRun, needed: NDArray[np.bool_], seen: list[int]) -> list[int]:
    """Places of packets that were fed and whose frames never came out: damage that the decoder kept to itself."""
    inside = (index.positions >= run.first) & (index.positions <= run.last)
    inside[inside] = needed[index.positions[inside] - run.first]
    lost: list[int] = index.positions[inside & ~np.isin(index.pts, seen)].tolist()
    return lost


def _decoder_of(stream: VideoStream) -> VideoCodecContext:
    """The stream's decoder; libvpx's own where WebM carries transparency, which FFmpeg's decoders leave out."""
    name = _ALPHA_DECODERS.get(stream.codec_context.name)
    if name is None or stream.metadata.get("alpha_mode") != "1":
        return stream.codec_context
    context = cast(VideoCodecContext, av.CodecContext.create(name, "r"))
    context.extradata = stream.codec_context.extradata
    return context


def _threads_of(context: VideoCodecContext, num_threads: int) -> int:
    # The decoders of other codecs keep damage to themselves when several threads share a picture.
    return num_threads if context.codec.canonical_name in ("h264", "hevc", "vp9") else 1


def refuse_too_large(width: int, height: int, max_frame_pixels: int, path: str) -> None:
    """Raise DecodeError (``frame_too_large``) for a picture with more than `max_frame_pixels` pixels."""
    if width * height > max_frame_pixels:
        raise DecodeError(
            f"{printable(path)}: frames of {width} x {height} = {width * height} pixels are larger than "
            f"max_frame_pixels={max_frame_pixels}; raise the limit, or scale the file down",
            reason_code="frame_too_large",
        )


def _key_position(index: PacketIndex, packet: Packet[VideoStream]) -> int | None:
    if not packet.is_keyframe or packet.pts is None:
        return None
    key = index.key_number(packet.pts)
    return int(index.key_positions[key]) if key >= 0 and index.key_pts[key] == packet.pts else None


def _dependants(index: PacketIndex, wanted: dict[int, int], damaged: list[int]) -> set[int]:
    """The frames of `wanted` (pts to number) with damage between their keyframe's packet and their own.

    Damage to a picture that is shown before that keyframe does not count: it was decoded after the
    keyframe but belongs to the group before, and nothing in this group refers to it.
    """
    if not damaged:
        return set()
    places = np.array(sorted(set(damaged)), dtype=np.int64)
    order = np.argsort(index.positions)
    found = np.minimum(np.searchsorted(index.positions[order], places), len(index) - 1)
    is_shown = index.positions[order][found] == places
    times = np.where(is_shown, index.pts[order][found], np.iinfo(np.int64).max)
    unsound = set()
    for pts, number in wanted.items():
        key = index.key_number(pts)
        start, shown_from = (int(index.key_positions[key]), int(index.key_pts[key])) if key >= 0 else (0, None)
        between = (places >= start) & (places <= index.positions[number])
        if (between & (True if shown_from is None else times >= shown_from)).any():
            unsound.add(number)
    return unsound
