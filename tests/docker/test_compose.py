"""docker/compose.yaml: pinned, healthy, unprivileged, on loopback, without a default password, and complete."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts.cluster import POOLS, Cluster
from scripts.processes import ServiceError
from tests.docker.reading import (
    DOCKER,
    ROOT,
    VARIABLE,
    MissingVariableError,
    chain,
    compose,
    dockerfile,
    interpolate,
    read_environment,
)

RAW = compose()
VERSIONS = read_environment(DOCKER / "versions.env")
EXAMPLE = read_environment(DOCKER / ".env.example")
SERVICES: dict[str, dict[str, Any]] = RAW["services"]
ONE_SHOTS = {"s3-init", "prefect-migrate", "mlflow-migrate", "prefect-init"}
SECRET = re.compile(r"PASSWORD|SECRET|AUTH_STRING|ACCESS_KEY|REDISCLI_AUTH")
OURS = {name for name, service in SERVICES.items() if service["image"].startswith("vlmvid-")}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What make_secrets.sh writes."""
    folder = tmp_path_factory.mktemp("secrets")
    target = folder / "made.env"
    subprocess.run(["sh", str(DOCKER / "make_secrets.sh"), str(folder), str(target)], check=True, capture_output=True)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    return read_environment(target)


@pytest.fixture(scope="module")
def resolved(secrets: dict[str, str]) -> dict[str, dict[str, Any]]:
    return compose({**VERSIONS, **secrets})["services"]  # type: ignore[no-any-return]


def test_the_services_are_those_of_the_plan() -> None:
    assert ONE_SHOTS | {"postgres", "redis", "s3", "prefect-server", "prefect-services", "mlflow", "worker-cpu"} <= set(
        SERVICES
    )
    profiles = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    assert profiles == {
        "worker-cpu-encode": ["cpu"],
        "worker-cpu-train": ["cpu"],
        "worker-gpu": ["gpu"],
        "worker-gpu-encode": ["gpu"],
        "serving": ["serving"],
    }


def test_images_have_full_tags(resolved: dict[str, dict[str, Any]]) -> None:
    for name, service in resolved.items():
        repository, _, tag = service["image"].partition(":")
        assert repository and re.match(r"\d+\.\d+", tag), f"{name}: {service['image']}"
        if name in OURS:
            target = service["build"]["target"]
            assert repository == f"vlmvid-{target}" and target in dockerfile()[1]
            assert (DOCKER / service["build"]["context"]).resolve() == ROOT
            assert (ROOT / service["build"]["dockerfile"]).exists()
            assert service["build"]["args"]["PYTHON_IMAGE"] == VERSIONS["PYTHON_IMAGE"]


@pytest.mark.parametrize("name", SERVICES)
def test_services_have_no_privileges(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True and "/tmp:mode=1777" in service["tmpfs"]
    assert service["security_opt"] == ["no-new-privileges:true"] and service["cap_drop"] == ["ALL"]
    assert service["stop_grace_period"] == "60s"
    assert not {"privileged", "network_mode", "pid", "cap_add"} & set(service)
    if name in OURS:
        assert "user" not in service  # the image's: test_dockerfile looks at it
        mounts = [str(volume).split(":")[1] for volume in service.get("volumes", []) if isinstance(volume, str)]
        assert "/data" in mounts or "/data:mode=1777" in service["tmpfs"], "HOME must be writable"
    else:
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])


@pytest.mark.parametrize("name", SERVICES)
def test_long_services_say_how_they_are(name: str) -> None:
    service = SERVICES[name]
    if name in ONE_SHOTS:
        assert service["restart"].startswith("on-failure") and "healthcheck" not in service
        return
    assert service["restart"] == "unless-stopped"
    health = service["healthcheck"]
    assert health["test"][0] in ("CMD", "CMD-SHELL") and {"interval", "timeout", "retries", "start_period"} <= set(
        health
    )
    if name in OURS:  # slim images have no curl
        assert health["test"][1] == "python"


