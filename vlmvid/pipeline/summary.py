"""The last words of a run: what was measured, on how many, and where everything is."""

from __future__ import annotations

from typing import Any

from vlmvid.config.schema import StageName
from vlmvid.evaluation.runner import result_of
from vlmvid.pipeline.context import RunContext, open_context
from vlmvid.pipeline.evaluate import evaluation_json, results_text
from vlmvid.pipeline.register import alias_words, read_registered
from vlmvid.pipeline.report import drawn_report
from vlmvid.pipeline.request import RunRequest
from vlmvid.pipeline.search import read_hits
from vlmvid.pipeline.train_vlm import mark_cached, trained_stages, training_line
from vlmvid.tracking.outage import without_password

_MOST_ROWS = 200


def summarise(request: RunRequest, up_to: StageName | None = None) -> dict[str, Any]:
    """The finished run as one JSON document: stages, results, places, gaps; of the stages until `up_to`, if given."""
    context = open_context(request)
    stages: dict[str, dict[str, Any]] = {}
    names = context.recipe.stages()
    for stage in names if up_to is None else names[: names.index(up_to) + 1]:
        ref = context.require(stage)
        manifest = context.store.manifest(stage, ref.key)
        stages[stage] = {"key": ref.key, "folder": ref.uri, "counts": manifest.counts if manifest else {}}
    document: dict[str, Any] = {"recipe": context.recipe.name, "home": context.store.uri, "stages": stages}
    if "evaluate" in stages:
        document |= evaluation_json(context.folder("evaluate"))
    if "register" in stages:
        document["model"] = read_registered(context.folder("register"))
    if "search" in stages:
        document["hits"] = [hit.model_dump() for hit in read_hits(context.folder("search"))]
    if "train_vlm" in stages:
        document["training"] = trained_stages(context)
        mark_cached(context, document["training"])
    drawn = drawn_report(context) if up_to is None else None
    if drawn is not None:
        document["page"] = drawn
    document["tracking"] = _tracking(context)
    return document


def summary_text(document: dict[str, Any]) -> str:
    """The summary for a terminal."""
    from vlmvid.pipeline.search import Hit, hits_table

    lines = [f"{document['recipe']}: " + ", ".join(_stage_words(document)), ""]
    if "training" in document:
        lines += [*(f"train_vlm/{training_line(one)}" for one in document["training"]), ""]
    if "results" in document:
        lines += [results_text(document["results"])]
    if "hits" in document:
        lines += [hits_table([Hit.model_validate(hit) for hit in document["hits"]]), ""]
    lines += [f"{name:<8} {value}" for name, value in _places(document)]
    return "\n".join(lines)


def summary_markdown(document: dict[str, Any]) -> str:
    """The summary for the Prefect UI."""
    return f"```\n{summary_text(document)}\n```"


def results_rows(document: dict[str, Any]) -> list[dict[str, str | int]]:
    """One row per metric for a table of at most 200; none where nothing was measured.

    Values are as measured: rates in [0, 1].
    """
    rows: list[dict[str, str | int]] = []
    for result in document.get("results", ()):
        name = result_of(result).file_stem
        for metric in result["metrics"]:
            bounds = (metric["ci_low"], metric["ci_high"])
            rows.append(
                {
                    "task": name,
                    "metric": metric["name"],
                    "value": _number(metric["value"]),
                    "95 % interval": "" if None in bounds else " to ".join(map(_number, bounds)),
                    "n": metric["num_samples"],
                }
            )
    return rows[:_MOST_ROWS]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _stage_words(document: dict[str, Any]) -> list[str]:
    words = []
    for stage, value in document["stages"].items():
        # Those of training stages, with a slash in them, have lines of their own.
        counts = ", ".join(f"{n} {name}" for name, n in value["counts"].items() if "/" not in name)
        words.append(f"{stage} ({counts})")
    return words


def _places(document: dict[str, Any]) -> list[tuple[str, str]]:
    places = []
    page = document.get("page", {})
    if "html" in page:
        places.append(("Page", page["html"]))
    if "report" in document:
        places.append(("Report", document["report"]))
    model = document.get("model")
    if model is not None:
        if model["uri"]:
            moved = alias_words(model)
            places.append(("Model", f"{model['uri']}  (from Python: vlmvid.load({model['alias_uri']!r}))"))
            places += [("Alias", moved)] if moved else []
        else:
            places.append(("Model", f"not registered: {model['gap']}"))
        places.append(("Weights", str(model["model_folder"])))
    tracking = document["tracking"]
    if tracking["uri"]:
        places.append(("MLflow", tracking["command"]))
    places += [("Gap", f"the report is not drawn: {page['error']}")] if "error" in page else []
    places += [("Gap", gap) for gap in tracking["gaps"]]
    return places


def _tracking(context: RunContext) -> dict[str, Any]:
    if not context.recipe.tracking.enabled:
        return {"uri": None, "command": "", "gaps": []}
    uri = without_password(context.registry_uri)
    command = uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"
    return {"uri": uri, "command": command, "gaps": list(context.tracker.gaps)}
