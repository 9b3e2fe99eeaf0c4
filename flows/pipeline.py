"""The whole pipeline: every stage of a recipe, in order."""

from __future__ import annotations

from prefect import Flow, flow
from prefect.artifacts import create_markdown_artifact

from flows.align import align
from flows.curate import curate
from flows.decode import decode
from flows.encode import encode
from flows.evaluate import evaluate
from flows.ingest import ingest
from flows.register import register
from flows.search import search
from vlmvid.artifacts import ArtifactRef
from vlmvid.pipeline import make_request, pipeline_run, preflight, summarise, summary_markdown

STAGE_FLOWS: dict[str, Flow[..., ArtifactRef]] = {
    flow.name: flow for flow in (ingest, curate, decode, encode, align, evaluate, register, search)
}


@flow(name="vlmvid-pipeline")
def pipeline(
    recipe: str,
    overrides: list[str] | None = None,
    home: str | None = None,
    retry_failed: bool = False,
    verify: bool = False,
) -> dict[str, ArtifactRef]:
    """From videos with text to a registered, evaluated model; one artifact per stage."""
    request = make_request(recipe, overrides or (), home=home, retry_failed=retry_failed, verify=verify)
    preflight(request)
    with pipeline_run(request) as context:
        results: dict[str, ArtifactRef] = {
            stage: STAGE_FLOWS[stage](
                recipe=request.recipe, home=request.home, retry_failed=retry_failed, verify=verify
            )
            for stage in context.recipe.stages()
        }
    create_markdown_artifact(summary_markdown(summarise(request)), key="vlmvid-summary")
    return results
