"""The web service does what its OpenAPI document says, whatever it is asked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case

import tests.web.schemathesis_hooks  # noqa: F401 - registers what is sent as a file
from tests.unit.web_fixtures import running, tiny_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(tiny_model(), max_receiving=64) as server:
        yield server.url


@pytest.mark.parametrize("mode", [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE])
def test_every_operation_answers_as_it_says(url: str, mode: schemathesis.GenerationMode) -> None:
    asked = []
    for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def ask(case: Case) -> None:
            case.call_and_validate()

        if (
            mode is schemathesis.GenerationMode.POSITIVE
            or operation.path_parameters
            or operation.query
            or operation.body
        ):
            ask()
            asked.append(operation.label)
    assert len(asked) >= 12, asked


@pytest.mark.long
def test_thousands_of_requests_find_nothing(url: str) -> None:
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "--config-file",
        str(ROOT / "tests/web/schemathesis.toml"),
    ]
    done = subprocess.run(
        [*command, "run", f"{url}/openapi.json", "--max-examples", "100", "--seed", "1"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
