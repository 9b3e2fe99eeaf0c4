"""`vlmvid doctor`: each thing that is wrong is a finding with its mend, and none is ever an exception."""

from __future__ import annotations

import email.utils
import json
import os
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from tests.mlflow_fixtures import MlflowServer
from tests.tiny import write_recipe
from tests.unit.s3_fixtures import bucket, s3_server
from vlmvid.cli import main
from vlmvid.config import load_recipe
from vlmvid.pipeline import doctor, doctor_machine, doctor_services, doctor_store
from vlmvid.pipeline.doctor import examine, findings_text
from vlmvid.pipeline.findings import Finding, ok

__all__ = ["bucket", "s3_server"]
ROOT = Path(__file__).parents[2]
MLFLOW_API = "/api/2.0/mlflow/experiments/search"


class Answers:
    """A server that says what a test tells it to, by path; its clock is `skew` seconds ahead."""

    def __init__(self) -> None:
        self.said: dict[str, tuple[int, str]] = {}
        self.skew = 0.0
        self.headers: list[str] = []
        answers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answers.said.get(self.path, (404, "nothing here"))
                answers.headers.append(self.headers.get("Authorization", ""))
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response_only(status)
                self.send_header("Date", email.utils.formatdate(time.time() + answers.skew, usegmt=True))
                self.end_headers()
                self.wfile.write(body.encode())

            do_POST = do_GET

            def log_message(self, *args: object) -> None:
                """Say nothing on the terminal."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def answers() -> Iterator[Answers]:
    server = Answers()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No service, and a folder of its own to stand in."""
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_API_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("VLMVID_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def only(findings: list[Finding], name: str | None = None) -> Finding:
    found = [finding for finding in findings if name is None or finding.name == name]
    assert len(found) == 1, findings
    return found[0]


# Addresses and servers.


@pytest.mark.parametrize(
    ("url", "mend"),
    [
        ("localhost:4200/api", "export PREFECT_API_URL=http://localhost:4200/api"),
        ("ftp://there/api", "export PREFECT_API_URL=http://there/api"),
        ("http://localhost:4200", "export PREFECT_API_URL=http://localhost:4200/api"),
        ("http://127.0.0.1:9/api", "prefect server start"),
        ("http://[bad/api", ""),
    ],
)
def test_addresses_of_prefect(url: str, mend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    found = only([f for f in examine_only("prefect") if f.name == "prefect"])
    assert found.status == "error" and mend in found.mend


def examine_only(*names: str) -> list[Finding]:
    """What `examine` says of some checks, through its own guard."""
    checks = {"prefect": doctor_services.prefect, "work pools": doctor_services.work_pools}
    return doctor._all_of([(name, checks[name]) for name in names])


def test_prefects_profile_names_its_server(tmp_path: Path, answers: Answers) -> None:
    assert "is not set" in only(doctor_services.prefect()).seen
    (tmp_path / "prefect").mkdir()
    profiles = f'active = "team"\n[profiles.team]\nPREFECT_API_URL = "{answers.uri}/api"\n'
    (tmp_path / "prefect" / "profiles.toml").write_text(profiles)
    answers.said = {"/api/health": (200, "true"), "/api/admin/version": (200, '"99.1.0"')}
    found = only(doctor_services.prefect())
    assert found.status == "ok" and "server 99.1.0" in found.seen


def test_a_prefect_client_that_is_newer_and_a_password_that_lacks(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"{answers.uri}/api")
    answers.said = {"/api/health": (200, "true"), "/api/admin/version": (200, '"3.0.1"')}
    found = only(doctor_services.prefect())
    assert found.status == "error" and "client is newer" in found.seen and "prefect==3.0.1" in found.mend
    answers.said["/api/admin/version"] = (401, '{"exception_message":"Unauthorized"}')
    found = only(doctor_services.prefect())
    assert found.status == "error" and "PREFECT_API_AUTH_STRING" in found.mend
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "user:word")
    doctor_services.prefect()
    assert answers.headers[-1] == "Basic dXNlcjp3b3Jk"
    answers.said["/api/health"] = (503, "starting")
    assert "HTTP 503 starting" in only(doctor_services.prefect()).seen


@pytest.mark.parametrize(("skew", "status"), [(0, None), (-60, "warning"), (4000, "error")])
def test_clocks(skew: float, status: str | None, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"{answers.uri}/api")
    answers.said = {"/api/health": (200, "true"), "/api/admin/version": (200, '"99.1.0"'), "/health": (200, "OK")}
    answers.skew = skew
    for findings, name in (
        (doctor_services.prefect(), "prefect"),
        (doctor_services.mlflow(answers.uri, "h"), "mlflow"),
    ):
        clock = [finding for finding in findings if finding.name == f"{name} clock"]
        assert [finding.status for finding in clock] == ([status] if status else [])
        assert not clock or ("behind" in clock[0].seen) is (skew < 0)


@pytest.mark.prefect
def test_a_real_prefect_server_and_its_work_pools(
    prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    told = doctor_services.prefect()
    assert [finding.status for finding in told] == ["ok"], told
    assert doctor_services.work_pools() == [], "no prefect.yaml here"
    (tmp_path / "prefect.yaml").write_text("deployments: [{name: a, work_pool: {name: doctor-pool}}, {name: b}]")
    found = only(doctor_services.work_pools())
    assert found.status == "error" and "prefect work-pool create doctor-pool" in found.mend
    post(f"{prefect_api}/work_pools/", {"name": "doctor-pool", "type": "process"})
    found = only(doctor_services.work_pools())
    assert found.status == "warning" and found.mend == "prefect worker start --pool doctor-pool"
    post(f"{prefect_api}/work_pools/doctor-pool/workers/heartbeat", {"name": "w1"})
    found = only(doctor_services.work_pools(), "work pool doctor-pool")
    assert found.status == "ok" and "1 online: w1" in found.seen


def post(url: str, body: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=20).close()


def test_a_prefect_yaml_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "prefect.yaml").write_text("deployments: {")
    assert only(examine_only("work pools")).status == "error"
    (tmp_path / "prefect.yaml").write_text("deployments: [1]")
    assert only(examine_only("work pools")).status == "error"


@pytest.mark.parametrize(
    ("uri", "mend"),
    [
        ("localhost:5000", "MLFLOW_TRACKING_URI=http://localhost:5000"),
        ("./mlruns", "sqlite:////FOLDER/mlflow.db"),
        ("file:///data/mlruns", "sqlite:////FOLDER/mlflow.db"),
        ("http://127.0.0.1:9", "correct MLFLOW_TRACKING_URI"),
        ("postgresql://user:word@127.0.0.1:9/mlflow", "start the database"),
        ("http://user:word@127.0.0.1", "correct MLFLOW_TRACKING_URI"),
    ],
)
def test_addresses_of_mlflow(uri: str, mend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    found = only(doctor_services.mlflow(None, "home"))
    assert found.status == "error" and mend in found.mend and "word" not in f"{found.seen}{found.mend}"


def test_mlflow_refuses_a_host_name_or_a_user(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    answers.said = {"/health": (200, "OK"), "/version": (200, "3.17.2")}
    answers.said[MLFLOW_API] = (403, "Invalid Host header - possible DNS rebinding attack detected")
    found = only(doctor_services.mlflow(answers.uri, "home"))
    host = answers.uri.removeprefix("http://")
    assert found.status == "error" and f"MLFLOW_SERVER_ALLOWED_HOSTS={host}" in found.mend
    answers.said[MLFLOW_API] = (401, "who are you?")
    assert "MLFLOW_TRACKING_USERNAME" in only(doctor_services.mlflow(answers.uri, "home")).mend
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "user")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "word")
    answers.said[MLFLOW_API] = (200, "{}")
    assert only(doctor_services.mlflow(answers.uri, "home")).status == "ok"
    assert answers.headers[-1] == "Basic dXNlcjp3b3Jk"
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    with_user = answers.uri.replace("http://", "http://user:w%6Frd@")
    assert only(doctor_services.mlflow(with_user, "home")).status == "ok"
    assert answers.headers[-1] == "Basic dXNlcjp3b3Jk"
    answers.said["/version"] = (200, "3.1.0")
    assert only(doctor_services.mlflow(answers.uri, "home")).status == "warning"
    answers.said["/version"] = (200, "2.22.0")
    assert only(doctor_services.mlflow(answers.uri, "home")).status == "error"
    answers.said[MLFLOW_API] = (200, "{}")
    answers.said["/health"] = (502, "bad gateway")
    assert "HTTP 502" in only(doctor_services.mlflow(answers.uri, "home")).seen


@pytest.mark.long
def test_a_real_mlflow_server_and_its_allowed_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "mlflow:5000")
    server = MlflowServer(tmp_path / "server")
    try:
        server.start()
        found = only(doctor_services.mlflow(server.uri, "home"))
        assert found.status == "error" and f"ALLOWED_HOSTS=127.0.0.1:{server.port}" in found.mend
        server.close()
        monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", f"127.0.0.1:{server.port}")
        server.start()
        # Its first answer may take longer than the doctor waits.
        deadline = time.monotonic() + 60
        while only(doctor_services.mlflow(server.uri, "home")).status != "ok":
            assert time.monotonic() < deadline
    finally:
        server.close()


