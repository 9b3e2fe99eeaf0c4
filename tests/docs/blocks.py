"""Runs the code blocks of a page, in their order, in a copy of the tree.

A block whose first line is ``# some/file.ext`` is that file; ``diff`` changes one; ``sh`` is run by bash, ``python`` by
the interpreter. Everything else (``text``, ``json``, ...) shows something and is not run.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# ([\w.-]+(?:/[\w.-]+)*\.\w+)")
_COPIED = ("vlmvid", "flows", "configs", "scripts", "tests")
_LINKED = ("pyproject.toml", "constraints.txt")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that the block is, by its first line."""
        match = _FILE.fullmatch(self.text.split("\n", 1)[0])
        return match[1] if match else None


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in _FENCE.finditer(text)]


class Workplace:
    """A copy of the tree in `folder`, in which blocks are run; `close` ends what they left running."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        for name in _COPIED:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in _LINKED:
            (folder / name).symlink_to(ROOT / name)
        commands = folder / "bin"
        commands.mkdir()
        for name, words in {"vlmvid": "-m vlmvid.cli ", "prefect": "-m prefect ", "python": ""}.items():
            (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
            (commands / name).chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "VLMVID_HOME": str(folder / ".vlmvid"),
            "COLUMNS": "200",
            **environment,
        }
        self.environment.pop("MLFLOW_TRACKING_URI", None)
        self._left: list[subprocess.Popen[bytes]] = []

    def run(self, block: Block, seconds: float = 600) -> str:
        """Do what a block says; returns its output, and fails with it."""
        if block.file is not None and block.language not in ("text", "sh"):
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text.split("\n", 1)[1])
            return ""
        if block.language == "diff":
            return self._finish(["git", "apply", "-"], block, seconds)
        if block.language == "python":
            return self._finish(["python", "-"], block, seconds)
        if block.language != "sh":
            return ""
        return self._finish(["bash", "-euo", "pipefail", "-s"], block, seconds)

    def _finish(self, command: list[str], block: Block, seconds: float) -> str:
        log = self.folder / f"block-{block.line}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._left.append(process)
            assert process.stdin is not None
            process.stdin.write(block.text.encode())
            process.stdin.close()
            code = process.wait(seconds)
        text = log.read_text(encoding="utf-8", errors="replace")
        assert code == 0, f"the block in line {block.line} ended with {code}:\n{block.text}\n{text[-4000:]}"
        return text

    def close(self) -> None:
        """End what blocks started in the background; each block is a session of its own."""
        for sent in (signal.SIGTERM, signal.SIGKILL):
            for process in self._left:
                try:
                    os.killpg(process.pid, sent)
                except ProcessLookupError:
                    continue
            time.sleep(0.5)
