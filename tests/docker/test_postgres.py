"""docker/postgres/init.sql on a real PostgreSQL: two roles, each master of its own database and of nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.cluster import ROOT, Cluster, _postgres_program
from scripts.processes import ServiceError
from tests.needs import absent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if not (shutil.which("postgres") or list(Path("/usr/lib/postgresql").glob("*/bin/postgres"))):
        absent("PostgreSQL is not installed (Debian: apt install postgresql)")
    with Cluster(tmp_path_factory.mktemp("postgres"), pools=(), only=("postgres",)) as started:
        yield started


def ask(cluster: Cluster, sql: str, *, role: str = "postgres", database: str = "postgres", password: str = "") -> str:
    """What a role sees; raises `CalledProcessError` when the server refuses."""
    environment = cluster._superuser_environment()
    secret = {"prefect": "PREFECT_DB_PASSWORD", "mlflow": "MLFLOW_DB_PASSWORD", "postgres": "PGPASSWORD"}[role]
    environment |= {"PGUSER": role, "PGDATABASE": database, "PGPASSWORD": password or environment[secret]}
    command = [_postgres_program("psql"), "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-At", "-c", sql]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise PermissionError(done.stderr)
    return done.stdout.strip()


def test_two_databases_with_an_owner_each(cluster: Cluster) -> None:
    rows = ask(cluster, "SELECT datname, datdba::regrole FROM pg_database WHERE NOT datistemplate ORDER BY 1")
    assert rows.splitlines() == ["mlflow|mlflow", "postgres|postgres", "prefect|prefect"]
    rows = ask(
        cluster, "SELECT rolname FROM pg_roles WHERE rolcanlogin AND NOT rolsuper AND NOT rolcreatedb ORDER BY 1"
    )
    assert rows.splitlines() == ["mlflow", "prefect"]


@pytest.mark.parametrize("role", ["prefect", "mlflow"])
def test_a_role_may_do_everything_in_its_database(cluster: Cluster, role: str) -> None:
    # Prefect's migrations want this extension; its owner may create it.
    ask(cluster, "CREATE EXTENSION pg_trgm; CREATE TABLE t (a int); DROP TABLE t", role=role, database=role)


@pytest.mark.parametrize("role, other", [("prefect", "mlflow"), ("mlflow", "prefect")])
def test_a_role_cannot_enter_the_other_database(cluster: Cluster, role: str, other: str) -> None:
    with pytest.raises(PermissionError, match="permission denied for database"):
        ask(cluster, "SELECT 1", role=role, database=other)
    with pytest.raises(PermissionError, match="permission denied"):
        ask(cluster, "CREATE ROLE more", role=role, database=role)


def test_a_wrong_password_is_refused(cluster: Cluster) -> None:
    with pytest.raises(PermissionError, match="password authentication failed"):
        ask(cluster, "SELECT 1", role="mlflow", database="mlflow", password="wrong")


@pytest.mark.parametrize("missing", ["PREFECT_DB_PASSWORD", "MLFLOW_DB_PASSWORD"])
def test_without_a_password_it_stops(cluster: Cluster, missing: str) -> None:
    environment = {name: value for name, value in cluster._superuser_environment().items() if name != missing}
    script = [_postgres_program("psql"), "--no-psqlrc", "-f", str(ROOT / "docker/postgres/init.sql")]
    ask(cluster, "ALTER ROLE prefect RENAME TO aside")
    try:
        done = subprocess.run(script, env=environment, capture_output=True, text=True)
    finally:
        ask(cluster, "DROP ROLE IF EXISTS prefect; ALTER ROLE aside RENAME TO prefect")
    assert done.returncode != 0 and re.search(r'syntax error at or near ":"', done.stderr), done.stderr
    assert ("CREATE ROLE" in done.stdout) is (missing == "MLFLOW_DB_PASSWORD")


def test_the_data_is_gone_afterwards(tmp_path: Path) -> None:
    with Cluster(tmp_path, pools=(), only=("postgres",)) as started:
        data, pids = started._data, started.pids("postgres")
        assert (data / "postgres" / "PG_VERSION").exists() and len(pids) > 1
        assert not (data / "postgres-password").exists()
        started.kill9("postgres")
        with pytest.raises(PermissionError, match="refused"):
            ask(started, "SELECT 1")
        started.start("postgres")  # it recovers
        assert ask(started, "SELECT 1") == "1"
        pids += started.pids("postgres")
    assert not data.exists()
    deadline = time.monotonic() + 30  # whoever inherits a process takes its end when it comes to it
    while (left := [pid for pid in pids if runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def runs(pid: int) -> bool:
    """Whether there is such a process, and more of it than its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_unknown_services_are_named(cluster: Cluster) -> None:
    with pytest.raises(ServiceError, match="no service 'postgre'; there are postgres"):
        cluster.stop("postgre")