def test_runs_of_an_old_file_store_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("")
    found = doctor_services.mlflow(None, "home")
    assert [(one.name, one.status) for one in found] == [("mlruns", "warning"), ("mlflow", "ok")]
    assert not (tmp_path / "home").exists(), "the doctor makes no database"


# The machine.


def test_versions_are_compared_with_what_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [finding.status for finding in doctor_machine.versions()] == ["ok", "ok"]
    original = doctor_machine._version
    monkeypatch.setattr(doctor_machine, "_version", lambda name: "1.0" if name == "numpy" else original(name))
    found = only(doctor_machine.versions(), "packages")
    assert found.status == "error" and "numpy 1.0, tested with" in found.seen and "constraints.txt" in found.mend


def test_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "deep" / "home"
    assert {finding.status for finding in doctor_machine.disks(str(home))} <= {"ok", "warning"}
    assert not home.exists()
    monkeypatch.setattr(doctor_machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**8))
    found = doctor_machine.disks(str(home))
    assert {finding.status for finding in found} == {"error"} and "VLMVID_HOME" in found[0].mend
    monkeypatch.undo()
    monkeypatch.setattr(doctor_machine, "_file_system", lambda path: "nfs4")
    told = [finding for finding in doctor_machine.disks(str(home)) if "network file system" in finding.seen]
    assert [finding.name for finding in told] == ["disk of the store"] and "MLFLOW_TRACKING_URI" in told[0].mend
    monkeypatch.setattr(doctor_machine.time, "time", lambda: time.time_ns() / 1e9 + 30)
    assert any("its clock differs" in finding.seen for finding in doctor_machine.disks(str(home)))
    assert doctor_machine._file_system(Path("/proc/self")) != ""


