"""The folder that a registered model consists of.

::

    folder/vision/  text/  alignment/     safetensors and JSON, as vlmvid.models writes them
    folder/decode.json                    how a video becomes frames
    folder/model.json                     format version, info, size and sha256 of every other file

`model.json` is written last and the folder appears under its name by one rename. The hashes find
damage and exchanged files; whoever can rewrite `model.json` as well is not kept out by them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlmvid.artifacts.digests import sha256_file
from vlmvid.artifacts.files import read_json, staging_folder, write_json
from vlmvid.config.schema import DecodeConfig
from vlmvid.errors import ArtifactError

FORMAT_VERSION = 1
MANIFEST = "model.json"
PARTS = ("vision", "text", "alignment")
_DECODE = "decode.json"


def write_model_folder(
    folder: Path,
    *,
    vision_folder: Path,
    text_folder: Path,
    alignment_folder: Path,
    decode: DecodeConfig,
    info: Mapping[str, Any],
) -> None:
    """Copy the three parts into one folder with its manifest; whole or absent.

    Args:
        folder: created; a folder that holds the same model already is left as it is.
        vision_folder, text_folder, alignment_folder: as vlmvid.models saved them.
        decode: the decoding that the alignment was trained with.
        info: JSON values for people, e.g. the recipe's name and the stage key.

    Raises:
        ArtifactError: a part is missing, or `folder` holds something else.
    """
    sources = dict(zip(PARTS, (vision_folder, text_folder, alignment_folder), strict=True))
    for part, source in sources.items():
        if not source.is_dir():
            raise ArtifactError(f"the {part} part of the model, {source}, is not a folder")
    with staging_folder(folder) as temporary:
        for part, source in sources.items():
            shutil.copytree(source, temporary / part)
        write_json(temporary / _DECODE, decode.key_config())
        files = {
            name: {"sha256": sha256_file(temporary / name), "size": (temporary / name).stat().st_size}
            for name in _file_names(temporary)
        }
        # Through JSON once, so that a comparison with a manifest read from disk compares like with like.
        manifest = json.loads(json.dumps({"format_version": FORMAT_VERSION, "info": dict(info), "files": files}))
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
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{folder / MANIFEST} has format version {manifest.get('format_version')!r}; this vlmvid reads "
            f"{FORMAT_VERSION}: load it with the version of vlmvid that wrote it"
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


def _file_names(folder: Path) -> list[str]:
    """Every file below `folder`, hidden ones left out, as sorted POSIX names."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
