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
# For these swscale has a fast conversion of its own, which all tools use; others would come out 2 levels dark.
_CONVERTED_WELL = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p")
_MOST_EXTREME = 8
_HALVED_CHROMA = ("yuv420p", "yuvj420p")


class FrameConverter:
    """Turns decoded frames of one file into upright RGB pictures; belongs to one thread.

    It keeps swscale's tables and a scratch picture between frames. `orientation` holds for all frames;
    None takes what each frame says of itself.
    """

    def __init__(self, path: str, image_size: int | None = None, orientation: Orientation | None = None) -> None:
        self.path = path
        self.image_size = image_size
        self.orientation = orientation
        self._reformatter = VideoReformatter()
        self._scratch = np.empty((0, 0), dtype=np.uint8)

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """`frame` as uint8 (H, W, 3) RGB, turned upright; may be a view that the next call overwrites.

        With `image_size` S the result is (S, S, 3): the centre of the picture, its short side scaled to S.
        The scaling happens within the conversion from YUV, one pass from the decoder's planes.
        Transparent pixels are laid over white: what is stored beneath them is arbitrary.
        """
        size = self.image_size
        orientation = self.orientation or orientation_of(frame, self.path)
        if frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components):
            upright = turned_upright(self._over_white(frame), orientation)
            if size is None:
                return upright
            # Only after blending: colours beneath transparent pixels must not bleed into their neighbours.
            square = resize_center_crop(upright.transpose(2, 0, 1)[None], size)[0]
            return cast("NDArray[np.uint8]", square.transpose(1, 2, 0))
        if size is None or frame.height == frame.width == size:
            how = None if frame.format.name in _CONVERTED_WELL else _RESIZE
            converted = self._reformatter.reformat(frame, format="rgb24", interpolation=how)
            return turned_upright(_pixels(converted), orientation)
        short, long = sorted((frame.height, frame.width))
        if long > _MOST_EXTREME * short:
            # Scaling the whole of a strip would take many times its memory.
            strip = turned_upright(_pixels(self._reformatter.reformat(frame, format="rgb24")), orientation)
            square = resize_center_crop(center_crop(strip, short).transpose(2, 0, 1)[None], size)[0]
            return cast("NDArray[np.uint8]", square.transpose(1, 2, 0))
        frame = self._centre_square(frame)
        height, width = scaled_size(frame.height, frame.width, size)
        # To planes: the same bytes as "rgb24" in half the time, for swscale has no fast code that packs full chroma.
        scaled = self._reformatter.reformat(
            frame, width=width, height=height, format="gbrp", interpolation=_RESIZE, threads=1
        )
        return center_crop(turned_upright(_pixels(scaled), orientation), size)

    def _centre_square(self, frame: VideoFrame) -> VideoFrame:
        """The square in the middle, to a source pixel, where that is cheap: what is cut off need not be scaled.

        Cheap are wide or tall pictures with 8 bits and halved chroma, which nearly all video has. Any other
        frame is given back as it is, and is cut after scaling.
        """
        short, excess = min(frame.height, frame.width), abs(frame.height - frame.width)
        # PyAV takes whole groups of four rows from a buffer of this kind.
        if frame.format.name not in _HALVED_CHROMA or short % 4 or excess * 8 < short:
            return frame
        if self._scratch.shape[1] != short:
            self._scratch = np.empty((short * 3 // 2, short), dtype=np.uint8)
        # A chroma sample belongs to two rows and two columns, so the square starts at an even one.
        start = excess // 4 * 2
        top, left = (start, 0) if frame.height > frame.width else (0, start)
        places = (self._scratch[:short], *self._scratch[short:].reshape(2, short // 2, short // 2))
        for number, (plane, place) in enumerate(zip(frame.planes, places, strict=True)):
            rows = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size)
            y, x = (top, left) if number == 0 else (top // 2, left // 2)
            place[:] = rows[y : y + place.shape[0], x : x + place.shape[1]]
        square = VideoFrame.from_numpy_buffer(self._scratch, format=frame.format.name)
        square.colorspace, square.color_range = frame.colorspace, frame.color_range
        return square

    def _over_white(self, frame: VideoFrame) -> NDArray[np.uint8]:
        pixels = _pixels(self._reformatter.reformat(frame, format="rgba"))
        alpha = pixels[..., 3:].astype(np.uint16)
        blended: NDArray[np.uint8] = ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        return blended


def _pixels(frame: VideoFrame) -> NDArray[np.uint8]:
    return cast("NDArray[np.uint8]", frame.to_ndarray())


def turned_upright(pixels: NDArray[np.uint8], orientation: Orientation) -> NDArray[np.uint8]:
    """A view of `pixels` (H, W, 3) after transposing and mirroring."""
    if orientation.transposed:
        pixels = pixels.transpose(1, 0, 2)
    if orientation.mirrored_left_right:
        pixels = pixels[:, ::-1]
    if orientation.mirrored_up_down:
        pixels = pixels[::-1]
    return pixels
