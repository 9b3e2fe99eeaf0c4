"""The report of a run, or of several beside each other: the last step of a pipeline, and the command `vlmvid report`.

A report is no artifact: it lies in ``VLMVID_HOME/reports``, enters no key, and is drawn anew when what it shows, or the
code that draws it, has changed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmvid.artifacts import hash_json, open_store
from vlmvid.artifacts.code import code_closure, combined_digest
from vlmvid.artifacts.files import MissingResult, read_json, write_bytes, write_json
from vlmvid.config.addresses import without_secrets
from vlmvid.errors import ConfigError, VlmvidError
from vlmvid.evaluation.report_page import Page, Strip
from vlmvid.evaluation.report_run import RunRecord
from vlmvid.pipeline.context import RunContext, open_context
from vlmvid.pipeline.report_runs import FoundRun, record_of, require_something, run_of_artifact, run_of_recipe
from vlmvid.pipeline.request import RunRequest, default_home, make_request

logger = logging.getLogger(__name__)
HTML_FILE, MARKDOWN_FILE, STATE_FILE = "report.html", "report.md", "report.json"
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_CODE = ("vlmvid.evaluation.report_html", "vlmvid.evaluation.report_markdown", "vlmvid.evaluation.report_sections")
_TEMPLATES = Path(__file__).parents[1] / "evaluation" / "templates"


def pipeline_report(request: RunRequest) -> dict[str, str]:
    """The last step of a pipeline: draw the run's report, unless it is there already, and give it to the tracker.

    Returns ``{"html": path, "markdown": path}``, or ``{"error": words}``: a report that cannot be drawn is a warning,
    because the work of the run is done.
    """
    context = open_context(request)
    folder = _folder_of(context)
    try:
        found = run_of_recipe(request)
        drawn = _known(folder, _inputs(found)) or _draw(found, folder)
    except Exception as error:  # whatever it is, the stages are done and stand
        words = without_secrets(f"{type(error).__name__}: {error}")
        logger.warning("the report is not drawn: %s", words)
        logger.debug("the report is not drawn", exc_info=True)
        drawn = {"error": words}
        _keep_state(folder, drawn)
    for name in ("html", "markdown"):
        if name in drawn:
            context.tracker.log_pipeline_file(Path(drawn[name]))
    return drawn


def drawn_report(context: RunContext) -> dict[str, str] | None:
    """What `pipeline_report` returned for this recipe, as it is now; None when it was not called."""
    try:
        state: dict[str, str] = read_json(_folder_of(context) / STATE_FILE)
    except MissingResult:
        return None
    return {name: state[name] for name in ("html", "markdown", "error") if name in state}


def write_report(
    runs: Sequence[str], overrides: Sequence[str] = (), *, out: str | Path | None = None, home: str | Path | None = None
) -> dict[str, Any]:
    """Draw the report of one run, or the comparison of several with the first, whatever was drawn before.

    Args:
        runs: each a recipe, the folder of an artifact (an evaluation's, as a rule), or the id of a run in MLflow.
        overrides: changes to the recipes among them, as ``a.b=c``.
        out: the folder to write to; by default one below ``VLMVID_HOME/reports``.
        home: the store of recipes and run ids.

    Returns:
        ``{"runs": [names], "html": path, "markdown": path}``.

    Raises:
        ConfigError: something that is none of these, or a run of which nothing is finished.
        ArtifactError: a folder that is no artifact.
        TrackingError: a run id, and MLflow does not answer.
    """
    if overrides and not any(_is_recipe(run) for run in runs):
        raise ConfigError(f"-o {overrides[0]} changes a recipe, and none of {', '.join(runs)} is one")
    found = [_find(run, overrides, home) for run in runs]
    if len(found) == 1:
        folder = Path(out) if out else _reports(found[0], home) / _folder_name(found[0])
        return {"runs": [found[0].name], **_draw_any(found[0], folder)}
    from vlmvid.evaluation.report_compare import comparison_page

    records = _told_apart([record_of(one) if isinstance(one, FoundRun) else one for one in found])
    name = f"comparison-{hash_json([_folder_name(one) for one in found])[:12]}"
    folder = Path(out) if out else _reports(found[0], home) / name
    page = comparison_page(records, _differing_strips(found[0], records))
    return {"runs": [record.name for record in records], **_write(page, folder)}


def _differing_strips(first: FoundRun | RunRecord, records: Sequence[RunRecord]) -> dict[tuple[str, str], Strip]:
    if not isinstance(first, FoundRun):
        return {}
    from vlmvid.evaluation.report_differing import choose_differing
    from vlmvid.pipeline.report_media import filmstrips

    chosen = [one.example for other in records[1:] for one in choose_differing(records[0], other)]
    return filmstrips(first, chosen)


def _reports(found: FoundRun | RunRecord, home: str | Path | None) -> Path:
    store = found.store if isinstance(found, FoundRun) else open_store(default_home(home))
    return store.home / "reports"


def _told_apart(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records under names of their own: runs of one recipe get a number."""
    names = [record.name for record in records]
    return [
        replace(record, name=f"{record.name} ({names[: place + 1].count(record.name)})")
        if names.count(record.name) > 1
        else record
        for place, record in enumerate(records)
    ]


def _is_recipe(run: str) -> bool:
    return Path(run).suffix in (".yaml", ".yml", ".json")


def _find(run: str, overrides: Sequence[str], home: str | Path | None) -> FoundRun | RunRecord:
    path = Path(run).expanduser()
    if _is_recipe(run):
        found = run_of_recipe(make_request(run, overrides, home=home))
        require_something(found)
        return found
    if path.is_dir():
        return run_of_artifact(path)
    if _RUN_ID.fullmatch(run):
        from vlmvid.pipeline.report_tracked import run_of_id

        return run_of_id(run, default_home(home))
    raise ConfigError(
        f"{run!r} is no run: expected a recipe (a .yaml file), the folder of an artifact as `vlmvid evaluate` prints "
        "it, or the id of a run in MLflow (32 hexadecimal digits)"
    )


def _draw_any(found: FoundRun | RunRecord, folder: Path) -> dict[str, str]:
    if isinstance(found, FoundRun):
        return _draw(found, folder)
    from vlmvid.evaluation.report_sections import run_page

    return _write(run_page(found), folder)


def _draw(found: FoundRun, folder: Path) -> dict[str, str]:
    from vlmvid.evaluation.report_examples import choose_examples
    from vlmvid.evaluation.report_sections import run_page
    from vlmvid.pipeline.report_media import filmstrips, similarity_of, with_similarities

    record = record_of(found)
    examples = choose_examples(record.results)
    try:
        record = replace(record, similarity=similarity_of(found))
        examples = with_similarities(found, examples)
    except (VlmvidError, OSError) as error:
        record = replace(record, notes=(*record.notes, f"There are no similarities: {error}"))
    drawn = _write(run_page(record, examples, filmstrips(found, examples)), folder)
    _keep_state(folder, {**drawn, "inputs": _inputs(found)})
    return drawn


def _write(page: Page, folder: Path) -> dict[str, str]:
    from vlmvid.evaluation.report_html import html_page
    from vlmvid.evaluation.report_markdown import markdown_page

    texts = {"html": (HTML_FILE, html_page(page)), "markdown": (MARKDOWN_FILE, markdown_page(page))}
    for name, text in texts.values():
        # Half a surrogate pair may come out of a file's name.
        write_bytes(folder / name, text.encode("utf-8", "backslashreplace"))
    return {kind: str((folder / name).absolute()) for kind, (name, _) in texts.items()}


def _folder_of(context: RunContext) -> Path:
    return context.store.home / "reports" / f"{context.recipe.name}-{context.keys.pipeline_key[:12]}"


def _folder_name(found: FoundRun | RunRecord) -> str:
    if isinstance(found, FoundRun) and found.context is not None and found.recipe is not None:
        return _folder_of(found.context).name
    keys = {name: manifest.key for name, manifest in found.manifests.items()} if isinstance(found, FoundRun) else {}
    return f"{found.name}-{hash_json([found.source, keys])[:12]}"


def _inputs(found: FoundRun) -> str:
    """One digest of all that a report shows, and of what draws it."""
    stages = {
        name: [manifest.key, manifest.revision, manifest.created_seconds] for name, manifest in found.manifests.items()
    }
    templates = [path.read_text(encoding="utf-8") for path in sorted(_TEMPLATES.iterdir())]
    code = combined_digest(code_closure(_CODE)[0], {})
    return hash_json([stages, list(found.unfinished), templates, code])


def _known(folder: Path, inputs: str) -> dict[str, str] | None:
    try:
        state: dict[str, str] = read_json(folder / STATE_FILE)
    except MissingResult:
        return None
    drawn: dict[str, str] = {name: state[name] for name in ("html", "markdown") if name in state}
    is_there = len(drawn) == 2 and all(Path(place).is_file() for place in drawn.values())
    return drawn if is_there and state.get("inputs") == inputs else None


def _keep_state(folder: Path, state: dict[str, str]) -> None:
    try:
        write_json(folder / STATE_FILE, state)
    except OSError as error:
        logger.warning("%s cannot be written: %s", folder / STATE_FILE, error)


def report_text(document: dict[str, Any]) -> str:
    """What `write_report` returned, for a terminal."""
    return "\n".join([f"HTML      {document['html']}", f"Markdown  {document['markdown']}"])
