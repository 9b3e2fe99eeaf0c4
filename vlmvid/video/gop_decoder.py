"""Decoding runs of packets from one open container."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vlmvid.errors import DecodeError
from vlmvid.video.containers import open_container, select_stream
from vlmvid.video.gop_plan import GopRun, needed_packets
from vlmvid.video.options import ReaderOptions
from vlmvid.video.packet_index import PacketIndex, whole_packets

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
        return self._container

    @property
    def stream(self) -> VideoStream:
        """The chosen stream of `container`."""
        return self._stream

    def use_threads(self, num_threads: int) -> None:
        """Decode with that many threads from now on; a decoder at work is replaced by a fresh one."""
        if num_threads == self.num_threads:
            return
        self.num_threads = num_threads
        if self._context.is_open:
            self.reopen()
        self._context.thread_count = num_threads

    def close(self) -> None:
        """Release the file."""
        self._container.close()

    def reopen(self) -> None:
        """Stand at the start of the file with a fresh decoder."""
        self._container.close()
        self._open()

    def stand_at_end(self) -> None:
        """Someone else has read the container to its end: the next run starts with a seek."""
        self._position = sys.maxsize

    def decode(self, index: PacketIndex, runs: Sequence[GopRun], keep: Keep) -> set[int]:
        """Call `keep` for the wanted frames of `runs`; returns those that did not come out sound."""
        missing: set[int] = set()
        for run in runs:
            if self._go_to(index, run):
                missing |= self._collect(index, run, self._needed(index, run), keep)
            else:
                missing.update(run.wanted)
        return missing

    def decode_whole(self, index: PacketIndex, wanted: Iterable[int], keep: Keep) -> set[int]:
        """As `decode`, by decoding every packet from the start of the file: slow, and right for every file."""
        self.reopen()
        run = GopRun(0, index.packet_sizes.size, tuple(sorted(wanted)))
        return self._collect(index, run, (packet for _, packet in self._numbered()), keep)

    def decode_counting(self, wanted: Iterable[int], keep: Keep) -> set[int]:
        """As `decode_whole` for streams whose packets do not tell the frames apart: frames are counted."""
        missing = set(wanted)
        is_damaged = False
        damaged: list[int] = []
        for number, frame in enumerate(self.all_frames(damaged)):
            is_damaged = bool(damaged) or frame.is_corrupt or (is_damaged and not frame.key_frame)
            damaged.clear()
            if number in missing and not is_damaged:
                keep(number, frame)
                missing.remove(number)
            if not missing:
                break
        return missing

    def all_frames(self, damaged: list[int]) -> Iterator[VideoFrame]:
        """Every frame from the start of the file; places of damaged packets are added to `damaged`."""
        self.reopen()
        return self._frames((packet for _, packet in self._numbered()), damaged)

    def _open(self) -> None:
        self._container = open_container(self.path)
        try:
            self._stream = select_stream(self._container, self.path, self._options.stream_index)
            refuse_too_large(self._stream.width, self._stream.height, self._options.max_frame_pixels, self.path)
        except BaseException:
            self._container.close()
            raise
        context = self._context = _decoder_of(self._stream)
        context.thread_count = self.num_threads
        context.thread_type = "AUTO"
        # Stops a picture that is larger than the header says before memory is taken for it. FFmpeg counts
        # pixels after rounding each side up, hence the slack.
        context.options = {"max_pixels": str(2 * self._options.max_frame_pixels + 2**16)}
        self._packets = whole_packets(self._container, self._stream)
        self._position = 0


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
        packets = whole_packets(self._container, self._stream)
        for packet in packets:
            position = _key_position(index, packet)
            if position is not None:
                self._packets = chain((packet,), packets)
                self._position = position
                return position <= last_position
        return False

    def _needed(self, index: PacketIndex, run: GopRun) -> Iterator[Packet[VideoStream]]:
        needed = needed_packets(index, run)
        for place, packet in self._numbered():
            if needed[place - run.first]:
                yield packet
            if place == run.last:
                return

    def _numbered(self) -> Iterator[tuple[int, Packet[VideoStream]]]:
        for packet in self._packets:
            self._position += 1
            yield self._position - 1, packet

    def _collect(self, index: PacketIndex, run: GopRun, packets: Iterable[Packet[VideoStream]], keep: Keep) -> set[int]:
        """Decode `packets` and keep the wanted frames of `run`; returns those that are missing or unsound."""
        pending = {int(index.pts[number]): number for number in run.wanted}
        left = dict(pending)
        damaged: list[int] = []
        # After the last wanted frame the decoder is still emptied: frames that it refers to may come
        # out behind it, and tell of damage only then.
        for frame in self._frames(packets, damaged):
            if frame.is_corrupt:
                damaged.append(index.decode_position(frame.pts))
            elif frame.pts in left:
                keep(left.pop(frame.pts), frame)
        return {n for pts, n in pending.items() if pts in left or _depends_on_any(index, pts, damaged)}

    def _frames(self, packets: Iterable[Packet[VideoStream]], damaged: list[int]) -> Iterator[VideoFrame]:
        """What the decoder gives for `packets`; the places of damaged ones are added to `damaged`.

        A damaged packet does not end the decoding: frames that do not depend on it are sound.
        """
        for packet in chain(packets, (None,)):
            try:
                yield from self._context.decode(packet)
            except av.error.InvalidDataError:
                # With several threads the complaint comes up to that many packets late.
                damaged.append(max(0, self._position - self.num_threads))


def _decoder_of(stream: VideoStream) -> VideoCodecContext:
    """The stream's decoder; libvpx's own where WebM carries transparency, which FFmpeg's decoders leave out."""
    name = _ALPHA_DECODERS.get(stream.codec_context.name)
    if name is None or stream.metadata.get("alpha_mode") != "1":
        return stream.codec_context
    context = cast(VideoCodecContext, av.CodecContext.create(name, "r"))
    context.extradata = stream.codec_context.extradata
    return context


def refuse_too_large(width: int, height: int, max_frame_pixels: int, path: str) -> None:
    """Raise DecodeError (``frame_too_large``) for a picture with more than `max_frame_pixels` pixels."""
    if width * height > max_frame_pixels:
        raise DecodeError(
            f"{path}: frames of {width} x {height} = {width * height} pixels are larger than "
            f"max_frame_pixels={max_frame_pixels}; raise the limit, or scale the file down",
            reason_code="frame_too_large",
        )


def _key_position(index: PacketIndex, packet: Packet[VideoStream]) -> int | None:
    if not packet.is_keyframe or packet.pts is None:
        return None
    key = index.key_number(packet.pts)
    return int(index.key_positions[key]) if key >= 0 and index.key_pts[key] == packet.pts else None


def _depends_on_any(index: PacketIndex, pts: int, damaged: list[int]) -> bool:
    """True when a damaged packet stands in decode order between this frame's keyframe and itself."""
    key = index.key_number(pts)
    start = int(index.key_positions[key]) if key >= 0 else 0
    return any(start <= position <= index.decode_position(pts) for position in damaged)
