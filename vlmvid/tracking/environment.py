"""What surrounds the calls: the running code, the process environment, file sizes."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
_SERVING_PACKAGES = ("vlmvid", "mlflow", "numpy", "torch", "timm", "transformers", "safetensors", "av")


def code_tags() -> dict[str, str]:
    """The version of vlmvid and, in a checkout, its commit."""
    tags = {"vlmvid.version": _version("vlmvid") or "unknown", "mlflow.source.name": "vlmvid"}
    if not (_PACKAGE.parent / ".git").exists():
        return tags
    command = ["git", "-C", str(_PACKAGE), "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return tags
    sha = done.stdout.strip()
    return {**tags, "git.sha": sha, "mlflow.source.git.commit": sha} if done.returncode == 0 else tags


def serving_requirements() -> list[str]:
    """What serving needs, as installed; a local build label such as ``+cpu`` is not on an index."""
    versions = {name: _version(name) for name in _SERVING_PACKAGES}
    return [f"{name}=={version.split('+')[0]}" for name, version in versions.items() if version]


@contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the time of the block; the caller keeps other threads out."""
    saved = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def file_bytes(path: Path) -> int:
    """The size of a file, or of all files below a folder; 0 for what does not exist."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
