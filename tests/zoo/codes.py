"""Frame number and time drawn into a picture, so that a wrong frame is a wrong number.

The central square carries 8 x 8 black and white cells: 12 bits of number, 20 bits of milliseconds and a
CRC-32 of both. A picture that is damaged, blended from two frames, turned or mirrored does not fit its
check bits and reads as None, never as another number. Beside the square lie a red strip (left, or above)
and a blue one (right, or below), so that swapped colour channels read as None too; a picture that was cut
to its square has no strips to check.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CELLS = 8
MAX_NUMBER = 2**12 - 1
MAX_MILLISECONDS = 2**19 - 1
_CHECK_MASK = 0x5AC35AC3  # without it, an all-white picture would be a valid code
_DARK, _BRIGHT = 96, 160
_RED, _BLUE = (220, 30, 30), (30, 30, 220)
_NARROWEST_STRIP = 6
"""Pixels; chroma subsampling and scaling blur narrower strips, so they are not checked."""


class Code(NamedTuple):
    """What a frame says of itself: its number and the time at which it is shown."""

    number: int
    milliseconds: int


def draw(code: Code, height: int, width: int) -> NDArray[np.uint8]:
    """The upright picture that carries `code`, uint8 (height, width, 3)."""
    if not (0 <= code.number <= MAX_NUMBER and abs(code.milliseconds) <= MAX_MILLISECONDS):
        raise ValueError(f"{code} does not fit 12 bits of number and 20 bits of milliseconds")
    side = min(height, width)
    picture = np.empty((height, width, 3), dtype=np.uint8)
    along = picture.transpose(1, 0, 2) if width >= height else picture
    along[: len(along) // 2], along[len(along) // 2 :] = _RED, _BLUE
    cell = np.arange(side) * CELLS // side
    top, left = (height - side) // 2, (width - side) // 2
    picture[top : top + side, left : left + side] = np.where(_cells(code)[np.ix_(cell, cell)], 235, 20)[..., None]
    return picture


def read(picture: NDArray[np.uint8]) -> Code | None:
    """What the picture, uint8 (3, H, W), says; None when it cannot be read beyond doubt."""
    height, width = picture.shape[1:]
    side = min(height, width)
    if side < 2 * CELLS or not _strips_fit(picture):
        return None
    top, left = (height - side) // 2, (width - side) // 2
    grey = picture[:, top : top + side, left : left + side].astype(np.float64).mean(axis=0)
    edges = np.arange(CELLS + 1) * side / CELLS
    inner = [
        slice(int(np.ceil(a + (b - a) / 4)), int(b - (b - a) / 4) + 1)
        for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]
    levels = np.array([[grey[rows, columns].mean() for columns in inner] for rows in inner])
    if ((levels > _DARK) & (levels < _BRIGHT)).any():
        return None
    value = int.from_bytes(np.packbits(levels >= _BRIGHT).tobytes(), "big")
    number, shifted = value >> 52, (value >> 32) & (2**20 - 1)
    code = Code(number, shifted - 2**19)
    return code if _value(code) == value else None


def read_all(pictures: NDArray[np.uint8]) -> list[Code | None]:
    """`read` for each of uint8 (T, 3, H, W)."""
    return [read(picture) for picture in pictures]


def _cells(code: Code) -> NDArray[np.bool_]:
    bits = np.unpackbits(np.frombuffer(_value(code).to_bytes(8, "big"), dtype=np.uint8))
    return bits.reshape(CELLS, CELLS).astype(bool)


def _value(code: Code) -> int:
    data = code.number << 20 | (code.milliseconds + 2**19)
    return data << 32 | (zlib.crc32(data.to_bytes(4, "big")) ^ _CHECK_MASK)


def _strips_fit(picture: NDArray[np.uint8]) -> bool:
    height, width = picture.shape[1:]
    along = picture.transpose(2, 1, 0) if width >= height else picture.transpose(1, 2, 0)  # (length, across, 3)
    strip = (len(along) - min(height, width)) // 2
    if strip < _NARROWEST_STRIP:
        return True
    inner = strip - strip // 3
    red, blue = along[:inner].mean(axis=(0, 1)), along[len(along) - inner :].mean(axis=(0, 1))
    return bool(red[0] > 150 and red[2] < 100 and blue[2] > 150 and blue[0] < 100)
