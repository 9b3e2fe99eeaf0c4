"""What is asked for: small, frozen, JSON, so that any task in any process can open it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vlmvid.artifacts import hash_json, open_store
from vlmvid.artifacts.files import write_json
from vlmvid.config import Config, Recipe, load_recipe

DEFAULT_HOME = ".vlmvid"


class RunRequest(Config):
    """One run of one recipe.

    `recipe` is the path of the resolved recipe inside the home, so that every task of a run
    reads the same one, whatever happens to the YAML meanwhile. `home` is absolute.
    """

    recipe: str
    home: str
    retry_failed: bool = False
    verify: bool = False


class ShardJob(Config):
    """One shard's worth of a stage: the unit of a Prefect task."""

    stage: str
    index: int
    count: int
    video_ids: tuple[str, ...]

    @property
    def label(self) -> str:
        """For people: ``decode shard 3 of 8``."""
        return f"{self.stage} shard {self.index + 1} of {self.count}"


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

    Raises ConfigError when the recipe is wrong or the home is not writable.
    """
    resolved = load_recipe(recipe, overrides)
    store = open_store(home or os.environ.get("VLMVID_HOME") or DEFAULT_HOME)
    data = recipe_json(resolved)
    path = store.home / "recipes" / f"{resolved.name}-{hash_json(data)[:12]}.yaml"
    if not path.exists():
        write_json(path, data)  # JSON is YAML
    return RunRequest(recipe=str(path), home=str(store.home), retry_failed=retry_failed, verify=verify)


def recipe_json(recipe: Recipe) -> dict[str, object]:
    """The recipe as the mapping that `load_recipe` reads back."""
    return recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
