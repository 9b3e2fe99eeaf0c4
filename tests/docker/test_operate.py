"""docs/operate.md: its commands exist, and those that can run here do."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from scripts.processes import Processes, free_ports
from tests.docker.reading import DOCKER, ROOT, compose, read_environment

PAGE = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
RECIPE = "configs/pipelines/quickstart.yaml"


def commands() -> list[list[str]]:
    """Every command of the page, in words, without variables before it."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] not in ("export", "for", "done", "."):
                found.append([word for word in words if word != "&"])
    return found


def block(name: str) -> str:
    found = re.search(rf"<!-- tested: {name} -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_commands_name_what_is_there() -> None:
    profiles = {profile for service in compose()["services"].values() for profile in service.get("profiles", [])}
    seen = set()
    for words in commands():
        program = words[0]
        seen.add(program)
        for word in words:
            if re.match(r"(configs|docker|scripts)/", word) and word != "docker/.env":
                assert (ROOT / word).exists(), f"{shlex.join(words)}: {word}"
        if program == "docker":
            assert words[:2] == ["docker", "compose"]
            for option, value in zip(words, words[1:], strict=False):
                if option == "--profile":
                    assert value in profiles
    assert {"vlmvid", "prefect", "mlflow", "docker", "sh", "python", "curl", "pip"} <= seen


def test_what_the_page_exports_is_in_the_example() -> None:
    exported = re.search(r"\. docker/\.env\n(.*?)```", PAGE, re.DOTALL)
    assert exported is not None
    example = read_environment(DOCKER / ".env.example")
    for name in re.findall(r"\$(\w+)", exported[1]):
        assert name in example, name


def test_pools_are_those_of_the_deployments() -> None:
    import yaml

    rows = dict(re.findall(r"^\| `((?:cpu|gpu)-\w+)` \| ([^|]+?) \|", PAGE, re.MULTILINE))
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert set(rows) == {deployment["work_pool"]["name"] for deployment in deployments}
    for deployment in deployments:
        word = {"pipeline": "the whole pipeline"}.get(deployment["name"], deployment["name"])
        assert word in rows[deployment["work_pool"]["name"]], f"the page does not say where {deployment['name']} runs"


def run_block(script: str, folder: Path) -> str:
    """Run a block as it stands, in a copy of the working folder's view; what it left running is ended."""
    for name in ("configs", "flows", "docker", "prefect.yaml"):
        (folder / name).symlink_to(ROOT / name)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("VLMVID_", "PREFECT_", "MLFLOW_", "AWS_"))}
    inherited |= {"PATH": f"{Path(sys.executable).parent}:{inherited['PATH']}", "PYTHONPATH": str(ROOT)}
    inherited |= {"PREFECT_HOME": str(folder / "prefect"), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    inherited |= {"MLFLOW_DISABLE_TELEMETRY": "true", "VLMVID_CACHE": str(folder / "cache")}
    processes = Processes(folder, inherited)
    try:
        processes.finish("block", ["sh", "-ec", f"cd {shlex.quote(str(folder))}\n{script}"], {})
    finally:
        processes.stop_all()
    return processes.log("block").read_text()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_laptop(tmp_path: Path) -> None:
    script = block("laptop")
    assert script.count(RECIPE) == 3
    said = run_block(script.replace(RECIPE, "configs/pipelines/fault.yaml"), tmp_path)
    assert (tmp_path / ".vlmvid" / "mlflow.db").exists()
    planned = [status for _, status in re.findall(r"^(\w[\w/]*) +(cached|run) ", said, re.MULTILINE)]
    half = len(planned) // 2
    assert half >= 7 and planned == ["run"] * half + ["cached"] * half, planned


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_one_server_without_docker(tmp_path: Path) -> None:
    script = block("server").replace(RECIPE, "configs/pipelines/fault.yaml")
    for port, free in zip(("4200", "5000"), free_ports(2), strict=True):
        assert port in script
        script = script.replace(port, str(free))
    said = run_block(script, tmp_path)
    assert "Completed" in said[-2000:], said[-4000:]
    assert (tmp_path / ".vlmvid" / "server.db").exists()
    assert list((tmp_path / ".vlmvid" / "server-artifacts").rglob("*.safetensors"))
    assert list((tmp_path / ".vlmvid" / "stages" / "register").iterdir())
