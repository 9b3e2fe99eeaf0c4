"""docs/pooling.md says what the registry says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import pooling_table
from vlmvid.config.encoders import PoolingConfig
from vlmvid.models import masking
from vlmvid.models.pooling import POOLINGS

TEXT = pooling_table.PAGE.read_text(encoding="utf-8")


def test_the_tables_are_those_that_the_script_writes() -> None:
    assert pooling_table.page() == TEXT, "docs/pooling.md is stale: run python -m benchmarks.pooling_table"


def test_every_pooling_has_its_rows() -> None:
    for lines in (pooling_table.definitions(), pooling_table.numbers({})):
        assert len({line.count("|") for line in lines}) == 1
        assert sorted(re.findall(r"^\| `(\w+)`", "\n".join(lines), re.MULTILINE)) == POOLINGS.names()
    for kind in POOLINGS:
        spec = POOLINGS.get(kind)
        assert re.search(r"arXiv \d{4}\.\d{5}", spec.source) and spec.definition


def test_counts_of_a_row() -> None:
    (row,) = [line for line in pooling_table.numbers({}) if "`space_time`" in line]
    cells = [cell.strip() for cell in row.strip("| ").split("|")]
    # 8 x 196 tokens in, 8 + 196 out, each token added twice.
    assert cells == ["`space_time`", "1568", "204", "2.41", "2 T N D", "not measured", "not measured"]


def test_scores_are_printed_with_interval_and_n(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score: dict[str, Any] = {"value": 0.5, "ci_low": 0.456, "ci_high": 0.5449, "num_samples": 300}
    scores = {"protocol": "Three seeds.", "kinds": {"tome": {"retrieval_r1": score}}}
    (row,) = [line for line in pooling_table.numbers(scores) if "`tome`" in line]
    assert row.endswith("| 50.0 % (45.6 to 54.5, n = 300) | not measured |")
    file = tmp_path / "pooling.json"
    file.write_text(json.dumps(scores))
    monkeypatch.setattr(pooling_table, "SCORES", file)
    assert row in pooling_table.page() and "\nThree seeds.\n" in pooling_table.page()


def test_the_recipe_of_the_page_is_valid_and_the_masks_exist() -> None:
    example = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[0])
    PoolingConfig.model_validate(example["align"]["pooling"])
    for name in re.findall(r"^\| `(\w+_mask)`", TEXT, re.MULTILINE):
        assert callable(getattr(masking, name))
