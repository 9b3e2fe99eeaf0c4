"""Bring a Prefect server to the state that prefect.yaml describes: its work pools, then all its deployments.

It may run any number of times: pools that exist are left as they are, deployments are updated. New pools whose name
begins with ``gpu-`` take one flow run at a time; ``prefect work-pool set-concurrency-limit`` changes that for good.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def pools_of(file: Path) -> list[str]:
    """The names of all work pools that deployments in `file` go to, sorted."""
    deployments = yaml.safe_load(file.read_text(encoding="utf-8")).get("deployments") or []
    pools = [(deployment.get("work_pool") or {}).get("name") for deployment in deployments]
    return sorted({pool for pool in pools if pool})


def create_pools(names: list[str]) -> None:
    """Create those of the process pools `names` that are not there."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.workers.process import ProcessWorker

    with get_client(sync_client=True) as client:
        existing = {pool.name for pool in client.read_work_pools()}
        for name in names:
            if name in existing:
                continue
            template = ProcessWorker.get_default_base_job_template()
            limit = 1 if name.startswith("gpu-") else None
            client.create_work_pool(
                WorkPoolCreate(name=name, type="process", base_job_template=template, concurrency_limit=limit)
            )
            sys.stdout.write(f"created work pool {name}\n")


def main() -> int:
    """Create the pools, deploy everything; the exit code of `prefect deploy`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prefect-file", type=Path, default=ROOT / "prefect.yaml")
    parser.add_argument("--pools", nargs="*", default=[], help="pools to create beside those of prefect.yaml")
    options = parser.parse_args()
    if not options.prefect_file.exists():
        create_pools(options.pools)
        return 0
    create_pools(sorted({*pools_of(options.prefect_file), *options.pools}))
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    command += ["--prefect-file", str(options.prefect_file)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
