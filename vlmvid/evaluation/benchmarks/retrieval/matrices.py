"""Predictions of retrieval: similarities or embeddings with the ids of their texts and videos."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.scoring.base import Item
from vlmvid.evaluation.scoring.predictions import Predictions, read_document

SIMILARITY, TEXT, VIDEO = "similarity", "text", "video"
IDS = ("text_ids", "video_ids")
EMBEDS = ("text_embeds", "video_embeds")
BANK = ("bank_similarity", "bank_embeds")
_LOCAL_HEADER = 30  # bytes of a zip entry's header before its name


def read_matrices(path: Path, items: Sequence[Item]) -> Predictions:
    """The predictions in `path`, in one of three forms.

    - A ``.npz`` with ``text_ids``, ``video_ids`` and either ``similarity`` (texts x videos) or ``text_embeds`` and
      ``video_embeds``; for QB-Norm also ``bank_similarity`` (captions x videos) or ``bank_embeds``. An array that is
      stored without compression (``numpy.savez``) is memory-mapped.
    - A folder with the same names as ``.npy`` files, mapped too; ids may also be ``.json`` or one per line in ``.txt``.
    - ``text=FILE,video=FILE``: two ``.npz`` with ``embeds`` and ``ids`` each, or two ``.npy`` with the ids beside them
      in ``.ids.txt`` or ``.ids.json``.

    Raises:
        EvaluationError: no such file, another form, pickled arrays, or ids that do not fit.
    """
    if path.is_dir():
        values = {
            name: found for name in (SIMILARITY, *EMBEDS, *BANK, *IDS) if (found := _beside(path, name)) is not None
        }
    elif str(path).startswith((f"{TEXT}=", f"{VIDEO}=")):
        values = _two_files(str(path))
    else:
        values = _arrays(path)
    return Predictions(check_matrices(values, str(path)), str(path))


def check_matrices(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """`values` with arrays and lists of ids; raises EvaluationError for what is missing, repeated or does not fit."""
    given = SIMILARITY in values, all(name in values for name in EMBEDS)
    if given.count(True) != 1 or any(name not in values for name in IDS):
        raise EvaluationError(
            f"{source} holds {', '.join(sorted(values)) or 'nothing'}; expected text_ids, video_ids and either "
            "similarity (texts x videos) or both text_embeds and video_embeds"
        )
    found: dict[str, Any] = {}
    for name in IDS:
        found[name] = [str(some) for some in np.asarray(values[name]).ravel().tolist()]
        repeated = [some for some, count in Counter(found[name]).items() if count > 1]
        if repeated:
            raise EvaluationError(
                f"{source}: {len(repeated)} of {name} occur more than once, e.g. {', '.join(repeated[:3])}; keep one "
                "row or column for each"
            )
    wanted = dict(zip(EMBEDS, (len(found[name]) for name in IDS), strict=True))
    for name in (SIMILARITY, *EMBEDS, *BANK):
        if name not in values:
            continue
        array = np.asanyarray(values[name])
        if array.ndim != 2 or array.dtype.kind not in "fiub":
            raise EvaluationError(f"{source}: {name} must be numbers with two axes, got {array.dtype} {array.shape}")
        if name in wanted and len(array) != wanted[name]:
            raise EvaluationError(f"{source}: {len(array)} rows of {name} for {wanted[name]} ids")
        found[name] = array
    shape = tuple(len(found[name]) for name in IDS)
    if given[0] and found[SIMILARITY].shape != shape:
        raise EvaluationError(
            f"{source}: similarity is {found[SIMILARITY].shape}, but there are {shape[0]} text_ids and {shape[1]} "
            "video_ids; expected texts x videos"
        )
    return found


def _arrays(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            arrays = np.load(path, allow_pickle=False)
            found = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                mapped = _mapped(path, archive, member)
                found[name] = arrays[name] if mapped is None else mapped
            return found
    except FileNotFoundError:
        raise EvaluationError(
            f"{path} does not exist; give a .npz or a folder with similarities or embeddings"
        ) from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise EvaluationError(
            f"{path} cannot be read as .npz: {error}; write it with numpy.savez, ids as arrays of text"
        ) from error


def _mapped(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any] | None:
    """The array as a map of the file; None when it is compressed, small or not of numbers."""
    if member.compress_type != zipfile.ZIP_STORED or member.file_size < 1 << 20:
        return None
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        start = stream.tell()
    if dtype.hasobject or dtype.kind not in "fiub":
        return None
    with path.open("rb") as raw:
        raw.seek(member.header_offset)
        header = raw.read(_LOCAL_HEADER)
    names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    offset = member.header_offset + _LOCAL_HEADER + names + start
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order="F" if fortran else "C")


def _beside(folder: Path, name: str) -> Any:
    """The array or the list of ids called `name` in `folder`; None when there is none."""
    for suffix in (".npy", ".json", ".txt"):
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return _array(path) if suffix == ".npy" else _ids(path)
    return None


def _array(path: Path) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} cannot be read as .npy: {error}; write it with numpy.save") from error
    return found


def _ids(path: Path) -> list[str]:
    if path.suffix == ".json":
        document = read_document(path)
        if not isinstance(document, list):
            raise EvaluationError(f"{path} holds a JSON {type(document).__name__}; expected a list of ids")
        return [str(some) for some in document]
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} cannot be read as ids, one per line: {error}") from error


def _two_files(text: str) -> dict[str, Any]:
    places = dict(part.partition("=")[::2] for part in text.split(","))
    if set(places) != {TEXT, VIDEO}:
        raise EvaluationError(f"{text!r} names {sorted(places)}; expected text=FILE,video=FILE")
    values: dict[str, Any] = {}
    for side, place in places.items():
        path = Path(place)
        if path.suffix == ".npz":
            arrays = _arrays(path)
            missing = {"embeds", "ids"} - arrays.keys()
            if missing:
                raise EvaluationError(f"{path} has no {min(missing)}; expected embeds (N, D) and ids (N,)")
            values |= {f"{side}_embeds": arrays["embeds"], f"{side}_ids": arrays["ids"]}
            continue
        ids = next((found for end in (".ids.txt", ".ids.json") if (found := path.with_suffix(end)).is_file()), None)
        if ids is None:
            raise EvaluationError(
                f"{path} has no ids beside it; write {path.with_suffix('.ids.txt').name}, one per line"
            )
        values |= {f"{side}_embeds": _array(path), f"{side}_ids": _ids(ids)}
    return values
