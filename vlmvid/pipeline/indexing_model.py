"""What a build of a video index knows of its model without loading it: what it reads, and whether that fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlmvid.artifacts import KeyParts, Store
from vlmvid.artifacts.code import code_closure, combined_digest, package_versions
from vlmvid.artifacts.digests import sha256_file
from vlmvid.artifacts.files import read_json
from vlmvid.artifacts.keys import flatten
from vlmvid.config.encoders import VisionConfig
from vlmvid.config.schema import DecodeConfig
from vlmvid.errors import ConfigError
from vlmvid.pipeline.indexing_sources import artifact_features, artifact_recipe
from vlmvid.serving.video_index_files import STAGE, IndexDescription

CODE_ROOTS = (
    "vlmvid.serving.video_index_embedding",
    "vlmvid.serving.visual_features",
    "vlmvid.serving.dual_encoder",
)
_ACCEPTED = "index.json"  # where the digest of accepted code is from


@dataclass(frozen=True)
class ModelFacts:
    """What can be said of a model without loading it.

    `digest` is its `embedding_digest`; `is_adapted` says that its own vision encoder was trained; `sees` is `seen_by`;
    `features` is what decides the features it was trained on, as `StageKeys.features_config`, None where the model is
    of an earlier vlmvid, and `encode_key` the artifact that held them, empty where it was not made by a recipe.
    """

    folder: Path
    digest: str
    is_adapted: bool
    sees: str
    features: Mapping[str, Any] | None
    encode_key: str


def model_facts(uri: str) -> ModelFacts:
    """The model at `uri`, its files checked; raises ConfigError when it embeds no videos, and as `vlmvid.load`."""
    from vlmvid.serving.load import fetch_model_folder

    folder = fetch_model_folder(uri)
    facts = _facts(folder, sha256_file(folder / "model.json"))
    if not facts.digest:
        raise ConfigError(
            f"the model {uri} has no alignment, so it embeds neither videos nor texts and nothing can be searched with "
            "it; register one from a recipe with an 'align' section"
        )
    return facts


@lru_cache(maxsize=4)
def _facts(folder: Path, digest: str) -> ModelFacts:
    """The model in `folder`, whose files are hashed once per process and `digest` of its manifest."""
    from vlmvid.serving.model_folder import FEATURES, embedding_digest, read_decode, verify_model_folder

    manifest = verify_model_folder(folder)
    stated, info = read_json(folder / "vision" / "vision.json"), manifest["info"]
    vision = VisionConfig(backbone=stated["name"], **stated["features"])
    return ModelFacts(
        folder,
        embedding_digest(manifest["files"]),
        is_adapted="vision" in info.get("adapted", ()),
        sees=seen_by(read_decode(folder), vision),
        features=info.get(FEATURES),
        encode_key=str(info.get("encode_key", "")),
    )


def require_planned(uri: str, digest: str, planned: str) -> None:
    """Raise ConfigError unless the model at `uri`, of that digest, is the one of which the work was planned."""
    if digest != planned:
        raise ConfigError(
            f"{uri} is another model (digest {digest}) than when the build began (digest {planned}): its alias moved, "
            "or its files were replaced; build the index again"
        )


def require_of_index(out: str, before: IndexDescription | None, uri: str, facts: ModelFacts) -> None:
    """Raise ConfigError where the index that is there was made with another model than that at `uri`."""
    if before is not None and before.model_digest != facts.digest:
        raise ConfigError(
            f"the video index {out} was made with the model {before.model_name!r} ({before.encoders}; digest "
            f"{before.model_digest}), and {uri} is another (digest {facts.digest}): their embeddings cannot "
            "be compared; name another folder with --out, or remove this one"
        )


def require_features(artifact: Path, uri: str, facts: ModelFacts) -> None:
    """Raise ConfigError unless the features of an encode artifact are what the model at `uri` was trained on."""
    if facts.is_adapted:
        raise ConfigError(
            f"the model {uri} was trained end to end, and the stored features of {artifact} are those "
            "of the encoder before it; give the videos themselves: their folder, or a manifest"
        )
    recipe = artifact_recipe(artifact)
    mend = "give the videos themselves, or the artifact of a recipe with the model's encoder"
    made, read = seen_by(recipe.decode, recipe.encode.vision), facts.sees
    if made != read:
        raise ConfigError(
            f"the stored features of {artifact} are of {made}, and the model {uri} reads those of {read}; {mend}"
        )
    if facts.features is None:
        if facts.encode_key != artifact.name:
            raise ConfigError(
                f"the model {uri} does not say of which weights and settings its features are, as earlier versions of "
                f"vlmvid wrote it, and it was not trained on {artifact}; {mend}"
            )
        return
    ours, theirs = flatten(artifact_features(artifact)), flatten(facts.features)
    differing = [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]
    if differing:
        told = ", ".join(f"{name} {ours.get(name)}, the model's {theirs.get(name)}" for name in differing)
        raise ConfigError(f"the stored features of {artifact} are not those that the model {uri} reads: {told}; {mend}")


def seen_by(decode: DecodeConfig, vision: VisionConfig) -> str:
    """What decides a clip's features, in words: backbone, feature and frames."""
    family, colon, name = vision.backbone.partition(":")
    layer = "" if vision.layer is None else f", layer {vision.layer}"
    feature = f"grid {vision.grid_size}" if vision.feature == "grid" else vision.feature
    sampling = decode.sampling.model_dump(mode="json", exclude_defaults=True)
    frames = ", ".join(f"{key}={value}" for key, value in sampling.items())
    # A folder's path says nothing on another machine.
    return f"{family}{colon}{Path(name).name if colon else name} ({feature}{layer}; {frames}, {decode.image_size} px)"


def accept_code(store: Store, before: IndexDescription | None) -> None:
    """Declare that what other code has embedded for an index stays valid under the code as it is now."""
    if before is not None and before.code:
        store.accept_code(STAGE, *_code(), KeyParts(stage=STAGE, code={_ACCEPTED: before.code}))


def code_digest(store: Store) -> str:
    """Digest of the code, and of the versions of packages, that make an embedding of a video; or the accepted one."""
    code, packages, is_accepted = store.accepted_code(STAGE, *_code())
    return code[_ACCEPTED] if is_accepted else combined_digest(code, packages)


def _code() -> tuple[dict[str, str], dict[str, str]]:
    modules, packages = code_closure(CODE_ROOTS)
    return modules, package_versions(packages)
