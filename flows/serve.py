"""``python -m flows.serve``: all deployments of prefect.yaml from this machine, with no work pool and no Docker."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from prefect import get_client, serve
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Schedule
from prefect.settings import PREFECT_API_URL
from pydantic import TypeAdapter

from vlmvid.pipeline import require_api

DEPLOYMENTS_FILE = Path("prefect.yaml")


def main() -> int:
    """Serve until interrupted; 2 when no server answers, it has workers for them, or this folder has no deployments."""
    try:
        require_api(PREFECT_API_URL.value())
        served = [make_deployment(facts) for facts in read_deployments(DEPLOYMENTS_FILE)]
        refuse_those_of_workers([f"{one.flow_name}/{one.name}" for one in served])
    except ValueError as error:
        sys.stderr.write(f"flows.serve: {error}\n")
        return 2
    serve(*served)
    return 0


def read_deployments(path: Path) -> list[dict[str, Any]]:
    """The deployments of a prefect.yaml as it has them; raises ValueError where the file is missing or has none."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"there is no {path} in {Path.cwd()}; start this in the folder that holds {path}, flows/ and configs/"
        ) from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    found = document.get("deployments") if isinstance(document, dict) else None
    if not found:
        raise ValueError(f"{path} lists no deployments")
    return list(found)


def refuse_those_of_workers(names: Sequence[str]) -> None:
    """Raise ValueError where the server has one of these deployments in a work pool.

    Prefect would leave it in the pool and drop the pool's settings: both would run it, the worker in a folder where
    nothing is.
    """
    with get_client(sync_client=True) as client:
        found = {name: _pool_of(client, name) for name in names}
    pools = {name: pool for name, pool in found.items() if pool is not None}
    if pools:
        listed = ", ".join(f"{name} (pool {pool})" for name, pool in pools.items())
        raise ValueError(
            f"the server has deployments for workers: {listed}; start a worker for each pool instead, or delete them "
            f"first with `prefect deployment delete {next(iter(pools))}` and so on"
        )


def _pool_of(client: SyncPrefectClient, name: str) -> str | None:
    try:
        return client.read_deployment_by_name(name).work_pool_name
    except ObjectNotFound:
        return None


def make_deployment(facts: Mapping[str, Any]) -> RunnerDeployment:
    """A deployment for `serve`: as in prefect.yaml, without the work pool, which only workers have."""
    limit = facts.get("concurrency_limit")
    deployment: RunnerDeployment = RunnerDeployment.from_entrypoint(
        facts["entrypoint"],
        name=facts["name"],
        description=facts.get("description"),
        tags=facts.get("tags"),
        parameters=facts.get("parameters"),
        concurrency_limit=ConcurrencyLimitConfig(**limit) if isinstance(limit, dict) else limit,
        schedules=[make_schedule(schedule) for schedule in facts.get("schedules", ())],
    )
    return deployment


def make_schedule(facts: Mapping[str, Any]) -> Schedule:
    """A schedule of prefect.yaml as `serve` takes it."""
    interval = facts.get("interval")
    seconds_or_iso = None if interval is None else TypeAdapter(timedelta).validate_python(interval)
    return Schedule(**{**facts, "interval": seconds_or_iso})


if __name__ == "__main__":
    sys.exit(main())
