"""Clip keys and stage keys: what a result depends on, hashed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from vlmvid.artifacts.files import canonical_json
from vlmvid.config.base import Config

KEY_LENGTH = 24


class KeyParts(Config):
    """Everything a stage's result depends on, in the order in which `plan` looks for differences.

    `inputs` maps an input's name to its key, `config` is the dumped configuration that changes
    the result, `weights` the digests of the weight files, `code` one digest per vlmvid module,
    `packages` the versions that decide the result.
    """

    stage: str
    inputs: dict[str, str] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    weights: dict[str, str] = Field(default_factory=dict)
    code: dict[str, str] = Field(default_factory=dict)
    packages: dict[str, str] = Field(default_factory=dict)

    @property
    def key(self) -> str:
        """The stage key: sha256 over all parts, first 24 hex digits."""
        return hash_json(self.model_dump(mode="json"))


def is_key(name: str) -> bool:
    """Whether `name` has the form of a key: what else lies in a store is not of its making."""
    return re.fullmatch(rf"[0-9a-f]{{{KEY_LENGTH}}}", name) is not None


def hash_json(value: object) -> str:
    """sha256 of a JSON value in canonical form, first 24 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:KEY_LENGTH]


def first_difference(old: KeyParts, new: KeyParts) -> str | None:
    """The first part in which two results differ, in words; None when they are equal."""
    return next(differences(old, new), None)


def differences(old: KeyParts, new: KeyParts) -> Iterator[str]:
    """Every difference between two sets of parts, in words, in the order of `KeyParts`."""
    labels = {"inputs": "input", "config": "config", "weights": "weights", "code": "code", "packages": "package"}
    for part, label in labels.items():
        before, after = flatten(getattr(old, part)), flatten(getattr(new, part))
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) == after.get(name):
                continue
            if part == "code":
                yield f"code {name} {_code_change(name in before, name in after)}"
            else:
                yield f"{label} {name}: {_show(before, name)} -> {_show(after, name)}"


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            flat.update(flatten(item, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _show(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "(absent)"
    text = str(values[name])
    return text if len(text) <= 60 else text[:57] + "..."


def _code_change(before: bool, after: bool) -> str:
    if before and after:
        return "changed"
    return "is new" if after else "is no longer used"
