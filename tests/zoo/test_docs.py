from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

import vlmvid
from tests.readers import need
from tests.zoo.codes import read_all
from tests.zoo.conftest import Zoo
from tests.zoo.docs_table import BROKEN_TABLE, COLUMN, PAGE, SOUND_TABLE, broken_kinds, reasons, sound_kinds, written
from tests.zoo.inspecting import Inspector
from tests.zoo.readers import NAMES
from vlmvid.config.schema import RunOptions, SamplingConfig, SamplingPolicy
from vlmvid.pipeline.decode import LIMITS

PACKAGE = Path(vlmvid.__file__).parent


@pytest.mark.parametrize("reader", NAMES)
def test_the_page_says_which_sound_files_each_reader_reads(zoo: Zoo, inspector: Inspector, reader: str) -> None:
    need(reader)
    said = {kind: cells[reader] for kind, cells in written(SOUND_TABLE).items()}
    assert sound_kinds(zoo, inspector, reader) == said, f"{PAGE} is stale: run python -m tests.zoo.docs_table"


def test_the_page_says_what_becomes_of_broken_files(zoo: Zoo, inspector: Inspector) -> None:
    said = {kind: cells[COLUMN] for kind, cells in written(BROKEN_TABLE).items()}
    assert broken_kinds(zoo, inspector) == said, f"{PAGE} is stale: run python -m tests.zoo.docs_table"


def test_the_page_explains_every_reason_code_and_no_other() -> None:
    assert reasons() == _codes_in_the_source()


def test_the_page_names_every_sampling_policy_and_what_it_reads() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \|(.*)\|$", _section("Sampling"), re.MULTILINE)
    assert {name for name, _ in rows} == set(get_args(SamplingPolicy))
    for name, cell in rows:
        others = {"num_clips": 2, "frame_stride": 2, "sampling_fps": 2.0, "seed": 3}
        read = set(re.findall(r"`(\w+)`", cell))
        SamplingConfig(policy=name, num_frames=4, **{option: others[option] for option in read})
        needed = {"sampling_fps": 1.0} if name == "fps" else {}
        for option in others.keys() - read:
            with pytest.raises(ValidationError, match=option):
                SamplingConfig(policy=name, num_frames=4, **{**needed, option: others[option]})


def test_the_limits_and_their_defaults_are_those_of_the_recipe() -> None:
    rows = re.findall(r"^\| `options\.(\w+)` \| (\d+) \| `(\w+)` \|", _section("Limits"), re.MULTILINE)
    assert {option: code for option, _, code in rows} == {option: code for code, option in LIMITS.items()}
    for option, default, _ in rows:
        assert float(default) == RunOptions.model_fields[option].default


def test_the_example_runs(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(zoo.path("h264.mp4").parent)
    values: dict[str, Any] = {}
    exec(code[1].replace("clip.mp4", "h264.mp4"), values)
    assert values["batch"].frames.shape == (4, 3, 224, 224)
    assert [code.number for code in read_all(values["batch"].frames) if code] == [0, 40, 7, 7]
    assert [code.number for code in read_all(values["again"].frames[:1]) if code] == [25]


def _section(title: str) -> str:
    return PAGE.read_text(encoding="utf-8").split(f"## {title}\n")[1].split("\n## ")[0]


def _codes_in_the_source() -> set[str]:
    """String constants that are passed as `reason_code` of a DecodeError, and those of defects."""
    found = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                values = [keyword.value for keyword in node.keywords if keyword.arg == "reason_code"]
                name = node.func.id if isinstance(node.func, ast.Name) else ""
                if name == "Defect":
                    values += node.args[2:3]
                for value in values:
                    branches = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
                    found |= {branch.value for branch in branches if isinstance(branch, ast.Constant)}
    return found - {""}
