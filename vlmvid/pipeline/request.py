"""What is asked for: small, frozen, JSON, so that any task in any process can open it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vlmvid.artifacts import Store, hash_json, open_store
from vlmvid.artifacts.files import write_bytes
from vlmvid.config import Config, Recipe, load_recipe
from vlmvid.config.schema import TrackingConfig
from vlmvid.errors import ConfigError

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
DEFAULT_HOME = ".vlmvid"


class RunRequest(Config):
    """One run of one recipe.

    `recipe` is the path, or URI, of the resolved recipe inside the home, so that every task of a run
    reads the same one, whatever happens to the YAML meanwhile. `home` is an absolute path or a URI.
    """

    recipe: str
    home: str
    retry_failed: bool = False
    verify: bool = False


class ShardJob(Config):
    """One shard's worth of a stage, the unit of a Prefect task: some clips, or one named piece of work."""

    stage: str
    index: int
    count: int
    video_ids: tuple[str, ...] = ()
    name: str = ""

    @property
    def label(self) -> str:
        """For people: ``decode shard 3 of 8``, ``evaluate retrieval``."""
        return f"{self.stage} {self.name or f'shard {self.index + 1} of {self.count}'}"

    @property
    def task_name(self) -> str:
        """What tells its task from the others of the stage: its name, else its number from 1."""
        return self.name or str(self.index + 1)


class ShardReport(Config):
    """What became of a shard's clips."""

    ok: int
    failed: int


def make_request(
    recipe: str | Path,
    overrides: Sequence[str] = (),
    *,
    home: str | Path | None = None,
    retry_failed: bool = False,
    verify: bool = False,
) -> RunRequest:
    """Validate the recipe, make the home absolute, and keep the resolved recipe in it.

    `recipe` is a file, or the address that an earlier request gave to one. Raises ConfigError when the recipe is
    wrong, the home is not writable, or the home is shared and nothing says where MLflow's is.
    """
    place = default_home(home)
    store = open_store(place) if "://" in str(recipe) else None
    resolved = load_recipe(recipe if store is None else store.local_path(str(recipe)), overrides)
    store = store or open_store(place)
    check_tracking(resolved.tracking, store)
    return request_of(resolved, store, retry_failed=retry_failed, verify=verify)


def default_home(home: str | Path | None = None) -> str:
    """The store that is meant: `home`, else VLMVID_HOME, else a folder of the one where this runs."""
    return str(home or os.environ.get("VLMVID_HOME") or DEFAULT_HOME)


def request_of(recipe: Recipe, store: Store, *, retry_failed: bool = False, verify: bool = False) -> RunRequest:
    """The request to run a recipe that is validated already; the recipe is kept in the store."""
    # JSON is YAML. Its keys stay in the order of the recipe: training stages run in it.
    text = json.dumps(recipe_json(recipe), indent=2, ensure_ascii=False) + "\n"
    path = store.home / "recipes" / f"{recipe.name}-{hash_json(text)[:12]}.yaml"
    if path.exists():
        with suppress(PermissionError):  # it is another user's
            os.utime(path)  # `vlmvid gc` tells by it which variant of a recipe was asked for last
    else:
        write_bytes(path, text.encode())
    store.share(path)
    return RunRequest(recipe=store.address(path), home=store.uri, retry_failed=retry_failed, verify=verify)


def check_tracking(tracking: TrackingConfig, store: Store) -> None:
    """Raise ConfigError for a local database beside a shared store: it would hide every machine's runs from others."""
    if store.uri != str(store.home) and tracking.enabled and not (tracking.uri or os.environ.get(TRACKING_VARIABLE)):
        raise ConfigError(
            f"the home {store.uri} is shared by machines, but {TRACKING_VARIABLE} is not set: each of them would "
            f"keep its runs to itself; set {TRACKING_VARIABLE} (or tracking.uri in the recipe) to an MLflow server, or "
            "tracking.enabled=false"
        )


def recipe_json(recipe: Recipe) -> dict[str, object]:
    """The recipe as the mapping that `load_recipe` reads back."""
    # With its nulls: where a field's default is not null, a null says something.
    return recipe.model_dump(mode="json", by_alias=True)
