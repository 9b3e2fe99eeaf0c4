"""Mistakes of a recipe that would otherwise show only after the expensive stages."""

from __future__ import annotations

import logging

from vlmvid.evaluation.tasks import TASKS
from vlmvid.pipeline import end_to_end
from vlmvid.pipeline.context import open_context
from vlmvid.pipeline.encode import vision_backbone
from vlmvid.pipeline.filter import check_model
from vlmvid.pipeline.plan import plan
from vlmvid.pipeline.request import RunRequest
from vlmvid.pipeline.texts import text_encoder

logger = logging.getLogger(__name__)


def preflight(request: RunRequest) -> None:
    """Raise ConfigError for what can be known to fail before any video is opened.

    Rules of curation (by the plan), names of tasks, the device, a model that filters with other features than
    the recipe's, encoders that are to learn and take no adapters, and, when something is to be encoded, that the
    backbone and the text encoder load and give the features that are asked for.
    """
    request = request.model_copy(update={"verify": False})  # the run itself will hash everything again
    context = open_context(request)
    resolved = context.device
    context.keys.parts("ingest")  # which the plan can do without
    stages = {stage.name: stage.status for stage in plan(request)}
    if context.recipe.evaluate is not None:
        for name in context.recipe.evaluate.tasks:
            TASKS.get(name)
    if stages["encode"] == "run":
        vision_backbone(context)
        text_encoder(context)
    if stages.get("align") == "run":
        end_to_end.check(context)
    if stages.get("filter") == "run":
        check_model(context)
    logger.debug("preflight of %s on %s: in order", context.recipe.name, resolved)
