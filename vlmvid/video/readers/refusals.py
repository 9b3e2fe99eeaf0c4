"""Which files decord and torchcodec read wrongly, as one table.

Both number frames by what the container says, seek to whatever it calls a keyframe, and hand out what
the decoder gives then. PyAV's packet index knows better, so a file is judged by its index, its
container and its first frame before either library decodes anything. The rows were found by
comparing every frame of some hundred kinds of files with a decode from front to back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTraits:
    """What decides whether another library reads a file rightly.

    Attributes:
        container: FFmpeg's names of the format, comma separated, e.g. ``matroska,webm``.
        codec: FFmpeg's name of the codec, whichever decoder reads it, e.g. ``av1``.
        is_counted: packets do not tell the frames apart (timestamps missing, repeated or false).
        has_open_groups: frames shown before a keyframe are decoded after it.
        has_unclean_keys: frames after some keyframe refer to frames before it.
        starts_without_key: frames are shown before the first keyframe.
        hides_packets: some packets are decoded but not shown (edit lists, alternate reference frames).
        has_other_keys: the container's own table names keyframes that its packets are not.
        overstates: the header declares more frames, or ten times the duration, that the file holds.
        is_turned: upright is not what is stored.
        is_mirrored: upright is a mirror image of what is stored.
        is_turned_by_message: the stream itself says how it is turned, not the container.
        is_transparent: some pixels may be transparent.
        is_interlaced: two fields per frame.
        bits_per_colour: of the pixels as they are stored.
        num_video_streams: video streams of the container.
        has_plain_name: the file's name is UTF-8.
    """

    container: str
    codec: str
    is_counted: bool
    has_open_groups: bool
    has_unclean_keys: bool
    starts_without_key: bool
    hides_packets: bool
    has_other_keys: bool
    overstates: bool
    is_turned: bool
    is_mirrored: bool
    is_turned_by_message: bool
    is_transparent: bool
    is_interlaced: bool
    bits_per_colour: int
    num_video_streams: int
    has_plain_name: bool


CONTAINERS: dict[str, tuple[str, ...]] = {"decord": ("mp4", "matroska"), "torchcodec": ("mp4", "matroska")}
"""Formats by reader. In MPEG-TS, MPEG-PS and AVI seeks land anywhere; others give decord no frame count."""

CODECS: dict[str, tuple[str, ...]] = {
    "decord": ("h264", "vp9"),
    "torchcodec": ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg", "png", "prores", "ffv1"),
}
"""Codecs by reader; decord's FFmpeg is of 2018 and knows no AV1."""

_BOTH = ("decord", "torchcodec")
RULES: tuple[tuple[str, Callable[[FileTraits], bool], tuple[str, ...]], ...] = (
    ("no timestamps that tell its frames apart", lambda file: file.is_counted, _BOTH),
    ("open groups of pictures", lambda file: file.has_open_groups, _BOTH),
    ("keyframes that are no clean start", lambda file: file.has_unclean_keys, _BOTH),
    ("a table of keyframes that are none", lambda file: file.has_other_keys, _BOTH),
    ("no keyframe at its start", lambda file: file.starts_without_key, _BOTH),
    ("packets that are not shown", lambda file: file.hides_packets, _BOTH),
    ("a header that declares more than the file holds", lambda file: file.overstates, ("decord",)),
    ("a mirrored picture", lambda file: file.is_mirrored, _BOTH),
    ("its orientation inside of the stream", lambda file: file.is_turned_by_message, _BOTH),
    ("a turned picture in Matroska", lambda file: file.is_turned and "matroska" in file.container, ("decord",)),
    ("transparent pixels", lambda file: file.is_transparent, _BOTH),
    ("interlaced frames", lambda file: file.is_interlaced, _BOTH),
    ("more than 8 bits per colour", lambda file: file.bits_per_colour > 8, ("decord",)),
    ("several video streams", lambda file: file.num_video_streams > 1, ("decord",)),
    ("a name that is not UTF-8", lambda file: not file.has_plain_name, _BOTH),
)
"""What a file may have, how that is seen, and the readers that it misleads."""


def refusal(reader: str, file: FileTraits) -> str | None:
    """What of `file` would mislead `reader`, in words that follow "has"; None when nothing would."""
    if not set(CONTAINERS[reader]) & set(file.container.split(",")):
        return f"the container {file.container}"
    if file.codec not in CODECS[reader]:
        return f"the codec {file.codec}"
    return next((words for words, applies, readers in RULES if reader in readers and applies(file)), None)
