"""CC3M and CC12M as img2dataset downloads them: captioned pictures, each a clip of one frame.

Two layouts are read, and may be mixed: tar shards (``output_format=webdataset``: ``00000.tar`` with members
``000000012.jpg``, ``.txt`` and ``.json``) and folders of the same files (``output_format=files``). A picture in a
folder is decoded where it lies; one in a shard is first copied out, byte for byte, so that decoding, its limits and
its content digest are the same for both. Copies take as much disk as the shards.

The table beside each shard or folder (``00000.parquet``) names what could not be downloaded: a defect each, because
these datasets are lists of links of which a third is dead.

Long captions (DreamLIP, arXiv 2403.17007) are further caption columns, ``longSV_captions`` and its like. They are read
from each picture's ``.json`` (img2dataset's ``save_additional_columns``) or from a CSV or Parquet table of the whole
dataset, joined by the picture's address.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from vlmvid.artifacts.files import write_bytes
from vlmvid.config.base import Config
from vlmvid.data.base import Dataset, Defect, require_unique_ids
from vlmvid.data.files import check_name, find_root, oversize, split_of
from vlmvid.data.tables import read_columns
from vlmvid.errors import DatasetError, DecodeError, MissingDataError
from vlmvid.types import Clip
from vlmvid.video.paths import check_file, printable

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_TEXT_FILE = "txt"
_DOWNLOADED = "success"


class ConceptualCaptionsOptions(Config):
    """Where the download lies and which captions are used.

    `captions`: ``txt`` is the ``.txt`` file, any other name a column of `captions_table` or, without one, a key of the
    ``.json`` file; a value is a text or a list of texts. The table's column `url_column` holds what img2dataset
    wrote as ``url``. A path is relative to `root`.
    """

    root: str
    captions: tuple[str, ...] = Field(default=(_TEXT_FILE,), min_length=1)
    captions_table: str | None = Field(default=None, description="CSV or Parquet with long captions")
    url_column: str = "Image Path"
    val_fraction: float = Field(default=0.0, ge=0, lt=1)
    test_fraction: float = Field(default=0.0, ge=0, le=1)
    seed: int = 0


@dataclass
class _Sample:
    """One picture with its texts: in a shard at `offset`, or a file of its own (`offset` None)."""

    picture: Path | None = None
    suffix: str = ""
    offset: int | None = None
    size: int = 0
    texts: dict[str, bytes] = field(default_factory=dict)


class ConceptualCaptionsDataset(Dataset):
    """Every captioned picture below a folder, in the order of shards and keys."""

    options_class = ConceptualCaptionsOptions
    options: ConceptualCaptionsOptions

    def __init__(self, options: ConceptualCaptionsOptions) -> None:
        super().__init__(options)
        self._root = find_root(options.root, None)
        self._table = None if options.captions_table is None else self._root / options.captions_table
        if self._table is not None and not self._table.is_file():
            raise MissingDataError(f"data.options.captions_table: {self._table} is no file; give its path")

    def key_config(self) -> dict[str, Any]:
        """All options but the places."""
        values = self.options.model_dump(mode="json", exclude={"root"})
        return {**values, "captions_table": self._table is not None}

    def generation_config(self) -> dict[str, Any]:
        """Nothing: pictures are copied as they are."""
        return {}

    def is_index(self, path: Path) -> bool:
        """Whether `path` is the table of captions, which may lie outside of `restrict_root`."""
        return path == self._table

    def source_files(self) -> dict[str, Path]:
        """Shards, pictures with their texts, tables of the download, the table of captions."""
        files = {self._name(path): path for path in sorted(self._files)}
        if self._table is not None:
            files[self._table.name] = self._table
        return files

    def source_of(self, name: str) -> str | None:
        """The shard that a picture is copied from."""
        shard = self._samples[0][PurePosixPath(name).with_suffix("").as_posix()].picture
        return None if shard is None else self._name(shard)

    def generated_files(self) -> list[str]:
        """One picture per sample in a shard."""
        return [f"{key}{sample.suffix}" for key, sample in self._samples[0].items() if sample.offset is not None]

    def materialise(self, name: str, folder: Path) -> None:
        """Copy one picture out of its shard; raises DecodeError where the shard has lost it since it was listed."""
        sample = self._samples[0][PurePosixPath(name).with_suffix("").as_posix()]
        if sample.picture is None or sample.offset is None:
            raise DatasetError(f"{name!r} lies in no shard, so there is nothing to copy")
        try:
            with sample.picture.open("rb") as shard:
                shard.seek(sample.offset)
                data = shard.read(sample.size)
        except OSError as error:
            raise DecodeError(f"{sample.picture} cannot be read: {error}", reason_code="read_error") from error
        if len(data) < sample.size:
            raise DecodeError(
                f"{sample.picture} ends within {name}: it holds {len(data)} of {sample.size} bytes; download the "
                "shard again",
                reason_code="broken_archive",
            )
        write_bytes(folder / name, data)

    def clips(self, folder: Path) -> tuple[list[Clip], list[Defect]]:
        """One clip per captioned picture, and a defect for each that lacks one or was not downloaded."""
        samples, defects = self._samples
        defects = list(defects)
        clips: list[Clip] = []
        for key, sample in samples.items():
            try:
                captions = self._captions(key, sample)
            except DecodeError as error:
                defects.append(Defect(key, printable(sample.picture or key), error.reason_code, str(error)))
                continue
            copied = sample.offset is not None
            clips.append(
                Clip(
                    video_id=key,
                    path=f"{key}{sample.suffix}" if copied else str(sample.picture),
                    split=split_of(key, self.options.seed, self.options.val_fraction, self.options.test_fraction),
                    captions=captions,
                )
            )
        if not clips and not defects:
            raise MissingDataError(f"{self._root} holds no picture in shards or folders; check data.options.root")
        require_unique_ids(clips)
        known = samples.keys() | {defect.video_id for defect in defects}
        return clips, [*defects, *self._not_downloaded(known)]

    @cached_property
    def _files(self) -> list[Path]:
        suffixes = (*PICTURE_SUFFIXES, ".tar", ".parquet", ".txt", ".json")
        found = [path for path in self._root.rglob("*") if path.suffix.lower() in suffixes and path != self._table]
        # Counts of the download, and tables that belong to no shard, change nothing.
        return [
            path
            for path in found
            if not path.name.endswith("_stats.json")
            and (path.suffix != ".parquet" or path.with_suffix(".tar").is_file() or path.with_suffix("").is_dir())
        ]

    def _name(self, path: Path) -> str:
        return printable(path.relative_to(self._root).as_posix())

    @cached_property
    def _samples(self) -> tuple[dict[str, _Sample], list[Defect]]:
        """Samples by shard and key, in sorted order, and shards and keys that cannot be used."""
        samples: dict[str, _Sample] = {}
        defects: list[Defect] = []
        for path in sorted(self._files):
            if path.suffix == ".tar":
                self._read_shard(path, samples, defects)
            elif path.suffix != ".parquet":
                self._read_file(path, samples, defects)
        for key in [key for key, sample in samples.items() if sample.picture is None]:
            words = f"{key} has a caption but no picture; expected one of {', '.join(PICTURE_SUFFIXES)}"
            defects.append(Defect(key, key, "missing_picture", words))
            del samples[key]
        return dict(sorted(samples.items())), defects

    def _read_shard(self, path: Path, samples: dict[str, _Sample], defects: list[Defect]) -> None:
        shard = PurePosixPath(self._name(path)).with_suffix("").as_posix()
        try:
            check_file(path, self.restrict_root)
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    if not member.isfile():
                        continue
                    name = PurePosixPath(member.name)
                    if ".." in name.parts or name.is_absolute() or printable(member.name) != member.name:
                        words = f"{path}: the member {printable(member.name)} is left out: its name is no plain place"
                        defects.append(Defect(f"{shard}/{printable(member.name)}", str(path), "unsafe_name", words))
                        continue
                    key, suffix = _split_name(f"{shard}/{name.as_posix()}")
                    if suffix in PICTURE_SUFFIXES:
                        place = _Sample(path, suffix, member.offset_data, member.size)
                        _add_picture(key, place, samples, defects)
                    elif suffix in (".txt", ".json") and (content := archive.extractfile(member)) is not None:
                        if (too_large := oversize(f"{path}: the member {member.name}", member.size)) is not None:
                            defects.append(Defect(key, str(path), too_large.reason_code, str(too_large)))
                            continue
                        samples.setdefault(key, _Sample()).texts[suffix[1:]] = content.read()
        except DecodeError as error:
            defects.append(Defect(shard, printable(path), error.reason_code, str(error)))
        except (tarfile.TarError, OSError, EOFError) as error:
            words = f"{path} is a broken archive ({error}): what follows in it is lost; download the shard again"
            defects.append(Defect(shard, printable(path), "broken_archive", words))

    def _read_file(self, path: Path, samples: dict[str, _Sample], defects: list[Defect]) -> None:
        key, suffix = _split_name(self._name(path))
        try:
            check_name(path)
            if suffix in PICTURE_SUFFIXES:
                _add_picture(key, _Sample(path, suffix), samples, defects)
                return
            size = check_file(path, self.restrict_root).st_size
            if (too_large := oversize(printable(path), size)) is not None:
                raise too_large
            samples.setdefault(key, _Sample()).texts[suffix[1:]] = path.read_bytes()
        except (DecodeError, OSError) as error:
            code = error.reason_code if isinstance(error, DecodeError) else "unreadable"
            defects.append(Defect(key, printable(path), code, str(error)))

    def _captions(self, key: str, sample: _Sample) -> tuple[str, ...]:
        described: Mapping[str, Any] = {}
        if "json" in sample.texts:
            try:
                described = dict(json.loads(sample.texts["json"]))
            except (ValueError, TypeError) as error:
                raise DecodeError(f"{key}.json is no JSON object: {error}", reason_code="broken_caption") from error
        if self._table is not None:
            described = self._long_captions.get(str(described.get("url")), {})
        found: list[str] = []
        for name in self.options.captions:
            value = _text(key, sample) if name == _TEXT_FILE else described.get(name)
            texts = value if isinstance(value, list | tuple) else [value]
            found += [text.strip() for text in texts if isinstance(text, str) and text.strip()]
        if not found:
            names = ", ".join(self.options.captions)
            raise DecodeError(
                f"{key} has no caption in {names}; check data.options.captions", reason_code="missing_caption"
            )
        return tuple(dict.fromkeys(found))

    @cached_property
    def _long_captions(self) -> dict[str, dict[str, Any]]:
        """The table's captions by address."""
        names = [name for name in self.options.captions if name != _TEXT_FILE]
        if self._table is None or not names:
            return {}
        rows = read_columns(self._table, [self.options.url_column, *names])
        return {str(row[self.options.url_column]): row for row in rows}

    def _not_downloaded(self, known: Set[str]) -> Iterator[Defect]:
        """What the tables beside the shards list and the shards lack."""
        for path in sorted(path for path in self._files if path.suffix == ".parquet"):
            shard = PurePosixPath(self._name(path)).with_suffix("").as_posix()
            for row in read_columns(path, ["key", "status", "url", "error_message"]):
                key, url = f"{shard}/{row['key']}", str(row["url"])
                if key in known:
                    continue
                if row["status"] == _DOWNLOADED:
                    words = f"{key} was downloaded from {url}, but is gone from {path.stem}; download the shard again"
                    yield Defect(key, url, "missing_picture", words)
                else:
                    words = f"{url} was not downloaded: {row['status']}, {row['error_message']}"
                    yield Defect(key, url, "not_downloaded", words)


def _split_name(name: str) -> tuple[str, str]:
    """Key and suffix of a member: its name up to the first dot of the last part, and the rest in lower case."""
    folder, _, last = name.rpartition("/")
    stem, dot, suffix = last.partition(".")
    return f"{folder}/{stem}" if folder else stem, f"{dot}{suffix.lower()}"


def _add_picture(key: str, found: _Sample, samples: dict[str, _Sample], defects: list[Defect]) -> None:
    sample = samples.setdefault(key, _Sample())
    if sample.picture is not None:
        words = f"{key} has two pictures, in {sample.picture} and {found.picture}; the second is left out"
        defects.append(Defect(f"{key}{found.suffix}", printable(found.picture or key), "duplicate_key", words))
        return
    sample.picture, sample.suffix, sample.offset, sample.size = found.picture, found.suffix, found.offset, found.size


def _text(key: str, sample: _Sample) -> str:
    try:
        return sample.texts.get(_TEXT_FILE, b"").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DecodeError(f"{key}.txt is no UTF-8: {error}", reason_code="broken_caption") from error
