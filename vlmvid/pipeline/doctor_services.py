"""Checks of Prefect's and MLflow's servers, over HTTP alone: addresses, versions, passwords, clocks, work pools."""

from __future__ import annotations

import base64
import email.utils
import http.client
import importlib.metadata
import json
import os
import time
import tomllib
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from vlmvid.config.addresses import open_http, without_secrets
from vlmvid.errors import TrackingError
from vlmvid.pipeline.findings import Finding, error, ok, warning
from vlmvid.tracking import resolve_tracking_uri
from vlmvid.tracking.outage import probe

SECONDS = 3.0
MOST_BYTES = 2**20
SKEW_SECONDS, WRONG_SECONDS = 5.0, 300.0
DEPLOYMENTS = "prefect.yaml"
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said; `status` 0: it said nothing, and `body` says why. `skew_seconds`: its clock less ours."""

    status: int
    body: str
    skew_seconds: float | None = None


def ask(url: str, body: object = None, headers: dict[str, str] | None = None) -> Answer:
    """One request, at most `SECONDS` long; with a body a POST of JSON."""
    data = None if body is None else json.dumps(body).encode()
    told = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, data, told)  # noqa: S310  `open_http` looks at its scheme
    sent = time.time()
    try:
        with open_http(request, SECONDS) as answer:
            text = answer.read(MOST_BYTES).decode("utf-8", "replace")
            return Answer(answer.status, text, _skew(answer.headers.get("Date"), sent))  # type: ignore[attr-defined]
    except urllib.error.HTTPError as problem:
        with problem:
            text = problem.read(MOST_BYTES).decode("utf-8", "replace")
            return Answer(problem.code, text, _skew(problem.headers.get("Date"), sent))
    except (OSError, http.client.HTTPException, ValueError) as problem:
        return Answer(0, str(getattr(problem, "reason", problem)))


def _skew(date: str | None, sent: float) -> float | None:
    """How far a server's clock is ahead of ours; its date is cut to whole seconds."""
    try:
        there = email.utils.parsedate_to_datetime(str(date)).timestamp() + 0.5
    except ValueError:
        return None
    return there - (sent + time.time()) / 2


def _clock(name: str, answer: Answer) -> list[Finding]:
    skew = answer.skew_seconds
    if skew is None or abs(skew) <= SKEW_SECONDS:
        return []
    seen = f"its clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    mend = "set both by NTP (timedatectl set-ntp true); schedules, time-outs and signed requests go by them"
    return [error(f"{name} clock", seen, mend) if abs(skew) > WRONG_SECONDS else warning(f"{name} clock", seen, mend)]


# Prefect.


def prefect_api() -> str:
    """PREFECT_API_URL: from the environment, else from Prefect's active profile; empty when neither says it."""
    return _prefect_setting("PREFECT_API_URL")


def _prefect_setting(name: str) -> str:
    if name in os.environ:
        return os.environ[name]
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    try:
        profiles = tomllib.loads((home / "profiles.toml").read_text(encoding="utf-8"))
        active = os.environ.get("PREFECT_PROFILE") or profiles.get("active", "")
        return str(profiles.get("profiles", {}).get(active, {}).get(name, ""))
    except (OSError, ValueError, AttributeError):
        return ""


def prefect() -> list[Finding]:
    """The address of Prefect's API, whether it answers, its version and its clock."""
    api, client = prefect_api().rstrip("/"), _installed("prefect")
    if not api:
        return [ok("prefect", f"PREFECT_API_URL is not set: {client} starts a server of its own for every run")]
    shown = without_secrets(api)
    parts = urlsplit(api)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        mend = f"export PREFECT_API_URL=http://{_without_scheme(shown)}"
        return [error("prefect", f"PREFECT_API_URL={shown!r} is no http:// or https:// address", mend)]
    if not parts.path.endswith("/api") and "/accounts/" not in parts.path:
        mend = f"export PREFECT_API_URL={shown}/api"
        return [error("prefect", f"PREFECT_API_URL={shown!r} does not end in /api", mend)]
    answer = ask(f"{api}/health", headers=_prefect_headers())
    if answer.status != 200:
        seen = f"{shown}/health: {_words(answer)}"
        mend = "start it (prefect server start), or unset PREFECT_API_URL to run with a server of the run's own"
        return [error("prefect", seen, mend)]
    told = ask(f"{api}/admin/version", headers=_prefect_headers())  # /version is that of the API, 0.8.4 for years
    if told.status in (401, 403):
        mend = "export PREFECT_API_AUTH_STRING=USER:PASSWORD as the server has it (Prefect Cloud: PREFECT_API_KEY)"
        return [error("prefect", f"{shown} refuses this client: {_words(told)}", mend), *_clock("prefect", answer)]
    return [_prefect_versions(shown, client, told), *_clock("prefect", answer)]


