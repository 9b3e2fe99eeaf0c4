"""Checks of the store and of a recipe's file."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmvid.artifacts.garbage import find_temporaries
from vlmvid.config import Recipe
from vlmvid.errors import VlmvidError
from vlmvid.pipeline.findings import Finding, error, ok, warning
from vlmvid.pipeline.gc import DEFAULT_HOURS, size_text
from vlmvid.pipeline.gc_locks import running_stages

_NAMES = re.compile(r"(^|_)(password|passwd|secret|token|api_?key|access_key|access_key_id|private_key|credentials)$")
_VALUES = re.compile(
    r"AKIA[0-9A-Z]{16}|\bhf_[A-Za-z0-9]{20,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|-----BEGIN [A-Z ]*KEY"
)
_USER_AND_PASSWORD = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@")


def store(home: str) -> list[Finding]:
    """Whether the store can be written, what runs in it, and what interrupted runs left."""
    if "://" in home:
        return _shared(home)
    folder = Path(home).expanduser().absolute()
    try:
        if not folder.is_dir():
            return [ok("store", f"{folder} is not there yet; the first run makes it")]
        running = running_stages(folder)
    except OSError as problem:
        mend = "ask as the user whose runs they are, or let this one read the store"
        return [warning("store", f"{folder}: what runs in it cannot be seen: {problem}", mend), *_leftovers(home)]
    state = f"running now: {', '.join(running)}" if running else "nothing runs in it"
    return [ok("store", f"{folder}: {state}"), *_leftovers(home)]


def _leftovers(home: str) -> list[Finding]:
    try:
        found = find_temporaries(home)
    except OSError as problem:
        mend = "ask as the user whose runs they are, or let this one read the store"
        return [warning("leftovers", f"not all of the store can be read: {problem}", mend)]
    old = [one for one in found if time.time() - one.modified_seconds > DEFAULT_HOURS * 3600]
    if not old:
        return []
    seen = f"{len(old)} of interrupted runs, {size_text(sum(one.num_bytes for one in old))}"
    return [warning("leftovers", seen, "look with `vlmvid gc`, remove with `vlmvid gc --delete`")]


def _shared(home: str) -> list[Finding]:
    from vlmvid.artifacts.mirror import open_mirror

    try:
        mirror = open_mirror(home)
    except VlmvidError as problem:
        mend = "check the address, the credentials and AWS_ENDPOINT_URL; docs/scaling.md says what a shared home needs"
        return [error("store", str(problem), mend)]
    return [ok("store", f"{home} can be written; its local copies are in {mirror.home}"), *_leftovers(home)]


def recipe(path: Path, loaded: Recipe) -> list[Finding]:
    """That a recipe is valid, and that no secret stands in it in plain text."""
    findings = [ok("recipe", f"{path}: {loaded.name}, {', '.join(loaded.stages())}")]
    for name, why in _secrets(loaded.model_dump(mode="json", by_alias=True), ""):
        mend = "take it out, change it where it is valid, and hand it over by the environment or a Prefect Secret block"
        findings.append(error("secrets", f"{path}: {name} {why}", mend))
    return findings


def _secrets(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Where a secret stands, and how it is known; never the secret itself."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _secrets(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _secrets(inner, f"{name}[{number}]")
    elif isinstance(value, str) and value:
        if _USER_AND_PASSWORD.search(value):
            yield name, "holds an address with a password"
        elif _VALUES.search(value):
            yield name, "looks like a key or token"
        elif _NAMES.search(name.rpartition(".")[2].lower()) and not value.startswith("$"):
            yield name, "is set in plain text"