def test_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(doctor_machine.codecs()).status == "ok"
    monkeypatch.setattr(doctor_machine, "CODECS", ("h264", "no-such-codec"))
    found = only(doctor_machine.codecs())
    assert found.status == "error" and "not no-such-codec" in found.seen


def test_readers_and_gpu_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, dict[str, object]] = {
        "torch": {"version": "2.13", "error": "", "seconds": 3.0},
        "torchcodec": {"version": "", "error": "libnvrtc.so: cannot open", "seconds": 1.0},
        "gpu": {"build": "", "names": [], "mps": False},
    }
    monkeypatch.setattr(doctor_machine, "_look", lambda names: found)
    monkeypatch.setattr(doctor_machine, "_driver", lambda: "570.1")
    told = doctor_machine.heavy_packages("torchcodec")
    assert [(one.name, one.status) for one in told] == [
        ("reader decord", "ok"), ("reader torchcodec", "error"), ("GPU", "error")
    ]  # fmt: skip
    assert "libnvrtc" in told[1].seen and "decode.reader: auto" in told[1].mend and "built without CUDA" in told[2].seen
    found["gpu"] = {"build": "12.8", "names": [], "mps": False}
    assert "CUDA_VISIBLE_DEVICES" in doctor_machine.heavy_packages()[2].mend
    found["gpu"] = {"build": "12.8", "names": ["H200"], "mps": False}
    assert doctor_machine.heavy_packages()[2].seen.startswith("H200; driver 570.1, CUDA 12.8")
    monkeypatch.setattr(doctor_machine, "_look", lambda names: "importing torch ended the process with -11: no message")
    assert [finding.status for finding in doctor_machine.heavy_packages()] == ["error"]


def test_a_library_that_ends_the_process_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "decord.py").write_text("import os\nos._exit(9)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}")
    found = doctor_machine._look(["decord"])
    assert found == "importing decord ended the process with 9: no message"


# The store and the recipe.


