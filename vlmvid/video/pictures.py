"""One decoded PyAV frame to an upright RGB picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from av.buffer import Buffer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError


@dataclass(frozen=True, slots=True)
class Orientation:
    """How a stored picture is turned upright: first transposed, then mirrored."""

    transposed: bool = False
    mirrored_left_right: bool = False
    mirrored_up_down: bool = False

    @property
    def is_rotation(self) -> bool:
        """True for a turn by a multiple of 90 degrees, False when the picture is also mirrored."""
        return (self.transposed + self.mirrored_left_right + self.mirrored_up_down) % 2 == 0


_EXIF_ORIENTATION_TAG = 0x0112
_EXIF_ORIENTATIONS = {
    1: Orientation(False, False, False),
    2: Orientation(False, True, False),
    3: Orientation(False, True, True),
    4: Orientation(False, False, True),
    5: Orientation(True, False, False),
    6: Orientation(True, True, False),
    7: Orientation(True, True, True),
    8: Orientation(True, False, True),
}
_TURNS = {0: 1, 1: 8, 2: 3, 3: 6}
"""Quarter turns counterclockwise to the EXIF orientation that asks for them."""


def orientation_of(frame: VideoFrame, path: str) -> Orientation:
    """How the frame's display matrix, or the picture's EXIF block, wants it turned; upright without either.

    The matrix maps a stored point (x, y) to (a x + c y, b x + d y), y downwards. Angles between the
    right ones are rounded to the nearest of the eight orientations.
    """
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # PyAV cannot list side data of kinds newer than itself, EXIF among them, nor tell a mirror from a turn.
        return _orientation_without_matrix(frame, path)
    if matrix is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(cast(Buffer, matrix)), dtype=np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, mirrored_left_right=c < 0, mirrored_up_down=b < 0)
    return Orientation(False, mirrored_left_right=a < 0, mirrored_up_down=d < 0)


def _orientation_without_matrix(frame: VideoFrame, path: str) -> Orientation:
    try:
        with Image.open(path) as picture:
            return _EXIF_ORIENTATIONS.get(picture.getexif().get(_EXIF_ORIENTATION_TAG, 1), Orientation())
    except UnidentifiedImageError:
        return _EXIF_ORIENTATIONS[_TURNS[round(frame.rotation / 90) % 4]]


def upright_rgb(frame: VideoFrame, reformatter: VideoReformatter, path: str) -> NDArray[np.uint8]:
    """The frame of the file `path` as uint8 (H, W, 3) RGB at its own size, turned upright.

    Transparent pixels are laid over white: what is stored beneath them is arbitrary.
    `reformatter` keeps its conversion tables between frames; it belongs to one thread.
    """
    has_alpha = frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components)
    converted = reformatter.reformat(frame, format="rgba" if has_alpha else "rgb24")
    pixels = cast("NDArray[np.uint8]", converted.to_ndarray())
    if has_alpha:
        alpha = pixels[..., 3:].astype(np.uint16)
        pixels = ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return turned_upright(pixels, orientation_of(frame, path))


def turned_upright(pixels: NDArray[np.uint8], orientation: Orientation) -> NDArray[np.uint8]:
    """A view of `pixels` (H, W, 3) after transposing and mirroring."""
    if orientation.transposed:
        pixels = pixels.transpose(1, 0, 2)
    if orientation.mirrored_left_right:
        pixels = pixels[:, ::-1]
    if orientation.mirrored_up_down:
        pixels = pixels[::-1]
    return pixels
