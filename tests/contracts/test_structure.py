"""The house rules, executable: import rows, sizes, typing, forbidden calls."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted([*(ROOT / "vlmvid").rglob("*.py"), *(ROOT / "flows").rglob("*.py")])
ROWS = {
    "errors": 0, "types": 0, "registry": 0,
    "config": 1, "artifacts": 1,
    "video": 2, "metrics": 2,
    "data": 3, "models": 3, "losses": 3,
    "training": 4, "evaluation": 4, "tracking": 4, "serving": 4,
    "pipeline": 5,
    "cli": 6,
}  # fmt: skip
FORBIDDEN_PAIRS = {("models", "data"), ("evaluation", "training")}
MLFLOW_MODULES = ("vlmvid/tracking/mlflow", "vlmvid/serving/pyfunc")  # how their names begin
NO_TORCH = {"video", "data", "metrics", "config", "artifacts", "evaluation"}
FLOW_IMPORTS = ("prefect", "flows", "vlmvid.config", "vlmvid.artifacts", "vlmvid.pipeline")
MAX_MODULE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 400, 60, 8


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def row_of(module: str) -> tuple[str, int] | None:
    parts = module.split(".")
    return (parts[1], ROWS[parts[1]]) if parts[0] == "vlmvid" and len(parts) > 1 and parts[1] in ROWS else None


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def runtime_imports(tree: ast.Module) -> Iterator[str]:
    """Imports that run (also lazily, inside functions), without those of TYPE_CHECKING blocks."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting.extend(ast.iter_child_nodes(node))


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_follow_the_rows(path: Path) -> None:
    name = name_of(path)
    imports = set(runtime_imports(tree_of(path)))
    if name.startswith("flows/"):
        ours = {i for i in imports if i.split(".")[0] in ("prefect", "flows", "vlmvid", "torch", "mlflow", "numpy")}
        wrong = {i for i in ours if not i.startswith(FLOW_IMPORTS)}
        assert not wrong, f"{name} may import only {FLOW_IMPORTS}, not {sorted(wrong)}"
        return
    own = row_of(name.removesuffix(".py").replace("/", "."))
    for imported in imports:
        top = imported.split(".")[0]
        assert top != "prefect", f"{name} imports Prefect"
        if top == "flows":
            assert name == "vlmvid/cli/recipes.py", f"{name} imports {imported}; only the command `run` may"
        if top == "mlflow":
            assert name.startswith(MLFLOW_MODULES), f"{name} imports mlflow"
        if own is not None and own[0] in NO_TORCH:
            assert top not in ("torch", "torchvision", "timm", "transformers"), f"{name} imports {imported}"
        target = row_of(imported)
        if own is not None and target is not None:
            assert target[1] <= own[1], f"{name} (row {own[1]}) imports {imported} (row {target[1]})"
            assert (own[0], target[0]) not in FORBIDDEN_PAIRS, f"{name} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_sizes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_MODULE_LINES, f"{name_of(path)} has {text.count(chr(10))} lines"
    for function in functions(ast.parse(text)):
        where = f"{name_of(path)}:{function.lineno} {function.name}"
        length = (function.end_lineno or 0) - function.lineno + 1
        assert length <= MAX_FUNCTION_LINES, f"{where} has {length} lines"
        names = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
        count = len([n for n in names if n not in ("self", "cls")])
        assert count <= MAX_PARAMETERS, f"{where} has {count} parameters"
        assert function.returns is not None, f"{where} has no return annotation"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_forbidden_calls(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "exit", "breakpoint", "eval", "exec"), f"{name_of(path)}:{node.lineno}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{name_of(path)}:{node.lineno}: bare except"
            swallowed = ast.unparse(node.type) in ("Exception", "BaseException") and all(
                isinstance(statement, ast.Pass | ast.Continue) for statement in node.body
            )
            assert not swallowed, f"{name_of(path)}:{node.lineno}: every exception is swallowed"
        if isinstance(node, ast.Name):
            assert node.id != "NotImplementedError", f"{name_of(path)}:{node.lineno}"


def test_every_package_has_a_row() -> None:
    found = {p.stem for p in (ROOT / "vlmvid").iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert found - {"__init__"} == set(ROWS)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import vlmvid", ("torch", "mlflow", "prefect", "av", "transformers")),
        ("import vlmvid.cli", ("torch", "mlflow", "prefect", "av", "transformers", "pyarrow")),
        ("import vlmvid.metrics", ("torch", "mlflow", "prefect", "pyarrow")),
        ("import vlmvid.pipeline", ("torch", "mlflow", "prefect", "av", "transformers")),
        ("import vlmvid.video.clip_decoder", ("torch",)),
        ("import vlmvid.data.synthetic.dataset, vlmvid.data.image_text, vlmvid.data.folder", ("torch",)),
        ("import flows.pipeline", ("torch", "mlflow", "transformers", "timm")),
    ],
)  # fmt: skip
def test_imports_stay_light(statement: str, absent: tuple[str, ...]) -> None:
    code = f"{statement}\nimport sys\nprint([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", f"{statement} pulls in {done.stdout.strip()}"
