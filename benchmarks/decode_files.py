"""The files of benchmarks/decode.py: moving textures with noise, so that packets are neither tiny nor all alike."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

FPS = 30
GOP = 250
X264 = {"preset": "medium", "crf": "23", "sc_threshold": "0"}


def pictures(width: int, height: int, count: int, seed: int) -> Iterator[np.ndarray]:
    """uint8 (H, W, 3): a camera swings over a texture while a patch crosses it; sensor noise on top."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 8 + 64, width // 8 + 128, 3), dtype=np.uint8))
    ground = np.asarray(coarse.resize((width + 512, height + 256), Image.Resampling.BICUBIC)).astype(np.int16)
    ground = (ground + rng.integers(-12, 13, ground.shape)).clip(0, 255).astype(np.uint8)
    side = height // 4
    patch = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((side, side))
    for i in range(count):
        left, top = int(250 + 240 * np.sin(i / 90)), int(120 + 115 * np.cos(i / 130))
        picture = ground[top : top + height, left : left + width].astype(np.int16)
        x = int((width - side) * (0.5 + 0.5 * np.sin(i / 40)))
        y = int((height - side) * (0.5 + 0.5 * np.cos(i / 55)))
        picture[y : y + side, x : x + side] = np.asarray(patch)
        noise = rng.integers(-3, 4, (height, width, 1), dtype=np.int16)
        yield (picture + noise).clip(0, 255).astype(np.uint8)


def write(path: Path, width: int, height: int, count: int, *, gop: int = GOP, seed: int = 0) -> Path:
    """An H.264 file at 30 frames per second with a keyframe every `gop` frames; kept if it is there."""
    if path.exists():
        return path
    temporary = path.with_suffix(".part.mp4")
    with av.open(str(temporary), "w") as container:
        options = {**X264, "g": str(gop), "keyint_min": str(gop)}
        stream: Any = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures(width, height, count, seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    temporary.replace(path)
    return path


def repeat(source: Path, path: Path, times: int) -> Path:
    """`source` that many times over with shifted timestamps, without encoding again."""
    if path.exists():
        return path
    temporary = path.with_suffix(".part.mp4")
    with av.open(str(temporary), "w") as container:
        stream: Any = None
        shift = 0
        for _ in range(times):
            with av.open(str(source)) as piece:
                video = piece.streams.video[0]
                stream = stream or container.add_stream_from_template(video)
                for packet in piece.demux(video):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    container.mux(packet)
                shift += int(video.duration or 0)
    temporary.replace(path)
    return path


def short_clips(folder: Path, count: int, distinct: int = 20) -> list[Path]:
    """`count` files of 8 seconds, 320 x 240: copies of `distinct` different ones."""
    clips = folder / "clips"
    clips.mkdir(exist_ok=True)
    paths = []
    for number in range(count):
        path = clips / f"{number:04d}.mp4"
        if not path.exists():
            source = write(folder / f"short_{number % distinct}.mp4", 320, 240, 8 * FPS, seed=number % distinct)
            shutil.copyfile(source, path)
        paths.append(path)
    return paths
