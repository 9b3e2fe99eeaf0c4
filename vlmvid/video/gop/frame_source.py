"""The frames of one file: its packet index, and decoders that share the work of a request."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice, pairwise

import av
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vlmvid.errors import DecodeError
from vlmvid.video.containers import as_decode_error
from vlmvid.video.gop.decoder import GopDecoder, Keep, Outcome
from vlmvid.video.gop.index_file import load_index, save_index
from vlmvid.video.gop.packet_index import PacketIndex, counted_index, read_packet_index
from vlmvid.video.gop.plan import GopRun, join_runs, plan_runs, share_runs
from vlmvid.video.options import ReaderOptions
from vlmvid.video.paths import printable

# Fewer packets are read again sooner than a file of their own is opened.
_PACKETS_WORTH_A_FILE = 2000
# So many frames are decoded to see whether suspicious timestamps are true.
_FRAMES_TO_CHECK = 64
# Decoded frames that may wait for their conversion; each is as large as a picture of full size.
_FRAMES_WAITING = 4
logger = logging.getLogger(__name__)


@contextmanager
def _in_background(keep: Keep) -> Iterator[Keep]:
    """`keep`, called in order in a thread of its own while decoding goes on, at most a few frames behind.

    What it raises comes out of a later call or at the end.
    """
    jobs: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1) as pool:

        def submit(number: int, frame: VideoFrame) -> None:
            if len(jobs) == _FRAMES_WAITING:
                jobs.popleft().result()
            jobs.append(pool.submit(keep, number, frame))

        yield submit
        for job in jobs:
            job.result()


class FrameSource:
    """One file and its packet index; decodes wanted frames once each.

    With several threads, groups of pictures are decoded side by side, each by a decoder of its own:
    unlike a decoder's own threads that costs nothing at a seek. A single group gets all the threads.

    The index is loaded or read on opening. Raises DecodeError when the file cannot be opened or has no frame.
    """

    def __init__(self, path: str, options: ReaderOptions) -> None:
        self.path = path
        self._options = options
        self._decoders = [GopDecoder(path, options, options.num_threads)]
        try:
            self.index = self._load_or_read_index()
        except (OSError, av.error.FFmpegError) as error:
            self.close()
            raise as_decode_error(error, path, "index") from error
        except BaseException:
            self.close()
            raise

    @property
    def stream(self) -> VideoStream:
        """The chosen video stream."""
        return self._decoders[0].stream

    @property
    def container_format(self) -> str:
        """FFmpeg's names of the container format, e.g. ``matroska,webm``."""
        return self._decoders[0].container.format.name

    def close(self) -> None:
        """Release the file."""
        for decoder in self._decoders:
            decoder.close()

    def decode(self, wanted: list[int], keep: Keep) -> None:
        """Call `keep` for each of the increasing frame indices `wanted`, from several threads at once.

        Raises DecodeError (``decode_error``, ``truncated``, ``read_error``) when one does not decode.
        """
        if not wanted:
            return
        try:
            missing = self._decode(wanted, keep)
        except (OSError, av.error.FFmpegError) as error:
            raise as_decode_error(error, self.path, "decode") from error
        if missing:
            raise DecodeError(
                f"{printable(self.path)}: {len(missing)} of {len(wanted)} wanted frames do not decode or are "
                f"damaged, e.g. frame {min(missing)} of {len(self.index)}; copy or encode the file again",
                reason_code="truncated" if self.index.is_truncated else "decode_error",
            )

    def _decode(self, wanted: list[int], keep: Keep) -> set[int]:
        """Returns the frames that cannot be given."""
        if self.index.counted:
            return self._decoders_for(1, 1)[0].decode_counting(wanted, keep)
        outcome = self._decode_runs(plan_runs(self.index, wanted), keep)
        # With one thread damage is known to the packet, so frames before it may turn out sound.
        if outcome.missing and self._options.num_threads > 1:
            alone = self._decoders_for(1, 1)[0]
            outcome = alone.decode(self.index, plan_runs(self.index, sorted(outcome.missing)), keep)
        # Decoding may be unable to start at a keyframe that is no clean start: from the one before it can,
        # or else from the start of the file.
        if outcome.unsure:
            alone = self._decoders_for(1, 1)[0]
            earlier = alone.decode(self.index, plan_runs(self.index, sorted(outcome.unsure), keys_back=1), keep)
            still = alone.decode_whole(self.index, earlier.missing, keep) if earlier.missing else set()
            return (outcome.missing - outcome.unsure) | still
        return outcome.missing

    def _decode_runs(self, runs: Sequence[GopRun], keep: Keep) -> Outcome:
        shares = share_runs(self.index, runs, self._options.num_threads)
        decoders = self._decoders_for(len(shares), self._options.num_threads // len(shares))
        if len(shares) == 1 and self._options.num_threads == 1:
            return decoders[0].decode(self.index, join_runs(shares[0]), keep)
        if len(shares) == 1:
            with _in_background(keep) as keep_later:
                return decoders[0].decode(self.index, join_runs(shares[0]), keep_later)
        with ThreadPoolExecutor(len(shares)) as pool:
            jobs = [
                pool.submit(decoder.decode, self.index, join_runs(share), keep)
                for decoder, share in zip(decoders, shares, strict=True)
            ]
        outcomes = [job.result() for job in jobs]
        return Outcome(
            set[int]().union(*(outcome.missing for outcome in outcomes)),
            set[int]().union(*(outcome.unsure for outcome in outcomes)),
        )

    def _decoders_for(self, count: int, num_threads: int) -> list[GopDecoder]:
        """`count` open decoders of `num_threads` threads each; they stay open for the next request."""
        for decoder in self._decoders[:count]:
            decoder.use_threads(num_threads)
        while len(self._decoders) < count:
            self._decoders.append(GopDecoder(self.path, self._options, num_threads))
        return self._decoders[:count]

    def _load_or_read_index(self) -> PacketIndex:
        path, file, number = self._options.index_path, os.stat(self.path), self.stream.index
        known = load_index(path, file=file, stream_index=number) if path else None
        if known is not None:
            return known
        index = self._read_index()
        # Where counting was cut short, by damage or by a limit of this request, another one may come further.
        is_whole = not (index.counted and index.is_truncated)
        if path and is_whole and (index.counted or index.packet_sizes.size >= _PACKETS_WORTH_A_FILE):
            try:
                save_index(path, index, file=file, stream_index=number)
            except OSError as error:
                logger.warning("the packet index of %s cannot be kept at %s: %s", self.path, path, error)
        return index

    def _times_are_false(self) -> bool:
        """Whether frames leave the decoder in another order than the packets' timestamps have.

        Some muxers write decoding times in place of presentation times. Only streams that may reorder
        frames, but seem not to, are looked at.
        """
        decoder = self._decoders[0]
        if not decoder.stream.codec_context.reorder_depth:
            return False
        times = [frame.pts for frame in islice(decoder.sound_frames(), _FRAMES_TO_CHECK) if frame.pts is not None]
        return any(later <= earlier for earlier, later in pairwise(times))

    def _read_index(self) -> PacketIndex:
        decoder = self._decoders[0]
        index = read_packet_index(decoder.container, decoder.stream, self.path)
        decoder.stand_at_end()
        if index.counted or (not index.reorders and self._times_are_false()):
            decoder.use_threads(1)
            frame_pts = [frame.pts for frame in decoder.sound_frames()]
            index = counted_index(index, decoder.stream, frame_pts, is_cut=decoder.is_cut)
        if not len(index):
            raise DecodeError(
                f"{printable(self.path)}: the video stream has no whole frame; copy or encode the file again",
                reason_code="truncated" if index.is_truncated else "too_short",
            )
        return index
