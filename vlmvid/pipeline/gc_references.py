"""What of a store is still needed: by its recipes as files and code are now, by its artifacts, by registered models."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from vlmvid.artifacts import Manifest, Store
from vlmvid.artifacts.keys import is_key
from vlmvid.artifacts.shards import SHARD_FILE
from vlmvid.artifacts.store import MANIFEST_FILE
from vlmvid.config import load_recipe
from vlmvid.errors import ArtifactError, TrackingError, VlmvidError
from vlmvid.pipeline.context import RunContext
from vlmvid.pipeline.request import RunRequest
from vlmvid.tracking import resolve_tracking_uri
from vlmvid.tracking.outage import without_password

_KEY = re.compile(r"\b[0-9a-f]{24}\b")
_MOST_JSON_BYTES = 8 * 2**20
_VARIANT = re.compile(r"(.+)-[0-9a-f]{12}\.yaml")
# Imported by hand and probes: no recipe of the store says that they are wanted.
_KEPT_STAGES = {"import", "probe"}

Place = tuple[str, str]  # stage and key


@dataclass
class Wanted:
    """What the recipes of a home need now.

    `artifacts` are stages and keys, `clips` the clip keys of a stage; `unknown` names recipes and stages whose keys
    cannot be worked out, and why; `registries` the addresses of their model registries.
    """

    artifacts: set[Place] = field(default_factory=set)
    clips: dict[str, set[str]] = field(default_factory=dict)
    unknown: dict[Place, str] = field(default_factory=dict)
    registries: set[str] = field(default_factory=set)

    @property
    def hides_clips(self) -> bool:
        """Whether the clips of some recipe cannot be worked out."""
        return any(stage in ("", "clips") for _, stage in self.unknown)


def recipe_name(path: Path) -> str:
    """The name of a recipe that the store keeps, from that of its file."""
    found = _VARIANT.fullmatch(path.name)
    return found.group(1) if found else path.stem


def recipe_files(home: Path) -> list[Path]:
    """The recipes that the store keeps, those that were asked for last first."""
    return sorted((home / "recipes").glob("[!.]*.yaml"), key=lambda path: (-path.stat().st_mtime, path.name))


def wanted_by(home: Path, recipes: list[Path], forgotten: Iterable[Path] = ()) -> Wanted:
    """What these recipes need; of those that are `forgotten` only where they registered models, which stay so."""
    wanted = Wanted(registries={resolve_tracking_uri(None, home)})
    for path in recipes:
        name = recipe_name(path)
        try:
            context = RunContext(RunRequest(recipe=str(path), home=str(home)))
            wanted.registries.add(context.registry_uri)
            context.keys.key("ingest")
        except (VlmvidError, OSError) as error:
            wanted.unknown[name, ""] = str(error)
            continue
        _want_artifacts(context, wanted)
        _want_clips(context, wanted)
    for path in forgotten:
        with suppress(VlmvidError, OSError):  # of an older version
            wanted.registries.add(resolve_tracking_uri(load_recipe(path).tracking.uri, home))
    return wanted


def _want_artifacts(context: RunContext, wanted: Wanted) -> None:
    for stage in dict.fromkeys((*context.recipe.stages(), "decode")):
        try:
            wanted.artifacts.add((stage, context.keys.key(stage)))
            if stage == "train_vlm":
                _want_training_stages(context, wanted)
            elif stage == "evaluate":
                _want_parts(context, wanted)
        except (VlmvidError, OSError) as error:
            parts = {"train_vlm": ("vlm",), "evaluate": ("evaluation",)}.get(stage, ())
            for name in (stage, *parts):
                wanted.unknown[context.recipe.name, name] = str(error)


def _want_training_stages(context: RunContext, wanted: Wanted) -> None:
    from vlmvid.pipeline.vlm_keys import PART, stage_keys

    assert context.recipe.train_vlm is not None  # the stage exists only with its section
    wanted.artifacts |= {(PART, stage_keys(context, name).key) for name in context.recipe.train_vlm.stages}


def _want_parts(context: RunContext, wanted: Wanted) -> None:
    from vlmvid.pipeline.evaluation_parts import PART, part_keys, part_names

    assert context.recipe.evaluate is not None  # the stage exists only with its section
    wanted.artifacts |= {(PART, part_keys(context, name).key) for name in part_names(context.recipe.evaluate)}


def _want_clips(context: RunContext, wanted: Wanted) -> None:
    from vlmvid.pipeline.decode import clip_key
    from vlmvid.pipeline.ingest import read_rows

    def add(stage: str, keys: set[str]) -> None:
        wanted.clips.setdefault(stage, set()).update(keys)

    try:
        rows = read_rows(context, "ingest")
        if context.recipe.curate is not None:
            places = ((row.source_sha256, row.clip.start_seconds, row.clip.end_seconds) for row in rows)
            add("curate", {context.keys.measure_key(*place) for place in places})
        decoded = {clip_key(context, row) for row in rows}
        add("decode", decoded)
        add("encode", {context.keys.encode_key(key) for key in decoded})
        if context.recipe.encode.keep_tokens:
            add("tokens", {context.keys.tokens_key(key) for key in decoded})
    except ArtifactError:
        return  # nothing is ingested under today's key, so nothing behind it is stored under one
    except (VlmvidError, OSError) as error:
        wanted.unknown[context.recipe.name, "clips"] = str(error)


def whole_artifacts(store: Store) -> tuple[dict[Place, Manifest], list[Path], list[str]]:
    """The artifacts of a local store, the folders that hold no whole one, and why some were not looked at."""
    found: dict[Place, Manifest] = {}
    broken, refused = [], []
    for folder in sorted((store.home / "stages").glob("*/[!.]*")):
        try:
            manifest = store.manifest(folder.parent.name, folder.name)
        except ArtifactError as error:
            refused.append(str(error))
            continue
        if manifest is not None:
            found[folder.parent.name, folder.name] = manifest
        elif (problem := unreadable(folder)) is not None:
            refused.append(problem)
        elif is_key(folder.name):
            broken.append(folder)
    return found, broken, refused


def unreadable(folder: Path) -> str | None:
    """Why a result cannot be looked at now, for which it need not be damaged; None when it can."""
    try:
        for place, names, files in os.walk(folder, onerror=_raise):
            for path in (Path(place, name) for name in (*names, *files)):
                if path.name in (MANIFEST_FILE, SHARD_FILE):
                    path.read_bytes()
                else:
                    path.stat()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    except OSError as error:
        return f"{folder} cannot be read: {error}"
    return None


def _raise(error: OSError) -> None:
    raise error


def registered_keys(registries: set[str]) -> tuple[set[str], list[str]]:
    """The keys that versions of registered models name, and which registries did not answer, in words."""
    from vlmvid.tracking.mlflow_versions import registered_words

    keys: set[str] = set()
    silent = []
    for uri in sorted(registries):
        try:
            keys |= {key for word in registered_words(uri) for key in _KEY.findall(word)}
        except TrackingError as error:
            silent.append(f"{without_password(uri)}: {error}")
    return keys, silent


def reachable(
    home: Path, artifacts: Mapping[Place, Manifest], wanted: Wanted, registered: set[str] | None
) -> set[Place]:
    """The artifacts that something needs; `registered` None = any model may be registered.

    Roots are what recipes need now, the newest of each recipe's stage, what registered models name, and what was made
    by hand. From there parents are followed, and every key that a JSON file of an artifact names.
    """
    by_key: dict[str, list[Place]] = {}
    for place in artifacts:
        by_key.setdefault(place[1], []).append(place)
    roots = set(_roots(artifacts, wanted, registered))
    for key in registered or ():
        roots |= set(by_key.get(key, ()))
    seen: set[Place] = set()
    waiting = [place for place in roots if place in artifacts]
    while waiting:
        place = waiting.pop()
        if place not in seen:
            seen.add(place)
            names = _named_keys(home / "stages" / place[0] / place[1], artifacts[place])
            waiting += [other for key in names for other in by_key.get(key, ())]
    return seen


def _roots(artifacts: Mapping[Place, Manifest], wanted: Wanted, registered: set[str] | None) -> Iterator[Place]:
    yield from wanted.artifacts
    newest: dict[tuple[str, str], tuple[float, Place]] = {}
    for place, manifest in artifacts.items():
        stage, recipe = place[0], manifest.recipe
        is_unknown = (recipe, "") in wanted.unknown or (recipe, stage) in wanted.unknown
        if stage in _KEPT_STAGES or is_unknown or (registered is None and stage == "register"):
            yield place
        age = (manifest.created_seconds, place)
        newest[recipe, stage] = max(newest.get((recipe, stage), age), age)
    # Not of parts: a stage has many, and the recipes and their stages name those that they need.
    yield from (place for (_, stage), (_, place) in newest.items() if stage not in ("evaluation", "vlm"))


def _named_keys(folder: Path, manifest: Manifest) -> set[str]:
    """Keys that an artifact names: its parents' (without their revisions), and any in its JSON files."""
    keys = {key.partition("+")[0] for key in manifest.parents.values()}
    for path in folder.rglob("*.json"):
        if path.name != MANIFEST_FILE and path.stat().st_size <= _MOST_JSON_BYTES:
            keys |= set(_KEY.findall(path.read_text(encoding="utf-8", errors="replace")))
    return keys
