"""docker/compose.yaml and docker/Dockerfile as Compose and a builder would read them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?:(:?[-?+])([^}]*))?\})")


class MissingVariableError(Exception):
    """A variable that Compose refuses to go on without."""


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """`text` with Compose's variables put in; the forms ``${A}``, ``${A:-b}``, ``${A:?b}``, ``${A:+b}`` and ``$$``."""

    def value(match: re.Match[str]) -> str:
        dollar, name, kind, word = match.groups()
        if dollar:
            return "$"
        found = variables.get(name, "")
        if kind == ":?" and not found:
            raise MissingVariableError(f"{name}: {word}")
        if kind == ":+":
            return word if found else ""
        return found or (word if kind == ":-" else "")

    return VARIABLE.sub(value, text)


def read_environment(file: Path) -> dict[str, str]:
    """The variables of an env file."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return {name: value.strip("'") for name, _, value in (line.partition("=") for line in lines)}


def compose(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The compose file; with `variables`, interpolated."""
    parsed = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return parsed if variables is None else _mapped(parsed, variables)  # type: ignore[no-any-return]


def _mapped(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return interpolate(value, variables)
    if isinstance(value, list):
        return [_mapped(item, variables) for item in value]
    if isinstance(value, dict):
        # Anchors under x- are used below `services`, and looked at there.
        return {key: _mapped(item, variables) for key, item in value.items() if not str(key).startswith("x-")}
    return value


@dataclass
class Stage:
    """One stage of a Dockerfile: what it stands on, and its instructions."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [rest for name, rest in self.instructions if name == word]


def dockerfile() -> tuple[dict[str, str], dict[str, Stage]]:
    """The arguments before the first stage with their defaults, and the stages by name."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for line in filter(None, map(str.strip, re.sub(r"\\\n\s*", " ", text).splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = stages.setdefault(name, Stage(name, base))
        elif stage is None:
            arguments.update([rest.split("=", 1)])
        else:
            stage.instructions.append((word, rest.strip()))
    return arguments, stages


def chain(stages: Mapping[str, Stage], target: str) -> list[Stage]:
    """A stage and those below it, the lowest first."""
    found = [stages[target]]
    while found[0].base in stages:
        found.insert(0, stages[found[0].base])
    return found
