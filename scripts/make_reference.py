"""docs/reference/*.md from the code: commands from the parser, recipe keys from their models, Python from docstrings.

python scripts/make_reference.py            # writes the pages
python scripts/make_reference.py --check    # exit code 1 when one is stale
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from annotated_types import BaseMetadata
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_json

from vlmvid.cli import parser
from vlmvid.config.gates import GatesConfig
from vlmvid.config.probing import ProbeRecipe
from vlmvid.config.schema import Recipe
from vlmvid.data import DATASETS

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reference"
MADE = "<!-- Made by scripts/make_reference.py from the code; change the code, not this page. -->\n"
# The Python surface: modules, and which of their names; () = all that __all__ names.
PYTHON: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("The package", "vlmvid", ("load", "results")),
    ("A loaded model", "vlmvid.serving.model", ("VideoTextModel",)),
    ("An index of videos", "vlmvid.serving.video_index", ("VideoIndex", "IndexedClip", "Moment")),
    ("Results of an evaluation", "vlmvid.serving.evaluation_results", ("EvaluationResults",)),
    ("What a search found", "vlmvid.serving.search_results", ("SearchResults", "SearchHit")),
    ("Values that show themselves", "vlmvid.serving.showing", ("Showable",)),
    ("Reading videos", "vlmvid.video.readers.reader", ("open_video", "VideoReader")),
    ("Values", "vlmvid.types", ("Clip", "Question", "FrameBatch", "MetricResult")),
    ("Losses", "vlmvid.losses.contrastive", ("sigmoid_loss", "info_nce")),
    ("Metrics", "vlmvid.metrics", ()),
    ("Errors", "vlmvid.errors", ()),
)


def commands_page() -> str:
    """Every command with its arguments."""
    lines = ["# Commands", "", MADE, *_command_intro()]
    for name, command in _commands().items():
        lines += ["", f"## vlmvid {name}", "", _sentence(command.description or ""), ""]
        lines += ["| argument | default | what it is |", "| --- | --- | --- |"]
        lines += [_argument_row(action) for action in command._actions if action.dest != "help"]
    return "\n".join(lines) + "\n"


def _command_intro() -> list[str]:
    return [
        "Results go to stdout, logs and progress bars to stderr. Exit codes: 0 done, 1 the work failed, 2 bad usage or "
        "config. `vlmvid -v COMMAND` logs more, `-vv` everything. Tables are cut to the width of a terminal and never "
        "elsewhere; colours and filmstrips are for terminals that have them (`NO_COLOR` takes both away).",
    ]


def _commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def _argument_row(action: argparse.Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices:
        value = " or ".join(map(str, action.choices))
    takes = action.nargs != 0
    if action.option_strings:
        shown = ", ".join(action.option_strings) + (f" {value}" if takes else "")
    else:
        shown = value + ("..." if action.nargs in ("+", "*") else "")
    if action.required and action.option_strings:
        default = "required"
    elif not action.option_strings:
        default = "required" if action.nargs in (None, "+") else ""
    else:
        default = "" if not takes or action.default in (None, [], argparse.SUPPRESS) else str(action.default)
    return f"| `{_cell(shown)}` | {_cell(default)} | {_cell(action.help or '')} |"


def recipe_page() -> str:
    """Every key of a recipe, of its datasets, of gates and of a probe."""
    lines = [
        "# Recipes",
        "",
        MADE,
        "A recipe is YAML. `extends: other.yaml` takes over another one, whose keys this one changes; "
        "`-o a.b=c` changes one key on the command line. An unknown key is an error. Below each section stands where "
        "its keys belong.",
    ]
    seen: set[type[BaseModel]] = set()
    for title, model, place in (
        ("A recipe", Recipe, ""),
        ("A file of gates (`vlmvid promote --gates`)", GatesConfig, ""),
        ("A probe (`vlmvid probe`)", ProbeRecipe, ""),
    ):
        lines += ["", f"## {title}"]
        lines += _sections(model, place, seen)
    lines += ["", "## data.options of each dataset", "", "`data.name` chooses the dataset; these are its own options."]
    for name in DATASETS:
        module, _, class_name = DATASETS.get(name).partition(":")
        options = getattr(importlib.import_module(module), class_name).options_class
        lines += ["", f"### {name}", *_section(options)]
    return "\n".join(lines) + "\n"


def _sections(root: type[BaseModel], place: str, seen: set[type[BaseModel]]) -> Iterator[str]:
    """A model and those that it holds, breadth first; each where it is met first."""
    waiting = [(root, place)]
    while waiting:
        model, place = waiting.pop(0)
        if model in seen:
            continue
        seen.add(model)
        yield from ("", f"### {place or model.__name__}", *_section(model))
        for name, field in model.model_fields.items():
            key = field.alias or name
            waiting += [(held, f"{place}.{key}" if place else key) for held in _models_in(field.annotation)]


def _section(model: type[BaseModel]) -> Iterator[str]:
    if "__doc__" in vars(model) and model.__doc__:
        yield from ("", *_prose(model.__doc__))
    if not model.model_fields:
        yield from ("", "It has no options.")
        return
    yield from ("", "| key | type | default | |", "| --- | --- | --- | --- |")
    for name, field in model.model_fields.items():
        told = "; ".join(part for part in (field.description or "", _limits(field)) if part)
        cells = (f"`{field.alias or name}`", f"`{_cell(_type(field.annotation))}`", _default(field), _cell(told))
        yield f"| {' | '.join(cells)} |"


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]


def _type(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is typing.Literal:
        return " or ".join(map(str, parts))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(part) for part in parts)
    if origin is typing.Annotated:
        return _type(parts[0])
    if origin is tuple:
        return (
            f"list of {_type(parts[0])}"
            if parts[-1] is ...
            else f"list of {len(parts)}: {', '.join(map(_type, parts))}"
        )
    if origin is dict:
        return f"{_type(parts[0])} to {_type(parts[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    plain = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "anything"}
    return plain.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or isinstance(value, BaseModel):
        return "its defaults"
    return f"`{_cell(to_json(value).decode())}`"


def _limits(field: FieldInfo) -> str:
    words = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
    found = [item for item in field.metadata if isinstance(item, BaseMetadata)]
    return ", ".join(f"{words[name]} {getattr(item, name)}" for item in found for name in words if hasattr(item, name))


def python_page() -> str:
    """The public Python surface, from docstrings; nothing is imported, so that torch need not be."""
    lines = ["# Python", "", MADE, "What scripts and notebooks may rely on. Everything else may change."]
    for title, module, names in PYTHON:
        tree = _tree(module)
        wanted = names or _all_of(tree)
        lines += ["", f"## {title}", "", f"`{module}`"]
        for name in wanted:
            lines += _definition(*_find(module, name), name)
    return "\n".join(lines) + "\n"


def _tree(module: str) -> ast.Module:
    base = ROOT.joinpath(*module.split("."))
    file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _all_of(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


def _find(module: str, name: str) -> tuple[str, ast.AST]:
    """The definition of a name, followed through imports."""
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and node.module and any(alias.name == name for alias in node.names):
            return _find(node.module, name)
    raise SystemExit(f"{module} has no {name!r}; correct PYTHON in {__file__}")


def _definition(module: str, node: Any, name: str) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef):
        yield from ("", f"### {name}", "", *_function(node, name), *_prose(ast.get_docstring(node) or ""))
        return
    yield from ("", f"### {name}", "", *_prose(ast.get_docstring(node) or ""))
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and not _is_hidden(item)]
    if fields and not re.search(r"^Attributes:", ast.get_docstring(node) or "", re.MULTILINE):
        yield from ("", "Fields: " + ", ".join(f"`{ast.unparse(field)}`" for field in fields) + ".")
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_") and not _is_overload(method):
            kinds = {ast.unparse(decorator) for decorator in method.decorator_list}
            shown = f"{name}.{method.name}"
            head = [f"`{shown}`", ""] if kinds & {"property", "cached_property"} else _function(method, shown)
            yield from ("", f"#### {method.name}", "", *head, *_prose(ast.get_docstring(method) or ""))


def _is_hidden(field: ast.AnnAssign) -> bool:
    name = ast.unparse(field.target)
    return name.startswith("_") or name == "model_config" or "ClassVar" in ast.unparse(field.annotation)


def _is_overload(method: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator) == "overload" for decorator in method.decorator_list)


def _function(node: ast.FunctionDef, name: str) -> list[str]:
    arguments = node.args
    for some in (arguments.posonlyargs, arguments.args):
        some[:] = [argument for argument in some if argument.arg not in ("self", "cls")]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    one = f"{name}({ast.unparse(arguments)}){returns}"
    if len(one) > 100:
        one = f"{name}(\n    " + ",\n    ".join(_split(ast.unparse(arguments))) + f",\n){returns}"
    return ["```python", one, "```", ""]


def _split(arguments: str) -> list[str]:
    """At commas that stand in no brackets."""
    found, depth, start = [], 0, 0
    for place, character in enumerate(arguments):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            found.append(arguments[start:place].strip())
            start = place + 1
    return [*found, arguments[start:].strip()]


def _prose(docstring: str) -> list[str]:
    """A docstring as Markdown: sections such as Args become lists."""
    lines: list[str] = []
    literal = False
    for line in inspect.cleandoc(docstring).splitlines():
        if literal and (not line.strip() or line.startswith("  ")):
            lines.append(line if not line.strip() else f"    {line.strip()}")
            continue
        literal = False
        if line.strip() == "::":
            literal = True
        elif match := re.fullmatch(r"(Args|Attributes|Returns|Raises|Class attributes):", line):
            lines += ["", f"**{match[1]}**", ""]
        elif match := re.match(r"    ([\w, *]+): (.*)", line):
            lines.append(f"- `{match[1]}`: {match[2]}")
        elif line.startswith("    "):
            bare = line.strip()
            continues = line.startswith("        ") and lines and lines[-1].startswith("- ")
            lines[-1:] = [f"{lines[-1]} {bare}"] if continues else [*lines[-1:], bare]
        else:
            lines.append(line)
    text = re.sub(r"``([^`]+)``", r"`\1`", "\n".join(lines))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n").splitlines()


def _sentence(text: str) -> str:
    text = _cell(text)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", ")")) else ".")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("%%", "%")


PAGES = {"commands.md": commands_page, "recipe.md": recipe_page, "python.md": python_page}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or say which are stale."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a page is stale")
    check = options.parse_args(arguments).check
    stale = []
    for name, make in PAGES.items():
        text, path = make(), FOLDER / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
    if stale:
        sys.stderr.write(f"{'stale' if check else 'written'}: {', '.join(stale)}\n")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