@pytest.mark.parametrize("name", SERVICES)
def test_services_wait_for_what_they_need(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        expected = "service_completed_successfully" if other in ONE_SHOTS else "service_healthy"
        assert how == {"condition": expected}, other


def test_databases_are_migrated_before_their_servers() -> None:
    def before(name: str) -> set[str]:
        direct = set(SERVICES[name].get("depends_on", {}))
        return direct.union(*map(before, direct)) if direct else direct

    assert {"postgres", "redis", "prefect-migrate"} <= before("prefect-server") & before("prefect-services")
    assert {"postgres", "s3", "s3-init", "mlflow-migrate"} <= before("mlflow")
    assert {"prefect-init", "prefect-server", "mlflow"} <= before("worker-cpu")
    assert SERVICES["prefect-migrate"]["environment"]["PREFECT_SERVER_DATABASE_MIGRATE_ON_START"] == "false"


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_on_loopback(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:"), port
    if name in ("postgres", "redis"):
        assert "ports" not in SERVICES[name]


def test_every_variable_is_documented_and_used() -> None:
    text = re.sub(r"^\s*#.*$", "", (DOCKER / "compose.yaml").read_text(), flags=re.MULTILINE)
    used = {match[2] for match in VARIABLE.finditer(text) if match[2]}
    assert used == set(VERSIONS) | set(EXAMPLE)


def test_no_password_has_a_default() -> None:
    for variable, value in EXAMPLE.items():
        if SECRET.search(variable):
            assert value == "", variable
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            for match in VARIABLE.finditer(str(value)):
                assert not match[2] or not SECRET.search(match[2]) or match[3] == ":?", f"{name}: {variable}"
            if SECRET.search(variable):
                assert re.search(r"\$\{\w+:\?", str(value)), f"{name}: {variable}"


def test_compose_stops_without_a_secret(secrets: dict[str, str]) -> None:
    needed = [name for name in secrets if SECRET.search(name) or name == "VIDEOS_DIR"]
    assert len(needed) == 10
    for name in needed:
        with pytest.raises(MissingVariableError, match=f"{name}: run docker/make_secrets.sh"):
            compose({**VERSIONS, **secrets, name: ""})
    with pytest.raises(MissingVariableError, match="versions.env"):
        compose(secrets)


def test_secrets_are_long_random_and_fit_into_addresses(secrets: dict[str, str], tmp_path: Path) -> None:
    made = [secrets[name] for name in secrets if SECRET.search(name) and name != "S3_ACCESS_KEY"]
    assert len(set(made)) == len(made) == 8
    for value in made:
        assert re.fullmatch(r"(admin:)?[0-9a-f]{48}", value)
    there = tmp_path / "there.env"
    there.write_text("A=1\n")
    command = ["sh", str(DOCKER / "make_secrets.sh"), str(tmp_path), str(there)]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1 and "passwords are in use" in refused.stderr and there.read_text() == "A=1\n"
    command = ["sh", str(DOCKER / "make_secrets.sh"), str(tmp_path / "none"), str(tmp_path / "new.env")]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1 and not (tmp_path / "new.env").exists()


def test_the_folder_of_videos_is_seen_from_where_the_script_is_started(tmp_path: Path) -> None:
    (tmp_path / "my videos").mkdir()
    command = ["sh", str(DOCKER / "make_secrets.sh"), "my videos", str(tmp_path / "made.env")]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert read_environment(tmp_path / "made.env")["VIDEOS_DIR"] == str(tmp_path / "my videos")
    read = ["sh", "-euc", '. "$0"; printf %s "$VIDEOS_DIR"', str(tmp_path / "made.env")]
    assert subprocess.run(read, check=True, capture_output=True, text=True).stdout == str(tmp_path / "my videos")


def test_links_lead_where_browsers_are(resolved: dict[str, dict[str, Any]]) -> None:
    for name in (name for name in SERVICES if name.startswith("worker-")):
        environment = resolved[name]["environment"]
        assert environment["VLMVID_MLFLOW_PAGES"] == "http://127.0.0.1:5000", name
        assert environment["PREFECT_UI_URL"] == "http://127.0.0.1:4200", name


@pytest.mark.parametrize("name", SERVICES)
def test_a_shell_gives_its_place_to_the_service(name: str) -> None:
    """Else SIGTERM meets the shell as the container's first process, which ignores it."""
    command = SERVICES[name].get("command", [])
    if command[:2] == ["sh", "-c"]:
        assert "&& exec " in command[2] and "|" not in command[2]


def test_secrets_stay_out_of_git() -> None:
    done = subprocess.run(["git", "check-ignore", "-q", "docker/.env"], cwd=ROOT)
    assert done.returncode == 0, "docker/.env is not in .gitignore"


def test_both_halves_of_prefect_share_through_redis() -> None:
    server, services = (SERVICES[name]["environment"] for name in ("prefect-server", "prefect-services"))
    assert server == services
    assert server["PREFECT_MESSAGING_BROKER"] == server["PREFECT_MESSAGING_CACHE"] == "prefect_redis.messaging"
    assert server["PREFECT_SERVER_EVENTS_CAUSAL_ORDERING"] == "prefect_redis.ordering"
    assert server["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] == "prefect_redis.lease_storage"
    assert server["PREFECT_SERVER_DOCKET_URL"].endswith("@redis:6379/1")
    for module in ("prefect_redis.messaging", "prefect_redis.ordering", "prefect_redis.lease_storage"):
        assert importlib.util.find_spec(module) is not None


def test_settings_exist_in_the_installed_versions() -> None:
    from prefect.settings import Settings
    from prefect.settings.legacy import _get_valid_setting_names

    prefect = _get_valid_setting_names(Settings) | {"PREFECT_REDIS_MESSAGING_URL"}
    specification = importlib.util.find_spec("mlflow")
    assert specification is not None and specification.origin is not None
    source = Path(specification.origin).parent / "environment_variables.py"
    text = source.read_text() + (source.parent / "tracking/_tracking_service/utils.py").read_text()
    for name, service in SERVICES.items():
        for variable in service.get("environment", {}):
            if variable.startswith("PREFECT_") and variable != "PREFECT_DB_PASSWORD":
                assert variable in prefect, f"{name}: {variable}"
            if variable.startswith("MLFLOW_") and variable != "MLFLOW_DB_PASSWORD":
                assert f'"{variable}"' in text, f"{name}: {variable}"


def test_mlflow_answers_to_the_names_it_is_called_by(secrets: dict[str, str]) -> None:
    def hosts(**changes: str) -> list[str]:
        found = compose({**VERSIONS, **secrets, **changes})["services"]["mlflow"]["environment"]
        return found["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")  # type: ignore[no-any-return]

    assert hosts() == ["mlflow:5000", "127.0.0.1:5000", "localhost:5000"]
    assert hosts(MLFLOW_HOSTS="mlflow.example.org")[-1] == "mlflow.example.org"
    assert SERVICES["worker-cpu"]["environment"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"


def test_workers_take_all_pools() -> None:
    pools_of = runpy.run_path(str(DOCKER / "prefect_init.py"))["pools_of"]
    assert pools_of(ROOT / "prefect.yaml") == sorted(POOLS)
    for profile in ("cpu", "gpu"):
        taking = [
            s for n, s in SERVICES.items() if n.startswith("worker") and s.get("profiles", [profile]) == [profile]
        ]
        assert sorted(service["command"][-1] for service in taking) == sorted(POOLS), profile


def test_gpu_workers_ask_for_a_gpu() -> None:
    for name, service in SERVICES.items():
        devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        asked = any(device["capabilities"] == ["gpu"] for device in devices)
        assert asked is (service["image"].startswith("vlmvid-worker-gpu")), name


def test_files_that_services_name_are_in_their_images() -> None:
    _, stages = dockerfile()
    for name in OURS:
        service = SERVICES[name]
        rests = [r for stage in chain(stages, service["build"]["target"]) for r in stage.all("COPY")]
        copied = [source for rest in rests if "--from" not in rest for source in rest.split()[:-1]]
        words = [*service.get("command", []), *service.get("healthcheck", {}).get("test", [])]
        for word in (word for word in words if word.startswith("docker/")):
            assert (ROOT / word).exists() and any(word.startswith(path) for path in copied), f"{name}: {word}"
    for volume in (v for s in SERVICES.values() for v in s.get("volumes", []) if isinstance(v, str) and v[0] == "."):
        assert (DOCKER / volume.split(":")[0]).exists(), volume


def test_the_script_starts_the_same(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    described = {service.name: service for service in cluster._describe()}
    named = {"prefect-server": "prefect", "worker-cpu": "worker-cpu-decode"}
    # On loopback browsers and programs use the same addresses.
    for_browsers = {"PREFECT_SERVER_UI_API_URL", "PREFECT_UI_URL", "VLMVID_MLFLOW_PAGES"}
    for name in ("prefect-server", "prefect-services", "mlflow", "worker-cpu"):
        here = set(SERVICES[name]["environment"]) - for_browsers - {"VLMVID_BUCKET"}
        assert here <= set(described[named.get(name, name)].environment), name
    for name, setting in SERVICES["prefect-server"]["environment"].items():
        if not VARIABLE.search(setting) and "HOST" not in name and "PORT" not in name:
            assert described["prefect"].environment[name] == setting, name


def test_the_script_knows_its_services(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="no service 'postgress'; there are postgres, "):
        Cluster(tmp_path, only=("postgress", "s3")).__enter__()


def test_interpolation_is_composes() -> None:
    assert interpolate("$$A ${A} ${B:-c} ${A:+x}${B:+y}", {"A": "1"}) == "$A 1 c x"


def test_docker_compose_accepts_the_file(secrets: dict[str, str], tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode != 0:
        pytest.skip(
            "no Docker engine with compose on this machine; the tests above parse and check the file without one"
        )
    file = tmp_path / ".env"
    file.write_text("".join(f"{name}={value}\n" for name, value in {**VERSIONS, **secrets}.items()))
    command = [docker, "compose", "--env-file", str(file), "-f", str(DOCKER / "compose.yaml"), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