def test_the_store(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert "not there yet" in only(doctor_store.store(str(home))).seen
    (home / "stages" / "align" / ".k.0123456789ab.tmp").mkdir(parents=True)
    (home / "locks").mkdir()
    os.utime(home / "stages" / "align" / ".k.0123456789ab.tmp", (1e9, 1e9))
    with FileLock(home / "locks" / "align-abc.lock"):
        found = doctor_store.store(str(home))
    assert [finding.status for finding in found] == ["ok", "warning"]
    assert "running now: align abc" in found[0].seen and "vlmvid gc --delete" in found[1].mend


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may become another user for a while")
def test_a_store_that_is_read_only_for_this_user() -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o755)
        (home / "locks").mkdir()
        (home / "stages").mkdir()
        (home / "locks" / "align-free.lock").touch()
        with FileLock(home / "locks" / "align-held.lock"):
            (seen, *rest), others = as_other_user(home)
        assert seen.status == "ok" and seen.seen.endswith("running now: align held") and rest == []
        assert ["not writable" in finding.seen for finding in others if finding.status == "error"] == [True]
        (home / "locks" / "align-free.lock").chmod(0)
        (seen, *rest), _ = as_other_user(home)
        assert seen.status == "warning" and "what runs in it cannot be seen" in seen.seen and rest == []
        home.chmod(0)
        (seen, *rest), _ = as_other_user(home)
        assert {finding.status for finding in (seen, *rest)} <= {"ok", "warning"}


def as_other_user(home: Path) -> tuple[list[Finding], list[Finding]]:
    """What is found of the store, and of its disk and MLflow's database in it, by a user who may not write it."""
    user = os.geteuid()
    os.seteuid(65_534)
    try:
        others = [*doctor_machine.disks(str(home)), *doctor_services.mlflow(None, str(home))]
        return doctor_store.store(str(home)), [one for one in others if one.name in ("disk of the store", "mlflow")]
    finally:
        os.seteuid(user)


def test_a_store_in_s3(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    assert only(doctor_store.store(bucket)).status == "ok"
    assert only(doctor_store.store("s3://no-such-bucket/x")).status == "error"
    assert only(doctor_store.store("nosuch://x")).status == "error"
    assert "shared by machines" in only(doctor_services.mlflow(None, bucket)).seen


def test_secrets_in_a_recipe_are_named_and_not_shown(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, tmp_path / "manifest.jsonl"))
    assert [finding.status for finding in doctor_store.recipe(tmp_path / "tiny.yaml", recipe)] == ["ok"]
    options = {
        "path": "s3://user:hunter2@host/clips",
        "api_key": "hunter2",
        "note": "AKIA" + "ABCDEFGHIJKLMNOP",
        "token": "${HF_TOKEN}",
        "max_tokens": "3",
    }
    found = list(doctor_store._secrets({"data": [options]}, ""))
    assert [name for name, _ in found] == ["data[0].path", "data[0].api_key", "data[0].note"]
    assert "hunter2" not in str(found)


def test_no_recipe_of_ours_looks_as_if_it_held_a_secret() -> None:
    for path in sorted((ROOT / "configs" / "pipelines").glob("*.yaml")):
        assert list(doctor_store._secrets(load_recipe(path).model_dump(mode="json"), "")) == []


# The whole.


def test_checks_that_fail_or_hang_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> list[Finding]:
        raise RuntimeError("surprise")

    def hangs() -> list[Finding]:
        time.sleep(5)
        return []

    monkeypatch.setattr(doctor, "LIMIT_SECONDS", 0.2)
    started = time.perf_counter()
    hanging = [(name, hangs) for name in "defghijk"]
    found = doctor._all_of([("a", fails), ("b", hangs), ("c", lambda: [ok("c", "well")]), *hanging])
    assert time.perf_counter() - started < 1.5 and len(found) == 11, "they hang side by side"
    found = found[:3]
    assert [(one.name, one.status) for one in found] == [("a", "error"), ("b", "error"), ("c", "ok")]
    assert "RuntimeError: surprise" in found[0].seen and "did not end within" in found[1].seen
    assert "1 ok, 0 warning, 2 error" in findings_text(found)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor_machine, "_look", lambda names: {})  # it imports torch, which takes seconds
    (tmp_path / "wrong.yaml").write_text("name: 3")
    assert main(["doctor", str(tmp_path / "wrong.yaml"), "--home", str(tmp_path / "home"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found[0]["name"] == "recipe" and found[0]["status"] == "error"
    assert {one["name"] for one in found} >= {"python", "packages", "prefect", "mlflow", "codecs", "GPU", "store"}
    recipe = write_recipe(tmp_path, tmp_path / "manifest.jsonl")
    assert main(["doctor", str(recipe), "--home", str(tmp_path / "home")]) == 0
    assert "0 error" in capsys.readouterr().out
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:5000")
    assert any(f.name == "mlflow" and f.status == "error" for f in examine(tmp_path / "home"))
