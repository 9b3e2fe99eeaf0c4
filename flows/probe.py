"""Alignment probing as one task: the pairs share one store, so a rerun goes on where it was."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow, task

from flows._forms import Home, Overrides, RecipeFile
from flows._policies import TASK_OPTIONS
from vlmvid.artifacts import ArtifactRef
from vlmvid.pipeline.probing import run_probe


@task(name="probe", task_run_name="probe", **TASK_OPTIONS)
def probe_task(recipe: str, overrides: Sequence[str], home: str) -> ArtifactRef:
    """The whole probe."""
    return run_probe(recipe, overrides, home=home)


@flow(name="probe")
def probe(recipe: RecipeFile, overrides: Overrides = (), home: Home = "") -> ArtifactRef:
    """Train linear heads on every pair of encoders and compare with other measures of their features."""
    return probe_task(recipe, overrides, home)
