"""docs/alignment.md names all that a recipe may name, and its example is a recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from vlmvid.config.alignment import (
    AlignConfig,
    AuxiliaryConfig,
    AuxiliaryKind,
    HardNegativesConfig,
    HeadConfig,
    HeadKind,
    OptimConfig,
)

PAGE = (Path(__file__).parents[2] / "docs" / "alignment.md").read_text(encoding="utf-8")


def rows(section: str) -> dict[str, list[str]]:
    """The cells of each row of a section's first table, by the name in its first cell."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0].split("\n| --- |")[1].split("\n\n")[0]
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row for row in cells}


def test_the_example_is_valid() -> None:
    text = re.search(r"```yaml\nalign:\n(.*?)```", PAGE, re.DOTALL)
    assert text is not None
    assert AlignConfig.model_validate(yaml.safe_load(text[1])).auxiliary


def test_every_kind_has_a_row() -> None:
    assert rows("Heads").keys() == set(get_args(HeadKind))
    assert rows("Auxiliary objectives").keys() == set(get_args(AuxiliaryKind))
    assert rows("Hard negatives").keys() == HardNegativesConfig.model_fields.keys()
    options = {name.removeprefix("optim.") for name in rows("Training") if name.startswith("optim.")}
    assert options <= OptimConfig.model_fields.keys()


@pytest.mark.parametrize("kind", get_args(AuxiliaryKind))
def test_the_options_of_an_objective_are_those_that_it_reads(kind: AuxiliaryKind) -> None:
    told = set(re.findall(r"`(\w+)`", rows("Auxiliary objectives")[kind][3]))
    for option, field in AuxiliaryConfig.model_fields.items():
        if option not in ("kind", "weight"):
            other = 0.5 if field.annotation is float else 2 * (field.default or 1)
            if option in told:
                AuxiliaryConfig.model_validate({"kind": kind, "weight": 1, option: other})
            else:
                with pytest.raises(ValueError, match=f"does not read {option}"):
                    AuxiliaryConfig.model_validate({"kind": kind, "weight": 1, option: other})


@pytest.mark.parametrize("kind", get_args(HeadKind))
def test_the_options_of_a_head_are_those_that_it_reads(kind: HeadKind) -> None:
    told = set(re.findall(r"`(\w+)`", rows("Heads")[kind][2]))
    for option, value in (("width_factor", 3), ("num_layers", 2)):
        if option in told:
            HeadConfig.model_validate({"kind": kind, option: value})
        else:
            with pytest.raises(ValueError, match=f"does not read {option}"):
                HeadConfig.model_validate({"kind": kind, option: value})
