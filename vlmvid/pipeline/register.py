"""The register stage: one self-contained model folder, registered once, with its alias."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmvid.artifacts import ArtifactRef, hash_json
from vlmvid.artifacts.digests import sha256_file
from vlmvid.artifacts.files import read_json, scratch_folder, write_json
from vlmvid.config import Recipe
from vlmvid.config.evaluation_options import VlmAnswersConfig
from vlmvid.config.gates import ModelKind
from vlmvid.config.schema import StageName
from vlmvid.errors import ArtifactError, TrackingError
from vlmvid.pipeline.context import RunContext, open_context
from vlmvid.pipeline.encode import vision_backbone
from vlmvid.pipeline.request import RunRequest
from vlmvid.pipeline.texts import text_encoder
from vlmvid.tracking.base import NullRun, RegisteredModel, Registration
from vlmvid.tracking.environment import code_tags
from vlmvid.tracking.registry import EVALUATE_KEY, KIND, MODEL_DIGEST

if TYPE_CHECKING:
    from vlmvid.serving.model_folder import Part

logger = logging.getLogger(__name__)
STAGE = "register"
REGISTERED_FILE = "registered.json"


def compute(request: RunRequest) -> ArtifactRef:
    """Build the model folder and register it.

    When the registry does not answer, the model folder is kept, the gap is logged and the
    artifact says so; the next run tries to register again.
    """
    context = open_context(request)
    folder = context.store.home / "models" / context.keys.key("register")
    if not (folder / "model.json").is_file() or (request.verify and not _is_whole(folder)):
        shutil.rmtree(folder, ignore_errors=True)
        _build(context, folder)
        context.store.events.emit("model.built", stage=STAGE)
    return _publish(context, _answer(context, folder))


def _publish(context: RunContext, answer: dict[str, str | None]) -> ArtifactRef:
    return context.publish(
        "register",
        "model",
        lambda target: write_json(target / REGISTERED_FILE, answer),
        counts={"registered": int(answer["uri"] is not None)},
    )


def confirm(request: RunRequest, ref: ArtifactRef) -> ArtifactRef:
    """Make sure that a cached registration still stands and that its alias points to it.

    Another recipe may have moved the alias, and a registry can be lost: then it is done again.
    """
    context = open_context(request)
    known = read_registered(context.store.open_artifact(STAGE, ref.key))
    folder = Path(str(known["model_folder"]))
    if not (folder / "model.json").is_file() or (request.verify and not _is_whole(folder)):
        return compute(request)
    answer = _answer(context, folder)
    if answer == {"moved_from": None, **known} or answer["uri"] is None:
        return ref
    return _publish(context, answer)


def _is_whole(folder: Path) -> bool:
    from vlmvid.serving.model_folder import verify_model_folder

    try:
        verify_model_folder(folder)
    except ArtifactError as error:
        logger.warning("register: %s; the model folder is built again", error)
        return False
    return True


def _answer(context: RunContext, folder: Path) -> dict[str, str | None]:
    answer: dict[str, str | None] = {
        "model_folder": str(folder),
        "name": None,
        "version": None,
        "uri": None,
        "alias_uri": None,
        "moved_from": None,
        "gap": "",
    }
    try:
        registered = _register(context, folder)
    except TrackingError as error:
        logger.warning("register: the model was not registered: %s", error)
        return {**answer, "gap": str(error)}
    context.store.events.emit("model.registered", stage=STAGE, version=registered.version)
    answer |= {
        "name": registered.name,
        "version": registered.version,
        "uri": registered.uri,
        "alias_uri": f"models:/{registered.name}@{_alias(context)}",
        "moved_from": registered.moved_from,
    }
    if registered.moved_from is not None:
        logger.info("register: %s", alias_words(answer))
    return answer


def alias_words(answer: dict[str, str | None]) -> str:
    """That registering moved the alias, in words; empty where it did not."""
    moved_from = answer.get("moved_from")
    if moved_from is None:
        return ""
    alias = str(answer["alias_uri"]).rpartition("@")[2]
    return f"{alias} moved from version {moved_from} to {answer['version']}"


def read_registered(folder: Path) -> dict[str, str | None]:
    """What `compute` wrote: name, version, uri, alias_uri, moved_from, model_folder, gap."""
    value: dict[str, str | None] = read_json(folder / REGISTERED_FILE)
    return value


def _build(context: RunContext, folder: Path) -> None:
    from vlmvid.data.instructions import CAPTION_PROMPTS
    from vlmvid.serving.model_folder import ANSWERS, CAPTION_PROMPT, FEATURES, write_model_folder
    from vlmvid.serving.speaker import Ranking
    from vlmvid.serving.visual_features import StoredAs

    recipe = context.recipe
    encode = recipe.encode
    info: dict[str, Any] = {
        "recipe": recipe.name,
        "adapted": list(recipe.adapted_encoders),
        FEATURES: context.keys.features_config(),
    }
    if recipe.train_vlm is not None:
        # Kept with the model, so that what it says does not change with the words of later code.
        info[CAPTION_PROMPT] = CAPTION_PROMPTS[0]
        asked = recipe.evaluate.vlm if recipe.evaluate is not None else VlmAnswersConfig()
        info[ANSWERS] = Ranking(rank_by=asked.rank_by, with_choices=asked.with_choices).model_dump(mode="json")
    with scratch_folder(context.store.home) as scratch:
        write_model_folder(
            folder,
            parts=_write_parts(context, scratch),
            decode=recipe.decode,
            stored=StoredAs(dtype=encode.dtype, from_tokens=encode.keep_tokens, tiling=encode.tiling),
            info={
                **info,
                **{f"{stage}_key": context.keys.key(stage) for stage in ("ingest", "decode", "encode")},
                **{f"{stage}_key": context.keys.key(stage) for stage in _trained(context)},
            },
        )


def _write_parts(context: RunContext, scratch: Path) -> dict[Part, Path]:
    """The parts of the model as folders below `scratch`."""
    from vlmvid.models.saving import save_text, save_vision

    recipe, adapted = context.recipe, context.recipe.adapted_encoders
    parts: dict[Part, Path] = {"vision": scratch / "vision"}
    if recipe.align is not None:
        parts |= {"text": scratch / "text", "alignment": scratch / "alignment"}
        shutil.copytree(context.folder("align"), parts["alignment"])
        # What was trained end to end lies beside the heads.
        for side in adapted:
            (parts["alignment"] / side).rename(scratch / side)
        if "text" not in adapted:
            save_text(text_encoder(context), parts["text"])
    if "vision" not in adapted:
        save_vision(vision_backbone(context), parts["vision"])
    if recipe.train_vlm is not None:
        parts |= _write_vlm(context, scratch)
        if "vision" in adapted:
            parts["vlm_vision"] = scratch / "vlm_vision"
            save_vision(vision_backbone(context), parts["vlm_vision"])
    return parts


def _write_vlm(context: RunContext, scratch: Path) -> dict[Part, Path]:
    from vlmvid.models.vlm.saving import save_vlm
    from vlmvid.pipeline.train_vlm import result_model, reward_folder
    from vlmvid.pipeline.vlm_start import features_made_from, load_stage

    assert context.recipe.train_vlm is not None  # the caller checked
    parts: dict[Part, Path] = {"vlm": scratch / "vlm"}
    made_from = features_made_from(context)
    save_vlm(result_model(context), parts["vlm"], made_from=made_from)
    head, name = reward_folder(context), context.recipe.train_vlm.reward
    if head is not None and name is not None:
        parts["reward"] = scratch / "reward"
        save_vlm(load_stage(context, name), parts["reward"], made_from=made_from)
        shutil.copytree(head, parts["reward"], dirs_exist_ok=True)
    return parts


def _trained(context: RunContext) -> list[StageName]:
    """The stages that trained what is registered."""
    stages: tuple[StageName, ...] = ("align", "train_vlm")
    return [stage for stage in stages if stage in context.recipe.stages()]


def _register(context: RunContext, folder: Path) -> RegisteredModel:
    config = context.recipe.register_
    assert config is not None  # the stage exists only with its section
    evaluated = context.recipe.evaluate is not None
    return context.tracker.register(
        Registration(
            model_folder=folder,
            model_name=config.model_name,
            alias=config.alias,
            fingerprint=context.keys.key("register"),
            tags={**_lineage(context), MODEL_DIGEST: sha256_file(folder / "model.json")},
            evaluation=context.folder("evaluate") if evaluated else None,
        ),
        context.stage_runs.get(STAGE, NullRun()),
    )


def _lineage(context: RunContext) -> dict[str, str]:
    """What a version was made of: its kind, its stages' keys, and digests of data, weights and code."""
    recipe, keys = context.recipe, context.keys
    stages: list[StageName] = ["ingest", "encode", *_trained(context)]
    tags = {f"vlmvid.{stage}_key": keys.key(stage) for stage in stages}
    if recipe.evaluate is not None:
        tags[EVALUATE_KEY] = keys.key("evaluate")
        stages.append("evaluate")
    parts = {stage: keys.parts(stage) for stage in stages}
    weights = {side: digest for one in parts.values() for side, digest in one.weights.items()}
    tags |= {f"vlmvid.{side}_digest": weights[side] for side in ("vision", "text", "language") if side in weights}
    return tags | {
        KIND: _kind(recipe),
        "vlmvid.recipe": recipe.name,
        "vlmvid.dataset": recipe.data.name,
        "vlmvid.dataset_digest": keys.key(keys.rows_stage),  # as the runs name the dataset that they read
        "vlmvid.code_digest": hash_json({name: [one.code, one.packages] for name, one in parts.items()}),
        "vlmvid.version": code_tags()["vlmvid.version"],
    }


def _kind(recipe: Recipe) -> ModelKind:
    if recipe.train_vlm is None:
        return "dual_encoder"
    return "vlm" if recipe.align is None else "dual_encoder_and_vlm"


def _alias(context: RunContext) -> str:
    assert context.recipe.register_ is not None  # the stage exists only with its section
    return context.recipe.register_.alias
