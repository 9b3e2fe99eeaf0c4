"""Captioned pictures as clips: an image with a sidecar caption, moved by a camera, written as MP4, or as it is.

Reads PNG and JPEG (not SVG) with a ``.txt`` of the same name beside each, in any nesting. A plain
sidecar holds captions, one per line. A sidecar with language lines, as Tux Paint's stamps have
(first line English, then ``de.utf8=...``), is filtered by `languages`.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator

from vlmvid.config.base import Config
from vlmvid.data.base import Dataset, Defect, require_unique_ids
from vlmvid.data.files import check_name, find_root, read_text, unit_hash
from vlmvid.errors import ConfigError, DecodeError
from vlmvid.types import Clip, Split
from vlmvid.video.paths import check_file, printable
from vlmvid.video.writer import write_mp4

SUFFIXES = (".png", ".jpg", ".jpeg")
MOVES = ("pan_left", "pan_right", "pan_up", "pan_down", "zoom_in", "zoom_out", "rotate")
_LANGUAGE_LINE = re.compile(r"^([A-Za-z_@]+)\.utf8=(.*)$")
_BACKGROUND = (255, 255, 255)
# The camera sees this share of the padded picture, and drifts by at most the rest.
_VIEW, _ZOOM, _TILT_DEGREES = 0.86, 0.72, 15.0


class ImageTextOptions(Config):
    """Where the pictures are and how they become clips.

    `num_test` and `num_val` count unseen captions: a split never shares a caption text (compared
    without case and extra spaces) with another one, and the test and validation galleries hold
    one picture per caption. Pictures that share any of their captions count as one
    caption. `exclude` holds glob patterns of relative names. With `still` the picture itself is the clip, one
    frame long, which `decode.sampling.short_video` repeats (Frozen in Time, arXiv 2104.00650); no file is made.
    """

    root: str
    package: str | None = None
    exclude: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("en",)
    num_test: int = Field(default=100, ge=0)
    num_val: int = Field(default=0, ge=0)
    image_size: int = Field(default=160, ge=16, multiple_of=2, description="side of the video in pixels")
    num_frames: int = Field(default=8, ge=2)
    fps: float = Field(default=8.0, gt=0)
    still: bool = False
    seed: int = 0

    @model_validator(mode="after")
    def _still_makes_no_video(self) -> Self:
        for name in ("image_size", "num_frames", "fps"):
            value = getattr(self, name)
            if self.still and value != type(self).model_fields[name].default:
                raise ValueError(f"still=True makes no video, so it does not read {name}={value}; leave one out")
        return self


class ImageTextDataset(Dataset):
    """Every captioned picture below a folder."""

    options_class = ImageTextOptions
    options: ImageTextOptions

    def __init__(self, options: ImageTextOptions) -> None:
        super().__init__(options)
        self._root = find_root(options.root, options.package)
        self._images = self._list()
        self._sources = {self._video(path): path for path in self._images}

    def key_config(self) -> dict[str, Any]:
        """All options but the place; of moved pictures as before they could be still, so that older results stand."""
        left_out = {"root", "package"} if self.options.still else {"root", "package", "still"}
        return self.options.model_dump(mode="json", exclude=left_out)

    def generation_config(self) -> dict[str, Any]:
        """What decides the frames; captions and splits do not."""
        return self.options.model_dump(mode="json", include={"image_size", "num_frames", "fps", "seed"})

    def source_of(self, name: str) -> str:
        """The picture of a video."""
        return self._name(self._sources[name])

    def source_files(self) -> dict[str, Path]:
        """The pictures and their caption files."""
        files = {}
        for path in self._images:
            for file in (path, path.with_suffix(".txt")):
                if file.is_file():
                    files[self._name(file)] = file
        return files

    def generated_files(self) -> list[str]:
        """One MP4 per picture that a split uses; none of still ones."""
        if self.options.still:
            return []
        return [self._video(path) for path, _, _ in self._selected()[0]]

    def materialise(self, name: str, folder: Path) -> None:
        """Move the camera over one picture; raises DecodeError for one that cannot be read."""
        source = self._sources[name]
        canvas = _canvas(source, self.options.image_size)
        move = MOVES[int(unit_hash(self.options.seed)(f"move:{name}") * len(MOVES))]
        write_mp4(folder / name, camera_move(canvas, move, self.options), fps=self.options.fps)

    def clips(self, folder: Path) -> tuple[list[Clip], list[Defect]]:
        """One clip per selected picture, named by its relative name without suffix."""
        selected, defects = self._selected()
        clips = [
            Clip(
                video_id=self._id(path),
                path=str(path) if self.options.still else self._video(path),
                split=split,
                captions=captions,
                attributes={"category": self._name(path).partition("/")[0], "folder": self._name(path.parent)},
            )
            for path, captions, split in selected
        ]
        require_unique_ids(clips)
        return clips, defects

    def _selected(self) -> tuple[list[tuple[Path, tuple[str, ...], Split]], list[Defect]]:
        captioned: list[tuple[Path, tuple[str, ...]]] = []
        defects: list[Defect] = []
        for path in self._images:
            try:
                check_name(path)
                check_file(path, self.restrict_root)
                captioned.append((path, self._captions(path)))
            except DecodeError as error:
                defects.append(Defect(self._id(path), printable(path), error.reason_code, str(error)))
        group_of = join_captions([tuple(map(_normal, captions)) for _, captions in captioned])
        splits = self._splits(list(group_of.values()))
        selected = []
        taken: set[str] = set()
        for path, captions in captioned:
            caption = group_of[_normal(captions[0])]
            split = splits[caption]
            if split == "train" or caption not in taken:
                selected.append((path, captions, split))
            taken.add(caption)
        return selected, defects

    def _splits(self, captions: list[str]) -> dict[str, Split]:
        """Split by caption: the seeded order of the distinct captions gives test, then val, then train."""
        order = sorted(set(captions), key=unit_hash(self.options.seed))
        held_out = self.options.num_test + self.options.num_val
        if held_out >= len(order):
            raise ConfigError(
                f"num_test={self.options.num_test} and num_val={self.options.num_val} leave no training caption: "
                f"{self._root} has {len(order)} distinct captions; lower them"
            )
        named: dict[str, Split] = dict.fromkeys(order[self.options.num_test : held_out], "val")
        named |= dict.fromkeys(order[: self.options.num_test], "test")
        return named | dict.fromkeys(order[held_out:], "train")

    def _captions(self, path: Path) -> tuple[str, ...]:
        sidecar = path.with_suffix(".txt")
        if not sidecar.is_file():
            raise DecodeError(
                f"{sidecar} does not exist; write the caption of {path.name}", reason_code="missing_caption"
            )
        captions = read_captions(read_text(sidecar, self.restrict_root), self.options.languages)
        if not captions:
            raise DecodeError(
                f"{sidecar} holds no caption in {', '.join(self.options.languages)}; write one",
                reason_code="empty_caption",
            )
        return captions

    def _list(self) -> list[Path]:
        images = sorted(
            p
            for p in self._root.rglob("*")
            if p.suffix.lower() in SUFFIXES
            and not any(fnmatch(self._name(p), pattern) for pattern in self.options.exclude)
        )
        if not images:
            raise ConfigError(f"folder {self._root} holds no PNG or JPEG; check data.options.root and exclude")
        return images

    def _name(self, path: Path) -> str:
        return printable(path.relative_to(self._root).as_posix())

    def _id(self, path: Path) -> str:
        # Two pictures may differ in the suffix alone; a PNG keeps the short name.
        name = self._name(path)
        return name.removesuffix(".png") if name.endswith(".png") else name

    def _video(self, path: Path) -> str:
        return f"{self._id(path)}.mp4"


def read_captions(text: str, languages: tuple[str, ...]) -> tuple[str, ...]:
    """The captions of a sidecar in `languages`, distinct, in the order of the languages."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    tagged = [(match[1], match[2].strip()) for line in lines if (match := _LANGUAGE_LINE.match(line))]
    plain = [line for line in lines if not _LANGUAGE_LINE.match(line)]
    if not tagged:
        return tuple(dict.fromkeys(plain))
    by_language = {**dict(tagged), **({"en": plain[0]} if plain else {})}
    return tuple(dict.fromkeys(by_language[name] for name in languages if by_language.get(name)))


