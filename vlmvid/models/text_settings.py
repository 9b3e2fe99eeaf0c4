"""How a text encoder reads and pools, and what a sentence-transformers folder says about it.

Such a folder lists its modules: a transformer, a pooling of one or several modes, dense layers, a normalisation.
Whatever else it lists is refused by name, because leaving it out would change every feature in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from vlmvid.config.encoders import TextConfig
from vlmvid.errors import CheckpointError, ConfigError
from vlmvid.models import sources
from vlmvid.models.module_files import read_tensors
from vlmvid.models.runtime import Precision
from vlmvid.models.text_families import sentence_modules
from vlmvid.models.text_pooling import TextPooling

# In the order in which the package concatenates them where its older, boolean entries are set.
_POOLINGS: dict[str, TextPooling] = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_length",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
_LEGACY_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_KNOWN_MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
_ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")


@dataclass(frozen=True, slots=True)
class TextSettings:
    """How texts become tokens and tokens one vector.

    Attributes:
        poolings: their results are concatenated; empty = the model's own ``pooler_output`` (SigLIP).
        max_length: tokens after which a text, its prompt included, is cut.
        prompt: put before every text.
        include_prompt: whether the prompt's tokens are pooled with the others.
        lower_case: whether texts are lowered before they are cut into tokens.
        fixed_length: every text is padded to so many tokens, all of which the model sees (SigLIP); None = to the
            longest of its batch, with a mask.
        precision: of the arithmetic (autocast); pooling and what follows are float32.
    """

    poolings: tuple[TextPooling, ...]
    max_length: int
    prompt: str = ""
    include_prompt: bool = True
    lower_case: bool = False
    fixed_length: int | None = None
    precision: Precision = "float32"


class Dense(nn.Module):
    """A linear layer and an activation behind the pooling, as sentence-transformers defines it."""

    def __init__(self, in_features: int, out_features: int, bias: bool, activation: str) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ConfigError(f"activation {activation!r} is not supported; expected {', '.join(_ACTIVATIONS)}")
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.activation = getattr(nn, activation)()

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_features) to (B, out_features)."""
        result: Tensor = self.activation(self.linear(features))
        return result

    def describe(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {
            "in_features": self.linear.in_features,
            "out_features": self.linear.out_features,
            "bias": self.linear.bias is not None,
            "activation": type(self.activation).__name__,
        }


class Normalize(nn.Module):
    """Division by the L2 norm."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) to (B, D) of length 1."""
        return F.normalize(features, dim=-1)

    def describe(self) -> dict[str, Any]:
        """Nothing to set."""
        return {}


def describe_tail(tail: nn.Sequential) -> list[dict[str, Any]]:
    """The layers behind the pooling as JSON values, for `build_tail`."""
    return [{"kind": type(layer).__name__, **cast("Dense | Normalize", layer).describe()} for layer in tail]


def build_tail(layers: Sequence[dict[str, Any]]) -> nn.Sequential:
    """The layers behind the pooling without their weights; raises ConfigError for an unknown one."""
    built: list[nn.Module] = []
    for layer in layers:
        values = dict(layer)
        match values.pop("kind"):
            case "Dense":
                built.append(Dense(**values))
            case "Normalize":
                built.append(Normalize())
            case kind:
                raise ConfigError(f"unknown layer {kind!r} behind the pooling; expected Dense or Normalize")
    return nn.Sequential(*built)


def read_sentence_transformers(folder: Path, config: TextConfig) -> tuple[TextSettings, nn.Sequential]:
    """What the modules of a sentence-transformers folder do behind the transformer.

    A normalisation at the end is left out: it changes a feature by a positive factor alone, and the projection
    head begins with a LayerNorm. `config` decides over the folder where it says something. `max_length` is the
    lower of both. Raises ConfigError for modules, poolings and activations other than those known here.
    """
    modules = _read_modules(folder)
    settings = TextSettings(("mean",), config.max_length)
    tail: list[nn.Module] = []
    for kind, path in modules:
        match kind:
            case "Transformer":
                settings = _with_transformer(settings, folder / path)
            case "Pooling":
                settings = _with_pooling(settings, folder / path, config)
            case "Dense":
                tail.append(_read_dense(folder / path))
            case "Normalize":
                tail.append(Normalize())
    while tail and isinstance(tail[-1], Normalize):
        tail.pop()
    return replace(settings, prompt=_read_prompt(folder, config.prompt)), nn.Sequential(*tail)


def _read_modules(folder: Path) -> list[tuple[str, str]]:
    modules = sentence_modules(folder)
    unknown = [
        name
        for name, _ in modules
        if not name.startswith("sentence_transformers.") or name.rpartition(".")[2] not in _KNOWN_MODULES
    ]
    kinds = [(name.rpartition(".")[2], path) for name, path in modules]
    order = [kind for kind, _ in kinds if kind in ("Transformer", "Pooling")]
    if unknown or order not in (["Transformer"], ["Transformer", "Pooling"]):
        raise ConfigError(
            f"{folder}: sentence-transformers modules {[name.rpartition('.')[2] for name, _ in modules]} are not "
            f"supported{f' ({unknown[0]})' if unknown else ''}; expected a Transformer, at most one Pooling, and then "
            "any of Dense and Normalize"
        )
    return kinds


def _with_transformer(settings: TextSettings, folder: Path) -> TextSettings:
    path = folder / "sentence_bert_config.json"
    values = sources.read_json(path) if path.is_file() else {}
    task = values.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise ConfigError(f"{path}: transformer_task={task!r} is not supported; expected 'feature-extraction'")
    limit = values.get("max_seq_length")
    return replace(
        settings,
        max_length=settings.max_length if limit is None else min(settings.max_length, int(limit)),
        lower_case=bool(values.get("do_lower_case", False)),
    )


def _with_pooling(settings: TextSettings, folder: Path, config: TextConfig) -> TextSettings:
    values = sources.read_json(folder / "config.json")
    stated = values.get("pooling_mode")
    if stated is None:
        stated = [mode for key, mode in _LEGACY_POOLINGS.items() if values.get(key)] or ["mean"]
    modes = [stated] if isinstance(stated, str) else list(stated)
    unknown = [mode for mode in modes if mode not in _POOLINGS]
    unknown += [key for key in values if key.startswith("pooling_mode_") and key not in _LEGACY_POOLINGS]
    if unknown:
        raise ConfigError(f"{folder}: pooling {unknown} is not supported; set text.pooling to mean, cls, last or eos")
    poolings = tuple(_POOLINGS[mode] for mode in modes) if config.pooling == "auto" else (config.pooling,)
    return replace(settings, poolings=poolings, include_prompt=bool(values.get("include_prompt", True)))


def _read_dense(folder: Path) -> Dense:
    values = sources.read_json(folder / "config.json")
    places = {values.get(key) or "sentence_embedding" for key in ("module_input_name", "module_output_name")}
    if values.get("use_residual") or places != {"sentence_embedding"}:
        raise ConfigError(f"{folder}: a Dense module with a residual, or on other than sentences, is not supported")
    activation = values.get("activation_function") or "torch.nn.modules.linear.Identity"
    package, _, activation_name = activation.rpartition(".")
    if not package.startswith("torch.nn") or activation_name not in _ACTIVATIONS:
        raise ConfigError(f"{folder}: activation {activation!r} is not supported; expected {', '.join(_ACTIVATIONS)}")
    bias = bool(values.get("bias", True))
    dense = Dense(int(values["in_features"]), int(values["out_features"]), bias, activation_name)
    (path,) = sources.weight_files(folder)
    weights = read_tensors(path)
    try:
        dense.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the weights do not fit the layer's config.json: {error}") from error
    return dense


def _read_prompt(folder: Path, asked: str | None) -> str:
    path = folder / "config_sentence_transformers.json"
    values = sources.read_json(path) if path.is_file() else {}
    prompts: dict[str, str] = values.get("prompts") or {}
    if asked is not None:
        return prompts.get(asked, asked)
    default = values.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise ConfigError(f"{path}: default_prompt_name {default!r} is none of its prompts {sorted(prompts)}")
    return prompts[default] if default is not None else ""
