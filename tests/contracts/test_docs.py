"""The README promises only what is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vlmvid.config import validate
from vlmvid.config.schema import Recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "benchmarks").glob("*.md"))]


def without_blocks(page: Path, languages: str) -> str:
    text = page.read_text(encoding="utf-8")
    return re.sub(rf"^```{languages}\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", without_blocks(page, r"\w*")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_placeholder_is_left(page: Path) -> None:
    assert not re.search(r"@@|\bTBD\b|\bTODO\b|lorem", without_blocks(page, "diff"), re.IGNORECASE)


def test_named_files_exist() -> None:
    for name in re.findall(r"`((?:configs|benchmarks|docs|flows|tests|docker)/[\w./-]+)`", README):
        assert (ROOT / name).exists(), f"the README names {name}"


def test_commands_exist() -> None:
    shown = subprocess.run([sys.executable, "-m", "vlmvid.cli", "--help"], capture_output=True, text=True, cwd=ROOT)
    for line in re.findall(r"^\| `vlmvid ([^`]+)`", README, re.MULTILINE):
        for command in line.split()[0].replace("\\", "").split("|"):
            assert command in shown.stdout, f"the README names `vlmvid {command}`"


def test_the_recipe_in_the_readme_is_valid() -> None:
    text = re.search(r"```yaml\n(# my\.yaml\n.*?)```", README, re.DOTALL)
    assert text is not None
    recipe = validate(Recipe, yaml.safe_load(text[1]), source="README")
    assert recipe.stages() == ("ingest", "encode", "align", "evaluate", "register")


def test_the_manifest_row_in_the_readme_is_valid() -> None:
    from vlmvid.types import Clip

    row = re.search(r"```json\n(.*?)```", README, re.DOTALL)
    assert row is not None
    assert Clip.model_validate_json(row[1]).split == "test"


def test_the_questions_in_the_page_of_datasets_are_valid() -> None:
    from vlmvid.types import Clip

    rows = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8"), re.DOTALL)
    asked = [question for row in rows for question in Clip.model_validate_json(row).questions]
    assert [question.kind for question in asked] == ["open", "mcq", "yes_no"]


def test_make_and_ci_agree() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile, f"the README names `make {target}`"
