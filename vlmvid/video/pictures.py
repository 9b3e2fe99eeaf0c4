"""One decoded PyAV frame to an upright RGB picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from av.buffer import Buffer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vlmvid.video.transforms import center_crop, resize_center_crop, scaled_size


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


# Widened with the scale when shrinking (antialiased). Without FULL_CHR_H_INT swscale keeps the colours at
# half the width and rounds greys down by 2; the other two make every CPU give the same bytes.
_RESIZE = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


def upright_rgb(
    frame: VideoFrame, reformatter: VideoReformatter, path: str, image_size: int | None = None
) -> NDArray[np.uint8]:
    """The frame of the file `path` as uint8 (H, W, 3) RGB, turned upright.

    With `image_size` S the result is (S, S, 3): the short side scaled to S and the centre cut out.
    The scaling happens within the conversion from YUV, one pass from the decoder's planes.
    Transparent pixels are laid over white: what is stored beneath them is arbitrary.
    `reformatter` keeps its conversion tables between frames; it belongs to one thread.
    """
    orientation = orientation_of(frame, path)
    if frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components):
        upright = turned_upright(_over_white(frame, reformatter), orientation)
        if image_size is None:
            return upright
        # Only after blending: colours beneath transparent pixels must not bleed into their neighbours.
        square = resize_center_crop(upright.transpose(2, 0, 1)[None], image_size)[0]
        return cast("NDArray[np.uint8]", square.transpose(1, 2, 0))
    if image_size is None or frame.height == frame.width == image_size:
        converted = reformatter.reformat(frame, format="rgb24")
        return turned_upright(cast("NDArray[np.uint8]", converted.to_ndarray()), orientation)
    height, width = scaled_size(frame.height, frame.width, image_size)
    scaled = reformatter.reformat(frame, width=width, height=height, format="rgb24", interpolation=_RESIZE, threads=1)
    return center_crop(turned_upright(cast("NDArray[np.uint8]", scaled.to_ndarray()), orientation), image_size)


def _over_white(frame: VideoFrame, reformatter: VideoReformatter) -> NDArray[np.uint8]:
    pixels = cast("NDArray[np.uint8]", reformatter.reformat(frame, format="rgba").to_ndarray())
    alpha = pixels[..., 3:].astype(np.uint16)
    blended: NDArray[np.uint8] = ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return blended


def turned_upright(pixels: NDArray[np.uint8], orientation: Orientation) -> NDArray[np.uint8]:
    """A view of `pixels` (H, W, 3) after transposing and mirroring."""
    if orientation.transposed:
        pixels = pixels.transpose(1, 0, 2)
    if orientation.mirrored_left_right:
        pixels = pixels[:, ::-1]
    if orientation.mirrored_up_down:
        pixels = pixels[::-1]
    return pixels