def _prefect_versions(shown: str, client: str, told: Answer) -> Finding:
    server = told.body.strip().strip('"') if told.status == 200 else ""
    seen = f"{shown}: server {server or 'of unknown version'}, client {client}"
    here, there = _numbers(client), _numbers(server)
    if here and there and here > there:
        mend = f"upgrade the server first (pip install prefect=={client}), or install prefect=={server} here"
        return error("prefect", f"{seen}: the client is newer than the server", mend)
    return ok("prefect", seen)


def work_pools() -> list[Finding]:
    """Whether the work pools that prefect.yaml names are there and have a worker that is online."""
    path = Path(DEPLOYMENTS)
    if not os.path.isfile(path):  # of pathlib it raises where a folder is closed to us
        return []
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        wanted = {
            str(one["work_pool"]["name"]) for one in document["deployments"] if (one.get("work_pool") or {}).get("name")
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as problem:
        return [error("work pools", f"{path} cannot be read: {problem}", "correct it, or take the released one")]
    api = prefect_api().rstrip("/")
    if not wanted or urlsplit(api).scheme not in ("http", "https"):
        return []  # without a server there are no pools, and `python -m flows.serve` needs none
    answer = ask(f"{api}/work_pools/filter", {"limit": 200}, _prefect_headers())
    if answer.status != 200:
        mend = "see the finding on prefect"
        return [error("work pools", f"cannot ask {without_secrets(api)}: {_words(answer)}", mend)]
    found = {pool["name"]: pool for pool in json.loads(answer.body)}
    return [_pool(api, name, found.get(name)) for name in sorted(wanted)]


def _pool(api: str, name: str, pool: dict[str, Any] | None) -> Finding:
    label = f"work pool {name}"
    if pool is None:
        mend = f"prefect work-pool create {name} --type process; then `prefect deploy --all`"
        return error(label, f"{DEPLOYMENTS} names it, and the server does not have it", mend)
    if pool.get("is_paused"):
        return warning(label, "it is paused: nothing is taken from it", f"prefect work-pool resume {name}")
    answer = ask(f"{api}/work_pools/{name}/workers/filter", {}, _prefect_headers())
    workers = json.loads(answer.body) if answer.status == 200 else []
    online = [worker["name"] for worker in workers if worker.get("status") == "ONLINE"]
    if not online:
        seen = f"no worker is online ({len(workers)} were): its runs stay late"
        return warning(label, seen, f"prefect worker start --pool {name}")
    return ok(label, f"{len(online)} online: {', '.join(online[:3])}")


def _prefect_headers() -> dict[str, str]:
    password, key = _prefect_setting("PREFECT_API_AUTH_STRING"), _prefect_setting("PREFECT_API_KEY")
    if password:
        return {"Authorization": f"Basic {base64.b64encode(password.encode()).decode()}"}
    return {"Authorization": f"Bearer {key}"} if key else {}


# MLflow.


def mlflow(uri: str | None, home: str) -> list[Finding]:
    """MLflow's address for this home and recipe: its form, whether it answers and lets us in, its version and clock."""
    stray = _stray_runs()
    if "://" in home and not (uri or os.environ.get("MLFLOW_TRACKING_URI")):
        mend = "set MLFLOW_TRACKING_URI, or tracking.uri in the recipe, to an MLflow server"
        return [*stray, error("mlflow", f"the home {home} is shared by machines, and no address is set", mend)]
    resolved = uri or os.environ.get("MLFLOW_TRACKING_URI") or resolve_tracking_uri(None, Path(home))
    shown, kind = without_secrets(resolved), urlsplit(resolved).scheme.split("+")[0]
    if kind in ("http", "https") and urlsplit(resolved).hostname:
        return [*stray, *_mlflow_server(resolved.rstrip("/"), shown)]
    if kind in _DATABASES:
        return [*stray, _database(resolved, shown, kind)]
    if kind == "file" or resolved.startswith((".", "/", "~")):
        mend = "use sqlite:////FOLDER/mlflow.db or a server; `mlflow migrate-filestore` takes old runs along"
        return [*stray, error("mlflow", f"{shown!r} is a folder of runs, which MLflow refuses since 3.13", mend)]
    mend = f"export MLFLOW_TRACKING_URI=http://{_without_scheme(shown)}, or sqlite:////FOLDER/mlflow.db"
    return [*stray, error("mlflow", f"{shown!r} is no address of MLflow", mend)]


def _stray_runs() -> list[Finding]:
    folder = Path("mlruns")
    try:
        if not any(path.parent.name.isdecimal() for path in folder.glob("*/meta.yaml")):
            return []
    except OSError:  # a working folder that this user may not read
        return []
    mend = "move it away: it makes MLflow's own commands, run from here, take it for their store and refuse it"
    return [warning("mlruns", f"{folder.absolute()} holds runs of MLflow's old file store", mend)]


def _database(uri: str, shown: str, kind: str) -> Finding:
    path = Path(urlsplit(uri).path[1:])
    if kind == "sqlite" and not os.path.isfile(path):  # of pathlib it raises where a folder is closed to us
        return ok("mlflow", f"{shown}: made by the first run")
    try:
        probe(uri, SECONDS)
    except TrackingError as problem:
        return error("mlflow", str(problem), "start the database, or set MLFLOW_TRACKING_URI to another one")
    return ok("mlflow", f"{shown} opens; client {_installed('mlflow')}")


def _mlflow_server(uri: str, shown: str) -> list[Finding]:
    health = ask(f"{uri}/health", headers=_mlflow_headers())
    if health.status == 0 or health.status >= 500:
        mend = "start it, or correct MLFLOW_TRACKING_URI; runs go on without it, and what they tell waits in the store"
        return [error("mlflow", f"{shown}/health: {_words(health)}", mend)]
    return [_mlflow_answer(uri, shown), *_clock("mlflow", health)]


def _mlflow_answer(uri: str, shown: str) -> Finding:
    # /health and /version answer anybody; this one only those who may come in.
    answer = ask(f"{uri}/api/2.0/mlflow/experiments/search", {"max_results": 1}, _mlflow_headers())
    host = urlsplit(uri).netloc.rpartition("@")[2]
    if answer.status == 403 and "Invalid Host header" in answer.body:
        mend = f"start the server with MLFLOW_SERVER_ALLOWED_HOSTS={host},localhost:* (or --allowed-hosts)"
        return error("mlflow", f"{shown} refuses the host name {host}: Invalid Host header", mend)
    if answer.status in (401, 403):
        mend = "export MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)"
        return error("mlflow", f"{shown} refuses this user: {_words(answer)}", mend)
    if answer.status != 200:
        mend = "look at the server's log; an address behind a proxy may need its path"
        return error("mlflow", f"{shown} is no MLflow server that works: {_words(answer)}", mend)
    told = ask(f"{uri}/version", headers=_mlflow_headers())
    server, client = told.body.strip() if told.status == 200 else "", _installed("mlflow")
    seen = f"{shown}: server {server or 'of unknown version'}, client {client}"
    here, there = _numbers(client)[:2], _numbers(server)[:2]
    if here and there and here[0] != there[0]:
        mend = f"install mlflow=={server} here, or upgrade the server to {client}"
        return error("mlflow", f"{seen}: their first numbers differ", mend)
    if here and there and here > there:
        mend = f"upgrade the server to {client}: it may lack what newer clients ask"
        return warning("mlflow", f"{seen}: the client is newer", mend)
    return ok("mlflow", seen)


def _mlflow_headers() -> dict[str, str]:
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


# Both.


def _words(answer: Answer) -> str:
    if answer.status == 0:
        return f"no answer within {SECONDS:g} s: {answer.body}"
    return f"HTTP {answer.status} {' '.join(answer.body.split())[:120]}".rstrip()


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, to compare by."""
    parts = []
    for part in version.split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


def _without_scheme(uri: str) -> str:
    return uri.partition("://")[2] if "://" in uri else uri.removeprefix("//")
