"""A manifest of clips: JSON Lines or Parquet, one row per clip (`vlmvid.types.Clip`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlmvid.config.base import Config
from vlmvid.config.load import validation_message
from vlmvid.data.base import Dataset, Defect, require_unique_ids
from vlmvid.errors import DatasetError, DecodeError, MissingDataError
from vlmvid.types import Clip
from vlmvid.video.paths import check_file, local_path


class ManifestOptions(Config):
    """`path` of the manifest; clip paths in it are absolute or relative to the manifest's folder."""

    path: str


class ManifestDataset(Dataset):
    """Real videos with whatever text and attributes their manifest gives."""

    options_class = ManifestOptions
    options: ManifestOptions

    def __init__(self, options: ManifestOptions) -> None:
        super().__init__(options)
        self._path = Path(options.path).expanduser().absolute()
        self._rows: tuple[list[Clip], list[Defect]] | None = None

    def key_config(self) -> dict[str, Any]:
        """Nothing: the manifest's own content decides, and it is a source file."""
        return {}

    def index_file(self) -> Path:
        """The manifest."""
        return self._path

    def source_files(self) -> dict[str, Path]:
        """The manifest and the video of every clip."""
        files = {self._path.name: self._path}
        for clip in self._read()[0]:
            files[clip.path] = self._place(clip)
        return files

    def clips(self, folder: Path) -> tuple[list[Clip], list[Defect]]:
        """The manifest's rows with absolute paths, without blank captions.

        A row that gives captions, all of them blank, is a defect; one that gives none is a clip.
        """
        clips, defects = self._read()
        return [clip.model_copy(update={"path": str(self._place(clip))}) for clip in clips], list(defects)

    def _place(self, clip: Clip) -> Path:
        return Path(local_path(clip.path, self._path.parent))

    def _read(self) -> tuple[list[Clip], list[Defect]]:
        if self._rows is None:
            try:
                check_file(self._path)
            except DecodeError as error:
                kind = MissingDataError if error.reason_code == "missing_file" else DatasetError
                raise kind(f"manifest {self._path} cannot be read: {error}; check data.options.path") from error
            rows = read_parquet(self._path) if self._path.suffix == ".parquet" else read_json_lines(self._path)
            written = [(where, _clip(value, where)) for where, value in rows]
            if not written:
                raise DatasetError(f"manifest {self._path} has no rows; write one clip per line")
            require_unique_ids([clip for _, clip in written])
            clips: list[Clip] = []
            defects: list[Defect] = []
            for where, clip in written:
                try:
                    self._place(clip)
                except DecodeError as error:
                    defects.append(Defect(clip.video_id, clip.path, error.reason_code, f"{where}: {error}"))
                    continue
                captions = tuple(caption for caption in clip.captions if caption.strip())
                if captions or not clip.captions:
                    false = tuple(caption for caption in clip.counterfactual_captions if caption.strip())
                    clips.append(clip.model_copy(update={"captions": captions, "counterfactual_captions": false}))
                else:
                    words = f"{where}: every caption of {clip.video_id!r} is blank; write one, or give no captions"
                    defects.append(Defect(clip.video_id, str(self._path.parent / clip.path), "empty_caption", words))
            self._rows = clips, defects
        return self._rows


def read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The objects of a JSON Lines file, each with where it stands."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"manifest {path} cannot be read: {error}; check data.options.path") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"manifest {path}, line {number}"
        try:
            yield where, json.loads(line)
        except ValueError as error:
            raise DatasetError(f"{where} is not JSON: {error}; expected one object per line") from error


def read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a Parquet manifest; null columns are left to their defaults."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DatasetError(f"manifest {path} cannot be read as Parquet: {error}; check data.options.path") from error
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"manifest {path}, row {number}", _without_nulls(row)


def _without_nulls(value: Any) -> Any:
    """Parquet gives every row every key of a struct, null where the row has none."""
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _clip(value: Any, where: str) -> Clip:
    try:
        return Clip.model_validate(value)
    except ValidationError as error:
        raise DatasetError(validation_message(error, Clip, source=where)) from error