def join_captions(captions: list[tuple[str, ...]]) -> dict[str, str]:
    """Each caption to the name of its group: captions of one picture, and of pictures that share one, are together.

    The name is the group's alphabetically first caption.
    """
    parent: dict[str, str] = {}

    def root(caption: str) -> str:
        parent.setdefault(caption, caption)
        while parent[caption] != caption:
            parent[caption] = parent[parent[caption]]
            caption = parent[caption]
        return caption

    for first, *others in captions:
        for other in (first, *others):
            low, high = sorted((root(first), root(other)))
            parent[high] = low
    return {caption: root(caption) for caption in list(parent)}


def camera_move(canvas: Image.Image, move: str, options: ImageTextOptions) -> NDArray[np.uint8]:
    """Frames (T, 3, S, S) uint8 of a camera that pans, zooms or tilts over a square picture."""
    frames = [_view(canvas, move, i / (options.num_frames - 1), options.image_size) for i in range(options.num_frames)]
    return np.stack(frames).transpose(0, 3, 1, 2)


def _view(canvas: Image.Image, move: str, progress: float, size: int) -> NDArray[np.uint8]:
    centre_x = centre_y = 0.5
    view, degrees = _VIEW, 0.0
    drift = (progress - 0.5) * (1 - _VIEW)
    if move.startswith("pan"):
        direction = 1 if move in ("pan_right", "pan_down") else -1
        if move in ("pan_left", "pan_right"):
            centre_x += direction * drift
        else:
            centre_y += direction * drift
    elif move.startswith("zoom"):
        towards = progress if move == "zoom_in" else 1 - progress
        view = 1.0 + (_ZOOM - 1.0) * towards
    else:
        degrees = (2 * progress - 1) * _TILT_DEGREES
    turned = canvas.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=_BACKGROUND) if degrees else canvas
    half = view / 2
    box = tuple(side * turned.width for side in (centre_x - half, centre_y - half, centre_x + half, centre_y + half))
    return np.asarray(turned.resize((size, size), Image.Resampling.BICUBIC, box=(box[0], box[1], box[2], box[3])))


def _canvas(path: Path, size: int) -> Image.Image:
    """The picture on a plain square, about as large as the video needs."""
    try:
        with Image.open(path) as image:
            picture = image.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DecodeError(f"{path} cannot be read as an image: {error}", reason_code="broken_image") from error
    scale = size / _ZOOM / max(picture.size)
    sides = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(sides, Image.Resampling.LANCZOS)
    side = max(sides)
    square = Image.new("RGBA", (side, side), (*_BACKGROUND, 255))
    square.alpha_composite(picture, ((side - sides[0]) // 2, (side - sides[1]) // 2))
    return square.convert("RGB")


def _normal(caption: str) -> str:
    return " ".join(caption.lower().split())
