"""YAML recipes to validated models: one level of `extends`, dotted overrides, errors that name the key."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from vlmvid.config.schema import Recipe
from vlmvid.errors import ConfigError
from vlmvid.registry import nearest

M = TypeVar("M", bound=BaseModel)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `path`, with ``a.b=c`` overrides applied; files of stages that they name are relative to `path`.

    Raises ConfigError for a missing file, YAML that does not parse, a chain of `extends`, an
    override that is not ``key=value``, and every key or value that the schema refuses.
    """
    data = read_recipe_dict(Path(path))
    for override in overrides:
        apply_override(data, override)
        data = _with_stage_files(data, Path(path))  # an override may name one too
    return validate(Recipe, data, source=str(path))


def read_recipe_dict(path: Path) -> dict[str, Any]:
    """The merged mapping of `path` and the file it `extends`, not yet validated."""
    return _read_merged(path, _with_stage_files)


def _read_merged(path: Path, prepare: Callable[[dict[str, Any], Path], dict[str, Any]]) -> dict[str, Any]:
    data = prepare(read_yaml(path), path)
    base_name = data.pop("extends", None)
    if base_name is None:
        return data
    base_path = path.parent / str(base_name)
    base = prepare(read_yaml(base_path), base_path)
    if "extends" in base:
        raise ConfigError(
            f"{path} extends {base_path}, which itself extends {base['extends']!r}; "
            "only one level is allowed: copy the middle file's keys into one of the two"
        )
    return deep_merge(base, data)


def _with_stage_files(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """`data` with the files that ``train_vlm.stages`` names, relative to `path`, in the place of their names.

    A stage is a file's name, or a mapping; one with `extends` is laid over the file of that name.
    """
    section = data.get("train_vlm")
    stages = section.get("stages") if isinstance(section, dict) else None
    if not isinstance(section, dict) or not isinstance(stages, dict):
        return data
    read = {name: _with_stage_file(stage, path.parent) for name, stage in stages.items()}
    return {**data, "train_vlm": {**section, "stages": read}}


def _with_stage_file(stage: object, folder: Path) -> object:
    own = {"extends": stage} if isinstance(stage, str) else stage
    if not isinstance(own, dict) or "extends" not in own:
        return stage
    file = _read_merged(folder / str(own["extends"]), lambda found, _: found)
    return deep_merge(file, {name: value for name, value in own.items() if name != "extends"})


def read_yaml(path: Path, what: str = "recipe") -> dict[str, Any]:
    """The mapping in the YAML file `path`, by the safe loader; raises ConfigError, which calls the file a `what`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        siblings = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        known = f"; {path.parent} holds: {', '.join(siblings)}" if siblings else ""
        raise ConfigError(f"{what} {path} does not exist{nearest(path.name, siblings)}{known}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path} cannot be read: {error}") from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{what} {path} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{what} {path} must be a mapping of sections, got {type(data).__name__}")
    return data


def deep_merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `change` laid over it; mappings merge, everything else is replaced."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = deep_merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one ``section.key=value`` in place; the value is read as YAML."""
    dotted, separator, text = override.partition("=")
    if not separator or not dotted:
        raise ConfigError(f"override {override!r} must look like section.key=value, e.g. align.optim.num_steps=100")
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from error
    *parents, last = dotted.split(".")
    if last == "extends":
        raise ConfigError(
            f"override {override!r}: what extends a file is merged already; override the keys that differ, or give a "
            "stage another file whole: train_vlm.stages.NAME=FILE"
        )
    node = data
    for part in parents:
        child = node.get(part)
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"override {override!r}: {part!r} is {child!r}, not a section")
        node = child
    node[last] = value


def validate(model: type[M], data: object, *, source: str) -> M:
    """`data` as a `model`; every problem is named with its dotted key in one ConfigError."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(validation_message(error, model, source=source)) from error


def validation_message(error: ValidationError, model: type[BaseModel], *, source: str) -> str:
    """One line per problem: the dotted key, what was wrong, the value, and the nearest known key."""
    lines = []
    for problem in error.errors(include_url=False):
        location = [str(part) for part in problem["loc"]]
        dotted = ".".join(location) or "(top level)"
        if problem["type"] == "extra_forbidden":
            known = _known_keys(model, location[:-1])
            lines.append(f"unknown key {dotted!r}{nearest(location[-1], known)}; known here: {', '.join(known)}")
        elif problem["type"] == "missing":
            lines.append(f"missing key {dotted!r}; add it")
        elif problem["type"] == "value_error":  # ours, which name the value themselves
            lines.append(f"{dotted}: {problem['msg'].removeprefix('Value error, ')}")
        elif problem["type"] == "model_type":  # pydantic names the class
            lines.append(f"{dotted}: expected a section of keys; got {_short(problem['input'])}")
        else:
            lines.append(f"{dotted}: {problem['msg']}; got {_short(problem['input'])}")
    return f"{source}: " + "\n  ".join(lines)


def _short(value: object, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _known_keys(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    current: type[BaseModel] | None = model
    for part in path:
        if current is None:
            return []
        by_alias = {(field.alias or name): field for name, field in current.model_fields.items()}
        if part not in by_alias:
            continue  # an index into a list or tuple: the model is the element's, already found
        current = _model_in(by_alias[part].annotation)
    if current is None:
        return []
    return sorted(field.alias or name for name, field in current.model_fields.items())


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, list, tuple, dict):
        for argument in get_args(annotation):
            found = _model_in(argument)
            if found is not None:
                return found
    return None
