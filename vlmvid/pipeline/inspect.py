"""One video file for people: its row, its packet index, its defects, and pictures of some of its frames."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.config.schema import RunOptions
from vlmvid.errors import DecodeError
from vlmvid.pipeline.decode import decode_limits, num_workers
from vlmvid.pipeline.probe import column_lines, defect_lines, probe_file
from vlmvid.serving.terminal import Terminal, alarming, bold, filmstrip_lines
from vlmvid.video.paths import local_path, printable

_IMAGE_SIZE = 48


@dataclass(frozen=True)
class Inspection:
    """What is known of one file.

    Attributes:
        row: as in the table of `probe_folder`; its codec is None when the file cannot be read.
        index: the fields of `vlmvid.video.looking.IndexFacts`; None when there is no index.
        frames: sampled frames, each with `number`, `seconds`, `is_key` and `reason`, which is None where it decodes.
        pictures: one for each of them, uint8 (3, 48, 48), or None.
    """

    row: dict[str, Any]
    index: dict[str, Any] | None
    frames: list[dict[str, Any]]
    pictures: list[NDArray[np.uint8] | None]

    def to_json(self) -> dict[str, Any]:
        """The document of ``inspect --json``."""
        row = {name: value for name, value in self.row.items() if name != "path_bytes"}
        return {**row, "index": self.index, "frames": self.frames}

    def to_text(self, terminal: Terminal) -> str:
        """The same for `terminal`: a line per column, the frames as a strip where it shows pictures, the defects."""
        lines = column_lines(self.row)
        if self.index is not None:
            facts = {name: _words(value) for name, value in self.index.items()}
            lines += ["", bold("packet index", terminal), *column_lines(facts)]
        if self.frames:
            labels = [_label(frame) for frame in self.frames]
            strip = filmstrip_lines(self.pictures, terminal, labels)
            title = "sampled frames, their seconds (K: a keyframe)"
            lines += ["", bold(title, terminal), *(strip or [f"  {'  '.join(labels)}"])]
        defects = [alarming(line, terminal) for line in defect_lines(self.row)]
        return "\n".join([*lines, *([""] if defects and self.index else []), *defects])


def inspect_file(path: str | Path, options: RunOptions, *, every_frame: bool) -> Inspection:
    """Examine one file, in whatever state it is, in a worker process under the limits of `options`.

    Raises DecodeError (``protocol_not_allowed``) for an address that names no file of this machine.
    """
    from vlmvid.video.isolation.pool import DecodePool
    from vlmvid.video.looking import LookJob, pixels_of

    row = probe_file(path, options, every_frame=every_frame)
    if row["codec"] is None:
        return Inspection(row, None, [], [])
    place = os.path.abspath(os.path.expanduser(local_path(os.fspath(path))))
    with DecodePool(None, decode_limits(options), num_workers=num_workers(options)) as pool:
        (found,) = pool.run([LookJob(path=place, image_size=_IMAGE_SIZE)])
    if isinstance(found, DecodeError):
        if found.reason_code not in row["defects"]:
            message = str(found).replace(printable(place), row["path"])
            row = {
                **row,
                "defects": [*row["defects"], found.reason_code],
                "defect_messages": [*row["defect_messages"], message],
            }
        return Inspection(row, None, [], [])
    pictures = [pixels_of(frame, _IMAGE_SIZE) for frame in found["frames"]]
    frames = [{name: value for name, value in frame.items() if name != "pixels"} for frame in found["frames"]]
    return Inspection(row, found["index"], frames, pictures)


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _label(frame: dict[str, Any]) -> str:
    if frame["reason"] is not None:
        return f"{frame['seconds']:.2f} {frame['reason']}"
    return f"{frame['seconds']:.2f}{' K' if frame['is_key'] else ''}"
