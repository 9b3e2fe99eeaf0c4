"""The code digest: which vlmvid modules decide a stage's result, and what they say.

The transitive import closure of the stage's root modules, lazy imports and registry strings
("vlmvid.video.readers.pyav:PyAVReader") included, is hashed module by module as docstring-stripped
AST: comments, formatting and documentation cost no recomputation, and nobody bumps a version.
The plumbing is left out; `config` too, because its resolved values are in every key already.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

PACKAGE = "vlmvid"
PLUMBING = ("errors", "registry", "config", "artifacts", "tracking", "pipeline", "cli")
PACKAGES_THAT_DECIDE = (
    "av",
    "decord",
    "numpy",
    "peft",
    "PIL",
    "py3langid",
    "scipy",
    "sklearn",
    "timm",
    "tokenizers",
    "torch",
    "torchcodec",
    "transformers",
)
_DISTRIBUTION = {"PIL": "pillow", "sklearn": "scikit-learn"}


def module_file(name: str, root: Path) -> Path | None:
    """The source file of a dotted module below `root` (the folder that holds the package)."""
    base = root.joinpath(*name.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def code_closure(roots: Iterable[str], root: Path | None = None) -> tuple[dict[str, str], tuple[str, ...]]:
    """Digests of every module that `roots` reach, and the deciding packages they import.

    Args:
        roots: dotted names of the modules that decide a stage's result.
        root: the folder that holds the package; None = the installed one.

    Returns:
        ({module name: sha256 hex, first 16 digits}, sorted import names of PACKAGES_THAT_DECIDE).
    """
    base = root or Path(__file__).parents[2]
    digests: dict[str, str] = {}
    packages: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in digests or _is_plumbing(name):
            continue
        file = module_file(name, base)
        if file is None:
            continue
        digest, imports = _read_module(file, name)
        digests[name] = digest
        for imported in imports:
            top = imported.partition(".")[0]
            if top == PACKAGE:
                waiting.append(imported)
            elif top in PACKAGES_THAT_DECIDE:
                packages.add(top)
    return dict(sorted(digests.items())), tuple(sorted(packages))


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Installed versions by import name; ``"absent"`` for a package that is not installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(_DISTRIBUTION.get(name, name))
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    return versions


def combined_digest(code: Mapping[str, str], packages: Mapping[str, str]) -> str:
    """One digest of a closure, for clip keys."""
    text = repr(sorted(code.items())) + repr(sorted(packages.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_plumbing(name: str) -> bool:
    parts = name.split(".")
    return len(parts) > 1 and parts[1] in PLUMBING


@lru_cache(maxsize=1024)
def _read_module(file: Path, name: str) -> tuple[str, tuple[str, ...]]:
    # Once per process: a long-lived worker runs the code it imported, not what was put on the disk since.
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imports = tuple(sorted(_imports(tree, name, is_package=file.name == "__init__.py")))
    _strip_docstrings(tree)
    digest = hashlib.sha256(ast.dump(tree, include_attributes=False).encode()).hexdigest()[:16]
    return digest, imports


def _strip_docstrings(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or not node.body:
            continue
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = node.body[1:] or [ast.Pass()]


def _imports(tree: ast.Module, name: str, *, is_package: bool) -> set[str]:
    """Dotted names a module imports anywhere, and module names it holds as strings."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, name, is_package=is_package)
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            module = node.value.partition(":")[0]
            if module.startswith(f"{PACKAGE}.") and module.replace(".", "").replace("_", "").isalnum():
                found.add(module)
    return found


def _absolute(node: ast.ImportFrom, name: str, *, is_package: bool) -> str:
    if node.level == 0:
        return node.module or ""
    parts = name.split(".")
    keep = len(parts) - node.level + (1 if is_package else 0)
    return ".".join([*parts[:keep], *([node.module] if node.module else [])])
