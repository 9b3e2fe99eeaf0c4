"""The services of docker/compose.yaml as processes on this machine's loopback, for tests and for trying things out.

    python scripts/cluster.py up                     print the variables to export; Ctrl-C stops everything
    python scripts/cluster.py run -- vlmvid run ...  run one command among them, then stop everything

PostgreSQL, Redis, an S3 server, Prefect's server and its background services, MLflow with passwords, and one process
worker per work pool, all on free ports with random passwords. Everything but the logs is gone afterwards. Needs Linux,
the packages postgresql and redis-server of Debian, and vlmvid's extras `server`, `s3` and `dev`. The S3 server is
moto's: it keeps its objects in memory, so they are lost when it stops.

From Python:

    with Cluster(folder) as cluster:
        cluster.prefect_api, cluster.mlflow_uri, cluster.s3_endpoint, cluster.home
        cluster.environment()                        what a client exports
        cluster.stop("mlflow"), cluster.start("mlflow"), cluster.pause("prefect"), cluster.resume("prefect")
        cluster.kill9("worker-cpu-decode")           with everything that it started
"""

from __future__ import annotations

import argparse
import os
import pwd
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a script
    sys.path.insert(0, str(ROOT))

from scripts.processes import Processes, Service, ServiceError, answers, as_user, free_ports, listens, send  # noqa: E402

BUCKET = "vlmvid"
POOLS = ("cpu-decode", "gpu-encode", "gpu-train")  # those of prefect.yaml
MLFLOW_DATABASE = "postgresql+psycopg2:///mlflow"  # host, user and password come from PGHOST, PGUSER, PGPASSWORD
STEERING = ("VLMVID_", "PREFECT_", "MLFLOW_", "AWS_", "PG", "REDIS")  # what services must not get from the caller


@dataclass
class _Secrets:
    postgres: str = field(default_factory=secrets.token_hex)
    prefect_db: str = field(default_factory=secrets.token_hex)
    mlflow_db: str = field(default_factory=secrets.token_hex)
    redis: str = field(default_factory=secrets.token_hex)
    prefect_auth: str = field(default_factory=lambda: f"admin:{secrets.token_hex()}")
    mlflow_admin: str = field(default_factory=secrets.token_hex)
    mlflow_flask: str = field(default_factory=secrets.token_hex)
    s3: str = field(default_factory=secrets.token_hex)


