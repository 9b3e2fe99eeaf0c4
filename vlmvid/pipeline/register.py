"""The register stage: one self-contained model folder, registered once, with its alias."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from vlmvid.artifacts import ArtifactRef
from vlmvid.artifacts.files import read_json, write_json
from vlmvid.errors import TrackingError
from vlmvid.pipeline.context import RunContext, open_context
from vlmvid.pipeline.encode import vision_backbone
from vlmvid.pipeline.request import RunRequest
from vlmvid.pipeline.texts import text_encoder
from vlmvid.tracking.base import NullRun, RegisteredModel

logger = logging.getLogger(__name__)
STAGE = "register"
REGISTERED_FILE = "registered.json"


def compute(request: RunRequest) -> ArtifactRef:
    """Build the model folder and register it.

    When the registry does not answer, the model folder is kept, the gap is logged and the
    artifact says so; the next run tries to register again.
    """
    context = open_context(request)
    parts = context.keys.parts("register")
    folder = context.store.home / "models" / parts.key
    registered: RegisteredModel | None = None
    gap = ""
    with context.store.lock(STAGE, parts.key):
        if not (folder / "model.json").is_file():
            _build(request, context, folder)
        try:
            registered = _register(context, folder)
        except TrackingError as error:
            gap = str(error)
            logger.warning("register: the model was not registered: %s", gap)
        answer = {
            "model_folder": str(folder),
            "name": registered.name if registered else None,
            "version": registered.version if registered else None,
            "uri": registered.uri if registered else None,
            "alias_uri": f"models:/{registered.name}@{_alias(context)}" if registered else None,
            "gap": gap,
        }
        return context.publish(
            "register",
            "model",
            lambda target: write_json(target / REGISTERED_FILE, answer),
            counts={"registered": int(registered is not None)},
        )


def read_registered(folder: Path) -> dict[str, str | None]:
    """What `compute` wrote: name, version, uri, alias_uri, model_folder, gap."""
    value: dict[str, str | None] = read_json(folder / REGISTERED_FILE)
    return value


def _build(request: RunRequest, context: RunContext, folder: Path) -> None:
    from vlmvid.models.saving import save_text, save_vision
    from vlmvid.serving.model_folder import write_model_folder

    with tempfile.TemporaryDirectory(dir=context.store.home) as scratch:
        vision, text = Path(scratch, "vision"), Path(scratch, "text")
        save_vision(vision_backbone(request), vision)
        save_text(text_encoder(request), text)
        write_model_folder(
            folder,
            vision_folder=vision,
            text_folder=text,
            alignment_folder=context.folder("align"),
            decode=context.recipe.decode,
            info={
                "recipe": context.recipe.name,
                **{f"{stage}_key": context.keys.key(stage) for stage in ("ingest", "decode", "encode", "align")},
            },
        )


def _register(context: RunContext, folder: Path) -> RegisteredModel:
    config = context.recipe.register_
    assert config is not None  # the stage exists only with its section
    keys = context.keys
    tags = {f"vlmvid.{stage}_key": keys.key(stage) for stage in ("ingest", "encode", "align")}
    if context.recipe.evaluate is not None:
        tags["vlmvid.evaluate_key"] = keys.key("evaluate")
    return context.tracker.register(
        model_folder=folder,
        model_name=config.model_name,
        alias=config.alias,
        fingerprint=keys.key("register"),
        tags=tags,
        stage_run=context.stage_runs.get(STAGE, NullRun()),
    )


def _alias(context: RunContext) -> str:
    assert context.recipe.register_ is not None  # the stage exists only with its section
    return context.recipe.register_.alias
