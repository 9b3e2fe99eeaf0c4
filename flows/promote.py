"""Move a registered model's alias through the gates, or back."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows._forms import Alias, Candidate, Gates, Home, ModelName, PromotionAction, TrackingUri
from flows._logs import share_logs
from flows._policies import TASK_OPTIONS
from flows._show import show
from vlmvid.pipeline.promotion import PromotionRequest, PromotionResult, promotion_markdown
from vlmvid.pipeline.promotion import promote as promote_model
from vlmvid.pipeline.promotion import rollback as roll_back


@task(name="promote", task_run_name="{action} {request.model_name}", **TASK_OPTIONS)
def promote_task(request: PromotionRequest, action: PromotionAction) -> PromotionResult:
    """The gates and the alias."""
    return promote_model(request) if action == "promote" else roll_back(request)


@flow(name="promote")
def promote(
    model_name: ModelName,
    action: PromotionAction = "promote",
    candidate: Candidate = "candidate",
    alias: Alias = "champion",
    gates: Gates = "configs/gates/default.yaml",
    tracking_uri: TrackingUri = "",
    home: Home = "",
) -> State[Any]:
    """Point an alias at the candidate when it passes every gate; a run that promotes nothing fails, and says why."""
    request = PromotionRequest(
        model_name=model_name,
        candidate=candidate,
        alias=alias,
        gates=gates,
        tracking_uri=tracking_uri or None,
        home=home or None,
    )
    share_logs()
    result = promote_task(request, action)
    text = promotion_markdown(result)
    show(lambda: create_markdown_artifact(text, key="vlmvid-promotion", description="The gates, one by one."))
    if not result.promoted:
        return Failed(message=result.reason)
    return Completed(message=result.reason, data=result)
