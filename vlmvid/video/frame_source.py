"""Finding frames in an open container: where to seek, what to decode, which frame is which."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vlmvid.errors import DecodeError
from vlmvid.video.containers import as_decode_error, open_container, select_stream
from vlmvid.video.h264 import is_unreferenced, nal_length_size
from vlmvid.video.options import ReaderOptions
from vlmvid.video.packet_index import PacketIndex, counted_index, read_packet_index, whole_packets

Keep = Callable[[int, VideoFrame], None]
"""Called once per wanted frame with its index in presentation order."""

# A seek empties the decoder and lands on a packet that must be checked, so decoding up to this
# many unwanted packets is cheaper.
_PACKETS_WORTH_A_SEEK = 8


class FrameSource:
    """One open container and its packet index; decodes wanted frames once each, in order.

    `index` is read on opening. Raises DecodeError when the file cannot be opened or has no frame.
    """

    def __init__(self, path: str, options: ReaderOptions) -> None:
        self.path = path
        self._options = options
        self._open()
        try:
            self.index = self._read_index()
        except (OSError, av.error.FFmpegError) as error:
            self.close()
            raise as_decode_error(error, path, "index") from error
        except BaseException:
            self.close()
            raise

    @property
    def container(self) -> InputContainer:
        """The open container; another object after decoding had to start over."""
        return self._container

    @property
    def stream(self) -> VideoStream:
        """The chosen stream of `container`."""
        return self._stream

    def close(self) -> None:
        """Release the file."""
        self._container.close()

    def decode(self, wanted: list[int], keep: Keep) -> None:
        """Call `keep` for each of the increasing frame indices `wanted`, in order of decoding.

        Raises DecodeError (``decode_error``, ``truncated``, ``read_error``) when one does not decode.
        """
        try:
            if self.index.counted:
                missing = self._decode_counting(set(wanted), keep)
            else:
                missing = self._decode_by_pts(wanted, keep)
        except (OSError, av.error.FFmpegError) as error:
            raise as_decode_error(error, self.path, "decode") from error
        if missing:
            raise DecodeError(
                f"{self.path}: {len(missing)} of {len(wanted)} wanted frames do not decode or are damaged, e.g. frame "
                f"{min(missing)} of {len(self.index)}; copy or encode the file again",
                reason_code="truncated" if self.index.is_truncated else "decode_error",
            )

    def _open(self) -> None:
        self._container = open_container(self.path)
        try:
            self._stream = select_stream(self._container, self.path, self._options.stream_index)
        except BaseException:
            self._container.close()
            raise
        self._stream.codec_context.thread_count = self._options.num_threads
        self._stream.codec_context.thread_type = "AUTO"

    def _reopen(self) -> None:
        self._container.close()
        self._open()

    def _read_index(self) -> PacketIndex:
        index = read_packet_index(self._container, self._stream, self.path)
        if index.counted:
            self._reopen()
            frame_pts = [frame.pts for frame in self._frames(self._all_packets(), [])]
            index = counted_index(index, self._stream, frame_pts)
        if not len(index):
            raise DecodeError(
                f"{self.path}: the video stream has no whole frame; copy or encode the file again",
                reason_code="truncated" if index.is_truncated else "too_short",
            )
        return index

    def _decode_counting(self, wanted: set[int], keep: Keep) -> set[int]:
        missing = set(wanted)
        is_damaged = False
        damaged: list[int] = []
        self._reopen()
        for number, frame in enumerate(self._frames(self._all_packets(), damaged)):
            is_damaged = bool(damaged) or frame.is_corrupt or (is_damaged and not frame.key_frame)
            damaged.clear()
            if number in missing and not is_damaged:
                keep(number, frame)
                missing.remove(number)
            if not missing:
                break
        return missing

    def _decode_by_pts(self, wanted: list[int], keep: Keep) -> set[int]:
        # Insertion order is presentation order, so the first key is always the next frame wanted.
        pending = {int(self.index.pts[number]): number for number in wanted}
        while pending and self._collect(self._packets_for(_first(pending)), pending, keep, may_stop=True):
            pass
        # Decoding may be unable to start at a keyframe that is none; from the start of the file it can.
        if pending:
            self._reopen()
            self._collect(self._all_packets(), pending, keep, may_stop=False)
        return set(pending.values())

    def _collect(
        self, packets: Iterable[Packet[VideoStream]], pending: dict[int, int], keep: Keep, *, may_stop: bool
    ) -> bool:
        """Decode the frames with the timestamps in `pending` and take the sound ones out of it.

        True when it stopped, as `may_stop` allows, because a seek reaches the next wanted frame sooner.
        Packets that no wanted frame needs are left out then, too.
        """
        length_size = nal_length_size(self._stream) if may_stop else None
        left = dict(pending)
        damaged: list[int] = []
        stopped = False

        def fed() -> Iterator[Packet[VideoStream]]:
            for packet in self._counted(packets):
                if stopped:
                    return
                if length_size is None or packet.pts in left or not is_unreferenced(packet, length_size):
                    yield packet

        # After the last wanted frame the decoder is still emptied: frames that it refers to may come
        # out behind it, and tell of damage only then.
        for frame in self._frames(fed(), damaged):
            if frame.is_corrupt:
                damaged.append(self.index.decode_position(frame.pts))
            elif frame.pts in left:
                keep(left.pop(frame.pts), frame)
                stopped = stopped or not left or (may_stop and self._is_seek_cheaper(_first(left)))
        for pts in [pts for pts in pending if pts not in left and not self._depends_on_any(pts, damaged)]:
            del pending[pts]
        return stopped and bool(left) and len(left) == len(pending)

    def _is_seek_cheaper(self, pts: int) -> bool:
        key = self.index.key_number(pts)
        return key >= 0 and int(self.index.key_positions[key]) - self._position > _PACKETS_WORTH_A_SEEK

    def _depends_on_any(self, pts: int, damaged: list[int]) -> bool:
        """True when a damaged packet stands in decode order between this frame's keyframe and itself."""
        key = self.index.key_number(pts)
        start = int(self.index.key_positions[key]) if key >= 0 else 0
        return any(start <= position <= self.index.decode_position(pts) for position in damaged)

    def _packets_for(self, pts: int) -> Iterable[Packet[VideoStream]]:
        """Packets from the last keyframe at or before `pts`; from an earlier one where seeking is coarse.

        Containers search by decoding time or by byte, so a seek may land behind the keyframe that is
        needed. The landing is checked, and the file is read from its start when no seek serves.
        """
        key = self.index.key_number(pts)
        targets = [pts, *self.index.key_pts[max(0, key - 1) : key + 1][::-1].tolist()] if key >= 0 else []
        for target in targets:
            try:
                self._container.seek(target, stream=self._stream)
            except av.error.FFmpegError:
                break
            landed = self._land(int(self.index.key_positions[key]))
            if landed is not None:
                return landed
        self._reopen()
        return self._all_packets()

    def _land(self, last_position: int) -> Iterable[Packet[VideoStream]] | None:
        """Packets from the first keyframe after a seek, or None when it lies behind `last_position`."""
        packets = whole_packets(self._container, self._stream)
        for packet in packets:
            position = self._key_position(packet)
            if position is not None:
                self._position = position
                return chain((packet,), packets) if position <= last_position else None
        return None

    def _key_position(self, packet: Packet[VideoStream]) -> int | None:
        if not packet.is_keyframe or packet.pts is None:
            return None
        key = self.index.key_number(packet.pts)
        return int(self.index.key_positions[key]) if key >= 0 and self.index.key_pts[key] == packet.pts else None

    def _all_packets(self) -> Iterable[Packet[VideoStream]]:
        self._position = 0
        return whole_packets(self._container, self._stream)

    def _counted(self, packets: Iterable[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
        for packet in packets:
            self._position += 1
            yield packet

    def _frames(self, packets: Iterable[Packet[VideoStream]], damaged: list[int]) -> Iterator[VideoFrame]:
        """What the decoder gives for `packets`; the places of damaged ones are added to `damaged`.

        A damaged packet does not end the decoding: frames that do not depend on it are sound.
        """
        for packet in chain(packets, (None,)):
            try:
                yield from self._stream.decode(packet)
            except av.error.InvalidDataError:
                damaged.append(self._position - 1)


def _first(pending: dict[int, int]) -> int:
    return next(iter(pending))
