"""prefect.yaml says what the code does: files, parameters, forms, schedules; no server is asked."""

from __future__ import annotations

import inspect
import socket
import threading
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from prefect import Flow
from prefect.cli.deploy._models import PrefectYamlModel, RawScheduleConfig
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from flows.serve import make_deployment, read_deployments
from vlmvid.config import load_recipe
from vlmvid.errors import ConfigError
from vlmvid.pipeline import check_api_url, require_api

ROOT = Path(__file__).parents[2]
FILE = ROOT / "prefect.yaml"
DOCUMENT: dict[str, Any] = yaml.safe_load(FILE.read_text())
DEPLOYMENTS = {one["name"]: one for one in DOCUMENT["deployments"]}
SCHEDULES = [schedule for one in DEPLOYMENTS.values() for schedule in one.get("schedules", ())]
NAMES = ["pipeline", "ingest", "encode", "align", "train-vlm", "evaluate", "index", "promote", "maintenance"]
every = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def flow_of(name: str) -> Flow[..., Any]:
    return load_flow_from_entrypoint(DEPLOYMENTS[name]["entrypoint"], use_placeholder_flow=False)


def form_of(name: str) -> dict[str, Any]:
    return parameter_schema(flow_of(name)).model_dump_for_openapi()


def test_the_file_is_what_prefect_publishes_as_its_schema() -> None:
    # The published JSON schema is generated from this model, with which `prefect deploy` reads the file. It lets
    # unknown keys pass, so those are looked for here.
    jsonschema.validate(DOCUMENT, PrefectYamlModel.model_json_schema())
    model = PrefectYamlModel.model_validate(DOCUMENT)
    known = set(PrefectYamlModel.model_fields) | {"definitions"}
    assert set(DOCUMENT) <= known
    for one, parsed in zip(DOCUMENT["deployments"], model.deployments, strict=True):
        assert set(one) <= set(type(parsed).model_fields), one["name"]
        assert parsed.work_pool is not None
        assert set(one["work_pool"]) <= set(type(parsed.work_pool).model_fields), one["name"]
        assert all(isinstance(schedule, RawScheduleConfig) for schedule in parsed.schedules or ()), one["name"]


def test_all_are_there_and_no_code_is_pulled() -> None:
    assert list(DEPLOYMENTS) == NAMES
    assert DOCUMENT["pull"] == DOCUMENT["build"] == DOCUMENT["push"] == []
    assert {one["work_pool"]["name"] for one in DEPLOYMENTS.values()} == {"cpu-decode", "gpu-encode", "gpu-train"}
    # A process worker would run each flow in a temporary folder, and the store with it.
    assert all(one["work_pool"]["job_variables"] == {"working_dir": "."} for one in DEPLOYMENTS.values())
    assert DEPLOYMENTS["promote"]["concurrency_limit"]["limit"] == 1
    assert all("vlmvid" in one["tags"] and one["description"].endswith(".") for one in DEPLOYMENTS.values())


def test_schedules_are_of_every_kind_named_and_off() -> None:
    assert {kind for schedule in SCHEDULES for kind in ("cron", "interval", "rrule") if kind in schedule} == {
        "cron",
        "interval",
        "rrule",
    }
    assert all(schedule["active"] is False for schedule in SCHEDULES)
    slugs = [schedule["slug"] for schedule in SCHEDULES]
    assert len(slugs) == len(set(slugs))
    # Else the times of an interval would count from the moment of the last deploy.
    assert all("anchor_date" in schedule for schedule in SCHEDULES if "interval" in schedule)


