"""Every command says what it does and gives its result as JSON; a bar or a colour is nobody's own."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlmvid.cli import parser

ROOT = Path(__file__).parents[2]
MODULES = sorted([*(ROOT / "vlmvid").rglob("*.py"), *(ROOT / "flows").rglob("*.py")])
OF_TQDM = {"vlmvid/pipeline/progress.py", "vlmvid/pipeline/vlm_stage.py", "vlmvid/cli/__init__.py"}
OF_RICH = {"vlmvid/serving/terminal.py"}


def commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_takes_json_and_says_what_it_does(name: str) -> None:
    command = commands()[name]
    options = {text: action for action in command._actions for text in action.option_strings}
    assert "--json" in options, f"vlmvid {name} has no --json"
    assert options["--json"].nargs == 0 and options["--json"].default is False
    assert command.description and command.get_default("command") is not None


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


def test_bars_and_tables_are_drawn_in_one_place() -> None:
    used: dict[str, set[str]] = {"tqdm": set(), "rich": set()}
    for path in MODULES:
        for name in used.keys() & set(imports(path)):
            used[name].add(path.relative_to(ROOT).as_posix())
    assert used == {"tqdm": OF_TQDM, "rich": OF_RICH}
