"""One function per way to read frames: path, frame numbers, threads, side in; uint8 (T, H, W, 3) RGB out.

A side of None means frames of full size; else the short side of a 1080p frame is scaled to `side`, the
way each library offers, and the centre is cut out. Filters differ, so values may differ a little then.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import av
import numpy as np

from vlmvid.models.torchvision_compat import ensure_torchvision

Frames = np.ndarray
Reader = Callable[[str, Sequence[int], int, "int | None"], Frames]


def vlmvid(path: str, numbers: Sequence[int], threads: int, side: int | None, index_path: str | None = None) -> Frames:
    from vlmvid.video import open_video

    with open_video(path, num_threads=threads, image_size=side, index_path=index_path) as reader:
        return reader.frames_at(list(numbers)).frames.transpose(0, 2, 3, 1)


def wide(side: int) -> tuple[int, int]:
    """Width and height of a 1080p frame whose short side is `side`."""
    return side * 1920 // 1080, side


def _centre(frames: Frames, side: int | None) -> Frames:
    left = (frames.shape[2] - side) // 2 if side else 0
    return frames[:, :, left : left + side] if side else frames


def pyav_seek_per_frame(path: str, numbers: Sequence[int], threads: int, side: int | None) -> Frames:
    """What tutorials do: for every frame a seek to the keyframe before it, then decoding up to it."""
    out = []
    width, height = wide(side) if side else (None, None)
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count, stream.codec_context.thread_type = threads, "AUTO"
        assert stream.time_base is not None and stream.average_rate is not None
        for number in numbers:
            pts = round(number / stream.average_rate / stream.time_base)
            container.seek(pts, stream=stream)
            frame = next(frame for frame in container.decode(stream) if frame.pts is not None and frame.pts >= pts)
            out.append(frame.to_ndarray(format="rgb24", width=width, height=height))
    return _centre(np.stack(out), side)


def decord(path: str, numbers: Sequence[int], threads: int, side: int | None) -> Frames:
    import decord as library

    width, height = wide(side) if side else (-1, -1)
    reader = library.VideoReader(path, num_threads=threads, width=width, height=height)
    return _centre(reader.get_batch(list(numbers)).asnumpy(), side)


def opencv_grab(path: str, numbers: Sequence[int], threads: int, side: int | None) -> Frames:
    """Every frame decoded in order, only the wanted ones converted."""
    cv2, capture = _opencv(path, threads)
    wanted, out = set(numbers), []
    first = numbers[0]
    if first:
        capture.set(cv2.CAP_PROP_POS_FRAMES, first)
    for number in range(first, numbers[-1] + 1):
        capture.grab()
        if number in wanted:
            out.append(_from_opencv(cv2, capture.retrieve()[1], side))
    return _centre(np.stack(out), side)


def opencv_seek(path: str, numbers: Sequence[int], threads: int, side: int | None) -> Frames:
    cv2, capture = _opencv(path, threads)
    out = []
    for number in numbers:
        capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        out.append(_from_opencv(cv2, capture.read()[1], side))
    return _centre(np.stack(out), side)


def torchcodec(path: str, numbers: Sequence[int], threads: int, side: int | None) -> Frames:
    import torch

    ensure_torchvision()  # torchcodec imports it
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(threads)
    transforms = []
    if side:
        from torchcodec.transforms import Resize

        transforms = [Resize(wide(side)[::-1])]
    reader = VideoDecoder(path, num_ffmpeg_threads=threads, seek_mode="exact", transforms=transforms)
    return _centre(reader.get_frames_at(list(numbers)).data.numpy().transpose(0, 2, 3, 1), side)


def _opencv(path: str, threads: int) -> tuple[Any, Any]:
    import cv2

    cv2.setNumThreads(threads)
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = f"threads;{threads}"
    return cv2, cv2.VideoCapture(path, cv2.CAP_FFMPEG)


def _from_opencv(cv2: Any, picture: Frames, side: int | None) -> Frames:
    if side:
        picture = cv2.resize(picture, wide(side), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))


PEERS: dict[str, Reader] = {
    "pyav_seek_per_frame": pyav_seek_per_frame,
    "decord": decord,
    "opencv_grab": opencv_grab,
    "opencv_seek": opencv_seek,
    "torchcodec": torchcodec,
}


def loads(name: str) -> str | None:
    """Why a peer cannot be measured here; None when it can."""
    module = {"decord": "decord", "torchcodec": "torchcodec.decoders"}.get(name, "cv2" if "opencv" in name else "av")
    if name == "torchcodec":
        ensure_torchvision()
    try:
        importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        return str(error).strip().splitlines()[0]
    return None
