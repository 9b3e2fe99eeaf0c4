"""The code digest follows what decides a result, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlmvid.artifacts.code import _read_module, code_closure, combined_digest, package_versions


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "vlmvid/__init__.py": "",
        "vlmvid/errors.py": "class E(Exception): ...",
        "vlmvid/video/__init__.py": "",
        "vlmvid/video/root.py": (
            '"""Doc."""\n'
            "import av\n"
            "from vlmvid.errors import E\n"
            "from vlmvid.video import helper\n"
            "READERS = {'x': 'vlmvid.video.lazy:Reader'}\n"
            "def f():\n"
            '    """Doc of f."""\n'
            "    from .inside import g\n"
            "    return g(helper.h())  # comment\n"
        ),
        "vlmvid/video/helper.py": "import numpy\ndef h(): return 1",
        "vlmvid/video/inside.py": "def g(x): return x",
        "vlmvid/video/lazy.py": "class Reader: ...",
        "vlmvid/video/unrelated.py": "x = 1",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def closure(tree: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    _read_module.cache_clear()  # as in a new process
    return code_closure(["vlmvid.video.root"], tree)


def test_closure_has_lazy_imports_and_registry_strings_but_no_plumbing(tree: Path) -> None:
    modules, packages = closure(tree)
    assert {m for m in modules if m != "vlmvid.video"} == {
        "vlmvid.video.root",
        "vlmvid.video.helper",
        "vlmvid.video.inside",
        "vlmvid.video.lazy",
    }
    assert packages == ("av", "numpy")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("vlmvid/video/root.py", '"""Doc."""', '"""Another."""'),
        ("vlmvid/video/root.py", '"""Doc of f."""', '"""New."""'),
        ("vlmvid/video/root.py", "# comment", "# other words"),
        ("vlmvid/errors.py", "...", "pass"),
        ("vlmvid/video/unrelated.py", "1", "2"),
    ],
)
def test_words_and_plumbing_change_nothing(tree: Path, name: str, old: str, new: str) -> None:
    before = closure(tree)
    path = tree / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert closure(tree) == before


@pytest.mark.parametrize("name", ["root", "helper", "inside", "lazy"])
def test_a_changed_statement_changes_its_module_only(tree: Path, name: str) -> None:
    before, _ = closure(tree)
    path = tree / "vlmvid" / "video" / f"{name}.py"
    path.write_text(path.read_text() + "\ny = 2\n")
    after, _ = closure(tree)
    assert {m for m in after if after[m] != before[m]} == {f"vlmvid.video.{name}"}


def test_combined_digest_and_versions() -> None:
    assert combined_digest({"a": "1"}, {"av": "18"}) != combined_digest({"a": "1"}, {"av": "19"})
    versions = package_versions(["numpy", "PIL", "no_such_package"])
    assert versions["no_such_package"] == "absent"
    assert versions["numpy"][0].isdigit() and versions["PIL"][0].isdigit()


def test_decode_does_not_depend_on_models_or_training() -> None:
    modules, _ = code_closure(["vlmvid.video.clip_decoder"])
    assert "vlmvid.video.sampling" in modules
    assert not [m for m in modules if m.split(".")[1] in ("models", "training", "evaluation", "tracking", "pipeline")]
