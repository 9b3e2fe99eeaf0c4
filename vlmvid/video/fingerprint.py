"""What a few sampled frames say about a clip: a perceptual hash, movement, blackness; pure functions of thumbnails.

A thumbnail is the luma of one whole upright frame, averaged to 32 x 32 cells: codecs, bit rates and
picture sizes leave it all but alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THUMBNAIL_SIDE = 32
"""Cells per side of a thumbnail; the hash takes the 8 x 8 lowest of its 32 x 32 frequencies."""

BITS_PER_FRAME = 64
_HASH_SIDE = 8
# FFmpeg's blackdetect filter: pixel_black_th of the luma range, picture_black_ratio_th of the picture.
_BLACK_LEVEL = 0.10 * 255
_BLACK_SHARE = 0.98
# Coding noise moves a coefficient by a few grey levels, so bits of smaller ones are drawn by lot. Frames
# of real clips have 54 or more coefficients above this one, a flat frame has none.
_NOISE = 4.0
_MIN_TELLING_BITS = BITS_PER_FRAME // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipMeasures:
    """What curation decides by, measured on the clip's own window.

    Attributes:
        duration_seconds: from the window's first frame to its end, or to the end of the file if that is sooner.
        num_frames: frames in the window.
        average_fps: mean frames per second from the first to the last of them.
        width: pixels of an upright frame.
        height: pixels of an upright frame.
        motion: mean difference of consecutive sampled frames in grey levels, [0, 255].
        black_fraction: share of the sampled frames that are black, [0, 1].
        is_textured: False when most sampled frames are too flat for their hashes to mean anything.
        hashes: uint64 (T,), one perceptual hash per sampled frame.
    """

    duration_seconds: float
    num_frames: int
    average_fps: float
    width: int
    height: int
    motion: float
    black_fraction: float
    is_textured: bool
    hashes: NDArray[np.uint64]


def frame_hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The 64-bit perceptual hash of each thumbnail: uint8 (T, 32, 32) to uint64 (T,).

    pHash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010) as
    the library ImageHash computes it: bit 8 i + j, from the highest, tells whether the DCT coefficient
    of frequency (i, j) is greater than the median of the 64. Coefficients are rounded first, so that
    rounding errors decide no bit.
    """
    coefficients = _coefficients(thumbnails)
    bits = coefficients > np.median(coefficients, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def is_textured(thumbnails: NDArray[np.uint8]) -> bool:
    """True when in at least half of the thumbnails at least half of the hash's bits stand clear of coding noise.

    Hashes of flat frames are equal, or differ by lot: they tell nothing about what is alike.
    """
    coefficients = _coefficients(thumbnails)
    clear = np.abs(coefficients - np.median(coefficients, axis=1, keepdims=True)) > _NOISE
    return bool(np.mean(clear.sum(axis=1) >= _MIN_TELLING_BITS) >= 0.5)


def motion(thumbnails: NDArray[np.uint8]) -> float:
    """Mean absolute difference of consecutive thumbnails in grey levels, [0, 255]; 0 for a single one."""
    if len(thumbnails) < 2:
        return 0.0
    return float(np.abs(np.diff(thumbnails.astype(np.int16), axis=0)).mean())


def black_fraction(thumbnails: NDArray[np.uint8]) -> float:
    """Share of black thumbnails: 98 % of their cells are below a tenth of full luma (FFmpeg's blackdetect)."""
    dark = (thumbnails < _BLACK_LEVEL).mean(axis=(1, 2))
    return float((dark >= _BLACK_SHARE).mean())


def hash_text(hashes: NDArray[np.uint64]) -> str:
    """Hashes as text for tables: 16 hex digits per frame."""
    return "".join(f"{value:016x}" for value in hashes.tolist())


def _coefficients(thumbnails: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The 8 x 8 lowest DCT coefficients of each thumbnail, float64 (T, 64), in grey levels."""
    # The orthonormal DCT-II as a product of matrices, of which 8 rows are needed. scipy.fft gives the same,
    # for 0.15 s and 28 MB in every worker process.
    frequencies, cells = np.arange(_HASH_SIDE)[:, None], np.arange(THUMBNAIL_SIDE)
    waves = np.cos(np.pi * (2 * cells + 1) * frequencies / (2 * THUMBNAIL_SIDE)) * np.sqrt(2 / THUMBNAIL_SIDE)
    waves[0] /= np.sqrt(2)
    lowest: NDArray[np.float64] = waves @ thumbnails.astype(np.float64) @ waves.T
    return np.round(lowest.reshape(-1, BITS_PER_FRAME), 6)
