"""The folder that a registered model consists of.

::

    folder/vision/                        the frozen backbone; as all parts: safetensors and JSON
    folder/text/  alignment/              a dual encoder, as vlmvid.models writes them
    folder/vlm/  (reward/) (vlm_vision/)  a vision-language model, as vlmvid.models.vlm writes it
    folder/decode.json                    how a video becomes frames
    folder/encode.json                    how the features that it was trained on were kept
    folder/model.json                     format version, info, size and sha256 of every other file

A folder has a dual encoder, a vision-language model, or both. `vlm_vision` is the backbone of the vision-language
model where that of the dual encoder was trained with it. Format version 2 is that of folders with a vision-language
model, which earlier versions of vlmvid refuse by it; others have version 1.

`model.json` is written last and the folder appears under its name by one rename. The hashes find
damage and exchanged files; whoever can rewrite `model.json` as well is not kept out by them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from vlmvid.artifacts.digests import sha256_file
from vlmvid.artifacts.files import read_json, staging_folder, write_json
from vlmvid.artifacts.keys import hash_json
from vlmvid.config.schema import DecodeConfig
from vlmvid.errors import ArtifactError
from vlmvid.serving.visual_features import StoredAs

FORMAT_VERSIONS = (1, 2)
MANIFEST = "model.json"
CAPTION_PROMPT = "caption_prompt"
ANSWERS = "answers"  # in the info: how questions with choices are asked, as `Ranking` reads it
FEATURES = "features"  # in the info: what decides the features, as `vlmvid.pipeline.keys` has it
Part = Literal["vision", "text", "alignment", "vlm", "reward", "vlm_vision"]
_DECODE, _ENCODE = "decode.json", "encode.json"
_READ_BY_ALL = (_DECODE, _ENCODE)  # of the parts


def write_model_folder(
    folder: Path,
    *,
    parts: Mapping[Part, Path],
    decode: DecodeConfig,
    stored: StoredAs,
    info: Mapping[str, Any],
) -> None:
    """Copy the parts into one folder with its manifest; whole or absent.

    Args:
        folder: created; a folder that holds the same model already is left as it is.
        parts: folders as vlmvid.models saved them: ``vision``, and ``text`` with ``alignment``, or ``vlm``, or all.
        decode: the decoding that the model was trained with.
        stored: how its features were kept in training.
        info: JSON values for people, e.g. the recipe's name and the stage key; with ``vlm`` also `CAPTION_PROMPT`,
            the words that ask for a caption, and `ANSWERS`.

    Raises:
        ArtifactError: a part is missing, or `folder` holds something else.
    """
    needed = {"vision", *(("text", "alignment") if {"alignment", "text"} & parts.keys() or "vlm" not in parts else ())}
    for part in sorted(needed | parts.keys()):
        source = parts.get(part)
        if source is None or not source.is_dir():
            raise ArtifactError(f"the {part} part of the model, {source}, is not a folder")
    if "vlm" in parts and not info.get(CAPTION_PROMPT):
        raise ArtifactError(
            f"info lacks {CAPTION_PROMPT!r}, the words with which the model was taught to give captions"
        )
    with staging_folder(folder) as temporary:
        for part, source in parts.items():
            shutil.copytree(source, temporary / part)
        write_json(temporary / _DECODE, decode.key_config())
        write_json(temporary / _ENCODE, stored.model_dump(mode="json"))
        files = {
            name: {"sha256": sha256_file(temporary / name), "size": (temporary / name).stat().st_size}
            for name in _file_names(temporary)
        }
        version = 2 if "vlm" in parts else 1
        # Through JSON once, so that a comparison with a manifest read from disk compares like with like.
        manifest = json.loads(json.dumps({"format_version": version, "info": dict(info), "files": files}))
        write_json(temporary / MANIFEST, manifest)
    if read_json(folder / MANIFEST) != manifest:
        raise ArtifactError(f"{folder} exists and holds another model; remove it or choose another folder")


def verify_model_folder(folder: Path) -> dict[str, Any]:
    """Check every file against the manifest; returns the manifest.

    Raises:
        ArtifactError: a file is missing, changed or not listed; the message names it.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise ArtifactError(f"{folder / MANIFEST} is not the manifest of a model folder: it has no 'files'")
    if manifest.get("format_version") not in FORMAT_VERSIONS:
        raise ArtifactError(
            f"{folder / MANIFEST} has format version {manifest.get('format_version')!r}; this vlmvid reads "
            f"{' and '.join(map(str, FORMAT_VERSIONS))}: load it with the version of vlmvid that wrote it"
        )
    names = set(_file_names(folder)) - {MANIFEST}
    for name, expected in sorted(manifest["files"].items()):
        if name not in names:
            raise ArtifactError(f"{folder / name} is missing; fetch or register the model again")
        size, digest = (folder / name).stat().st_size, sha256_file(folder / name)
        if {"sha256": digest, "size": size} != expected:
            raise ArtifactError(
                f"{folder / name} was changed: {size} bytes with sha256 {digest}, expected {expected}; "
                "fetch or register the model again"
            )
    if unlisted := names - manifest["files"].keys():
        raise ArtifactError(f"{folder / min(unlisted)} is not listed in {MANIFEST}; remove it")
    return manifest


def read_decode(folder: Path) -> DecodeConfig:
    """The decoding of a model folder; raises ArtifactError when it cannot be used."""
    try:
        return DecodeConfig.model_validate(read_json(folder / _DECODE))
    except ValidationError as error:
        raise ArtifactError(f"{folder / _DECODE} is not a decode configuration: {error}") from error


def read_stored(folder: Path) -> StoredAs:
    """How features were kept in training; older folders do not say, and theirs are taken as they are."""
    if not (folder / _ENCODE).is_file():
        return StoredAs()
    try:
        return StoredAs.model_validate(read_json(folder / _ENCODE))
    except ValidationError as error:
        raise ArtifactError(f"{folder / _ENCODE} does not say how features were kept: {error}") from error


def embedding_digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    """One digest of the files of a manifest that decide embeddings; empty for a model that has none."""
    parts = ("vision/", "text/", "alignment/")
    hashes = {name: info["sha256"] for name, info in files.items() if name.startswith(parts) or name in _READ_BY_ALL}
    return hash_json(hashes) if any(name.startswith("alignment/") for name in hashes) else ""


def _file_names(folder: Path) -> list[str]:
    """Every file below `folder`, hidden ones left out, as sorted POSIX names."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
