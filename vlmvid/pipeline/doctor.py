"""`vlmvid doctor`: what of this machine and of its services would spoil a run, and how to mend it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from vlmvid.config import Recipe, load_recipe
from vlmvid.errors import VlmvidError
from vlmvid.pipeline import doctor_machine, doctor_services, doctor_store
from vlmvid.pipeline.findings import Check, Finding
from vlmvid.pipeline.request import DEFAULT_HOME

__all__ = ["Finding", "examine", "findings_text"]
LIMIT_SECONDS = 60.0


def examine(home: str | Path | None = None, recipe: str | Path | None = None) -> list[Finding]:
    """Every check of the machine, the services and the store at `home`, and with `recipe` of what that needs.

    Nothing is changed but for a file that is written and removed to see whether a place is writable. Errors are
    findings: none is raised. Services have 3 seconds to answer, every check one minute; all run at the same time.
    """
    place = str(home or os.environ.get("VLMVID_HOME") or DEFAULT_HOME)
    loaded, checks = _recipe(recipe) if recipe is not None else (None, [])
    uri = loaded.tracking.uri if loaded is not None else None
    reader = loaded.decode.reader if loaded is not None else "auto"
    checks += [
        ("versions", doctor_machine.versions),
        ("prefect", doctor_services.prefect),
        ("work pools", doctor_services.work_pools),
        ("mlflow", lambda: doctor_services.mlflow(uri, place)),
        ("disk", lambda: doctor_machine.disks(place)),
        ("codecs", doctor_machine.codecs),
        ("readers and GPU", lambda: doctor_machine.heavy_packages(reader)),
        ("store", lambda: doctor_store.store(place)),
    ]
    return _all_of(checks)


def findings_text(findings: list[Finding]) -> str:
    """The findings for a terminal."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<7}  {finding.name:<{width}}  {finding.seen}")
        if finding.mend:
            lines.append(f"{'':<7}  {'':<{width}}  -> {finding.mend}")
    numbers = [f"{sum(f.status == s for f in findings)} {s}" for s in ("ok", "warning", "error")]
    return "\n".join([*lines, ", ".join(numbers)])


def _recipe(path: str | Path) -> tuple[Recipe | None, list[tuple[str, Check]]]:
    """The recipe, if it can be read, and the checks of its file."""
    try:
        recipe = load_recipe(path)
    except (VlmvidError, OSError) as error:
        finding = Finding(name="recipe", status="error", seen=str(error), mend="correct the recipe")
        return None, [("recipe", lambda: [finding])]
    return recipe, [("recipe", lambda: doctor_store.recipe(Path(path), recipe))]


def _all_of(checks: list[tuple[str, Check]]) -> list[Finding]:
    """Run the checks side by side; one that fails or does not end is a finding of its own."""
    results: list[list[Finding]] = [[] for _ in checks]
    threads = []
    for number, (name, check) in enumerate(checks):
        work = _guarded(name, check, results[number])
        threads.append(threading.Thread(target=work, daemon=True))
        threads[-1].start()
    deadline = time.monotonic() + LIMIT_SECONDS  # of all: they began together
    for number, (name, _) in enumerate(checks):
        threads[number].join(max(0.0, deadline - time.monotonic()))
        if threads[number].is_alive():
            seen = f"the check did not end within {LIMIT_SECONDS:g} s"
            mend = "something it asks hangs: a mounted folder, a name server, a service"
            results[number] = [Finding(name=name, status="error", seen=seen, mend=mend)]
    return [finding for result in results for finding in result]


def _guarded(name: str, check: Check, result: list[Finding]) -> Callable[[], None]:
    def work() -> None:
        try:
            found = check()
        except Exception as error:
            seen = f"the check itself failed: {type(error).__name__}: {error}"
            found = [Finding(name=name, status="error", seen=seen, mend="report this message as a fault of vlmvid")]
        result.extend(found)

    return work
