"""prefect.yaml on a real server with a real worker: deployed, triggered through the API, and read back."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import PrefectHTTPStatusError

from tests.flows import deploying
from tests.flows.deploying import (
    artifacts_of,
    below,
    logs_of,
    prefect,
    task_states,
    trigger,
    wait_for_end,
    wait_for_log,
    work_once,
)
from tests.flows.test_pipeline_flow import runs_of
from tests.tiny import write_dataset, write_recipe

pytestmark = pytest.mark.prefect
DEPLOYED = {
    "vlmvid-pipeline/pipeline": "gpu-train",
    "ingest/ingest": "cpu-decode",
    "encode/encode": "gpu-encode",
    "align/align": "gpu-train",
    "train_vlm/train-vlm": "gpu-train",
    "evaluate/evaluate": "gpu-encode",
    "promote/promote": "cpu-decode",
    "maintenance/maintenance": "cpu-decode",
}


@pytest.fixture(scope="module")
def deployed(prefect_api: str) -> str:
    """The server, with all deployments on it."""
    deploying.make_pools()
    done = prefect(prefect_api, "deploy", "--all")
    assert done.returncode == 0, done.stdout + done.stderr
    return prefect_api


def test_all_are_deployed_with_their_pools_forms_and_idle_schedules(deployed: str) -> None:
    with deploying.client() as api:
        found = {name: api.read_deployment_by_name(name) for name in DEPLOYED}
    assert {name: one.work_pool_name for name, one in found.items()} == DEPLOYED
    assert all(one.pull_steps == [] and one.job_variables == {"working_dir": "."} for one in found.values())
    assert all(one.enforce_parameter_schema for one in found.values())
    assert not any(schedule.active for one in found.values() for schedule in one.schedules)
    assert {schedule.slug for one in found.values() for schedule in one.schedules} == {
        "pipeline-nightly",
        "ingest-hourly",
        "encode-nightly",
        "evaluate-weekly",
        "maintenance-weekly",
    }
    limit = found["promote/promote"].global_concurrency_limit
    assert limit is not None and limit.limit == 1


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("ingest/ingest", {"recipe": 7}, "7 is not of type 'string'"),
        ("ingest/ingest", {"recipe": ""}, "recipe"),
        ("ingest/ingest", {"overrides": "a.b=c"}, "is not of type 'array'"),
        ("encode/encode", {"earlier_stages": "skip"}, "is not one of"),
        ("vlmvid-pipeline/pipeline", {"verify": "perhaps"}, "is not of type 'boolean'"),
        ("vlmvid-pipeline/pipeline", {"home": None}, "None is not of type 'string'"),
        ("maintenance/maintenance", {"older_than_hours": -1}, "less than the minimum"),
        ("maintenance/maintenance", {"delete": "no"}, "is not of type 'boolean'"),
        ("promote/promote", {"action": "demote"}, "is not one of"),
        ("promote/promote", {"model_name": ["a"]}, "is not of type 'string'"),
    ],
)
def test_a_parameter_of_the_wrong_type_is_refused_before_anything_starts(
    deployed: str, name: str, parameters: dict[str, Any], words: str
) -> None:
    with pytest.raises(PrefectHTTPStatusError) as raised:
        trigger(name, **parameters)
    assert raised.value.response.status_code in (409, 422)
    assert words in raised.value.response.text


def test_a_worker_runs_what_was_triggered_and_its_logs_are_there(deployed: str, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, write_dataset(tmp_path), tracking={"enabled": False})
    run = trigger("ingest/ingest", recipe=str(recipe), home=str(tmp_path / "home"))
    said = work_once(deployed, "cpu-decode")
    run = wait_for_end(run, seconds=5)
    assert run.state is not None and run.state.name == "Completed", said
    assert task_states(run) == {"ingest": "Completed"}
    logs = logs_of(run)
    assert any(name == "vlmvid.pipeline.session" and message.startswith("ingest: running") for name, _, message in logs)
    assert max(level for _, level, _ in logs) == logging.INFO
    summary = artifacts_of([run])["vlmvid-summary"]
    assert "tiny: ingest (10 ok)" in summary.data and "decode" not in summary.data


def test_encode_alone_runs_the_stages_before_it_when_asked(
    prefect_api: str, tracked_home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:

    from flows.encode import encode
    from vlmvid.errors import ArtifactError

    caplog.set_level(logging.INFO, logger="vlmvid")
    recipe = str(write_recipe(tmp_path, write_dataset(tmp_path)))
    with pytest.raises(ArtifactError, match="run `vlmvid decode` with the same recipe first"):
        encode(recipe)
    seen: list[Any] = []
    told = encode.with_options(on_running=[lambda _, run, __: seen.append(run)])
    ref = told(recipe, earlier_stages="run")
    (run,) = seen
    assert list(below(run)) and set(below(run)) == {"ingest", "decode"}
    assert {one.state_name for one in below(run).values()} == {"Completed"}
    assert {name for name in task_states(run) if name.startswith("encode")} == {
        "encode shard 1",
        "encode shard 2",
        "encode shard 3",
        "encode index",
    }
    artifacts = artifacts_of([run])
    assert artifacts["vlmvid-progress-encode"].data == 100
    assert "encode (10 ok" in artifacts["vlmvid-summary"].data and "align" not in artifacts["vlmvid-summary"].data
    wait_for_log(run, "encode: running")
    # In MLflow the pipeline's run and the stages' name the flow run that made them.
    recorded = {one.data.tags.get("vlmvid.stage", "pipeline"): one.data.tags for one in runs_of(tracked_home)}
    assert set(recorded) == {"pipeline", "ingest", "decode", "encode"}
    assert {tags["prefect.flow_run_id"] for tags in recorded.values()} == {str(run.id)}
    assert encode(recipe, earlier_stages="require") == ref