@every
def test_the_entry_point_is_a_flow_that_takes_the_parameters(name: str) -> None:
    entrypoint = DEPLOYMENTS[name]["entrypoint"]
    path, _, function = entrypoint.partition(":")
    assert path.startswith("flows/") and (ROOT / path).is_file()
    flow = flow_of(name)
    assert flow.fn.__name__ == function
    given = DEPLOYMENTS[name].get("parameters", {})
    assert set(given) <= set(inspect.signature(flow.fn).parameters)
    assert flow.validate_parameters(given).keys() >= given.keys()
    jsonschema.validate(given, form_of(name))
    if "recipe" in given:
        stages = load_recipe(ROOT / given["recipe"]).stages()
        assert name == "pipeline" or name.replace("-", "_") in stages


@every
def test_the_form_is_short_flat_and_described(name: str) -> None:
    form = form_of(name)
    fields = form["properties"]
    assert list(fields) == list(inspect.signature(flow_of(name).fn).parameters)
    assert 0 < len(fields) <= 8
    for field, shape in fields.items():
        assert shape["type"] in ("string", "boolean", "number", "integer", "array"), field
        assert not {"anyOf", "allOf", "$ref"} & set(shape), field
        assert shape["title"] != field and shape["title"][0].isupper(), field
        assert len(shape["description"]) > 15, field
        assert shape.get("default") is not None or field in form.get("required", ()), field
        if shape["type"] == "array":
            assert shape["items"] == {"type": "string"}, field
        words = shape.get("enum", ())
        assert all(f"{word}: " in shape["description"] for word in words), f"{field}: {words} are not explained"


@every
def test_serve_takes_all_of_it_from_the_file(name: str) -> None:
    facts = next(one for one in read_deployments(FILE) if one["name"] == name)
    served = make_deployment(facts)
    assert (served.name, served.entrypoint, served.description) == (name, facts["entrypoint"], facts["description"])
    assert served.tags == facts["tags"] and served.parameters == facts.get("parameters", {})
    assert served.work_pool_name is None and served.flow_name == flow_of(name).name
    limit = facts.get("concurrency_limit")
    assert served.concurrency_limit == (limit["limit"] if limit else None)
    slugs = [schedule.slug for schedule in served.schedules or ()]
    assert slugs == [schedule["slug"] for schedule in facts.get("schedules", ())]
    assert not any(schedule.active for schedule in served.schedules or ())


def test_serve_says_where_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="start this in the folder that holds"):
        read_deployments(tmp_path / "prefect.yaml")
    (tmp_path / "prefect.yaml").write_text("name: other\n")
    with pytest.raises(ValueError, match="lists no deployments"):
        read_deployments(tmp_path / "prefect.yaml")
    (tmp_path / "prefect.yaml").write_text("name: [\n")
    with pytest.raises(ValueError, match="not valid YAML"):
        read_deployments(tmp_path / "prefect.yaml")


@pytest.mark.parametrize(
    "url", ["127.0.0.1:4200/api", "localhost:4200", "http:/api", "ftp://host/api", "https://", "http://[::1/api"]
)
def test_an_address_that_is_none_is_refused_with_one_that_is(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    with pytest.raises(ConfigError, match="must begin with http:// or https://, as http://127.0.0.1:4200/api does"):
        check_api_url()
    with pytest.raises(ConfigError, match="must begin with http"):
        require_api(url)


def test_no_server_is_said_with_the_command_that_starts_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    check_api_url()
    with pytest.raises(ConfigError, match="is not set.*prefect server start"):
        require_api(None)
    with pytest.raises(ConfigError, match="no Prefect server answers at .*127.0.0.1:9/api.*prefect server start"):
        require_api("http://127.0.0.1:9/api")
    with pytest.raises(ConfigError, match="no Prefect server answers at .*'http://127.0.0.1/api'") as caught:
        require_api("http://user:word@127.0.0.1/api")
    assert "word" not in str(caught.value)


def test_something_else_that_answers_is_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as connection:
                connection.sendall(b"SSH-2.0-another\r\n")
                connection.recv(1000)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ConfigError, match="no Prefect server answers at"):
            require_api(f"http://127.0.0.1:{listener.getsockname()[1]}/api")
        thread.join()
