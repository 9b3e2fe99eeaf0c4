"""The images, as far as they can be looked at without building them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docker.reading import DOCKER, ROOT, chain, dockerfile, read_environment

ARGUMENTS, STAGES = dockerfile()
TARGETS = ("prefect", "mlflow", "worker-cpu", "worker-gpu", "serving")


def test_hadolint_finds_nothing() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program is not None, "hadolint is missing; it comes with the extra dev"
    done = subprocess.run([program, str(DOCKER / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_base_is_pinned_in_one_place() -> None:
    assert ARGUMENTS == {"PYTHON_IMAGE": read_environment(DOCKER / "versions.env")["PYTHON_IMAGE"]}
    assert {stage.base for stage in STAGES.values()} - set(STAGES) == {"${PYTHON_IMAGE}"}


@pytest.mark.parametrize("target", TARGETS)
def test_no_image_runs_as_root(target: str) -> None:
    users = [user for stage in chain(STAGES, target) for user in stage.all("USER")]
    assert users and users[-1] == "10001:10001"


@pytest.mark.parametrize("target", TARGETS)
def test_signals_reach_the_program(target: str) -> None:
    entries = [entry for stage in chain(STAGES, target) for entry in stage.all("ENTRYPOINT")]
    assert entries == ['["tini", "-g", "--"]']
    commands = [command for stage in chain(STAGES, target) for command in stage.all("CMD")]
    assert commands[-1].startswith("["), "a command in shell form keeps the signals"
    assert "sh" not in commands[-1].split('"')[1] or "exec " in commands[-1]


@pytest.mark.parametrize("target", TARGETS)
def test_what_programs_write_is_below_data(target: str) -> None:
    text = " ".join(env for stage in chain(STAGES, target) for env in stage.all("ENV"))
    variables = dict(pair.split("=", 1) for pair in text.split())
    for name in ("HOME", "PREFECT_HOME", "HF_HOME", "MPLCONFIGDIR", "VLMVID_CACHE"):
        assert variables[name].startswith("/data/"), name
    assert "chown -R 10001:10001 /data" in " ".join(STAGES["base"].all("RUN"))


def test_packages_are_the_pinned_ones() -> None:
    installs = [
        part.strip()
        for stage in STAGES.values()
        for run in stage.all("RUN")
        for part in run.split("&&")
        if "pip install" in part
    ]
    assert len(installs) == 5
    for install in installs:
        assert "pip install -c constraints.txt " in install, install
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    for name in ("prefect", "prefect-redis", "mlflow", "psycopg2-binary", "boto3", "torch", "torchvision", "asyncpg"):
        assert name in pinned, name


def test_extras_of_the_worker_exist() -> None:
    asked = re.search(r"'\.\[([\w,]+)\]'", " ".join(STAGES["build-worker"].all("RUN")))
    assert asked is not None
    declared = (ROOT / "pyproject.toml").read_text()
    for extra in asked[1].split(","):
        assert f"\n{extra} = [" in declared


def copied(target: str) -> list[str]:
    """What of the repository is in an image, with its folder."""
    rests = [rest for stage in chain(STAGES, target) for rest in stage.all("COPY") if "--from" not in rest]
    return [source for rest in rests for source in rest.split()[:-1]]


@pytest.mark.parametrize("name", [name for name in STAGES if any("--from" not in r for r in STAGES[name].all("COPY"))])
def test_what_is_copied_exists_and_may_enter_the_build(name: str) -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for source in copied(name):
        assert (ROOT / source).exists(), source
        assert any(source == path or source.startswith(f"{path}/") for path in allowed), f"{source} is in .dockerignore"


def test_nothing_else_enters_the_build() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "*"
    needed = {source for name in STAGES for source in copied(name)}
    assert {line[1:] for line in lines if line.startswith("!")} == needed


def test_java_is_only_where_captions_are_scored() -> None:
    with_java = {target for target in TARGETS if any("jre" in r for s in chain(STAGES, target) for r in s.all("RUN"))}
    assert with_java == {"worker-cpu", "worker-gpu"}