class Cluster:
    """All services, running between ``__enter__`` and ``__exit__``.

    Args:
        folder: where logs and the clients' local files go; it is made and left.
        pools: the work pools that get a process worker each, named ``worker-<pool>``. The worker's flow runs have
            ``environment()`` and start in the repository.
        only: the services to start, those that they need among them; all by default.

    The processes end when the thread that started them ends, however it ends.
    """

    def __init__(self, folder: Path, *, pools: Sequence[str] = POOLS, only: Sequence[str] | None = None) -> None:
        self.folder = folder.resolve()
        self._pools = tuple(pools)
        self._secrets = _Secrets()
        names = ("postgres", "redis", "s3", "prefect", "mlflow", *(f"worker-{pool}" for pool in pools))
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        self._only = only
        self._data = Path()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(STEERING)}
        inherited["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), inherited.get("PYTHONPATH"))))
        inherited["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)])
        quiet = {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONUNBUFFERED": "1"}
        self._processes = Processes(self.folder, {**inherited, **quiet})

    @property
    def prefect_api(self) -> str:
        """The address of Prefect's API; it asks for ``PREFECT_API_AUTH_STRING``."""
        return f"http://127.0.0.1:{self._ports['prefect']}/api"

    @property
    def mlflow_uri(self) -> str:
        """The address of MLflow; it asks for ``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD``."""
        return f"http://127.0.0.1:{self._ports['mlflow']}"

    @property
    def s3_endpoint(self) -> str:
        """The address of the S3 server."""
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def home(self) -> str:
        """The store that workers and clients share."""
        return f"s3://{BUCKET}/home"

    @property
    def names(self) -> tuple[str, ...]:
        """The services, in the order in which they start."""
        return self._processes.names

    def environment(self) -> dict[str, str]:
        """What a client exports to use the cluster; passwords included."""
        return {
            "PREFECT_API_URL": self.prefect_api,
            "PREFECT_API_AUTH_STRING": self._secrets.prefect_auth,
            "PREFECT_HOME": str(self.folder / "prefect-client"),
            "MLFLOW_TRACKING_URI": self.mlflow_uri,
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": self._secrets.mlflow_admin,
            **self._s3_environment(),
            "VLMVID_HOME": self.home,
            "VLMVID_CACHE": str(self.folder / "cache"),
        }

    def __enter__(self) -> Cluster:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._data = Path(tempfile.mkdtemp(prefix="vlmvid-cluster-"))
        try:
            services = {service.name: service for service in self._describe()}
            for name in set(self._only or ()) - services.keys():
                raise ServiceError(f"there is no service {name!r}; there are {', '.join(services)}")
            for name, service in services.items():
                if self._only is None or name in self._only:
                    self._processes.add(service)
            self._start_all()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def start(self, name: str) -> None:
        """Start a service that is not running; return when it answers."""
        self._processes.start(name)

    def stop(self, name: str) -> None:
        """Ask a service to end, as `docker stop` does; after 30 s kill it."""
        self._processes.stop(name)

    def pause(self, name: str) -> None:
        """Stop the service's processes without ending them: connections stay open and nobody answers."""
        send(self._processes.pids(name), signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Undo `pause`."""
        send(self._processes.pids(name), signal.SIGCONT)

    def kill9(self, name: str) -> None:
        """Kill a service and all that it started, without a warning; `start` starts it again."""
        self._processes.kill9(name)

    def pids(self, name: str) -> list[int]:
        """The service's process, first, and those that it started."""
        return self._processes.pids(name)

    def log(self, name: str) -> Path:
        """The file that the service writes to."""
        return self._processes.log(name)

    def _start_all(self) -> None:
        if "postgres" in self.names:
            self._make_postgres()
        self._start_together("postgres", "redis", "s3")
        if "postgres" in self.names:
            sql = ["--no-psqlrc", "--quiet", "--file", str(ROOT / "docker/postgres/init.sql")]
            self._processes.finish("postgres-init", [_postgres_program("psql"), *sql], self._superuser_environment())
        if "s3" in self.names:
            bucket = [sys.executable, str(ROOT / "docker/create_bucket.py")]
            self._processes.finish("s3-init", bucket, {**self._s3_environment(), "VLMVID_BUCKET": BUCKET})
        if "prefect" in self.names:
            upgrade = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
            self._processes.finish("prefect-migrate", upgrade, self._prefect_environment())
        if "mlflow" in self.names:
            migrate = ["sh", str(ROOT / "docker/mlflow/migrate.sh")]
            self._processes.finish("mlflow-migrate", migrate, self._mlflow_environment())
        self._start_together("prefect", "prefect-services", "mlflow")
        if "prefect" in self.names:
            init = [sys.executable, str(ROOT / "docker/prefect_init.py"), "--pools", *self._pools]
            self._processes.finish("prefect-init", init, self.environment())
        self._start_together(*(f"worker-{pool}" for pool in self._pools))

    def _start_together(self, *names: str) -> None:
        wanted = [name for name in names if name in self.names]
        for name in wanted:
            self._processes.start(name, wait=False)
        for name in wanted:
            self._processes.wait_for(name)

    def _end(self) -> None:
        self._processes.stop_all()
        shutil.rmtree(self._data, ignore_errors=True)

    def _describe(self) -> list[Service]:
        """All services; the passwords are in environments and on standard input, where `ps` does not show them."""
        python, ports, local = sys.executable, self._ports, self.folder
        data, port = str(self._data / "postgres"), {key: str(value) for key, value in self._ports.items()}
        redis = ["redis-server", "-"]
        redis_config = f"bind 127.0.0.1\nport {port['redis']}\nrequirepass {self._secrets.redis}\nsave ''\n"
        redis_config += f"dir {self._data}\n"
        ready = [_postgres_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", port["postgres"]]
        check = [python, str(ROOT / "docker/check_services.py")]
        prefect, mlflow = self._prefect_environment(), self._mlflow_environment()
        start_prefect = ["server", "start", "--no-services", "--host", "127.0.0.1", "--port", port["prefect"]]
        start_mlflow = ["server", "--app-name", "basic-auth", "--workers", "1", "--host", "127.0.0.1"]
        start_mlflow += ["--port", port["mlflow"], "--backend-store-uri", MLFLOW_DATABASE]
        start_mlflow += ["--serve-artifacts", "--artifacts-destination", f"s3://{BUCKET}/mlflow"]
        services = [
            Service(
                "postgres",
                [_postgres_program("postgres"), "-D", data, "-h", "127.0.0.1", "-p", port["postgres"], "-k", data],
                {},
                lambda: subprocess.run(ready, check=False).returncode == 0,
                user=_service_user(),
                stop_signal=signal.SIGINT,  # ends connections instead of waiting for them
            ),
            Service("redis", redis, {}, lambda: listens(ports["redis"]), stdin=redis_config),
            Service(
                "s3",
                [python, "-m", "moto.server", "-H", "127.0.0.1", "-p", port["s3"]],
                {},
                lambda: answers(f"{self.s3_endpoint}/moto-api/"),
            ),
            Service("prefect", [python, "-m", "prefect", *start_prefect], prefect, self._prefect_is_ready, cwd=local),
            Service(
                "prefect-services",
                [python, "-m", "prefect", "server", "services", "start"],
                prefect,
                lambda: subprocess.run(check, env=self._processes.full(prefect), check=False).returncode == 0,
                cwd=local,
            ),
            Service("mlflow", [python, "-m", "mlflow", *start_mlflow], mlflow, self._mlflow_is_ready, cwd=local),
        ]
        return [*services, *map(self._worker, self._pools)]

    def _worker(self, pool: str) -> Service:
        port = self._ports[f"worker-{pool}"]
        return Service(
            f"worker-{pool}",
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
            + ["--name", f"worker-{pool}", "--no-create-pool-if-not-found", "--with-healthcheck"],
            {
                **self.environment(),
                "PREFECT_HOME": str(self.folder / f"prefect-{pool}"),
                "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
                "PREFECT_WORKER_WEBSERVER_PORT": str(port),
                "PREFECT_WORKER_QUERY_SECONDS": "2",
            },
            lambda: answers(f"http://127.0.0.1:{port}/health"),
            cwd=ROOT,
        )

    def _prefect_is_ready(self) -> bool:
        return answers(f"{self.prefect_api}/ready")

    def _mlflow_is_ready(self) -> bool:
        return answers(f"{self.mlflow_uri}/health")

    def _superuser_environment(self) -> dict[str, str]:
        return {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self._ports["postgres"]),
            "PGUSER": "postgres",
            "PGDATABASE": "postgres",
            "PGPASSWORD": self._secrets.postgres,
            "PREFECT_DB_PASSWORD": self._secrets.prefect_db,
            "MLFLOW_DB_PASSWORD": self._secrets.mlflow_db,
        }

    def _s3_environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.s3_endpoint,
            "AWS_ACCESS_KEY_ID": "vlmvid",
            "AWS_SECRET_ACCESS_KEY": self._secrets.s3,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def _prefect_environment(self) -> dict[str, str]:
        redis = f"redis://:{self._secrets.redis}@127.0.0.1:{self._ports['redis']}"
        return {
            "PREFECT_HOME": str(self.folder / "prefect-server"),
            "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
            "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
            "PREFECT_SERVER_DATABASE_PORT": str(self._ports["postgres"]),
            "PREFECT_SERVER_DATABASE_USER": "prefect",
            "PREFECT_SERVER_DATABASE_NAME": "prefect",
            "PREFECT_SERVER_DATABASE_PASSWORD": self._secrets.prefect_db,
            "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
            "PREFECT_SERVER_API_AUTH_STRING": self._secrets.prefect_auth,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_MESSAGING_BROKER": "prefect_redis.messaging",
            "PREFECT_MESSAGING_CACHE": "prefect_redis.messaging",
            "PREFECT_REDIS_MESSAGING_URL": f"{redis}/0",
            "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
            "PREFECT_SERVER_DOCKET_URL": f"{redis}/1",
        }

    def _mlflow_environment(self) -> dict[str, str]:
        address = f"127.0.0.1:{self._ports['mlflow']}"
        return {
            **self._s3_environment(),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self._ports["postgres"]),
            "PGUSER": "mlflow",
            "PGPASSWORD": self._secrets.mlflow_db,
            "MLFLOW_AUTH_CONFIG_PATH": str(ROOT / "docker/mlflow/basic_auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": self._secrets.mlflow_admin,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self._secrets.mlflow_flask,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # for judges of language models: seven processes
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"{address},localhost:{self._ports['mlflow']}",
        }

    def _make_postgres(self) -> None:
        user, password = _service_user(), self._data / "postgres-password"
        password.write_text(self._secrets.postgres)
        if user is not None:  # PostgreSQL refuses to run as root
            entry = pwd.getpwnam(user)
            for path in (self._data, password):
                os.chown(path, entry.pw_uid, entry.pw_gid)
        command = [_postgres_program("initdb"), "-D", str(self._data / "postgres"), "-U", "postgres", "--no-sync"]
        command += ["--auth-local=reject", "--auth-host=scram-sha-256", "--pwfile", str(password), "-E", "UTF8"]
        self._processes.finish("postgres-initdb", ["setpriv", *as_user(user), "--", *command], {})
        password.unlink()


def _postgres_program(name: str) -> str:
    """A program of PostgreSQL, which Debian keeps out of the path: of the newest version that is installed."""
    installed = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    newest = max(installed, key=lambda path: int(path.parts[-3]), default=None)
    found = str(newest) if newest is not None else shutil.which(name)
    if found is None:
        raise ServiceError(f"{name} is not installed; on Debian: apt install postgresql redis-server")
    return found


def _service_user() -> str | None:
    """The user that PostgreSQL runs as: the one of Debian's package when this is root, else the one that runs this."""
    return "postgres" if os.geteuid() == 0 else None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code of the command that `run` ran."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start everything, print the variables to export, stop at Ctrl-C")
    run = commands.add_parser("run", help="start everything, run a command, stop everything")
    for command in (up, run):
        command.add_argument("--folder", type=Path, help="for logs and local files; a temporary folder by default")
        command.add_argument("--pools", nargs="*", default=POOLS, help="a worker for each of these work pools")
        command.add_argument("--only", nargs="*", help="start only these services, e.g. postgres s3 mlflow")
    run.add_argument("words", nargs="+", help="the command, after --")
    options = parser.parse_args(arguments)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="vlmvid-cluster-logs-"))
    signal.signal(signal.SIGTERM, _interrupt)
    sys.stderr.write(f"starting; logs are in {folder}\n")
    try:
        with Cluster(folder, pools=options.pools, only=options.only) as cluster:
            if options.command == "run":
                return subprocess.run(
                    options.words, env={**os.environ, **cluster.environment()}, check=False
                ).returncode
            for name, value in cluster.environment().items():
                sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
            sys.stdout.flush()
            sys.stderr.write(f"ready: {', '.join(cluster.names)}; Ctrl-C stops them\n")
            signal.pause()
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
    except ServiceError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
