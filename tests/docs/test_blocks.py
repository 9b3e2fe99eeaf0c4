"""Blocks of the tutorial and the how-to pages hold together, without running them: that takes the long suite."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.docs.blocks import ROOT, Block, blocks_of

PAGES = [ROOT / "docs" / "tutorial.md", *sorted((ROOT / "docs" / "how_to").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_is_code_and_diffs_fit_the_tree(page: Path) -> None:
    blocks = blocks_of(page)
    assert any(block.language == "sh" for block in blocks)
    for block in blocks:
        where = f"{page.name}, line {block.line}"
        if block.language == "python":
            ast.parse(block.text, where)
        elif block.language == "yaml":
            assert block.file and yaml.safe_load(block.text), f"{where} names no file in its first line"
        elif block.language == "diff":
            done = subprocess.run(
                ["git", "apply", "--check", "-"], input=block.text, capture_output=True, text=True, cwd=ROOT
            )
            assert done.returncode == 0, f"{where}: {done.stderr}"
        else:
            assert block.language in ("sh", "text", "json"), f"{where}: nobody knows how to run {block.language}"


def test_what_a_block_is_is_told_by_its_first_line() -> None:
    assert Block("yaml", "# a/b.yaml\nx: 1\n", 1).file == "a/b.yaml"
    assert Block("python", "# a comment about my.yaml\n", 1).file is None
